// A camera on loopback, a daemon that watches it, and a browser: what each test of the page needs. Everything is ended by its id.

import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { chromium } from 'playwright-core';

export const ROOT = join(dirname(fileURLToPath(import.meta.url)), '../..');
export const TOKEN = 'a-token-of-the-page-tests-0123456789';
/** Long enough for a machine of two cores that has other things to do. */
export const DEADLINE = 120_000;

const program = process.env.VTAGD || join(ROOT, 'target/debug/vtagd');
const camera = process.env.RTSP_SERVER || join(ROOT, 'target/debug/rtsp_server');
const browserProgram = process.env.CHROMIUM || '/usr/bin/chromium';

/** Waits until `probe` gives something. */
export async function eventually(what, probe) {
  const end = Date.now() + DEADLINE;
  for (;;) {
    const found = await probe();
    if (found) return found;
    if (Date.now() > end) throw new Error(`did not happen: ${what}; ${started.map((one) => one.said.err.slice(-1500)).join('\n')}`);
    await new Promise((then) => setTimeout(then, 100));
  }
}

/** What was started and has to end, whatever becomes of the test. */
const started = [];
process.on('exit', () => started.forEach((one) => one.kill()));

function run(command, args, options) {
  const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'], ...options });
  const said = { out: '', err: '' };
  child.stdout.on('data', (data) => (said.out += data));
  child.stderr.on('data', (data) => (said.err += data));
  const ended = new Promise((then) => child.on('exit', then));
  const one = { said, kill: () => child.exitCode === null && child.kill(), end: async () => {
    one.kill();
    await ended;
  } };
  started.push(one);
  return one;
}

/** A setting of its own; `more` is added to the configuration. @param {{history?: string, streams?: string, token?: boolean}} [given] */
export async function begin({ history = '{ path: kept, pictures: { max_side: 320 } }', streams, token = true } = {}) {
  const folder = mkdtempSync(join(tmpdir(), 'vtagd-page-'));
  try {
    return await inside(folder, { history, streams, token });
  } catch (error) {
    await Promise.all(started.map((one) => one.end()));
    throw error;
  }
}

async function inside(folder, { history, streams, token }) {
  const rtsp = run(camera, ['--file', join(ROOT, 'demo/clip.mp4'), '--port', '0']);
  const url = await eventually('the camera', () => /rtsp:\S+/.exec(rtsp.said.out)?.[0]);
  writeFileSync(join(folder, 'token'), TOKEN);
  writeFileSync(join(folder, 'demo.yaml'), readFileSync(join(ROOT, 'config/labels/demo.yaml')));
  const shown = token ? ', token: { file: token }' : '';
  let port = 0;
  const config = () => `instance: demo
model: { path: starter }
sampling: { interval: 500ms }
streams: ${streams ?? `[{ id: demo-camera, url: "${url}" }]`}
labels: [demo.yaml]
events: { enter: 0.6, exit: 0.3, after: 0s, cooldown: 0s }
sinks: [{ type: jsonl, path: events.jsonl }]
outbox: { path: outbox.db }
state: { path: state }
history: ${history}
snapshots: { path: snapshots }
api: { listen: 127.0.0.1:${port}${shown} }
`;
  const start = () => {
    writeFileSync(join(folder, 'vtagd.yaml'), config());
    const env = { ...process.env, VTAGD_CACHE: join(folder, 'cache'), STATE_DIRECTORY: join(folder, 'state'), VTAGD_LOG: 'info' };
    return run(program, ['run', '-c', join(folder, 'vtagd.yaml')], { cwd: ROOT, env });
  };
  let daemon = start();
  // From then on the same, so that a page finds a daemon that was restarted.
  port = Number(await eventually('the daemon', () => /127\.0\.0\.1:(\d+)/.exec(daemon.said.err.split('\n').find((line) => line.includes('API listens')) || '')?.[1]));
  const address = `http://127.0.0.1:${port}`;
  const ask = async (path, options = {}) => {
    const headers = { ...(token ? { Authorization: `Bearer ${TOKEN}` } : {}), ...options.headers };
    return (await fetch(`${address}/${path}`, { ...options, headers })).json();
  };
  await eventually('it is ready', async () => (await ask('readyz').catch(() => ({}))).ready);
  const browser = await chromium.launch({ executablePath: browserProgram, args: ['--no-sandbox'] });
  return {
    address,
    ask,
    browser,
    folder,
    daemon: () => daemon,
    async restart() {
      await daemon.end();
      daemon = start();
    },
    /** A page that fails the test for whatever the policy forbids and whatever its scripts throw. */
    async page(options = {}) {
      const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, ...options });
      const page = await context.newPage();
      page.faults = [];
      page.setDefaultTimeout(DEADLINE);
      page.on('pageerror', (error) => page.faults.push(String(error)));
      page.on('request', (request) => {
        if (!/^(blob:|data:)/.test(request.url()) && !request.url().startsWith(address)) page.faults.push(`asks ${request.url()}`);
      });
      await page.exposeFunction('tellOfViolation', (what) => page.faults.push(what));
      await page.addInitScript(() => {
        document.addEventListener('securitypolicyviolation', (event) => window.tellOfViolation(`policy: ${event.violatedDirective} ${event.blockedURI}`));
      });
      return page;
    },
    link: token ? `${address}/#token=${TOKEN}` : `${address}/`,
    async end() {
      await browser.close();
      await daemon.end();
      await rtsp.end();
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

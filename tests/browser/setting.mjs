// A camera on loopback, a daemon that watches it, and a browser: what each test of the page needs. Everything is ended by its id.

import { execFileSync, spawn } from 'node:child_process';
import { chmodSync, chownSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { chromium } from 'playwright-core';

export const ROOT = join(dirname(fileURLToPath(import.meta.url)), '../..');
export const TOKEN = 'a-token-of-the-page-tests-0123456789';
/** Long enough for a machine of two cores that has other things to do. */
export const DEADLINE = 120_000;
export const JSON_TYPE = { 'Content-Type': 'application/json' };

/** From SIGTERM to SIGKILL: the daemon drains for seconds. */
const END = 30_000;

const built = join(resolve(ROOT, process.env.CARGO_TARGET_DIR || 'target'), 'debug');
const program = process.env.VTAGD || join(built, 'vtagd');
const camera = process.env.RTSP_SERVER || join(built, 'rtsp_server');
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
  const isRunning = () => child.exitCode === null && child.signalCode === null;
  /** `end`: its exit code. One that does not end when it is asked to is a fault. */
  const one = { said, kill: () => isRunning() && child.kill(), end: async () => {
    one.kill();
    let late;
    const isLate = await Promise.race([ended.then(() => false), new Promise((then) => (late = setTimeout(() => then(true), END)))]);
    clearTimeout(late);
    if (isLate) {
      child.kill('SIGKILL');
      await ended;
      throw new Error(`${command} did not end within ${END / 1000} s of SIGTERM: ${said.err.slice(-1500)}`);
    }
    return ended;
  } };
  started.push(one);
  return one;
}

/** The user that the unit has, or, where that is not installed, nobody. */
function serviceUser() {
  const id = (kind) => Number(execFileSync('id', [kind, 'vtagd'], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }));
  try {
    return { uid: id('-u'), gid: id('-g') };
  } catch {
    return { uid: 65534, gid: 65534 };
  }
}

/** Whether a test can run the daemon as its unit does. */
export const CAN_BE_SERVICE = process.getuid() === 0;

/**
 * A setting of its own. `asService`: as the unit runs it, a user of its own, /etc and the configuration's folder read-only, everything else by `STATE_DIRECTORY`.
 * @param {{history?: string, streams?: string | ((camera: string) => string), token?: boolean, asService?: boolean, instance?: string}} [given]
 */
export async function begin({ history = '{ path: kept, pictures: { max_side: 320 } }', streams, token = true, asService = false, instance = 'demo' } = {}) {
  const folder = mkdtempSync(join(tmpdir(), 'vtagd-page-'));
  try {
    return await inside(folder, { history: asService ? '{ pictures: { max_side: 320 } }' : history, streams, token, asService, instance });
  } catch (error) {
    await Promise.allSettled(started.map((one) => one.end()));
    throw error;
  }
}

async function inside(folder, { history, streams, token, asService, instance }) {
  const rtsp = run(camera, ['--file', join(ROOT, 'demo/clip.mp4'), '--port', '0']);
  const url = await eventually('the camera', () => /rtsp:\S+/.exec(rtsp.said.out)?.[0]);
  const etc = join(folder, 'etc');
  for (const name of ['etc', 'state', 'cache']) mkdirSync(join(folder, name));
  const user = asService ? serviceUser() : null;
  if (user) {
    chmodSync(folder, 0o755);
    for (const name of ['state', 'cache']) chownSync(join(folder, name), user.uid, user.gid);
    chmodSync(join(folder, 'state'), 0o750);
  }
  writeFileSync(join(etc, 'token'), TOKEN);
  writeFileSync(join(etc, 'demo.yaml'), readFileSync(join(ROOT, 'config/labels/demo.yaml')));
  const shown = token ? ', token: { file: token }' : '';
  let port = 0;
  const config = () => `instance: ${instance}
model: { path: starter }
sampling: { interval: 500ms }
streams: ${typeof streams === 'function' ? streams(url) : streams ?? `[{ id: demo-camera, url: "${url}" }]`}
labels: [demo.yaml]
events: { enter: 0.6, exit: 0.3, after: 0s, cooldown: 0s }
${asService ? "sinks: [{ type: jsonl, path: '-' }]\nsnapshots: {}" : `sinks: [{ type: jsonl, path: events.jsonl }]
outbox: { path: outbox.db }
state: { path: ../state }
snapshots: { path: snapshots }`}
history: ${history}
api: { listen: 127.0.0.1:${port}${shown} }
`;
  const start = () => {
    writeFileSync(join(etc, 'vtagd.yaml'), config());
    const env = { ...process.env, VTAGD_CACHE: join(folder, 'cache'), STATE_DIRECTORY: join(folder, 'state'), VTAGD_LOG: 'info' };
    const args = ['run', '-c', join(etc, 'vtagd.yaml')];
    if (!user) return run(program, args, { cwd: ROOT, env });
    // Everything hands over to the next by `exec`: the process that is started is the daemon in the end.
    const closed = 'for at in /etc "$0"; do mount --bind "$at" "$at" && mount -o remount,bind,ro "$at" || exit 1; done; exec "$@"';
    const drop = ['setpriv', `--reuid=${user.uid}`, `--regid=${user.gid}`, '--clear-groups', '--no-new-privs', '--inh-caps=-all'];
    return run('unshare', ['--mount', 'sh', '-c', closed, etc, ...drop, program, ...args], { cwd: ROOT, env });
  };
  let daemon = start();
  // From then on the same, so that a page finds a daemon that was restarted.
  port = Number(await eventually('the daemon', () => /127\.0\.0\.1:(\d+)/.exec(daemon.said.err.split('\n').find((line) => line.includes('API listens')) || '')?.[1]));
  const address = `http://127.0.0.1:${port}`;
  const fetched = (path, options = {}) => {
    const headers = { ...(token ? { Authorization: `Bearer ${TOKEN}` } : {}), ...options.headers };
    return fetch(`${address}/${path.replace(/^\//, '')}`, { ...options, headers });
  };
  const ask = async (path, options) => (await fetched(path, options)).json();
  await eventually('it is ready', async () => (await ask('readyz').catch(() => ({}))).ready);
  const browser = await chromium.launch({ executablePath: browserProgram, args: ['--no-sandbox'] });
  return {
    address,
    camera: url,
    etc,
    ask,
    fetch: fetched,
    browser,
    folder,
    daemon: () => daemon,
    /** The exit code of the one that ends. */
    async restart() {
      const code = await daemon.end();
      daemon = start();
      return code;
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
      const all = await Promise.allSettled([browser.close(), daemon.end().finally(() => rtsp.end())]);
      rmSync(folder, { recursive: true, force: true });
      const failed = all.find(({ status }) => status === 'rejected');
      if (failed) throw failed.reason;
    },
  };
}

const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');

/** What axe-core finds on the page as it is. Its text is run by the test, not by the page: no policy is in its way, and none is loosened. */
export async function violations(page) {
  await page.evaluate(axe);
  const found = await page.evaluate(() => window.axe.run());
  return found.violations.map((one) => `${one.id}: ${one.nodes.map((node) => node.target).join(' ')}`);
}

/** A page that has logged in by the link, of a daemon that has a camera. */
export async function opened(setting, view, options) {
  const page = await setting.page(options);
  await page.goto(setting.link);
  await page.waitForSelector('.card');
  if (view) await page.goto(`${setting.address}/#/${view}`);
  return page;
}

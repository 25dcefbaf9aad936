// What other sites, other names of this machine, and other people's words can do to the page in a headless Chromium: nothing.

import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import { createServer as createSocket } from 'node:net';
import { after, before, test } from 'node:test';
import { chromium } from 'playwright-core';
import { begin, DEADLINE, eventually, JSON_TYPE, opened } from './setting.mjs';

const MARKUP = '<img src=x onerror="document.title=`owned`">';

/** What listens on a port of loopback until `end`. */
function listening(server) {
  return new Promise((then) => {
    server.listen(0, '127.0.0.1', () => then({ port: server.address().port, end: () => new Promise((done) => server.close(done)) }));
  });
}

/** A camera that has words of its own for everything. */
const rudeCamera = () => createSocket((socket) => {
  socket.on('error', () => {});
  socket.on('data', (data) => socket.write(`RTSP/1.0 404 ${MARKUP}\r\nCSeq: ${/CSeq: (\d+)/i.exec(data)?.[1] ?? 1}\r\nServer: ${MARKUP}\r\n\r\n`));
});

let setting;
let camera;
before(async () => {
  camera = await listening(rudeCamera());
  setting = await begin({ streams: (url) => `[{ id: demo-camera, url: "${url}" }, { id: rude, url: "rtsp://127.0.0.1:${camera.port}/one" }]` });
});
after(async () => {
  await setting?.end();
  await camera?.end();
});

test('a page of another site can neither frame it, nor read anything, nor change anything, although the browser has logged in', async () => {
  const own = await opened(setting);
  const before = (await setting.ask('api/v1/labels')).sets[0];
  const seen = [];
  // Another port of the same machine: to the browser it is the same site, and cookies are sent along.
  const site = await listening(createServer((request, answer) => {
    answer.setHeader('Content-Type', 'text/html');
    answer.end(`<!doctype html><title>elsewhere</title><iframe name="own" src="${setting.address}/"></iframe><iframe name="answer"></iframe>
      <form method="post" target="answer" enctype="text/plain" action="${setting.address}/api/v1/streams/demo-camera/pause"><input name='{"a":"' value='"}'></form>`);
  }));
  const evil = await own.context().newPage();
  evil.on('response', (answer) => answer.url().startsWith(setting.address) && seen.push([new URL(answer.url()).pathname, answer.request().method(), answer.status()]));
  await evil.goto(`http://127.0.0.1:${site.port}/`);
  const told = await evil.evaluate(async ({ address, sha256 }) => {
    const outcome = (asked) => asked.then((answer) => answer.type, (error) => error.name);
    const edit = JSON.stringify({ label: 'theirs', prompts: ['a wall'], sha256 });
    const change = (more) => outcome(fetch(`${address}/api/v1/labels/demo/edit`, { method: 'POST', credentials: 'include', body: edit, ...more }));
    const found = {
      read: await outcome(fetch(`${address}/api/v1/streams`, { credentials: 'include' })),
      live: await new Promise((then) => {
        const source = new EventSource(`${address}/api/v1/live`, { withCredentials: true });
        source.onerror = () => then('error');
        source.onopen = () => then('open');
      }),
      simple: await change({ mode: 'no-cors' }),
      json: await change({ headers: { 'Content-Type': 'application/json' } }),
      header: await change({ headers: { 'Content-Type': 'application/json', 'X-CSRF-Token': 'guessed' } }),
    };
    document.forms[0].submit();
    return found;
  }, { address: setting.address, sha256: before.sha256 });
  assert.deepEqual(told, { read: 'TypeError', live: 'error', simple: 'TypeError', json: 'TypeError', header: 'TypeError' });
  await eventually('the form is answered', () => seen.some(([path, method]) => path.endsWith('/pause') && method === 'POST'));
  for (const [path, method, status] of seen) assert.ok(!['POST', 'OPTIONS'].includes(method) || status >= 400, `${method} ${path}: ${status}`);
  const frame = evil.frame({ name: 'own' });
  assert.equal(await frame.evaluate(() => document.querySelectorAll('#main, .card').length), 0, 'it is not to be framed');
  assert.deepEqual((await setting.ask('api/v1/labels')).sets[0], before);
  assert.notEqual((await setting.ask('api/v1/streams')).streams.find((one) => one.id === 'demo-camera').state, 'disabled');
  await own.context().close();
  await site.end();
});

test('a name that was pointed here gets nothing: without a token not even the page, with one no session', async () => {
  const open = await begin({ history: 'off', token: false });
  const browser = await chromium.launch({ executablePath: process.env.CHROMIUM || '/usr/bin/chromium', args: ['--no-sandbox', '--host-resolver-rules=MAP rebound.example 127.0.0.1'] });
  try {
    const page = await browser.newPage();
    page.setDefaultTimeout(DEADLINE);
    const rebound = (address) => `http://rebound.example:${new URL(address).port}`;
    for (const path of ['/', '/api/v1/streams', '/api/v1/pictures', '/api/v1/live', '/readyz']) {
      assert.equal((await page.goto(rebound(open.address) + path)).status(), 403, path);
      assert.equal((await page.request.get(open.address + (path.endsWith('live') ? '/' : path))).status(), 200, path);
    }
    // Who has logged in at the machine's own name has not at this one.
    await page.goto(setting.link);
    await page.waitForSelector('.card');
    await page.goto(rebound(setting.address));
    await page.waitForSelector('dialog input');
    assert.equal(await page.$$eval('.card', (all) => all.length), 0);
    assert.equal(await page.evaluate(async () => (await fetch('api/v1/streams')).status), 401);
  } finally {
    await browser.close();
    await open.end();
  }
});

test('names of labels and what a camera says are text alone, on every view', async () => {
  const own = await opened(setting, 'lab');
  const { sha256 } = (await setting.ask('api/v1/labels')).sets[0];
  await setting.ask('api/v1/labels/demo/edit', { method: 'POST', headers: JSON_TYPE, body: JSON.stringify({ label: MARKUP, prompts: ['a wall'], enter: -900, exit: -901, sha256 }) });
  await eventually('it is told', async () => (await setting.ask(`api/v1/events?label=${encodeURIComponent(MARKUP)}`)).events?.length > 0);
  await eventually('the camera is down', async () => (await setting.ask('api/v1/streams')).streams.find((one) => one.id === 'rude').error);
  for (const view of ['cameras', 'camera/demo-camera', 'camera/rude', 'events', `events?label=${encodeURIComponent(MARKUP)}`, 'lab', `lab?label=${encodeURIComponent(MARKUP)}`, `search?q=${encodeURIComponent(MARKUP)}`, 'add', 'system']) {
    await own.goto(`${setting.address}/#/${view}`);
    await own.waitForTimeout(1500);
    await harmless(own, view);
  }
  await own.goto(`${setting.address}/#/cameras`);
  await own.waitForSelector(`.card:has-text("onerror")`);
  assert.deepEqual(own.faults, []);
  await own.context().close();
});

async function harmless(page, view) {
  assert.notEqual(await page.title(), 'owned', view);
  assert.equal(await page.$$eval('[onerror]', (all) => all.length), 0, view);
}

/** What others have written, in whatever is answered. */
const THEIRS = ['error', 'why', 'notice', 'reason', 'refused', 'warnings', 'region', 'set', 'label', 'rival', 'name', 'hardware', 'location', 'profile', 'model', 'instance', 'waits', 'decoder'];

function spoiled(value, key) {
  if (Array.isArray(value)) return value.map((one) => spoiled(one, key));
  if (value && typeof value === 'object') return Object.fromEntries(Object.entries(value).map(([own, one]) => [own, spoiled(one, own)]));
  return typeof value === 'string' && THEIRS.includes(key) ? `${value}${MARKUP}` : value;
}

test('markup in whatever the daemon answers, and in what cameras of the network say of themselves, is text', async () => {
  const page = await opened(setting);
  const device = { id: 'found', name: 'n', hardware: 'h', location: 'l', address: '10.0.0.9', error: 'e', streams: [{ profile: 'p', codec: MARKUP, width: 1, height: 1, url: `rtsp://10.0.0.9/${MARKUP}`, elsewhere: true }] };
  await page.route(/\/(api\/v1\/(streams|sinks|labels|events|search|streams\/[^/]+\/scores|labels\/[^/]+\/try)|readyz)(\?.*)?$/, async (route) => {
    const answer = await route.fetch();
    const json = await answer.json().catch(() => null);
    await route.fulfill({ response: answer, json: spoiled(json, '') });
  });
  await page.route('**/api/v1/discover', (route) => route.fulfill({ json: { devices: [spoiled(device, '')] } }));
  for (const view of ['cameras', 'camera/demo-camera', 'camera/rude', 'events', 'search?q=a+rocket', 'lab?label=cat', 'system', 'add']) {
    await page.goto(`${setting.address}/#/${view}`);
    await page.waitForFunction(() => document.querySelector('main h1 + .view')?.textContent.length > 20);
    await page.waitForTimeout(1000);
    await harmless(page, view);
  }
  await page.click('button:has-text("Look for cameras")');
  await page.waitForSelector(`h3:has-text("onerror")`);
  await harmless(page, 'add');
  assert.deepEqual(page.faults, []);
  await page.context().close();
});

// What a page costs in a browser, for benches/page_load.py: `node paint.mjs ADDRESS [SECONDS]` prints a line of JSON: when something is first seen, when the first
// picture is, how many bytes came until then, and how much memory the scripts of two pages and the whole browser hold, a minute after they were
// opened and each minute until so many seconds have passed.

import { readFileSync } from 'node:fs';
import { chromium } from 'playwright-core';

const MINUTE = 60_000;

const [address, seconds = '0'] = process.argv.slice(2);
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM || '/usr/bin/chromium', args: ['--no-sandbox', '--enable-precise-memory-info'] });
const paints = [];
const pictures = [];
const loads = [];
const held = [];

/** Memory that would be free without the browser's processes, in bytes: of all, and of the largest that a page is in. */
async function privateBytes(session) {
  const { processInfo } = await session.send('SystemInfo.getProcessInfo');
  const bytes = (id) => [...readFileSync(`/proc/${id}/smaps_rollup`, 'utf8').matchAll(/^Private_\w+:\s+(\d+) kB/gm)].reduce((sum, found) => sum + Number(found[1]) * 1024, 0);
  const held = processInfo.map(({ id, type }) => ({ type, bytes: bytes(id) }));
  const page = Math.max(...held.filter(({ type }) => type === 'renderer').map((one) => one.bytes));
  return { page, browser: held.reduce((sum, one) => sum + one.bytes, 0) };
}

/** Asks a page something without staying attached to it. @param {string} id @param {[string, object?][]} questions @returns the last one's answer */
async function once(session, id, questions) {
  const { sessionId } = await session.send('Target.attachToTarget', { targetId: id, flatten: false });
  let told;
  for (const [at, [method, params = {}]] of questions.entries()) {
    const answer = new Promise((then, fail) => {
      setTimeout(() => fail(new Error(`a page did not answer ${method}`)), MINUTE).unref();
      const hear = ({ sessionId: from, message }) => {
        const data = JSON.parse(message);
        if (from !== sessionId || data.id !== at + 1) return;
        session.off('Target.receivedMessageFromTarget', hear);
        then(data);
      };
      session.on('Target.receivedMessageFromTarget', hear);
    });
    await session.send('Target.sendMessageToTarget', { sessionId, message: JSON.stringify({ id: at + 1, method, params }) });
    told = await answer;
  }
  await session.send('Target.detachFromTarget', { sessionId });
  return told.result.result.value;
}

/**
 * Two pages stay open: the cameras, and what is told. The browser opens them itself: with playwright's pages the developer tools' network is switched on, which
 * keeps every answer in the page's process, up to 200 MB for each who has asked for that.
 */
async function hold() {
  const session = await browser.newBrowserCDPSession();
  const ids = [];
  for (const view of ['cameras', 'events']) {
    ids.push((await session.send('Target.createTarget', { url: `${address}#/${view}`, newWindow: true, width: 1280, height: 800 })).targetId);
  }
  for (let at = MINUTE; at <= Number(seconds) * 1000; at += MINUTE) {
    await new Promise((then) => setTimeout(then, MINUTE));
    const scripts = [];
    for (const id of ids) {
      const expression = 'document.hidden ? NaN : performance.memory.usedJSHeapSize';
      scripts.push(await once(session, id, [['HeapProfiler.collectGarbage'], ['Runtime.evaluate', { expression, returnByValue: true }]]));
    }
    // A page that nobody sees asks for nothing: that is not what is measured.
    if (!scripts.every((bytes) => bytes > 0)) throw new Error(`a page is hidden: ${scripts}`);
    held.push({ cameras: scripts[0], events: scripts[1], ...(await privateBytes(session)) });
  }
}

try {
  for (let load = 0; load < 5; load += 1) {
    const context = await browser.newContext({ viewport: { width: 1280, height: 800 } });
    const page = await context.newPage();
    const network = await context.newCDPSession(page);
    let bytes = 0;
    network.on('Network.loadingFinished', (finished) => (bytes += finished.encodedDataLength));
    await network.send('Network.enable');
    await page.goto(address);
    await page.waitForFunction(() => performance.getEntriesByName('first-contentful-paint').length > 0);
    paints.push(await page.evaluate(() => performance.getEntriesByName('first-contentful-paint')[0].startTime));
    const files = await page.evaluate(() => performance.getEntriesByType('navigation').concat(performance.getEntriesByType('resource')).filter((one) => !one.name.includes('/api/') && !one.name.endsWith('readyz')).reduce((sum, one) => sum + one.transferSize, 0));
    await page.waitForSelector('[data-at]', { timeout: 60_000 });
    pictures.push(await page.evaluate(() => performance.now()));
    loads.push({ files, all: bytes });
    await context.close();
  }
  if (Number(seconds) > 0) await hold();
} finally {
  await browser.close();
}
const sorted = (list) => list.map(Math.round).sort((a, b) => a - b);
console.log(JSON.stringify({ first_paint_ms: sorted(paints), first_picture_ms: sorted(pictures), first_load_bytes: loads[0], held }));

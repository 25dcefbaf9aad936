// What a page costs in a browser, for benches/page_load.py: `node paint.mjs ADDRESS [SECONDS]` prints a line of JSON: when something is first seen, when the first
// picture is, and how much memory scripts hold at first and after so many seconds.

import { chromium } from 'playwright-core';

const [address, seconds = '0'] = process.argv.slice(2);
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM || '/usr/bin/chromium', args: ['--no-sandbox', '--enable-precise-memory-info'] });
const paints = [];
const pictures = [];
const heap = [];
try {
  for (let load = 0; load < 5; load += 1) {
    const context = await browser.newContext({ viewport: { width: 1280, height: 800 } });
    const page = await context.newPage();
    await page.goto(address);
    await page.waitForFunction(() => performance.getEntriesByName('first-contentful-paint').length > 0);
    paints.push(await page.evaluate(() => performance.getEntriesByName('first-contentful-paint')[0].startTime));
    await page.waitForFunction(() => [...document.images].some((image) => image.naturalWidth > 0), null, { timeout: 60_000 });
    pictures.push(await page.evaluate(() => performance.now()));
    if (load === 4 && Number(seconds) > 0) {
      const session = await context.newCDPSession(page);
      const held = async () => {
        await session.send('HeapProfiler.collectGarbage');
        return page.evaluate(() => performance.memory.usedJSHeapSize);
      };
      heap.push(await held());
      await page.waitForTimeout(Number(seconds) * 1000);
      heap.push(await held());
    }
    await context.close();
  }
} finally {
  await browser.close();
}
const sorted = (list) => list.map(Math.round).sort((a, b) => a - b);
console.log(JSON.stringify({ first_paint_ms: sorted(paints), first_picture_ms: sorted(pictures), heap_bytes: heap }));

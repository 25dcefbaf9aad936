// The pictures of docs/page.md, of the demo's camera: `make screenshots`.

import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { begin, eventually, ROOT } from './setting.mjs';

const folder = join(ROOT, 'docs/page');
mkdirSync(folder, { recursive: true });
const setting = await begin();
try {
  await eventually('something of the past', async () => (await setting.ask('api/v1/search?text=a+rocket')).searched?.rows > 12);
  const shots = [
    ['cameras', 'cameras', { width: 1000, height: 560 }],
    ['events', 'events', { width: 1000, height: 640 }],
    ['lab', 'lab?label=rocket&hours=1', { width: 1000, height: 860 }],
    ['search', 'search?q=a%20rocket', { width: 1000, height: 640 }],
    ['phone', 'cameras', { width: 390, height: 700 }],
  ];
  for (const [name, view, viewport] of shots) {
    const page = await setting.page({ viewport, colorScheme: name === 'lab' ? 'dark' : 'light' });
    await page.goto(setting.link);
    await page.waitForSelector('.bar.open');
    await page.goto(`${setting.address}/#/${view}`);
    await page.waitForFunction(() => document.querySelector('canvas:not([hidden])') || [...document.images].some((image) => image.naturalWidth > 0));
    await page.waitForTimeout(1500);
    if (view === 'cameras') {
      // A picture is up to two seconds older than the bars: a label that has stood for longer is of what is seen.
      const open = () => page.evaluate(() => document.querySelector('.bar.open .label')?.textContent);
      await eventually('the bars fit the picture', async () => {
        const label = await open();
        await page.waitForTimeout(3000);
        return label && label === (await open());
      });
    }
    await page.screenshot({ path: join(folder, `${name}.png`) });
    await page.context().close();
  }
} finally {
  await setting.end();
}

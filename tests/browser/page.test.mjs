// The page in a headless Chromium, as people use it, beside a daemon that watches the demo's camera.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { after, before, test } from 'node:test';
import { begin, eventually } from './setting.mjs';

const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');

let setting;
before(async () => {
  setting = await begin();
});
after(async () => setting?.end());

/** What axe-core finds on the page as it is. Its text is run by the test, not by the page: no policy is in its way, and none is loosened. */
async function violations(page) {
  await page.evaluate(axe);
  const found = await page.evaluate(() => window.axe.run());
  return found.violations.map((one) => `${one.id}: ${one.nodes.map((node) => node.target).join(' ')}`);
}

async function opened(view, options) {
  const page = await setting.page(options);
  await page.goto(setting.link);
  await page.waitForSelector('.card');
  if (view) await page.goto(`${setting.address}/#/${view}`);
  return page;
}

test('pictures appear, bars move, and the token is gone from the address', async () => {
  const page = await opened();
  assert.ok(!page.url().includes('token'), page.url());
  await page.waitForFunction(() => document.querySelector('.card img')?.naturalWidth > 100);
  const first = await page.getAttribute('.card img', 'data-at');
  await eventually('another picture', async () => (await page.getAttribute('.card img', 'data-at')) !== first);
  await page.waitForSelector('.bar.open');
  const widths = () => page.$$eval('.bar .level', (levels) => levels.map((level) => level.style.width).join());
  const before = await widths();
  await eventually('the bars move', async () => (await widths()) !== before);
  assert.match(await page.textContent('#connection'), /live/);
  assert.equal(await page.textContent('#instance'), 'demo');
  await page.click('.card h2 a');
  await page.waitForSelector('.view.camera img[data-at]');
  assert.deepEqual(page.faults, []);
  await page.context().close();
});

test('history scrolls, and right and wrong reach the marks', async () => {
  const page = await opened('events');
  await page.waitForSelector('.tag img');
  await page.click('.tag .verdict button >> nth=0');
  await page.waitForSelector('.tag .said:has-text("seen")');
  const { marks } = await setting.ask('api/v1/marks');
  assert.ok(marks.some((mark) => mark.kind === 'seen'));
  await page.click('.tag .verdict button >> nth=1');
  await page.waitForSelector('.tag .said:has-text("absent")');
  // A moment has an address.
  const moment = await page.getAttribute('.tag .small a', 'href');
  await page.goto(`${setting.address}/${moment}`);
  await page.waitForFunction(() => document.querySelectorAll('.tag').length === 1);
  assert.deepEqual(page.faults, []);
  await page.context().close();
});

test('search finds the right moment by words and by a picture', async () => {
  const page = await opened('search');
  await eventually('a rocket was seen', async () => (await setting.ask('api/v1/search?text=a+rocket')).moments?.length > 0);
  await page.fill('input[type=search]', 'a rocket launch');
  await page.click('form.ask button.main');
  await page.waitForSelector('.moments img');
  await page.click('.moments button:has-text("neighbours")');
  await page.waitForFunction(() => /likeness/.test(document.querySelector('.moments').textContent));
  assert.deepEqual(page.faults, []);
  await page.context().close();
});

test('from the first page to a label of own words that tells, in 25 inputs or fewer', async () => {
  const page = await opened();
  await eventually('something of the past', async () => (await setting.ask('api/v1/search?text=a+rocket')).searched?.rows > 12);
  let inputs = 0;
  const click = async (selector) => {
    inputs += 1;
    await page.click(selector);
  };
  await click('nav a:has-text("Label lab")');
  await page.waitForSelector('.lab-form input');
  inputs += 1;
  await page.fill('.lab-form input', 'launch pad');
  inputs += 1;
  await page.fill('.lab-form textarea >> nth=0', 'a rocket launch');
  await page.waitForSelector('.curve-box path.curve');
  const range = page.locator('input[type=range]');
  const told = () => page.$$eval('.fired rect', (all) => all.map((one) => `${one.getAttribute('x')} ${one.getAttribute('width')}`).join());
  const low = await range.evaluate((input) => input.min);
  const usual = await told();
  await range.evaluate((input, value) => {
    input.value = value;
    input.dispatchEvent(new Event('input'));
  }, low);
  assert.notEqual(await told(), usual, 'a threshold that is dragged changes the moments');
  await click('button:has-text("Save the label")');
  await page.waitForSelector('#notices p:has-text("is saved")');
  // What was saved is read again, and tried again.
  await page.waitForSelector('.curve-box path.curve');
  // Marks of both kinds, and the threshold that fits them.
  const box = await page.locator('.curve-box svg').boundingBox();
  const drag = async (from, to, kind) => {
    inputs += 2;
    await page.mouse.move(box.x + box.width * from, box.y + 30);
    await page.mouse.down();
    await page.mouse.move(box.x + box.width * to, box.y + 30, { steps: 4 });
    await page.mouse.up();
    await page.click(`.results .verdict button:text-is("${kind}")`);
  };
  await page.locator('.curve-box').scrollIntoViewIfNeeded();
  Object.assign(box, await page.locator('.curve-box svg').boundingBox());
  await drag(0.6, 0.7, 'seen');
  await eventually('it is marked', async () => (await setting.ask('api/v1/marks?label=launch%20pad')).total === 1);
  Object.assign(box, await page.locator('.curve-box svg').boundingBox());
  await drag(0.2, 0.3, 'absent');
  await eventually('it is marked', async () => (await setting.ask('api/v1/marks?label=launch%20pad')).total === 2);
  const { events } = await eventually('it tells', async () => {
    const found = await setting.ask('api/v1/events?label=launch%20pad');
    return found.events.length > 0 && found;
  });
  assert.equal(events[0].data.set, 'demo');
  assert.ok(inputs <= 25, `${inputs}`);
  assert.deepEqual(page.faults, []);
  await page.context().close();
});

test('axe-core finds nothing on any view, dark or light, wide or on a phone, and nothing is wider than the phone', async () => {
  for (const colorScheme of ['light', 'dark']) {
    for (const viewport of [{ width: 1280, height: 800 }, { width: 390, height: 844 }]) {
      const page = await opened('', { colorScheme, viewport });
      await page.waitForSelector('.bar');
      for (const view of ['cameras', 'camera/demo-camera', 'events', 'search?q=a+rocket', 'lab?label=cat', 'system']) {
        await page.goto(`${setting.address}/#/${view}`);
        await page.waitForFunction(() => document.querySelector('main h1 + .view')?.textContent.length > 20);
        await page.waitForTimeout(500);
        assert.deepEqual(await violations(page), [], `${view} ${colorScheme} ${viewport.width}`);
        const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
        assert.ok(wide <= 0, `${view} is ${wide} pixels too wide at ${viewport.width}`);
      }
      assert.deepEqual(page.faults, []);
      await page.context().close();
    }
  }
});

test('a page of another site can neither frame it nor change anything, and names are text alone', async () => {
  const page = await setting.page();
  await page.setContent(`<iframe src="${setting.address}/"></iframe>`);
  await page.waitForTimeout(1000);
  assert.equal(page.frames().some((frame) => frame.url().startsWith(setting.address)), false);
  await page.context().close();
  const own = await opened('lab');
  const named = '<img src=x onerror="document.title=`owned`">';
  const set = (await setting.ask('api/v1/labels')).sets[0];
  await setting.ask(`api/v1/labels/demo/edit`, { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify({ label: named, prompts: ['a wall'], enter: -900, exit: -901, sha256: set.sha256 }) });
  await eventually('it is told', async () => (await setting.ask(`api/v1/events?label=${encodeURIComponent(named)}`)).events?.length > 0);
  for (const view of ['cameras', 'camera/demo-camera', 'events', 'lab', 'system']) {
    await own.goto(`${setting.address}/#/${view}`);
    await own.waitForTimeout(1500);
    assert.notEqual(await own.title(), 'owned');
    assert.equal(await own.$$eval('img[onerror]', (images) => images.length), 0, view);
  }
  assert.deepEqual(own.faults, []);
  await own.context().close();
});

test('a daemon that is restarted is shown as away and found again, without the token being asked for', async () => {
  const page = await opened();
  await page.waitForSelector('#connection.live');
  const restarted = setting.restart();
  await page.waitForSelector('#connection.away');
  await restarted;
  await page.waitForSelector('#connection.live');
  assert.equal(await page.$$eval('dialog', (all) => all.length), 0);
  await page.waitForSelector('.card');
  await page.context().close();
});

test('without the token nothing is shown but the question for it, and a wrong one is refused', async () => {
  const page = await setting.page();
  await page.goto(setting.address);
  await page.waitForSelector('dialog input');
  assert.equal(await page.$$eval('.card', (all) => all.length), 0);
  await page.fill('dialog input', 'a-wrong-token-0123456789');
  await page.keyboard.press('Enter');
  await page.waitForSelector('dialog [role=alert]:has-text("not the token")');
  assert.deepEqual(await violations(page), []);
  await page.context().close();
});

test('with the history off the lab and the search say what to do', async () => {
  const other = await begin({ history: 'off', token: false });
  try {
    const page = await other.page();
    await page.goto(`${other.address}/#/lab?label=cat`);
    await page.waitForSelector('p[role=status]:has-text("history")');
    await page.goto(`${other.address}/#/search?q=cat`);
    await page.waitForSelector('p[role=status]:has-text("history")');
    assert.deepEqual(page.faults, []);
  } finally {
    await other.end();
  }
});


// The first run in a headless Chromium: a daemon without a stream, until the first label of the first camera; and what is said where that cannot be.

import assert from 'node:assert/strict';
import { existsSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { begin, CAN_BE_SERVICE, eventually, opened, violations } from './setting.mjs';

async function inSetting(given, body) {
  const setting = await begin(given);
  try {
    await body(setting);
  } finally {
    await setting.end();
  }
}

/** A camera by its address, and a label of an example set. */
async function firstSteps(setting, page) {
  await page.goto(setting.link);
  await page.waitForSelector('h2:has-text("Cameras of this network")');
  assert.match(await page.textContent('main'), /There is no camera yet/);
  const form = page.locator('section[aria-labelledby=setup-address]');
  await form.getByLabel('Address').fill('file:///etc/passwd');
  await form.getByLabel('Name here').fill('gate');
  await form.getByRole('button', { name: 'Look at it first' }).click();
  await page.waitForSelector('.looked .bad:has-text("no camera")');
  await form.getByLabel('Address').fill(setting.camera);
  await form.getByLabel('User').fill('viewer');
  await form.getByLabel('Password').fill('hidden-word-1234');
  await form.getByRole('button', { name: 'Look at it first' }).click();
  await page.waitForFunction(() => document.querySelector('.looked img')?.naturalWidth > 100);
  assert.deepEqual(await violations(page), []);
  await form.getByRole('button', { name: 'Add this camera' }).click();
  await page.waitForSelector('h2:has-text("A first label")');
  await page.waitForSelector('section[aria-labelledby=setup-added] a:has-text("gate")');
  assert.deepEqual(await violations(page), []);
  await page.getByLabel('Examples of').selectOption('tabletop');
  const name = await page.locator('.offered button').first().textContent();
  await page.locator('.offered button').first().click();
  await page.waitForSelector('#notices p:has-text("is looked for from now on")');
  assert.match(page.url(), /#\/lab\?/);
  const { sets } = await setting.ask('api/v1/labels');
  assert.ok(sets[0].labels.includes(name.replace('Add ', '')), `${name}: ${sets[0].labels}`);
  assert.equal(sets[0].in_force, 'state');
  await eventually('it is up', async () => (await setting.ask('api/v1/streams')).streams[0]?.state === 'up');
  const state = join(setting.folder, 'state');
  assert.equal(readFileSync(join(state, 'passwords/gate'), 'utf8'), 'hidden-word-1234');
  assert.equal(statSync(join(state, 'passwords/gate')).mode & 0o777, 0o600);
  assert.ok(!readFileSync(join(state, 'streams.yaml'), 'utf8').includes('hidden-word'));
  assert.ok(!setting.daemon().said.err.includes('hidden-word'));
}

test('from no stream at all to the first label, by clicks, over a restart, and back again', async () => {
  await inSetting({ streams: '[]' }, async (setting) => {
    const page = await setting.page();
    await firstSteps(setting, page);
    await setting.restart();
    await page.goto(`${setting.address}/#/cameras`);
    await page.waitForSelector('.card canvas[data-at]');
    await page.goto(`${setting.address}/#/add`);
    await page.click('button:has-text("Remove gate")');
    await page.click('button:has-text("Yes, remove gate")');
    await page.waitForSelector('#notices p:has-text("gate is removed")');
    assert.ok(!existsSync(join(setting.folder, 'state/passwords/gate')));
    await page.goto(`${setting.address}/#/cameras`);
    await page.waitForSelector('h2:has-text("Cameras of this network")');
    assert.deepEqual(page.faults, []);
  });
});

test('of several cameras that were found one is added after the other', async () => {
  await inSetting({ streams: '[]' }, async (setting) => {
    const page = await setting.page();
    const device = (number) => ({ id: `camera-${number}`, name: `Camera ${number}`, address: `10.0.0.${number}`, streams: [{ profile: 'main', codec: 'H264', url: `rtsp://10.0.0.${number}/1` }] });
    await page.route('**/api/v1/discover', (route) => route.fulfill({ json: { devices: [1, 2].map(device) } }));
    await page.goto(setting.link);
    await page.waitForSelector('h2:has-text("Cameras of this network")');
    const added = [];
    await page.route('**/api/v1/streams', async (route) => {
      if (route.request().method() !== 'POST') return route.fallback();
      added.push(route.request().postDataJSON());
      return route.fulfill({ json: { result: 'done' } });
    });
    for (const view of ['add', 'cameras']) {
      added.length = 0;
      await page.goto(`${setting.address}/#/${view}`);
      const network = page.locator('section[aria-labelledby=setup-network]');
      await network.getByLabel('Password').fill('a-word-of-theirs');
      await network.getByRole('button', { name: 'Look for cameras' }).click();
      for (const number of [1, 2]) {
        await network.getByRole('button', { name: `Add Camera ${number}` }).click();
        await network.locator(`button:has-text("Camera ${number} is added")`).waitFor();
      }
      assert.deepEqual(added.map((one) => [one.id, one.password]), [1, 2].map((number) => [`camera-${number}`, 'a-word-of-theirs']), view);
    }
    assert.deepEqual(page.faults, []);
  });
});

test('the same as its unit runs it, and a label of own words is saved there too', { skip: !CAN_BE_SERVICE && 'only as root' }, async () => {
  await inSetting({ streams: '[]', asService: true }, async (setting) => {
    const page = await setting.page();
    await firstSteps(setting, page);
    assert.notEqual(statSync(join(setting.folder, 'state/passwords/gate')).uid, 0);
    await eventually('something of the past', async () => (await setting.ask('api/v1/search?text=a+wall')).searched?.rows > 3);
    await page.goto(`${setting.address}/#/lab`);
    await page.fill('.lab-form input', 'launch pad');
    await page.fill('.lab-form textarea >> nth=0', 'a rocket launch');
    await page.waitForSelector('.curve-box path.curve');
    await page.click('button:has-text("Save the label")');
    await page.waitForSelector('#notices p:has-text("launch pad is saved")');
    assert.deepEqual(page.faults, []);
  });
});

test('a phone shows the first steps, and nothing is wider than it', async () => {
  await inSetting({ streams: '[]' }, async (setting) => {
    for (const colorScheme of ['light', 'dark']) {
      const page = await setting.page({ colorScheme, viewport: { width: 390, height: 844 } });
      await page.goto(setting.link);
      await page.waitForSelector('h2:has-text("Any other address")');
      assert.deepEqual(await violations(page), [], colorScheme);
      const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
      assert.ok(wide <= 0, `${wide} pixels too wide`);
      await page.context().close();
    }
  });
});

test('without a token the page says which lines are missing', async () => {
  await inSetting({ streams: '[]', token: false }, async (setting) => {
    const page = await setting.page();
    await page.goto(setting.link);
    await page.waitForSelector('.bad:has-text("api: { token: { file: token } }")');
    assert.equal(await page.$$eval('button:has-text("Look for cameras")', (all) => all.length), 0);
    assert.deepEqual(page.faults, []);
  });
});

test('moments of the past teach a label, and each camera has a report and a calibration of its own', async () => {
  await inSetting({}, async (setting) => {
    const page = await setting.page();
    await page.goto(setting.link);
    await page.waitForSelector('.card');
    await eventually('several scenes were seen', async () => (await setting.ask('api/v1/search?text=a+rocket')).moments?.length > 3);
    await page.goto(`${setting.address}/#/search?q=a+rocket`);
    await page.waitForSelector('.moments li');
    const teach = async (at, button, words) => {
      const moment = page.locator('.moments > li').nth(at);
      await moment.getByLabel('label to mark').selectOption({ label: 'rocket (demo)' });
      await moment.getByRole('button', { name: button, exact: true }).click();
      await page.waitForSelector(`#notices p:has-text("${words}")`);
    };
    const last = (await page.locator('.moments > li').count()) - 1;
    await teach(last, 'counter-example', 'is a counter-example of rocket');
    await teach(0, 'example', 'is an example of rocket');
    const rocket = (await setting.ask('api/v1/labels')).sets[0].details.find((one) => one.label === 'rocket');
    assert.deepEqual([rocket.examples, rocket.counter_examples], [1, 1]);

    await page.goto(`${setting.address}/#/lab?label=rocket`);
    await page.waitForSelector('.curve-box path.curve');
    await page.click('button:has-text("Trust report")');
    await page.waitForSelector('.results .bad:has-text("mark")');
    await page.locator('input[type=range]').evaluate((input) => {
      input.value = input.min;
      input.dispatchEvent(new Event('input'));
    });
    await page.click('.results .moments button:text-is("seen") >> nth=0');
    await eventually('it is marked', async () => (await setting.ask('api/v1/marks?label=rocket')).total === 1);
    await eventually('the report is there', async () => {
      await page.click('button:has-text("Trust report")');
      await page.waitForSelector('.results table.trust, .results .bad');
      return page.$('.results table.trust');
    });
    assert.deepEqual(await violations(page), []);
    // Of nothing but what was seen there is no threshold yet, and it says what to mark.
    await page.click('button:has-text("Calibrate for this camera")');
    await page.waitForSelector('.results .bad');
    assert.deepEqual(page.faults, []);
  });
});

test('marks are taken back, in search and below a curve, and what contradicts one says so', async () => {
  await inSetting({}, async (setting) => {
    const marks = async () => (await setting.ask('api/v1/marks?label=rocket')).marks.map((mark) => mark.kind);
    const page = await opened(setting);
    await eventually('several scenes were seen', async () => (await setting.ask('api/v1/search?text=a+rocket')).moments?.length > 3);
    await page.goto(`${setting.address}/#/search?q=a+rocket`);
    await page.waitForSelector('.moments li');
    const moment = page.locator('.moments > li').first();
    await moment.getByLabel('label to mark').selectOption({ label: 'rocket (demo)' });
    await moment.getByRole('button', { name: 'seen', exact: true }).click();
    await page.waitForSelector('.said:has-text("marked: rocket seen")');
    assert.deepEqual(await violations(page), []);
    await moment.getByRole('button', { name: 'absent', exact: true }).click();
    await page.waitForSelector('#notices p.bad:has-text("in the label lab below the curve")');
    await moment.getByRole('button', { name: 'Take back: rocket seen' }).click();
    await page.waitForSelector('.said:has-text("taken back: rocket seen")');
    assert.deepEqual(await marks(), []);

    await page.goto(`${setting.address}/#/lab?label=rocket`);
    await page.waitForSelector('.curve-box path.curve');
    await page.locator('input[type=range]').evaluate((input) => {
      input.value = input.min;
      input.dispatchEvent(new Event('input'));
    });
    const press = (kind) => page.click(`.results .moments button:text-is("${kind}") >> nth=0`);
    await press('seen');
    await page.waitForSelector('summary:text-is("Marked here: 1")');
    assert.deepEqual(await violations(page), []);
    await press('absent');
    await page.waitForSelector('#notices p.bad:has-text("take back the other one first, below the curve")');
    assert.deepEqual(await marks(), ['seen']);
    await page.getByRole('button', { name: /^Take back: seen, / }).click();
    await page.waitForSelector('summary:text-is("Marked here: 1")', { state: 'hidden' });
    await press('absent');
    await page.waitForSelector('summary:text-is("Marked here: 1")');
    assert.deepEqual(await marks(), ['absent']);
    assert.deepEqual(page.faults, []);
  });
});

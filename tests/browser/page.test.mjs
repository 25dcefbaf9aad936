// The page in a headless Chromium, as people use it, beside a daemon that watches the demo's camera: the same steps however that daemon runs, and where one of
// them cannot be done, what the page says to do instead.

import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { begin, CAN_BE_SERVICE, eventually, JSON_TYPE, opened, TOKEN } from './setting.mjs';

const WAYS = {
  'as somebody starts it': {},
  'as its unit runs it': { asService: true },
  'with the history off': { history: 'off' },
  'with a set that is changed on the disk': { isChanged: true },
};
/** What every change must pass has the first way alone, and what matters most of it. */
const IS_SHORT = process.env.PAGE_TESTS === 'short';
const LONG = { skip: IS_SHORT && 'long' };
/** Inputs from the first page to a label of own words that is calibrated. */
const MOST_INPUTS = 25;
/** Labels that always stand, and how often their camera is switched off and on: more events than a page of the list has. */
const STANDING = 8;
const TIMES = 8;

for (const [way, { isChanged = false, ...given }] of Object.entries(WAYS).slice(0, IS_SHORT ? 1 : undefined)) {
  const hasHistory = given.history !== 'off';
  describe(way, { skip: given.asService && !CAN_BE_SERVICE && 'only as root' }, () => {
    let setting;
    before(async () => {
      setting = await begin(given);
    });
    after(async () => setting?.end());

    const finish = async (page) => {
      assert.deepEqual(page.faults, []);
      assert.ok(!setting.daemon().said.err.includes(TOKEN));
      await page.context().close();
    };
    const saysWhatToDo = async (page) => {
      await page.waitForSelector('p[role=status]:has-text("history")');
      assert.match(await page.textContent('.view'), /`history`[^.]*configuration/);
    };
    const marks = async (query = '') => (await setting.ask(`api/v1/marks${query}`)).marks;

    test('pictures appear, bars move, and the token is gone from the address', async () => {
      const page = await opened(setting);
      assert.ok(!page.url().includes('token'), page.url());
      await page.waitForSelector('.card canvas[data-at]');
      const first = await page.getAttribute('.card canvas', 'data-at');
      await eventually('another picture', async () => (await page.getAttribute('.card canvas', 'data-at')) !== first);
      await page.waitForSelector('.bar.open');
      const widths = () => page.$$eval('.bar .level', (levels) => levels.map((level) => level.style.width).join());
      const before = await widths();
      await eventually('the bars move', async () => (await widths()) !== before);
      assert.match(await page.textContent('#connection'), /live/);
      assert.equal(await page.textContent('#instance'), 'demo');
      await page.click('.card h2 a');
      await page.waitForSelector('.view.camera canvas[data-at]');
      await finish(page);
    });

    test('right and wrong reach the marks, and a moment has an address', async () => {
      const page = await opened(setting, 'events');
      await page.waitForSelector('.tag canvas');
      const row = page.locator('.tag').last();
      const label = await row.locator('strong').textContent();
      await row.getByRole('button', { name: 'right' }).click();
      await page.waitForSelector('.tag .said:has-text("seen")');
      const of = `?label=${encodeURIComponent(label)}`;
      assert.deepEqual((await marks(of)).map((mark) => [mark.kind, mark.stream]), [['seen', 'demo-camera']]);
      await row.getByRole('button', { name: 'wrong' }).click();
      await page.waitForSelector('.tag .said:has-text("absent")');
      assert.deepEqual((await marks(of)).map((mark) => mark.kind), ['absent']);
      await page.reload();
      await page.waitForSelector('.tag .said:has-text("marked as absent")');
      await page.getByLabel('order').selectOption('uncertain');
      await page.waitForFunction(() => {
        const said = [...document.querySelectorAll('.tag .said')].map((one) => one.textContent);
        // Of so many it may be beyond the end.
        return said.length > 0 && (said.length === 50 || said.findIndex((one) => one.includes('absent')) === said.length - 1);
      });
      const moment = await page.locator('.tag .small a').last().getAttribute('href');
      await page.goto(`${setting.address}/${moment}`);
      await page.waitForFunction(() => document.querySelectorAll('.tag').length === 1);
      await finish(page);
    });

    test('search finds the right moment by words and by a picture', LONG, async () => {
      if (!hasHistory) {
        const page = await opened(setting, 'search?q=a+rocket');
        await saysWhatToDo(page);
        await finish(page);
        return;
      }
      // Two loops of the clip: each of its pictures was seen, and each tag has ended.
      const tags = await eventually('a rocket was told and has gone', async () => {
        const { events } = await setting.ask('api/v1/events?label=rocket&type=end');
        return events?.length > 1 && events;
      });
      const isRocket = (at) => tags.some(({ data }) => Date.parse(data.started_at) - 1500 <= at && at <= Date.parse(data.ended_at) + 1500);
      const told = await eventually('it is kept', async () => {
        const found = await setting.ask(`api/v1/search?text=a+rocket+launch&until=${tags[0].data.ended_at}`);
        return found.moments?.length > 0 && found;
      });
      assert.ok(isRocket(Date.parse(told.moments[0].from)), JSON.stringify([told.moments[0], tags.map((tag) => tag.data)]));
      const page = await opened(setting, 'search');
      await page.fill('input[type=search]', 'a rocket launch');
      await page.click('form.ask button.main');
      await page.waitForFunction(() => document.querySelector('.moments img')?.naturalWidth > 100);
      await page.click('.moments button:has-text("neighbours")');
      await page.waitForFunction(() => /likeness/.test(document.querySelector('.moments').textContent));
      // A picture of one's own, and words no more.
      const picture = Buffer.from(await (await setting.fetch(told.moments[0].picture)).arrayBuffer());
      await page.goto(`${setting.address}/#/search`);
      await page.waitForFunction(() => document.querySelector('input[type=search]')?.value === '');
      await page.setInputFiles('input[type=file]', { name: 'mine.jpg', mimeType: 'image/jpeg', buffer: picture });
      await page.waitForSelector('p:has-text("Like the picture mine.jpg")');
      await page.waitForFunction(() => /likeness (1\.00|0\.9)/.test(document.querySelector('.moments').textContent));
      await finish(page);
    });

    test(`from the first page to a calibrated label of own words that tells, in ${MOST_INPUTS} inputs or fewer`, async () => {
      if (!hasHistory) {
        const page = await opened(setting, 'lab?label=launch+pad');
        await saysWhatToDo(page);
        assert.ok(await page.getByRole('button', { name: 'Save the label' }).isHidden());
        await finish(page);
        return;
      }
      await eventually('all of the clip was seen', async () => {
        const { events } = await setting.ask('api/v1/events?type=end');
        return new Set(events?.map((event) => event.data.label)).size > 3;
      });
      const page = await opened(setting);
      let inputs = 0;
      const input = async (what) => {
        inputs += 1;
        return what;
      };
      const click = (selector) => input(page.click(selector));
      const drag = async ([fromX, fromY], [toX, toY]) => {
        inputs += 1;
        await page.mouse.move(fromX, fromY);
        await page.mouse.down();
        await page.mouse.move(toX, toY, { steps: 5 });
        await page.mouse.up();
      };
      /** That of what is typed: until it is there the page says that something has changed, or that it looks. */
      const curve = async () => {
        await page.waitForSelector('p[role=status]:text-matches("^one camera, \\\\d+ points")');
        await page.waitForSelector('.curve-box path.curve');
      };
      await click('nav a:has-text("Label lab")');
      await page.waitForSelector('.lab-form input');
      await input(page.getByLabel('Label (its name in events)').fill('launch pad'));
      await input(page.getByLabel('Prompts').fill('a rocket launch'));
      await curve();
      // The threshold, by its handle.
      const range = page.locator('input[type=range]');
      await range.scrollIntoViewIfNeeded();
      const told = () => page.$$eval('.fired rect', (all) => all.map((one) => `${one.getAttribute('x')} ${one.getAttribute('width')}`).join());
      const usual = await told();
      const { x, y, width, height } = await range.boundingBox();
      const part = await range.evaluate((one) => (one.value - one.min) / (one.max - one.min));
      await drag([x + 8 + (width - 16) * part, y + height / 2], [x + width / 20, y + height / 2]);
      assert.notEqual(await told(), usual, 'a threshold that is dragged changes the moments');
      if (isChanged) {
        const file = join(setting.etc, 'demo.yaml');
        writeFileSync(file, readFileSync(file, 'utf8').replace('a wall', 'a grey wall'));
        await page.click('button:has-text("Save the label")');
        await page.waitForSelector('#notices p.bad:has-text("Nothing was saved")');
        await page.waitForSelector('button:has-text("Read it again")');
        assert.equal((await setting.ask('api/v1/labels')).sets[0].in_force, 'file');
        // What the file says comes into force with a reload; then it is read again, and what was typed is typed again.
        await setting.ask('api/v1/reload', { method: 'POST' });
        await eventually('it is in force', async () => (await setting.ask('api/v1/labels')).sets[0].background.includes('a grey wall'));
        await page.click('button:has-text("Read it again")');
        await page.waitForFunction(() => [...document.querySelectorAll('textarea')].at(-1).value.includes('a grey wall'));
        await page.getByLabel('Prompts').fill('a rocket launch');
        await curve();
      }
      await click('button:has-text("Save the label")');
      await page.waitForSelector('#notices p:has-text("launch pad is saved")');
      await curve();
      // Where it stands highest it was seen; all between that and the next time it was absent, what is a little like it too, as somebody would draw who has
      // looked at the pictures. A stretch of each is drawn with the mouse.
      const stretches = await page.$eval('.curve-box path.curve', (path) => {
        const points = [...path.getAttribute('d').matchAll(/[ML]([\d.]+) ([\d.]+)/g)].map((found) => [Number(found[1]), Number(found[2])]);
        const heights = points.map(([, y]) => y);
        const line = Math.min(...heights) + (Math.max(...heights) - Math.min(...heights)) / 4;
        const longest = (isOf) => {
          let best = [];
          let run = [];
          for (const point of points) {
            run = isOf(point[1]) ? [...run, point] : [];
            if (run.length > best.length) best = run;
          }
          if (best.length < 4) throw new Error(`the curve stays on a side for ${best.length} points only`);
          return [best[1][0] / 1000, best.at(-2)[0] / 1000];
        };
        return { seen: longest((y) => y < line), absent: longest((y) => y > line) };
      });
      for (const [kind, [from, to]] of Object.entries(stretches)) {
        await page.locator('.curve-box').scrollIntoViewIfNeeded();
        const box = await page.locator('.curve-box svg').boundingBox();
        await drag([box.x + box.width * from, box.y + 30], [box.x + box.width * to, box.y + 30]);
        await click(`.results .verdict button:text-is("${kind}") >> nth=0`);
        await eventually('it is marked', async () => (await marks('?label=launch%20pad')).some((mark) => mark.kind === kind));
      }
      await page.waitForSelector('.marked .absent');
      await click('button:has-text("Calibrate: the threshold")');
      await page.waitForSelector('#notices p:has-text("The threshold tells 100 % of what is marked as seen, and 0 % of what is marked as absent")');
      const wanted = Number(await range.inputValue());
      await click('button:has-text("Save the label")');
      await eventually('its threshold is saved', async () => {
        const details = (await setting.ask('api/v1/labels')).sets[0].details.find((one) => one.label === 'launch pad');
        return Math.abs(details.enter.margin - wanted) < 0.06;
      });
      const saved = Date.now();
      const event = await eventually('it tells', async () => {
        const { events } = await setting.ask('api/v1/events?label=launch%20pad&type=end');
        return events.find(({ data }) => Date.parse(data.started_at) > saved);
      });
      assert.equal(event.data.set, 'demo');
      // It tells what was meant: of all that is kept what is most like a launch was seen then.
      const { moments } = await setting.ask('api/v1/search?text=a+rocket+launch');
      const [from, until] = [event.data.started_at, event.data.ended_at].map(Date.parse);
      assert.ok(moments.slice(0, 12).some((one) => Date.parse(one.from) <= until && Date.parse(one.until) >= from), JSON.stringify([event.data, moments.slice(0, 12)]));
      assert.ok(inputs <= MOST_INPUTS, `${inputs}`);
      await finish(page);
    });

    test('history scrolls back to the first thing that was told', LONG, async () => {
      for (let at = 0; at < STANDING; at += 1) {
        const { sha256 } = (await setting.ask('api/v1/labels')).sets[0];
        const told = await setting.ask('api/v1/labels/demo/edit', { method: 'POST', headers: JSON_TYPE, body: JSON.stringify({ label: `standing ${at}`, prompts: ['a wall'], enter: -900, exit: -901, sha256 }) });
        assert.ok(told.changed, JSON.stringify(told));
      }
      const last = `standing ${STANDING - 1}`;
      const count = async (type) => (await setting.ask(`api/v1/events?label=${encodeURIComponent(last)}&type=${type}`)).events.length;
      for (let time = 1; time <= TIMES; time += 1) {
        await eventually('it stands', async () => (await count('start')) === time);
        await setting.ask('api/v1/streams/demo-camera/pause', { method: 'POST' });
        await eventually('it has gone', async () => (await count('end')) === time);
        await setting.ask('api/v1/streams/demo-camera/resume', { method: 'POST' });
      }
      await eventually('it stands', async () => (await count('start')) > TIMES);
      const { events } = await setting.ask('api/v1/events?limit=1000');
      const all = new Set(events.map((event) => event.data.tag_id)).size;
      const oldest = events.at(-1).data;
      const page = await opened(setting, 'events');
      await page.waitForSelector('.tag');
      assert.ok((await page.locator('.tag').count()) < all, 'more than a page of them');
      // What comes meanwhile has rows too: as many as were counted need not be all.
      await eventually('the oldest', async () => {
        await page.mouse.wheel(0, 2000);
        const isAll = (await page.locator('.tag').count()) >= all && (await page.getByRole('button', { name: 'Older' }).isHidden());
        return isAll && (await page.locator('.tag').last().locator('strong').textContent()) === oldest.label;
      });
      await page.locator('.tag').last().scrollIntoViewIfNeeded();
      await page.locator('.tag').last().locator('canvas').waitFor();
      const drawn = await page.locator('.tag canvas').count();
      assert.ok(drawn < all, `rows that are far away hold no picture: ${drawn} of ${all}`);
      await finish(page);
    });
  });
}

// Every view of the page in a headless Chromium: for those who cannot see it or have no mouse, on a phone, over a restart, in many tabs, and before anybody has logged in.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { begin, eventually, opened, TOKEN, violations } from './setting.mjs';

const VIEWS = ['cameras', 'camera/demo-camera', 'events', 'events?order=uncertain', 'search?q=a+rocket', 'lab?label=cat', 'add', 'system'];

let setting;
before(async () => {
  setting = await begin();
});
after(async () => setting?.end());

/** Puts the tab of a page behind others, or in front. */
const hide = (page, hidden) => page.evaluate((is) => {
  Object.defineProperty(document, 'hidden', { configurable: true, get: () => is });
  document.dispatchEvent(new Event('visibilitychange'));
}, hidden);
const isLive = (request) => new URL(request.url()).pathname === '/api/v1/live';
const isLogin = (request) => new URL(request.url()).pathname === '/api/v1/session' && request.method() === 'POST';

test('axe-core finds nothing on any view, dark or light, wide or on a phone, and nothing is wider than the phone', async () => {
  await eventually('something of the past', async () => (await setting.ask('api/v1/search?text=a+rocket')).searched?.rows > 12);
  for (const colorScheme of ['light', 'dark']) {
    for (const viewport of [{ width: 1280, height: 800 }, { width: 390, height: 844 }]) {
      const page = await opened(setting, '', { colorScheme, viewport });
      await page.waitForSelector('.bar');
      for (const view of VIEWS) {
        await page.goto(`${setting.address}/#/${view}`);
        await page.waitForFunction(() => document.querySelector('main h1 + .view')?.textContent.length > 20);
        if (view.startsWith('lab')) await page.waitForSelector('.curve-box path.curve');
        if (view.startsWith('search')) await page.waitForSelector('.moments li');
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

test('the lab asks again where the daemon is busy with other words', async () => {
  await eventually('something of the past', async () => (await setting.ask('api/v1/search?text=a+cat')).searched?.rows > 3);
  const page = await opened(setting);
  let asked = 0;
  await page.route('**/api/v1/labels/*/try', (route) => {
    asked += 1;
    return asked === 1 ? route.fulfill({ status: 503, json: { error: 'other texts are being embedded: come back later' } }) : route.fallback();
  });
  await page.goto(`${setting.address}/#/lab?label=cat`);
  await page.waitForSelector('.view p[role=status]:has-text("asks again")');
  await page.waitForSelector('.curve-box path.curve');
  assert.ok(asked >= 2);
  await page.context().close();
});

test('by keyboard alone: to the content, to another view, to a threshold', async () => {
  await eventually('something of the past', async () => (await setting.ask('api/v1/search?text=a+cat')).searched?.rows > 3);
  const page = await opened(setting);
  const focused = () => page.evaluate(() => [document.activeElement.tagName, document.activeElement.textContent.slice(0, 30)].join(' '));
  const tabTo = async (wanted) => {
    for (let at = 0; at < 40; at += 1) {
      await page.keyboard.press('Tab');
      if (wanted.test(await focused())) return;
    }
    assert.fail(`${wanted} is not reached; ${await focused()}`);
  };
  await tabTo(/^A To the content/);
  await page.keyboard.press('Enter');
  assert.match(await focused(), /^MAIN/);
  await page.reload();
  await page.waitForSelector('.card');
  await tabTo(/^A Label lab/);
  await page.keyboard.press('Enter');
  await page.waitForSelector('.lab-form input');
  assert.match(await focused(), /^H1 Label lab/, 'who hears the page hears where it is');
  await tabTo(/^INPUT/);
  await page.keyboard.type('cat');
  await page.keyboard.press('Enter');
  await page.waitForSelector('.curve-box path.curve');
  const range = page.locator('input[type=range]');
  await eventually('the threshold has the focus', async () => {
    await page.keyboard.press('Tab');
    return range.evaluate((one) => one === document.activeElement);
  });
  const before = Number(await range.inputValue());
  await page.keyboard.press('ArrowRight');
  assert.ok(Number(await range.inputValue()) > before);
  assert.deepEqual(page.faults, []);
  await page.context().close();
});

test('eight tabs of a browser are all served, since those that nobody sees hold no connection', async () => {
  const first = await opened(setting);
  const tabs = [first];
  for (let at = 1; at < 8; at += 1) {
    await hide(tabs.at(-1), true);
    await tabs.at(-1).waitForSelector('#connection.hidden');
    const page = await first.context().newPage();
    await page.goto(setting.address);
    await page.waitForSelector('#connection.live');
    await page.waitForSelector('.card canvas[data-at]');
    tabs.push(page);
  }
  await hide(tabs.at(-1), true);
  const asks = [];
  first.on('request', (request) => asks.push(request.url()));
  await first.waitForTimeout(6000);
  assert.deepEqual(asks, [], 'a tab that nobody sees asks for nothing');
  await hide(first, false);
  await first.waitForSelector('#connection.live');
  assert.deepEqual(first.faults, []);
  await first.context().close();
});

test('tabs that are opened behind others hold no connection until they are seen', async () => {
  const first = await opened(setting);
  await first.waitForSelector('#connection.live');
  const context = first.context();
  const streams = [];
  context.on('request', (request) => isLive(request) && streams.push(request.url()));
  await context.addInitScript(() => Object.defineProperty(document, 'hidden', { configurable: true, get: () => true }));
  const tabs = [];
  for (let at = 0; at < 7; at += 1) {
    const page = await context.newPage();
    await page.goto(setting.address);
    await page.waitForSelector('#connection.hidden');
    tabs.push(page);
  }
  assert.deepEqual(streams, []);
  const version = tabs[0].waitForRequest((request) => request.url() === `${setting.address}/`);
  await hide(tabs[0], false);
  await tabs[0].waitForSelector('#connection.live');
  await tabs[0].waitForSelector('.card canvas[data-at]');
  await version;

  // What is answered late is of no use to a tab that nobody sees by then.
  let answer;
  const isAsked = new Promise((then) => tabs[1].route('**/api/v1/sinks', (route) => {
    answer = () => route.fallback();
    then();
  }));
  await hide(tabs[1], false);
  await isAsked;
  await hide(tabs[1], true);
  const before = streams.length;
  const answered = tabs[1].waitForResponse('**/api/v1/sinks');
  await answer();
  await answered;
  await tabs[1].waitForTimeout(1500);
  assert.equal(streams.length, before);
  await tabs[1].unroute('**/api/v1/sinks');
  await hide(tabs[1], false);
  await tabs[1].waitForSelector('#connection.live');
  await context.close();
});

test('of 250 cameras the list is asked for three times at most, and each by itself once', async () => {
  const page = await setting.page();
  const rows = Array.from({ length: 250 }, (_, at) => ({ id: `camera-${at}`, state: 'up', accounting: { dropped: {} } }));
  let lists = 0;
  let asked = [];
  await page.route('**/api/v1/streams', (route) => {
    lists += 1;
    return route.fulfill({ json: { streams: rows, additions: { streams: [], obstacle: null } } });
  });
  await page.route('**/api/v1/streams/*/scores', (route) => {
    const stream = new URL(route.request().url()).pathname.split('/').at(-2);
    asked.push(stream);
    return route.fulfill({ json: { stream, at: null, age: null, scores: [] } });
  });
  await page.route('**/api/v1/pictures*', (route) => route.fulfill({ json: { pictures: [] } }));
  // A daemon that comes to know its streams after the page is there. Nothing else is to make it look again.
  await page.addInitScript((streams) => {
    window.setInterval = () => 0;
    window.EventSource = class extends EventTarget {
      constructor() {
        super();
        const tell = (data) => this.dispatchEvent(new MessageEvent('status', { data: JSON.stringify({ sinks: [], gone: [], ...data }) }));
        setTimeout(() => {
          this.onopen?.();
          tell({ whole: true, streams: [] });
          tell({ whole: false, streams });
        }, 200);
      }

      close() {}
    };
  }, rows.map(({ id, state }) => ({ id, state })));
  await page.goto(setting.link);
  await page.waitForFunction(() => document.querySelectorAll('.card').length === 250);
  await eventually('all are asked', () => asked.length >= 250);
  await page.waitForTimeout(1000);
  assert.equal(new Set(asked).size, asked.length);
  assert.ok(lists <= 3, `${lists}`);

  await page.goto(`${setting.address}/#/add`);
  asked = [];
  await page.goto(`${setting.address}/#/cameras`);
  await eventually('it looks again', () => asked.length > 5);
  await page.goto(`${setting.address}/#/system`);
  await page.waitForTimeout(300);
  const before = asked.length;
  await page.waitForTimeout(700);
  assert.ok(asked.length === before && before < 250, 'a view that was left asks for nothing');
  assert.deepEqual(page.faults, []);
  await page.context().close();
});

test('a daemon that starts, is away or is asked too much is waited for, and no camera is missed', async () => {
  const starts = { ready: false, reason: 'loading the model', model: null, provider: null, refused: [], inference: null, instance: 'demo', version: '0' };
  const ways = {
    'The daemon starts: loading the model.': (route) => route.fulfill({ json: { streams: [], additions: { streams: [], obstacle: null } } }),
    'Waiting for the daemon …': (route) => route.fulfill({ status: 429, json: { error: 'too many requests: come back later' } }),
    'Waiting for the daemon': (route) => route.abort(),
  };
  for (const [words, answer] of Object.entries(ways)) {
    const page = await setting.page();
    await page.route('**/api/v1/streams', answer);
    await page.route('**/readyz', (route) => route.fulfill({ status: 503, json: starts }));
    await page.goto(setting.link);
    await page.waitForSelector(`.view p:has-text("${words}")`);
    await page.waitForSelector('#connection.live');
    await page.waitForTimeout(500);
    assert.doesNotMatch(await page.textContent('main'), /There is no camera yet|Cameras of this network/);
    assert.deepEqual(await violations(page), []);
    if (words.startsWith('The daemon')) {
      for (const [view, selector] of [['add', '.view.add'], ['camera/demo-camera', '.view.camera']]) {
        await page.goto(`${setting.address}/#/${view}`);
        await page.waitForSelector(`${selector} :text("The daemon starts")`);
      }
      await page.goto(`${setting.address}/#/cameras`);
      await page.waitForSelector(`.view p:has-text("${words}")`);
    }
    await page.unrouteAll();
    await page.waitForSelector('.card canvas[data-at]');
    await page.context().close();
  }
});

test('where no live stream is free the page goes on with pictures and counts, until there is one', async () => {
  const page = await setting.page();
  await page.route('**/api/v1/live', (route) => route.fulfill({ status: 503, json: { error: 'too many live streams: come back later' } }));
  await page.goto(setting.link);
  await page.waitForSelector('#connection.polling');
  await page.waitForSelector('.card canvas[data-at]');
  const first = await page.getAttribute('.card canvas', 'data-at');
  await eventually('another picture', async () => (await page.getAttribute('.card canvas', 'data-at')) !== first);
  await page.waitForRequest('**/api/v1/streams');
  assert.match(await page.textContent('#connection'), /no live stream is free/);
  assert.deepEqual(await violations(page), []);
  await page.unrouteAll();
  await page.waitForSelector('#connection.live');
  assert.deepEqual(page.faults, []);
  await page.context().close();
});

test('the lab counts tags as they would be told: from `enter` to `exit`, after `after`', async () => {
  const page = await opened(setting);
  const counted = await page.evaluate(async () => {
    const { stretches } = await import(new URL('chart.js', document.querySelector('script[type=module]').src));
    const wavering = [-3, 2, 0.5, 2, null, 0.4, 3, -3];
    const lone = [-3, -3, 5, -3, 5, 5, -3];
    const steady = [-3, 5, null, 5, 5, -3, 5];
    return { wavering: stretches(wavering, 1, 0), flat: stretches(wavering, 1, 1).length, lone: stretches(lone, 1, 0, 4).length, steady: stretches(steady, 1, 0, 4), coarse: stretches(lone, 1, 0, 1).length };
  });
  assert.deepEqual(counted, { wavering: [{ from: 1, to: 6, peak: 3 }], flat: 3, lone: 0, steady: [{ from: 1, to: 4, peak: 5 }], coarse: 2 });

  // What the daemon answers decides: the label's own exit, and its time before a start.
  const of = async ({ after, curve }) => {
    await page.unrouteAll();
    await page.route('**/api/v1/labels/*/try', (route) => route.fulfill({ json: tried(curve, { after }) }));
    await page.goto(`${setting.address}/#/system`);
    await page.goto(`${setting.address}/#/lab?label=cat`);
    await page.waitForSelector('.curve-box path.curve');
    return /would have told (.+)$/.exec(await page.textContent('.results section .small'))[1];
  };
  assert.equal(await of({ after: 0, curve: [-3, 2, 0.5, 2, 0.4, 3, -3] }), 'once');
  assert.equal(await of({ after: 3, curve: [-3, -3, 5, -3, -3] }), '0 times');
  assert.equal(await of({ after: 3, curve: [-3, 5, 5, 5, 5, -3] }), 'once');
  assert.deepEqual(page.faults, []);
  await page.context().close();
});

/** How a trial of the label `cat` is answered that has such a curve on each of so many cameras. */
function tried(curve, { after = 0, cameras = 1 } = {}) {
  const stream = (at) => ({ stream: at === 0 ? 'demo-camera' : `camera-${at}`, region: null, rows: curve.length, now: 0, curve, times: curve.map((_, at) => at * 1000), pictures: [], histogram: [{ margin: 0, rows: 1 }] });
  const level = (margin) => ({ score: 1 / (1 + Math.exp(-margin)), margin });
  const [since, until] = ['2026-05-01T12:00:00Z', '2026-05-01T13:00:00Z'];
  return { model: { name: 'm', fingerprint: 'f' }, set: 'demo', label: 'cat', enter: level(1), exit: level(0), after, since, until, step: 1, streams: Array.from({ length: cameras }, (_, at) => stream(at)), is_whole: true, other_models: 0, damaged: 0 };
}

test('the lab draws a week of 250 cameras', async () => {
  const page = await opened(setting);
  const curve = Array.from({ length: 721 }, (_, at) => Math.round(Math.sin(at / 40) * 300) / 100);
  await page.route('**/api/v1/labels/*/try', (route) => route.fulfill({ json: tried(curve, { cameras: 250 }) }));
  await page.goto(`${setting.address}/#/lab?label=cat`);
  await page.waitForSelector('.view p[role=status]:has-text("250 cameras, 180250 points")');
  await page.waitForFunction(() => document.querySelectorAll('.curve-box path.curve').length === 250);
  assert.deepEqual([page.faults, await page.locator('#notices p').count()], [[], 0]);
  await page.context().close();
});

test('the lab promises nothing where the set is not looked for, and adds no example beside what is not saved', async () => {
  const page = await opened(setting);
  await page.route('**/api/v1/labels/*/try', (route) => route.fulfill({ json: tried([-3, 2, 3, -3], { cameras: 2 }) }));
  let edits = 0;
  await page.route('**/api/v1/labels/*/edit', (route) => {
    edits += 1;
    return route.fulfill({ status: 202, json: { result: 'under way' } });
  });
  await page.goto(`${setting.address}/#/lab?label=cat`);
  await page.waitForSelector('.results section >> nth=1');
  const told = await page.locator('.results section > .small:first-of-type').allTextContents();
  assert.match(told[0], /would have told once/);
  assert.match(told[1], /tells nothing: this camera does not look for the set demo/);
  const other = page.locator('.results section').nth(1);
  assert.equal(await other.getByRole('button', { name: 'seen', exact: true }).count(), 0);
  assert.ok(await other.getByRole('button', { name: 'Trust report' }).isHidden());

  const example = page.locator('.results section').first().getByRole('button', { name: 'example', exact: true }).first();
  await page.fill('.lab-form textarea >> nth=0', 'a cat on a sofa');
  await page.waitForFunction(() => !document.querySelector('.view p[role=status]').textContent.startsWith('changed'));
  await example.click();
  await page.waitForSelector('#notices p.bad:has-text("save what is changed here first")');
  assert.deepEqual([edits, await page.inputValue('.lab-form textarea >> nth=0')], [0, 'a cat on a sofa']);

  // A daemon that is not done with it yet tells the set as it was.
  await page.click('button:has-text("Save the label")');
  await page.waitForSelector('#notices p:has-text("cat is kept, and tells so in a moment")');
  assert.deepEqual([edits, await page.inputValue('.lab-form textarea >> nth=0')], [1, 'a cat on a sofa']);
  assert.deepEqual(page.faults, []);
  await page.context().close();
});

test('what was told at a moment has the tags that were open all the while', async () => {
  const page = await opened(setting);
  const event = (kind, time, id) => ({ id: `${id}-${kind}`, type: `org.vtagd.tag.${kind}`, time, data: { tag_id: id, stream: 'demo-camera', region: null, set: 'demo', label: id, started_at: '2026-05-01T12:00:00Z', ended_at: kind === 'end' ? time : null, media_start: 0, peak: 0.9 } });
  const before = [event('start', '2026-05-01T12:00:01Z', 'lorry'), event('start', '2026-05-01T12:00:01Z', 'cat'), event('end', '2026-05-01T12:01:00Z', 'cat')];
  await page.route('**/api/v1/events?*', (route) => {
    const isMoment = new URL(route.request().url()).searchParams.get('since');
    return route.fulfill({ json: { events: isMoment ? [] : before, next: null } });
  });
  await page.goto(`${setting.address}/#/events?stream=demo-camera&since=2026-05-01T12:05:00Z&until=2026-05-01T12:06:00Z`);
  await page.waitForSelector('.tags li:has-text("still open then")');
  assert.deepEqual(await page.locator('.tags li strong').allTextContents(), ['lorry']);
  assert.deepEqual(page.faults, []);
  await page.context().close();
});

test('of many tags no more rows are drawn than somebody has asked for', async () => {
  const page = await opened(setting);
  const at = (number) => new Date(Date.UTC(2026, 4, 1, 12) - number * 10_000).toISOString();
  const tag = (number) => ({ id: `${number}-end`, type: 'org.vtagd.tag.end', time: at(number), data: { tag_id: `tag-${number}`, stream: 'demo-camera', region: null, set: 'demo', label: 'cat', started_at: at(number), ended_at: at(number - 0.5), media_start: 0, peak: 0.9, reason: 'below_exit' } });
  await page.route('**/api/v1/events?*', (route) => route.fulfill({ json: { events: Array.from({ length: 450 }, (_, number) => tag(number)), next: null } }));
  await page.goto(`${setting.address}/#/events`);
  const rows = () => page.locator('.tags > li').count();
  await eventually('the first rows', async () => (await rows()) > 0);
  assert.equal(await rows(), 200);
  assert.equal(await page.locator('.strip span').first().textContent(), 'cat (450)');
  for (const wanted of [400, 450]) {
    await page.evaluate(() => scrollTo(0, document.body.scrollHeight));
    await eventually(`${wanted} rows`, async () => (await rows()) >= wanted);
  }
  assert.ok(await page.locator('button:has-text("Older")').isHidden());
  assert.deepEqual(page.faults, []);
  await page.context().close();
});

test('the system goes on telling under the hands of who reads it, and leaves them where they are', async () => {
  const page = await opened(setting);
  await page.goto(`${setting.address}/#/system`);
  await page.click('td:has-text("demo-camera")');
  const focused = () => page.evaluate(() => document.activeElement.getAttribute('aria-label'));
  assert.equal(await focused(), 'Label sets');
  await page.route('**/api/v1/sinks', async (route) => {
    const answer = await (await route.fetch()).json();
    await route.fulfill({ json: { ...answer, outbox: { ...answer.outbox, error: 'the disk is full' } } });
  });
  await page.waitForSelector('.bad:has-text("the disk is full")');
  assert.equal(await focused(), 'Label sets');
  assert.deepEqual(page.faults, []);
  await page.context().close();
});

test('who logs out or in does so in all tabs of the browser', async () => {
  const first = await opened(setting);
  const context = first.context();
  const second = await context.newPage();
  await second.goto(setting.link);
  await second.waitForSelector('.card');
  const logins = [];
  context.on('request', (request) => isLogin(request) && logins.push(request.url()));
  const loggedOut = async () => {
    for (const page of [first, second]) {
      await page.waitForSelector('dialog input');
      assert.equal(await page.locator('.card').count(), 0);
    }
  };
  // Both have the token in memory, and neither makes use of it.
  await second.getByRole('button', { name: 'Log out' }).click();
  await loggedOut();
  assert.deepEqual(logins, []);
  await first.fill('dialog input', TOKEN);
  await first.keyboard.press('Enter');
  for (const page of [first, second]) {
    await page.waitForSelector('.card');
    await page.waitForSelector('#connection.live');
    assert.equal(await page.locator('dialog').count(), 0);
  }
  assert.equal(logins.length, 1);

  // A session that has ended is none to log in for before it is ended.
  await first.reload();
  const out = first.getByRole('button', { name: 'Log out' });
  await out.waitFor();
  await context.clearCookies();
  // Pictures are looked at all the time: the question may be there before the button is reached.
  await out.evaluate((button) => button.click());
  await loggedOut();
  assert.equal(logins.length, 1);
  assert.deepEqual(first.faults, []);
  await context.close();
});

test('two daemons on one host leave each other\'s sessions alone', async () => {
  const other = await begin({ history: 'off', instance: 'other' });
  try {
    const first = await opened(setting);
    const context = first.context();
    const second = await context.newPage();
    await second.goto(other.link);
    await second.waitForSelector('#connection.live');
    const logins = [];
    context.on('request', (request) => isLogin(request) && logins.push(request.url()));
    await second.waitForTimeout(10_000);
    for (const page of [first, second]) assert.match(await page.textContent('#connection'), /live/);
    assert.deepEqual(logins, []);
    await first.reload();
    await first.waitForSelector('.card');
    assert.deepEqual([logins, await first.locator('dialog').count()], [[], 0]);
    await context.close();
  } finally {
    await other.end();
  }
});

test('a daemon that is restarted under an open page ends cleanly, is shown as away and found again, without the token being asked for', async () => {
  const page = await opened(setting);
  await page.waitForSelector('#connection.live');
  const restarted = setting.restart();
  await page.waitForSelector('#connection.away');
  assert.equal(await restarted, 0, 'an open page keeps no daemon from ending');
  await page.waitForSelector('#connection.live');
  assert.equal(await page.$$eval('dialog', (all) => all.length), 0);
  await page.waitForSelector('.card');
  await page.context().close();
});

test('without the token nothing is shown but the question for it, and a wrong one is refused', async () => {
  for (const colorScheme of ['light', 'dark']) {
    const page = await setting.page({ colorScheme, viewport: { width: 390, height: 844 } });
    await page.goto(setting.address);
    await page.waitForSelector('dialog input');
    assert.equal(await page.$$eval('.card', (all) => all.length), 0);
    await page.fill('dialog input', 'a-wrong-token-0123456789');
    await page.keyboard.press('Enter');
    await page.waitForSelector('dialog [role=alert]:has-text("not the token")');
    assert.deepEqual(await violations(page), []);
    await page.context().close();
  }
});

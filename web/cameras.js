// The cameras, each with its latest picture, how its labels stand, and what is wrong with it; and one of them on a screen of its own.

import { ask, attempt, address, betweenTwo, get, whyStarting } from './api.js';
import { button, choice, duration, each, field, h, here, oneAtATime, percent, put, replaceAddress, say, time } from './dom.js';
import * as live from './live.js';
import { drawPicture, picturePlace } from './picture.js';
import { setup } from './setup.js';

/** Between two looks at the pictures of a grid, and of one camera. */
const GRID_EVERY = 2000;
const ONE_EVERY = 1000;
/** After a look that found nothing yet. */
const SOON = 400;
/** Between two looks at counts, such as frames that were dropped. */
const COUNTS_EVERY = 5000;
/** Between two looks at thresholds, which a reload may change. */
const LEVELS_EVERY = 60_000;
/** Streams whose labels are looked at as often as counts where no live stream tells them. */
const POLLED = 16;
/** Labels of a card: those that stand highest. */
const SHOWN = 4;

const STATES = {
  connecting: 'connecting',
  up: 'up',
  down: 'down',
  disabled: 'switched off',
  ended: 'ended',
  failed: 'failed',
};

/** How labels of streams stand, with their thresholds. */
class Standing {
  constructor() {
    this.scores = new Map();
    this.levels = new Map();
  }

  /** @param {{stream: string, scores: object[]}} data */
  note(data) {
    this.scores.set(data.stream, data);
  }

  async readLevels(stream) {
    const told = await get(`streams/${encodeURIComponent(stream)}/scores`);
    for (const one of told.scores) this.levels.set(name(stream, one), one);
    // Without a live stream nobody else tells them.
    if (!this.scores.has(stream) || live.connection() === 'polling') this.scores.set(stream, { stream, at: told.at, scores: told.scores });
  }

  /** The labels of a stream that fit, the highest first. */
  of(stream, { set, label } = {}) {
    const all = (this.scores.get(stream)?.scores || []).filter((one) => (!set || one.set === set) && (!label || one.label === label));
    return all
      .map((one) => ({ ...one, enter: this.levels.get(name(stream, one))?.enter, waits: this.levels.get(name(stream, one))?.waits }))
      .sort((a, b) => (b.state === 'open') - (a.state === 'open') || (b.margin ?? -1e9) - (a.margin ?? -1e9));
  }
}

function name(stream, one) {
  return [stream, one.region || '', one.set, one.label].join('\n');
}

/** A label as a bar: how high it stands, where it would start, and what is nearest to it. */
function bar() {
  const meter = h('div', { class: 'meter', role: 'meter', 'aria-valuemin': 0, 'aria-valuemax': 100 }, h('div', { class: 'level' }), h('div', { class: 'tick' }));
  return h('div', { class: 'bar' }, h('span', { class: 'label' }), meter, h('span', { class: 'score' }), h('span', { class: 'rival' }));
}

function setBar(element, one) {
  const [label, meter, score, rival] = element.children;
  const shown = one.region ? `${one.label} (${one.region})` : one.label;
  say(label, shown);
  label.title = `${one.set} / ${shown}`;
  const percents = Math.round((one.score ?? 0) * 100);
  meter.setAttribute('aria-label', `${shown}${one.state === 'open' ? ', open' : ''}`);
  meter.setAttribute('aria-valuenow', percents);
  meter.firstChild.style.width = `${percents}%`;
  meter.lastChild.hidden = !one.enter;
  if (one.enter) meter.lastChild.style.left = `${one.enter.score * 100}%`;
  say(score, percent(one.score));
  say(rival, one.waits ? `waits: ${one.waits}` : one.rival ? `${one.margin >= 0 ? 'ahead of' : 'behind'} ${one.rival}` : '');
  element.classList.toggle('open', one.state === 'open');
  element.classList.toggle('rising', one.state === 'rising');
}

function bars(element, labels) {
  each(element, labels, (one) => name('', one), bar, setBar);
}

/** Pictures of streams, fetched together, those that can be seen alone. */
class Pictures {
  /** @param {number} every @param {number} side */
  constructor(every, side) {
    this.images = new Map();
    this.tag = '';
    this.asked = '';
    this.side = side;
    this.early = 10;
    this.seen = new IntersectionObserver((entries) => {
      for (const entry of entries) entry.target.dataset.visible = entry.isIntersecting ? 'yes' : '';
      this.look();
    });
    this.timer = setInterval(() => this.look(), every);
  }

  /** @param {string} stream @param {Element} box what has to be in sight @param {HTMLCanvasElement} image */
  add(stream, box, image) {
    this.images.set(stream, { box, image });
    this.seen.observe(box);
  }

  async look() {
    const visible = [...this.images].filter(([, { box }]) => box.isConnected && box.dataset.visible);
    const streams = visible.map(([stream]) => stream);
    if (document.hidden || this.busy || live.connection() === 'away' || streams.length === 0) return;
    this.busy = true;
    try {
      const path = address('pictures', { streams: streams.slice(0, 64).join(','), max_side: this.side });
      const answer = await ask(path, { headers: this.asked === path && this.tag ? { 'If-None-Match': this.tag } : {} });
      this.asked = path;
      if (answer.status !== 304) {
        this.tag = '';
        const shown = await Promise.allSettled((await answer.json()).pictures.map((one) => this.show(one)));
        // One that could not be drawn is asked for again.
        if (shown.every(({ status }) => status === 'fulfilled')) this.tag = answer.headers.get('ETag') || '';
      }
      // The first look makes the daemon hold the next sample; a camera that is away has none.
      if (this.early > 0 && visible.some(([, { image }]) => !image.dataset.at)) {
        this.early -= 1;
        setTimeout(() => this.look(), SOON);
      }
    } catch {
      // The next look may find it; what is away is told elsewhere.
    } finally {
      this.busy = false;
    }
  }

  async show({ stream, sampled_at: at, jpeg }) {
    const image = this.images.get(stream)?.image;
    if (!image || image.dataset.at === at) return;
    const bytes = Uint8Array.from(atob(jpeg), (character) => character.charCodeAt(0));
    await drawPicture(image, new Blob([bytes], { type: 'image/jpeg' }), `${stream}, ${time(at)}`);
    image.dataset.at = at;
  }

  end() {
    clearInterval(this.timer);
    this.seen.disconnect();
  }
}

/** What a stream says of itself, in one line. */
function told(row) {
  const dropped = Object.values(row.accounting?.dropped || {}).reduce((sum, count) => sum + count, 0);
  return [
    row.last_frame_age === null || row.last_frame_age === undefined ? 'no frame yet' : `last frame ${duration(row.last_frame_age)} ago`,
    row.frame_rate ? `${row.frame_rate.toFixed(1)} fps` : '',
    row.sampling_interval ? `a look every ${duration(row.sampling_interval)}` : '',
    row.size ? `${row.size[0]}×${row.size[1]}` : '',
    row.decoder || '',
    `${dropped} dropped`,
    row.reconnects ? `${row.reconnects} reconnects` : '',
  ]
    .filter(Boolean)
    .join(' · ');
}

/** Keeps rows of streams and how labels stand up to date for as long as a view is there. `changed` is also told why nothing is known of streams yet. */
function follow(wanted, changed) {
  const rows = new Map();
  const standing = new Standing();
  let waits = 'Waiting for the daemon …';
  let left = false;
  let dirty = false;
  const isLooking = () => !left && !document.hidden && live.connection() !== 'away';
  const soon = () => {
    if (dirty) return;
    dirty = true;
    setTimeout(() => {
      dirty = false;
      if (!left) changed(rows, standing, waits);
    }, 250);
  };
  const listed = async () => (await get('streams')).streams.filter((row) => wanted(row.id));
  const counts = oneAtATime(async () => {
    if (!isLooking()) return;
    let all = await listed();
    if (all.length === 0) {
      waits = await whyStarting();
      // Those that it has come to know meanwhile.
      if (!waits) all = await listed();
    } else {
      waits = '';
    }
    // A daemon that starts again has the same, in a moment.
    if (!waits) rows.clear();
    for (const row of all) rows.set(row.id, row);
    soon();
  });
  /** Streams whose thresholds are known, until all are looked at again. */
  const read = new Set();
  const levels = oneAtATime(async () => {
    const failed = [];
    while (isLooking()) {
      const id = [...rows.keys()].find((one) => !read.has(one));
      if (id === undefined) break;
      read.add(id);
      await standing.readLevels(id).catch(() => failed.push(id));
      soon();
      await betweenTwo(rows.size);
    }
    failed.forEach((id) => read.delete(id));
  });
  const refresh = () => {
    if (live.connection() === 'polling' && rows.size <= POLLED) read.clear();
    return counts().then(levels).catch(() => {});
  };
  attempt(counts).then(() => {
    if (!left) changed(rows, standing, waits);
    return levels();
  });
  const ends = [
    live.on('scores', (data) => {
      if (!wanted(data.stream)) return;
      standing.note(data);
      soon();
    }),
    live.on('status', (data) => {
      let isNew = data.whole;
      for (const stream of data.streams) {
        const row = rows.get(stream.id);
        if (row) Object.assign(row, { error: undefined }, stream);
        else if (wanted(stream.id)) isNew = true;
      }
      for (const id of data.gone) rows.delete(id);
      if (isNew) refresh();
      soon();
    }),
    // It may have been started again, with other thresholds.
    live.on('state', ({ now, before }) => {
      if (now === 'live' && before !== 'connecting') read.clear();
    }),
  ];
  const again = () => {
    read.clear();
    levels();
  };
  const timers = [setInterval(refresh, COUNTS_EVERY), setInterval(again, LEVELS_EVERY)];
  return () => {
    left = true;
    ends.forEach((end) => end());
    timers.forEach(clearInterval);
  };
}

export function cameras(body, parameters) {
  const pictures = new Pictures(GRID_EVERY, 320);
  const grid = h('div', { class: 'grid' });
  const none = h('p', { role: 'status' });
  const steps = h('div', { class: 'add' });
  const empty = h('div', { hidden: true }, none, steps);
  const filters = h('form', { class: 'filters', onsubmit: (event) => event.preventDefault() });
  put(body, filters, grid, empty);
  let wanted = parameters;
  let choices = '';
  let endSetup = null;

  const card = (row) => {
    const image = picturePlace();
    const box = h('a', { class: 'picture', href: here(`camera/${encodeURIComponent(row.id)}`), 'aria-label': `${row.id} alone` }, image);
    pictures.add(row.id, box, image);
    return h(
      'article',
      { class: 'card', 'aria-label': row.id },
      box,
      h('h2', {}, h('a', { href: here(`camera/${encodeURIComponent(row.id)}`) }, row.id), ' ', h('span', { class: 'state' })),
      h('p', { class: 'why', hidden: true }),
      h('div', { class: 'bars' }),
      h('p', { class: 'small' }),
    );
  };
  const set = (standing) => (element, row) => {
    const [, heading, why, labels, small] = element.children;
    say(heading.lastChild, STATES[row.state] || row.state);
    heading.lastChild.className = `state ${row.state}`;
    why.hidden = !row.error;
    say(why, row.error || '');
    bars(labels, standing.of(row.id, wanted).slice(0, SHOWN));
    say(small, told(row));
    element.classList.toggle('has-open', standing.of(row.id, wanted).some((one) => one.state === 'open'));
  };
  const fits = (row, standing) => (!wanted.stream || row.id === wanted.stream) && (!wanted.set && !wanted.label ? true : standing.of(row.id, wanted).length > 0);

  const changed = (rows, standing, waits) => {
    const labels = [...standing.scores.values()].flatMap((data) => data.scores);
    const names = (key) => [...new Set(labels.map((one) => one[key]))].sort();
    const lists = { stream: [...rows.keys()], set: names('set'), label: names('label') };
    const now = JSON.stringify(lists);
    // Not under the hands of who chooses.
    if (now !== choices && !filters.contains(document.activeElement)) {
      choices = now;
      const one = (key, text) => {
        const options = [['', `all ${text}`], ...lists[key].map((value) => [value, value])];
        return field(key, choice(options, wanted[key] || '', (value) => {
          wanted = { ...wanted, [key]: value };
          replaceAddress('cameras', wanted);
          changed(rows, standing, waits);
        }));
      };
      put(filters, one('stream', 'streams'), one('set', 'sets'), one('label', 'labels'));
    }
    each(grid, [...rows.values()].filter((row) => fits(row, standing)), (row) => row.id, card, set(standing));
    none.hidden = rows.size > 0;
    // Others that were found may be added still.
    empty.hidden = rows.size > 0 && !steps.querySelector('.found > *');
    if (rows.size > 0) return;
    say(none, waits || 'There is no camera yet.');
    // Once, and not under the hands of who fills it in.
    if (!waits && !endSetup) endSetup = setup(steps, {});
  };
  const end = follow(() => true, changed);
  return () => {
    end();
    endSetup?.();
    pictures.end();
  };
}

export function camera(body, parameters, id) {
  const pictures = new Pictures(ONE_EVERY, 640);
  const image = picturePlace();
  const state = h('span', { class: 'state' });
  const why = h('p', { class: 'why', hidden: true });
  const labels = h('div', { class: 'bars' });
  const small = h('p', { class: 'small' });
  const figure = h('figure', { class: 'alone' }, image);
  const whole = button('Whole screen', () => attempt(() => figure.requestFullscreen()));
  const recent = h('ul', { class: 'plain' });
  put(
    body,
    h('p', {}, h('a', { href: '#/cameras' }, 'All cameras'), ' · ', state),
    why,
    figure,
    h('p', {}, whole, ' ', h('a', { href: here('events', { stream: id }) }, 'Its events'), ' · ', h('a', { href: here('search', { stream: id }) }, 'Search its past')),
    h('h2', {}, 'Labels'),
    labels,
    small,
    h('h2', {}, 'What it has told last'),
    recent,
  );
  pictures.add(id, figure, image);
  const end = follow((stream) => stream === id, (rows, standing, waits) => {
    const row = rows.get(id);
    if (!row) return say(state, waits || 'there is no such camera');
    say(state, STATES[row.state] || row.state);
    state.className = `state ${row.state}`;
    why.hidden = !row.error;
    say(why, row.error || '');
    bars(labels, standing.of(id));
    return say(small, told(row));
  });
  const tell = (event) => h('li', {}, `${time(event.time)} · ${event.data.label} · ${event.type.split('.').pop()} · ${percent(event.data.peak)}`);
  attempt(async () => put(recent, (await get('events', { stream: id, limit: 10 })).events.map(tell)));
  const heard = live.on('event', (event) => {
    if (event.data.stream !== id) return;
    recent.prepend(tell(event));
    while (recent.children.length > 10) recent.lastChild.remove();
  });
  return () => {
    end();
    heard();
    pictures.end();
  };
}

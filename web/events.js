// What was told: a row for each tag, the newest first, as far back as the outbox goes; each can be called right or wrong. With `order=uncertain` the tags of a day
// whose peaks were nearest to their thresholds, what nobody has judged first.

import { attempt, betweenTwo, get, located } from './api.js';
import { button, choice, duration, each, field, h, here, marginOf, percent, put, replaceAddress, say, time } from './dom.js';
import { strip } from './chart.js';
import * as live from './live.js';
import { Judged, judge, readMarks } from './marks.js';
import { drawPicture, picturePlace } from './picture.js';

/** Events of a page. */
const PAGE = 100;
/** Tags that the page holds, at most: those that are older can be had by `until`. */
const HELD = 2000;
/** Rows that are drawn until somebody asks for more: a page that is open for a day does not grow. */
const ROWS = 200;
/** Of a tag's picture, pixels. */
const WIDTH = 320;
/** Events that a review looks through: of a page, and pages. */
const REVIEWED = 1000;
const REVIEW_PAGES = 10;
/** Tags that it lists. */
const LISTED = 50;

/** Puts events together to tags, whatever the order they come in. */
class Tags {
  constructor() {
    this.all = new Map();
  }

  /** @param {object} event */
  note(event) {
    const { data } = event;
    const kind = event.type.split('.').pop();
    let tag = this.all.get(data.tag_id);
    if (!tag) {
      tag = { id: data.tag_id, event: event.id, stream: data.stream, region: data.region, set: data.set, label: data.label, from: data.started_at, media: data.media_start, to: null, peak: 0, picture: null, at: event.time };
      this.all.set(data.tag_id, tag);
    }
    tag.peak = Math.max(tag.peak, data.peak);
    if (data.snapshot && (!tag.picture || event.time >= tag.at)) tag.picture = located(data.snapshot);
    if (event.time >= tag.at) tag.at = event.time;
    if (kind === 'end') Object.assign(tag, { to: data.ended_at, reason: data.reason, event: event.id });
    return tag;
  }

  /** All that are held: the oldest of too many go. */
  newestFirst() {
    const all = [...this.all.values()].sort((a, b) => (a.from < b.from ? 1 : a.from > b.from ? -1 : 0));
    for (const tag of all.splice(HELD)) this.all.delete(tag.id);
    return all;
  }
}

function fits(event, { stream, set, label }) {
  return (!stream || event.data.stream === stream) && (!set || event.data.set === set) && (!label || event.data.label === label);
}

/** What a threshold is of. @param {{set: string, label: string, region?: string | null}} of @param {string} [stream] left out: on all, in all regions */
function threshold({ set, label, region }, stream) {
  return [set, label, ...(stream ? [stream, region || ''] : [])].join('\n');
}

/** The parameters of the API that the address's are. */
function asked({ stream, set, label, since, until }) {
  return { stream, set, label, since, until };
}

/** @param {object} tag @param {(kind: string) => void} judged is told how it is marked from now on */
function row(tag, judged) {
  const said = h('span', { class: 'said', role: 'status' });
  const judging = (verdict) => async () => {
    const mark = await attempt(() => judge(tag.event, verdict));
    if (!mark) return;
    judged(mark.kind);
    setSaid(said, mark.kind);
  };
  const place = tag.region ? `${tag.stream} (${tag.region})` : tag.stream;
  return h(
    'li',
    { class: 'tag' },
    h('a', { class: 'picture', 'aria-label': `${tag.label} at ${place}, the picture` }),
    h('div', {}, h('strong', {}, tag.label), ' at ', h('a', { href: here(`camera/${encodeURIComponent(tag.stream)}`) }, place), h('p', { class: 'small' })),
    h('div', { class: 'verdict' }, button('right', judging('right'), { 'aria-label': `${tag.label} at ${time(tag.from)}: right` }), button('wrong', judging('wrong'), { 'aria-label': `${tag.label} at ${time(tag.from)}: wrong` }), said),
  );
}

/** @param {Element} said @param {string} kind */
function setSaid(said, kind) {
  say(said, kind ? `marked as ${kind}` : '');
}

/** A row holds its picture while it is near to what is seen: all of a day together would fill the browser's memory. */
async function setPicture(place) {
  const wanted = place.dataset.near ? place.getAttribute('href') : '';
  if (place.dataset.shown === wanted) return;
  place.dataset.shown = wanted;
  put(place);
  // The file may come a moment after its event, or be gone.
  for (let left = 2; wanted && left > 0; left -= 1) {
    const answer = await fetch(wanted).catch(() => null);
    if (place.dataset.shown !== wanted) return;
    if (answer?.ok) {
      const picture = picturePlace();
      put(place, picture);
      await drawPicture(picture, await answer.blob(), place.dataset.text, WIDTH).catch(() => put(place));
      return;
    }
    await new Promise((then) => setTimeout(then, 2000));
  }
}

/** @param {Element} element @param {object} tag @param {string} kind how it is marked @param {boolean} isPast whether what came later is not looked at */
function setRow(element, tag, kind, isPast) {
  const [picture, text, verdict] = element.children;
  setSaid(verdict.lastChild, kind);
  if (tag.picture && picture.getAttribute('href') !== tag.picture) {
    picture.href = tag.picture;
    picture.dataset.text = `${tag.label} at ${tag.stream}`;
    setPicture(picture);
  }
  picture.hidden = !tag.picture;
  const lasted = tag.to ? duration((new Date(tag.to) - new Date(tag.from)) / 1000) : isPast ? 'still open then' : 'still open';
  // Of one that is open the end is to come.
  const until = tag.to ? new Date(new Date(tag.at).getTime() + 1000).toISOString() : '';
  const moment = here('events', { stream: tag.stream, set: tag.set, label: tag.label, since: tag.from, until });
  const small = text.querySelector('.small');
  const words = `${time(tag.from)} · ${lasted} · peak ${percent(tag.peak)}${tag.reason && tag.reason !== 'below_exit' ? ` · ${tag.reason}` : ''}`;
  if (small.dataset.words !== words) {
    small.dataset.words = words;
    put(small, h('a', { href: moment }, words));
  }
  element.classList.toggle('open', !tag.to);
}

export function events(body, parameters) {
  let tags = new Tags();
  let judged = new Judged([]);
  const list = h('ol', { class: 'tags' });
  const band = h('div', { class: 'band' });
  const filters = h('form', { class: 'filters', onsubmit: (event) => event.preventDefault() });
  const more = button('Older', () => attempt(older), { hidden: true });
  const empty = h('p', { hidden: true });
  const full = h('p', { class: 'small', hidden: true });
  const hint = h('p', { class: 'small' }, 'Say of a tag that it is right or wrong: a mark that the label was there, or was not. Calibrations are made of marks.');
  // Who scrolls to the end has more of them; the button is for who does not scroll.
  const end = new IntersectionObserver((seen) => seen.some((one) => one.isIntersecting) && attempt(older));
  const near = new IntersectionObserver(
    (seen) => {
      for (const { target, isIntersecting } of seen) {
        target.dataset.near = isIntersecting ? 'yes' : '';
        setPicture(target);
      }
    },
    { rootMargin: '1000px' },
  );
  const made = (tag) => {
    const element = row(tag, (kind) => judged.note(tag, kind));
    near.observe(element.firstChild);
    return element;
  };
  put(body, filters, band, hint, list, full, empty, more);
  let wanted = parameters;
  let next = null;
  let rows = ROWS;
  /** Events of tags that were open when the moment began. */
  let unended = [];
  /** Which question is being answered, and of which one a page is on its way. */
  let turn = 0;
  let reading = 0;
  let left = false;
  /** Where labels begin to tell: in a set, and on a stream that has other thresholds. */
  let thresholds = new Map();
  /** Whether a review has left out what is older. */
  let isCut = false;

  const uncertainFirst = () => {
    const enter = (tag) => thresholds.get(threshold(tag, tag.stream)) ?? thresholds.get(threshold(tag)) ?? 0;
    const rank = (tag) => ({ tag, isJudged: judged.of(tag) !== '', far: Math.abs(marginOf(tag.peak) - enter(tag)) });
    const ranks = [...tags.all.values()].map(rank).sort((a, b) => a.isJudged - b.isJudged || a.far - b.far);
    return ranks.slice(0, LISTED).map((one) => one.tag);
  };
  const draw = () => {
    const isReview = wanted.order === 'uncertain';
    const all = isReview ? uncertainFirst() : tags.newestFirst();
    strip(band, all);
    const isMoreHeld = !isReview && rows < all.length;
    full.hidden = isReview ? !isCut : tags.all.size < HELD || isMoreHeld;
    say(full, `These are ${isReview ? 'of ' : ''}the newest ${isReview ? tags.all.size : HELD.toLocaleString()} tags. For older ones choose a label, a set or a stream, or write until=2026-01-31T12:00:00Z into the address.`);
    more.hidden = isReview || !(isMoreHeld || (next && tags.all.size < HELD));
    each(list, isReview ? all : all.slice(0, rows), (tag) => tag.id, made, (element, tag) => setRow(element, tag, judged.of(tag), Boolean(wanted.until)));
    empty.hidden = all.length > 0;
    hint.hidden = !empty.hidden;
    say(empty, 'Nothing was told that fits. A label tells once its score stays above its threshold: the bars of a camera show how near it is, the label lab which threshold would have told.');
  };
  let soon = false;
  /** Events may come faster than anybody reads. */
  const drawSoon = () => {
    if (soon) return;
    soon = true;
    setTimeout(() => {
      soon = false;
      draw();
    }, 250);
  };
  /** The next page of them. One that comes when others are wanted by now is of no use. */
  const older = async () => {
    if (reading === turn) return;
    if (rows < tags.all.size) {
      rows += ROWS;
      draw();
      watchEnd();
      return;
    }
    const own = turn;
    reading = own;
    try {
      const page = await get('events', { ...asked(wanted), limit: PAGE, cursor: next });
      if (own !== turn) return;
      page.events.forEach((event) => tags.note(event));
      next = page.next;
      noteUnended();
    } finally {
      if (reading === own) reading = 0;
    }
    draw();
    watchEnd();
  };
  /** Where the end of the list is still in sight, that is told once more. */
  const watchEnd = () => {
    end.unobserve(more);
    end.observe(more);
  };
  /** Tags that were open when the moment began, and tell nothing in it. */
  const openThen = async (own) => {
    const before = new Tags();
    const page = await get('events', { ...asked(wanted), since: '', until: wanted.since, limit: REVIEWED });
    if (own !== turn) return;
    page.events.forEach((event) => before.note(event));
    const open = new Set([...before.all.values()].filter((tag) => !tag.to).map((tag) => tag.id));
    unended = page.events.filter((event) => open.has(event.data.tag_id));
    noteUnended();
  };
  /** Not before all of the moment is read: their ends may be in it. */
  const noteUnended = () => {
    if (next) return;
    unended.forEach((event) => tags.note(event));
    unended = [];
  };
  const marked = async () => new Judged(await readMarks({ stream: wanted.stream, set: wanted.set }).catch(() => []));
  const review = async (own) => {
    const found = new Tags();
    const [{ sets }, marks] = await Promise.all([get('labels'), marked()]);
    const enters = new Map(sets.flatMap((set) => set.details.map((one) => [threshold({ set: set.set, label: one.label }), one.enter.margin])));
    let cursor = null;
    for (let pages = 0; pages < REVIEW_PAGES && (pages === 0 || cursor); pages += 1) {
      const page = await get('events', { ...asked(wanted), since: wanted.since || '1d', limit: REVIEWED, cursor });
      if (own !== turn) return;
      page.events.forEach((event) => found.note(event));
      cursor = page.next;
    }
    // A calibration counts instead of what the set says.
    const streams = new Set([...found.all.values()].map((tag) => tag.stream));
    for (const stream of streams) {
      const told = await get(`streams/${encodeURIComponent(stream)}/scores`).catch(() => ({ scores: [] }));
      if (own !== turn) return;
      for (const one of told.scores) enters.set(threshold(one, stream), one.enter.margin);
      await betweenTwo(streams.size);
    }
    if (own !== turn) return;
    [tags, judged, thresholds, isCut] = [found, marks, enters, Boolean(cursor)];
    draw();
  };
  const begin = async () => {
    turn += 1;
    const own = turn;
    rows = ROWS;
    unended = [];
    more.hidden = true;
    next = null;
    if (wanted.order === 'uncertain') {
      await review(own);
      return;
    }
    tags.all.clear();
    const marks = marked();
    await older();
    if (wanted.since && own === turn) await openThen(own);
    const found = await marks;
    if (own !== turn) return;
    judged = found;
    draw();
  };
  const change = (key) => (value) => {
    wanted = { ...wanted, [key]: value };
    replaceAddress('events', wanted);
    attempt(begin);
  };
  attempt(async () => {
    const [{ streams }, { sets }] = await Promise.all([get('streams'), get('labels')]);
    if (left) return;
    const options = (names, text) => [['', `all ${text}`], ...[...new Set(names)].sort().map((name) => [name, name])];
    const order = choice([['', 'newest first'], ['uncertain', 'most uncertain of a day']], wanted.order || '', change('order'));
    put(
      filters,
      field('stream', choice(options(streams.map((one) => one.id), 'streams'), wanted.stream || '', change('stream'))),
      field('set', choice(options(sets.map((one) => one.set), 'sets'), wanted.set || '', change('set'))),
      field('label', choice(options(sets.flatMap((one) => one.labels), 'labels'), wanted.label || '', change('label'))),
      field('order', order),
      wanted.since || wanted.until ? h('p', {}, h('a', { href: here('events', { ...wanted, since: '', until: '' }) }, 'Not this moment alone')) : null,
    );
  });
  attempt(begin);
  const ends = [
    live.on('event', (event) => {
      if (wanted.order || wanted.until || !fits(event, wanted)) return;
      tags.note(event);
      drawSoon();
    }),
    live.on('lost', (lost) => lost.kind === 'event' && attempt(begin)),
    // What came while nobody looked.
    live.on('state', ({ now, before }) => now === 'live' && before !== 'connecting' && attempt(begin)),
  ];
  return () => {
    left = true;
    turn += 1;
    end.disconnect();
    near.disconnect();
    ends.forEach((end) => end());
  };
}

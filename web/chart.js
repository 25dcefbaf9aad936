// Drawings: when tags were, a margin over time with a threshold across it, and how margins are spread. What they show stands beside them as text too.

import { duration, h, put, svg, time } from './dom.js';

const WIDTH = 1000;

/** Tags as stretches of time, a line for each label. @param {Element} band @param {object[]} tags */
export function strip(band, tags) {
  if (tags.length < 2) return put(band);
  const ms = (at) => new Date(at).getTime();
  const end = (tag) => tag.to || new Date().toISOString();
  const from = Math.min(...tags.map((tag) => ms(tag.from)));
  const to = Math.max(...tags.map((tag) => ms(end(tag))), from + 1000);
  const x = (at) => ((ms(at) - from) / (to - from)) * WIDTH;
  const labels = [...new Set(tags.map((tag) => tag.label))].sort().slice(0, 12);
  const line = (label) => {
    const own = tags.filter((tag) => tag.label === label);
    // One shape for all of them: there may be thousands, drawn anew with each.
    const box = (tag) => `M${x(tag.from).toFixed(1)} 2h${Math.max(x(end(tag)) - x(tag.from), 3).toFixed(1)}v12H${x(tag.from).toFixed(1)}z`;
    const shape = (all, kind) => svg('path', { d: all.map(box).join(''), class: kind });
    return h('div', { class: 'strip' }, h('span', {}, `${label} (${own.length})`), svg('svg', { viewBox: `0 0 ${WIDTH} 16`, preserveAspectRatio: 'none', 'aria-hidden': 'true' }, shape(own.filter((tag) => tag.to), 'told'), shape(own.filter((tag) => !tag.to), 'open')));
  };
  return put(band, labels.map(line), h('p', { class: 'ends small' }, h('span', {}, time(from)), h('span', {}, time(to))));
}

/**
 * What a curve would have told, as numbers of points: where none is below `enter` for `least` of them, until one is below `exit`.
 * @param {(number | null)[]} curve @param {number} enter @param {number} exit at most `enter` @param {number} [least]
 */
export function stretches(curve, enter, exit = enter, least = 1) {
  const found = [];
  let rising = null;
  let open = null;
  curve.forEach((margin, at) => {
    // Where nothing was kept all goes on: what looks the same is kept once, and not every camera is looked at often.
    if (margin === null) return;
    if (open && margin >= exit) {
      open.to = at;
      open.peak = Math.max(open.peak, margin);
      return;
    }
    open = null;
    if (!(margin >= enter)) {
      rising = null;
      return;
    }
    rising ||= { from: at, to: at, peak: margin };
    rising.to = at;
    rising.peak = Math.max(rising.peak, margin);
    if (at - rising.from + 1 < least) return;
    found.push((open = rising));
    rising = null;
  });
  return found;
}

/**
 * A margin over time. With the mouse a stretch can be drawn, which `chosen` is told of as two numbers of points.
 * @param {{curve: (number | null)[], low: number, high: number, since: number, step: number, name: string, chosen: (from: number, to: number) => void}} of
 */
export function curve({ curve: points, low, high, since, step, name, chosen }) {
  const height = 120;
  const span = Math.max(high - low, 1e-3);
  const y = (margin) => height - ((margin - low) / span) * height;
  const x = (at) => (at / Math.max(points.length - 1, 1)) * WIDTH;
  // Cameras that are looked at seldom leave points between two looks.
  const near = (a, b) => b - a <= 5;
  let path = '';
  let before = -10;
  points.forEach((margin, at) => {
    if (margin === null) return;
    path += `${near(before, at) ? 'L' : 'M'}${x(at).toFixed(1)} ${y(margin).toFixed(1)}`;
    if (!near(before, at)) path += 'h1';
    before = at;
  });
  const threshold = svg('line', { x1: 0, x2: WIDTH, class: 'threshold' });
  const fired = svg('g', { class: 'fired' });
  const marked = svg('g', { class: 'marked' });
  const drawn = svg('rect', { y: 0, height, class: 'drawn', visibility: 'hidden' });
  const drawing = svg('svg', { viewBox: `0 0 ${WIDTH} ${height}`, preserveAspectRatio: 'none', role: 'img' }, fired, marked, svg('path', { d: path, class: 'curve' }), threshold, drawn);
  let begun = null;
  const at = (event) => {
    const box = drawing.getBoundingClientRect();
    return Math.round(Math.min(Math.max((event.clientX - box.left) / box.width, 0), 1) * (points.length - 1));
  };
  const ends = (event) => [begun, at(event)].sort((a, b) => a - b);
  drawing.addEventListener('pointerdown', (event) => {
    // A finger scrolls the page; the buttons of a moment mark as well.
    if (event.pointerType === 'touch') return;
    begun = at(event);
    drawing.setPointerCapture(event.pointerId);
  });
  drawing.addEventListener('pointermove', (event) => {
    if (begun === null) return;
    const [from, to] = ends(event);
    drawn.setAttribute('visibility', 'visible');
    drawn.setAttribute('x', x(from));
    drawn.setAttribute('width', Math.max(x(to) - x(from), 2));
  });
  drawing.addEventListener('pointerup', (event) => {
    if (begun === null) return;
    const [from, to] = ends(event);
    begun = null;
    if (to > from) chosen(from, to);
    else drawn.setAttribute('visibility', 'hidden');
  });
  const middle = since + (points.length * step * 1000) / 2;
  const figure = h('div', { class: 'curve-box' }, drawing, h('p', { class: 'ends small' }, h('span', {}, time(since)), h('span', {}, time(middle)), h('span', {}, time(since + points.length * step * 1000))));
  return {
    element: figure,
    /** @param {number} level @param {{from: number, to: number}[]} moments */
    threshold(level, moments) {
      const at = y(Math.min(Math.max(level, low), high));
      threshold.setAttribute('y1', at);
      threshold.setAttribute('y2', at);
      put(fired, moments.map((one) => svg('rect', { x: x(one.from), y: 0, width: Math.max(x(one.to) - x(one.from), 2), height })));
      drawing.setAttribute('aria-label', `${name}: margin from ${low.toFixed(1)} to ${high.toFixed(1)}; ${moments.length} moments from ${level.toFixed(1)} on`);
    },
    /** @param {{from: number, to: number, kind: string}[]} marks in numbers of points */
    marks(marks) {
      put(marked, marks.map((one) => svg('rect', { x: x(one.from), y: height - 10, width: Math.max(x(one.to) - x(one.from), 3), height: 10, class: one.kind })));
    },
    forget: () => drawn.setAttribute('visibility', 'hidden'),
  };
}

/** How margins are spread, with the threshold. @param {{margin: number, rows: number}[]} bars @param {number} low @param {number} high */
export function histogram(bars, low, high) {
  const height = 60;
  const span = Math.max(high - low, 1e-3);
  const x = (margin) => ((margin - low) / span) * WIDTH;
  // Beside what is seen nearly always, what is seen seldom would be no line at all.
  const size = (rows) => Math.log1p(rows);
  const most = Math.max(...bars.map((bar) => size(bar.rows)), 1);
  const line = svg('line', { y1: 0, y2: height, class: 'threshold' });
  const rects = bars.map((bar) => svg('rect', { x: x(bar.margin), y: height - (size(bar.rows) / most) * height, width: Math.max(x(bar.margin + 0.5) - x(bar.margin) - 1, 1), height: (size(bar.rows) / most) * height }));
  const drawing = svg('svg', { viewBox: `0 0 ${WIDTH} ${height}`, preserveAspectRatio: 'none', role: 'img', 'aria-label': 'how often each margin was, on a logarithmic scale' }, rects, line);
  return {
    element: h('div', { class: 'histogram' }, drawing),
    threshold(level) {
      const at = x(Math.min(Math.max(level, low), high));
      line.setAttribute('x1', at);
      line.setAttribute('x2', at);
    },
  };
}

/** How long and when, for people. @param {number} from @param {number} to milliseconds */
export function stretch(from, to) {
  return `${time(from)}, ${duration((to - from) / 1000)}`;
}

// The label lab: how any words stand on every camera, now and over the last hours, and which moments a threshold would have told; marks; and the label, saved.
//
// What is shown is what would be in force: the daemon scores the past with the set as it would be. Only which points lie above the threshold is found here.

import { ApiError, attempt, betweenTwo, get, located, notice, post, whyStarting } from './api.js';
import { button, choice, each, field, h, here, percent, put, replaceAddress, say, scoreOf, settled, time } from './dom.js';
import { curve, histogram, stretch, stretches } from './chart.js';
import { learn } from './learn.js';
import { addMark, readMarks, takeBack } from './marks.js';
import { below, best, share, suggestion } from './thresholds.js';

const HOURS = [
  ['1', 'the last hour'],
  ['6', 'the last 6 hours'],
  ['24', 'the last day'],
  ['168', 'the last week'],
];
/** Until a daemon that is busy is asked again. */
const BUSY = 4000;
/** Moments of a camera that are listed: the highest. */
const LISTED = 12;
/** Marks of a camera that are listed: the latest. */
const MARKS_LISTED = 50;

const linesOf = (text) => text.split('\n').map((line) => line.trim()).filter(Boolean);
const lines = (area) => linesOf(area.value);

export function lab(body, parameters) {
  let sets = [];
  let set = null;
  let told = null;
  let charts = [];
  let marks = [];
  let under = null;
  /** Whether the fields say what a label of the set says. */
  let filled = false;
  /** Whether somebody wants another threshold than the label has. */
  let moved = false;
  let left = false;
  const wanted = { ...parameters };

  const name = h('input', { type: 'text', maxlength: 256, value: wanted.label || '', list: 'labels-known', autocomplete: 'off', placeholder: 'forklift' });
  const known = h('datalist', { id: 'labels-known' });
  const area = (placeholder) => h('textarea', { rows: 3, placeholder, oninput: changed });
  const prompts = area('a forklift\na forklift carrying pallets');
  const negatives = area('a pallet jack');
  const background = area('an empty loading dock');
  const hours = choice(HOURS, wanted.hours || '6', (value) => {
    wanted.hours = value;
    attempt(look);
  });
  const choices = h('div', { class: 'filters' });
  const level = h('input', { type: 'range', min: -10, max: 10, step: 0.1, value: 0, oninput: () => moveTo(level.value) });
  const shown = h('output', {});
  const state = h('p', { role: 'status' });
  const results = h('div', { class: 'results' });
  const hint = h(
    'p',
    { class: 'small', hidden: true },
    'A curve shows the margin: by how much the label leads whatever else it could be. Where it is at the threshold or above, it tells. Draw over a curve with the mouse where the label was seen and where it was absent, ',
    'or use the buttons of a moment; then calibrate. An example teaches the label what it looks like, a counter-example what it is not.',
  );
  const save = button('Save the label', () => attempt(keep), { class: 'main', disabled: true });
  const fit = button('Calibrate: the threshold that fits the marks best', () => attempt(calibrate), { disabled: true });
  const form = h(
    'form',
    { class: 'lab-form', onsubmit: (event) => event.preventDefault() },
    choices,
    h('div', { class: 'columns' }, field('Label (its name in events)', name), field('Prompts: what it looks like, one a line', prompts), field('Negatives: what is alike and not meant', negatives), field('Background of the set: what is usually seen', background)),
  );
  const threshold = h('div', { class: 'threshold-box', hidden: true }, field('Threshold (margin)', level), shown, h('p', {}, fit, ' ', save));
  put(body, form, known, state, threshold, hint, results);

  name.addEventListener('change', () => {
    choose();
    attempt(look);
  });
  const soon = settled(500, () => attempt(look));

  function changed() {
    // What is asked for is not wanted any more.
    under?.abort();
    say(state, 'changed …');
    soon();
  }

  /** The fields become those of the label that is named, where there is one; what was typed for a new one stays. */
  function choose() {
    const own = set?.details.find((one) => one.label === name.value.trim());
    if (own || filled) {
      prompts.value = own ? own.prompts.join('\n') : '';
      negatives.value = own ? own.negatives.join('\n') : '';
    }
    filled = Boolean(own);
  }

  function fillBackground() {
    background.value = (set?.background || []).join('\n');
  }

  function draft() {
    const same = JSON.stringify(lines(background)) === JSON.stringify(set.background);
    return { label: name.value.trim(), prompts: lines(prompts), negatives: lines(negatives), background: same ? null : lines(background) };
  }

  /** Whether what stands here is other than what is saved of the label. */
  function isDraft() {
    const own = set.details.find((one) => one.label === told.label);
    const { prompts: looks, negatives: others, background: usual } = draft();
    return moved || usual !== null || JSON.stringify([looks, others]) !== JSON.stringify([own.prompts, own.negatives].map((saved) => linesOf(saved.join('\n'))));
  }

  async function readSets() {
    ({ sets } = await get('labels'));
    set = sets.find((one) => one.set === (set?.set || wanted.set)) || sets[0] || null;
  }

  /** All fields become what the daemon says. */
  async function reread() {
    await readSets();
    fields();
    choose();
    fillBackground();
    moved = false;
  }

  async function look() {
    save.disabled = true;
    if (!set) {
      const waits = await whyStarting();
      if (waits) setTimeout(() => !left && attempt(again), BUSY);
      return say(state, waits || 'There is no label set yet: name a file under `labels` in the configuration, with `set:` and one label, and reload it.');
    }
    if (!name.value.trim()) return say(state, 'Type any words as the label: its curve on every camera follows.');
    Object.assign(wanted, { set: set.set, label: name.value.trim() });
    replaceAddress('lab', wanted);
    under?.abort();
    const own = new AbortController();
    under = own;
    say(state, 'looking at the past …');
    try {
      const hoursBack = Number(hours.value);
      const [tried, found] = await Promise.all([
        post(`labels/${encodeURIComponent(set.set)}/try`, {}, { json: { ...draft(), hours: hoursBack }, signal: own.signal }),
        ownOrEmpty(set.set, wanted.label),
      ]);
      told = tried;
      marks = found;
    } catch (error) {
      if (error.name === 'AbortError' || own.signal.aborted) return null;
      if (!(error instanceof ApiError)) throw error;
      if (error.status === 503) {
        // Such as with the words that were typed before these. Nobody types again to be told.
        const again = () => {
          if (own.signal.aborted) return;
          if (document.hidden) setTimeout(again, BUSY);
          else attempt(look);
        };
        setTimeout(again, BUSY);
        return say(state, `The daemon cannot look now: ${error.message}. The page asks again …`);
      }
      const off = error.message.includes('history') ? ' Switch `history` on in the configuration: it keeps what cameras have shown, from then on.' : '';
      put(results);
      threshold.hidden = hint.hidden = true;
      return say(state, `${error.message}.${off}`);
    }
    return draw();
  }

  function draw() {
    const points = told.streams.flatMap((one) => one.curve).filter((margin) => margin !== null);
    if (points.length === 0) {
      put(results);
      threshold.hidden = hint.hidden = true;
      return say(state, told.other_models ? 'What the history keeps of that time is of another model.' : 'The history keeps nothing of that time yet: look again in a minute.');
    }
    const of = JSON.stringify([told.set, told.label]);
    if (level.dataset.of !== of) moved = false;
    level.dataset.of = of;
    const isNew = !set.labels.includes(told.label);
    const enter = isNew ? null : told.enter.margin;
    // The threshold has its place, however far from what was seen.
    const all = [...points, enter, moved ? Number(level.value) : null].filter((margin) => margin !== null);
    // A week of many cameras is more than a call takes arguments.
    const low = Math.floor(all.reduce((a, b) => Math.min(a, b))) - 1;
    const high = Math.ceil(all.reduce((a, b) => Math.max(a, b))) + 1;
    Object.assign(level, { min: low, max: high });
    // Of a label that has none yet: between what is seen nearly always and the highest.
    if (isNew && !moved) {
      // Cameras that do not look for the set have no part in it.
      const own = told.streams.filter((one) => set.streams.includes(one.stream)).flatMap((one) => one.curve).filter((margin) => margin !== null);
      level.value = suggestion(own.length > 0 ? own : points);
    }
    // A score of 0 or 1 has no margin.
    else if (!moved) level.value = enter ?? (told.enter.score > 0.5 ? high : low);
    threshold.hidden = hint.hidden = false;
    save.disabled = false;
    charts = told.streams.filter((one) => one.rows > 0).map((one) => chart(one, low, high));
    put(results, charts.map((one) => one.element));
    remark();
    const silent = told.streams.filter((one) => one.rows === 0).map((one) => one.stream);
    const missing = silent.length ? ` Nothing is kept of ${silent.join(', ')}.` : '';
    const cameras = told.streams.length - silent.length;
    say(state, `${cameras === 1 ? 'one camera' : `${cameras} cameras`}, ${points.length} points.${missing}${told.is_whole ? '' : ' There is more than is looked at: the oldest is left out.'}`);
    move();
    if (!isNew) attempt(() => eachCalibrated(told.label, (stream, score) => charts.filter(({ one }) => one.stream === stream && (one.region || null) === (score.region || null)).forEach((one) => one.calibrated(score))));
    return null;
  }

  const since = () => new Date(told.since).getTime();
  const instant = (at) => since() + at * told.step * 1000;

  function chart(one, low, high) {
    const place = one.region ? `${one.stream} (${one.region})` : one.stream;
    const summary = h('p', { class: 'small' });
    const moments = h('ul', { class: 'moments' });
    const selection = h('p', { class: 'verdict', hidden: true });
    const trust = h('div', {});
    const where = { stream: one.stream, region: one.region };
    const report = () => attempt(() => trusted(trust, where));
    const calibration = () => attempt(() => calibrated(trust, where));
    const isWatched = set.streams.includes(one.stream);
    const hoursOfDay = set.details.find((own) => own.label === told.label)?.active ? ' at all hours: when it is active is not looked at' : '';
    const instead = h('p', { class: 'small', hidden: true });
    // Nothing can be marked or calibrated where the set is not looked for.
    const more = h('p', { class: 'verdict', hidden: !isWatched }, button('Trust report', report), button('Calibrate for this camera', calibration));
    const chosen = (from, to) => {
      if (!isWatched) {
        line.forget();
        return;
      }
      put(selection, `${stretch(instant(from), instant(to))}: `, button('seen', mark('seen', from, to)), button('absent', mark('absent', from, to)), button('neither', () => {
        selection.hidden = true;
        line.forget();
      }));
      selection.hidden = false;
    };
    const mark = (kind, from, to) => () =>
      attempt(async () => {
        if (!set.labels.includes(told.label)) throw new ApiError(0, 'a mark is of a label that is saved: save it first');
        const [begins, ends] = [instant(from), instant(to + 1)].map((at) => new Date(at).toISOString());
        await addMark({ stream: one.stream, region: one.region, set: set.set, kind, label: told.label, from: begins, to: ends }, 'take back the other one first, below the curve');
        selection.hidden = true;
        line.forget();
        await markedAnew();
      });
    const marked = h('details', { open: true, hidden: true }, h('summary', {}), h('ul', { class: 'plain' }));
    /** A mark in words, and the way out of it. */
    const markedItem = ({ id, kind, region, since: from, until }) => {
      const words = `${kind}${region || !one.region ? '' : ' in all regions'}, ${stretch(from, until)}`;
      const undo = () => attempt(async () => {
        try {
          await takeBack(id);
        } finally {
          // Somebody else may have done so.
          await markedAnew();
        }
        marked.firstChild.focus();
      });
      return h('li', {}, words, ' ', button('Take back', undo, { 'aria-label': `Take back: ${words}` }));
    };
    let own = [];
    const listMarks = (all) => {
      const latest = [...all].sort((a, b) => b.since - a.since).slice(0, MARKS_LISTED);
      marked.hidden = all.length === 0;
      say(marked.firstChild, `Marked here: ${all.length}${latest.length < all.length ? `, of which these are the latest ${latest.length}` : ''}`);
      each(marked.lastChild, latest, ({ id }) => id, markedItem);
    };
    /** The highest point of a stretch: of those with a picture, where there is one. */
    const peakOf = (moment) => {
      const higher = (a, b) => (one.curve[b] > one.curve[a] ? b : a);
      const shown = pictures.map(({ step }) => step).filter((step) => step >= moment.from && step <= moment.to);
      const kept = one.curve.flatMap((margin, at) => (margin !== null && at >= moment.from && at <= moment.to ? [at] : []));
      return (shown.length ? shown : kept).reduce(higher);
    };
    /** The moment that is shown of a stretch becomes what the label learns from. */
    const teach = (key, moment) => () =>
      attempt(async () => {
        const label = set.details.find((own) => own.label === told.label);
        if (label && isDraft()) throw new ApiError(0, 'save what is changed here first: an example is added to the label as it is saved');
        const at = new Date(since() + one.times[peakOf(moment)]).toISOString();
        if (!(await learn(set, label, key, { ...where, at }))) return;
        await reread();
        await look();
      });
    const line = curve({ curve: one.curve, low, high, since: since(), step: told.step, name: `${told.label} on ${place}`, chosen });
    const spread = histogram(one.histogram, low, high);
    const pictures = one.pictures;
    const element = h('section', { 'aria-label': place }, h('h2', {}, h('a', { href: here(`camera/${encodeURIComponent(one.stream)}`) }, place)), summary, instead, line.element, selection, marked, h('details', {}, h('summary', {}, 'How margins are spread'), spread.element), more, trust, moments);
    const item = (moment) => {
      const picture = located(pictures.find(({ step }) => step === peakOf(moment))?.url);
      const words = `${stretch(instant(moment.from), instant(moment.to + 1))}, highest ${moment.peak.toFixed(1)}`;
      const image = picture ? h('a', { href: picture, class: 'picture' }, h('img', { src: picture, alt: `${place}, ${time(instant(moment.from))}`, loading: 'lazy' })) : null;
      return h('li', {}, image, h('p', {}, words), h('p', { class: 'verdict' }, isWatched ? [button('seen', mark('seen', moment.from, moment.to)), ' ', button('absent', mark('absent', moment.from, moment.to)), ' '] : null, button('example', teach('examples', moment)), button('counter-example', teach('counter_examples', moment))));
    };
    return {
      element,
      one,
      isMarked: () => own.length > 0,
      /** Not the threshold that is drawn counts here. */
      calibrated(score) {
        const from = score.enter.margin === null ? '' : `, from ${score.enter.margin.toFixed(1)} on`;
        say(instead, score.waits ? `Its calibration does not fit any more: ${score.waits}.` : `A calibration counts here instead of this threshold${from}.`);
        instead.hidden = false;
      },
      /** Marks are others. */
      remark() {
        own = ownMarks(one);
        line.marks(own);
        listMarks(own);
      },
      update(margin, exit, least) {
        const fired = stretches(one.curve, margin, exit, least);
        line.threshold(margin, fired);
        spread.threshold(margin);
        const count = `would have told ${fired.length === 1 ? 'once' : `${fired.length} times`}${hoursOfDay}`;
        const tells = isWatched ? count : `tells nothing: this camera does not look for the set ${set.set}`;
        say(summary, `now ${one.now === null ? 'unknown' : `${one.now.toFixed(1)} (${percent(scoreOf(one.now))})`} · ${tells}`);
        const highest = [...fired].sort((a, b) => b.peak - a.peak).slice(0, LISTED).sort((a, b) => b.from - a.from);
        each(moments, highest, (moment) => `${moment.from}-${moment.to}`, item);
      },
    };
  }

  /** Marks of a label, and those of its set that say that none was there. */
  async function ownOrEmpty(of, label) {
    return (await Promise.all([readMarks({ set: of, label }), readMarks({ set: of, kind: 'empty' })])).flat();
  }

  async function markedAnew() {
    marks = await ownOrEmpty(told.set, told.label);
    remark();
  }

  function remark() {
    for (const one of charts) one.remark();
    fit.disabled = !charts.some((one) => one.isMarked());
  }

  /** What is marked of a stream and region, by the clock, and as points of its curve. */
  function ownMarks({ stream, region }) {
    const point = (at) => (at - since()) / (told.step * 1000);
    const of = marks.filter((one) => one.stream === stream && (one.region === null || one.region === region) && typeof one.from === 'string');
    const times = of.map((one) => ({ ...one, since: new Date(one.from).getTime(), until: new Date(one.to).getTime() }));
    return times.map((one) => ({ ...one, from: point(one.since), to: point(one.until) })).filter((one) => one.to > 0);
  }

  /** Another threshold is wanted. */
  function moveTo(margin) {
    level.value = margin;
    moved = true;
    move();
  }

  /** Where a tag ends that begins at `enter`: as it is written, else as it is saved with it. */
  function exitOf(enter) {
    if (moved || !set.labels.includes(told.label)) return below(enter);
    // A score of 0 or 1 has no margin.
    return Math.min(told.exit.margin ?? (told.exit.score > 0.5 ? enter : -Infinity), enter);
  }

  function move() {
    const margin = Number(level.value);
    say(shown, `${margin.toFixed(1)}, a score of ${percent(scoreOf(margin))}`);
    // A point is the highest of its step: of one that is longer than `after` nobody knows more.
    const least = Math.floor(told.after / told.step) + 1;
    for (const one of charts) one.update(margin, exitOf(margin), least);
  }

  /** A command's answer about one camera, in the place of what was said there. */
  async function command(place, of, name, more) {
    if (!set.labels.includes(told.label)) throw new ApiError(0, 'save the label first: only what is saved can be looked at');
    put(place, h('p', { role: 'status' }, 'looking at what is marked …'));
    try {
      const answer = await post(`labels/${encodeURIComponent(set.set)}/${name}`, {}, { json: { ...of, label: told.label, ...more } });
      // It is kept, and the daemon is not done with it.
      if (answer.result === 'under way') put(place, h('p', { role: 'status' }, 'It is kept, and counts here in a moment, unless the log says otherwise.'));
      return answer.labels?.find((one) => one.label === told.label);
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      put(place, h('p', { class: 'bad', role: 'status' }, error.message));
      return null;
    }
  }

  async function trusted(place, of) {
    const found = await command(place, of, 'report');
    if (!found) return;
    const rate = (one) => (one ? `${one.value.toFixed(2)} (${one.low.toFixed(2)} to ${one.high.toFixed(2)})` : 'not enough is marked');
    const rows = [
      ['thresholds from', found.thresholds_from],
      ['tags against marks (F1)', rate(found.f1)],
      ['of the time without it, tagged', rate(found.absent_tagged)],
      ['of the time with it, covered', rate(found.present_covered)],
      found.drift ? ['beyond what it was calibrated on', percent(found.drift.share)] : null,
      found.learned ? ['learned from pictures', found.learned.used ? 'yes' : 'its texts suffice'] : null,
      found.verdict ? ['but', found.verdict] : null,
    ];
    put(place, h('table', { class: 'trust' }, h('caption', {}, `How far ${told.label} can be trusted here`), h('tbody', {}, rows.filter(Boolean).map(([what, is]) => h('tr', {}, h('th', { scope: 'row' }, what), h('td', {}, is))))));
  }

  async function calibrated(place, of) {
    const found = await command(place, of, 'calibrate', { write: false });
    if (!found) return;
    const none = (refused) => put(place, h('p', { class: 'bad', role: 'status' }, `No threshold yet: ${refused}`));
    if (!found.found) {
      none(found.refused);
      return;
    }
    const save = button('Keep it for this camera', () =>
      attempt(async () => {
        const kept = await command(place, of, 'calibrate', { write: true });
        if (!kept) return;
        // Marks may have come or gone meanwhile.
        if (!kept.found) none(kept.refused);
        else put(place, h('p', { role: 'status' }, 'It counts here from now on, instead of the set\'s threshold.'));
      }), { class: 'main' });
    const checked = found.checked?.after?.f1 ? `, and F1 ${found.checked.after.f1.value.toFixed(2)} on marks that it was not made of` : ', not checked on other marks yet: mark more';
    put(place, h('p', { role: 'status' }, `What is marked here is told apart best at a margin of ${found.found.enter.margin?.toFixed(1) ?? '–'}${checked}. `, save));
  }

  function calibrate() {
    const seen = [];
    const absent = [];
    for (const { one } of charts) {
      const own = ownMarks(one);
      one.curve.forEach((margin, at) => {
        if (margin === null) return;
        // A point is as long as its step, and what is at an edge may be of either side.
        const of = own.find((mark) => at >= mark.from && at + 1 <= mark.to);
        if (of) (of.kind === 'seen' ? seen : absent).push(margin);
      });
    }
    if (seen.length === 0 || absent.length === 0) {
      notice('Mark stretches of both kinds first: where it was seen, and where it was absent.', true);
      return;
    }
    moveTo(best(seen, absent).toFixed(1));
    notice(`The threshold tells ${share(seen, level.value)} of what is marked as seen, and ${share(absent, level.value)} of what is marked as absent.`);
  }

  async function keep() {
    const margin = Number(level.value);
    const { label } = draft();
    // One that nobody has touched stays as it is written.
    const threshold = moved || !set.labels.includes(label) ? { enter: margin, exit: below(margin) } : {};
    const sent = { ...draft(), ...threshold, sha256: set.sha256 };
    try {
      const { result } = await post(`labels/${encodeURIComponent(set.set)}/edit`, {}, { json: sent });
      if (result === 'under way') {
        // Until then the daemon tells the set as it was.
        notice(`${label} is kept, and tells so in a moment, unless the log says otherwise.`);
        return;
      }
    } catch (error) {
      if (error.status !== 409) throw error;
      notice(`Nothing was saved: ${error.message}.`, true);
      // What is typed here is of the set as it was: saved as it stands, it would undo what somebody else has done.
      put(state, 'The set may be another by now. ', button('Read it again; what is typed here goes', () => attempt(again)));
      return;
    }
    await reread();
    const from = threshold.enter ?? told.enter.margin;
    notice(`${label} is saved in the set ${set.set}${from === null ? '' : ` and tells from ${from.toFixed(1)} on`}. The copy lies in the state directory; vtagd labels reset goes back to the file.`);
    const streams = new Set();
    await eachCalibrated(label, (stream, other) => {
      if (streams.has(stream)) return;
      streams.add(stream);
      notice(`On ${stream} a calibration counts instead of this threshold${other.waits ? `, and does not fit any more: ${other.waits}` : ''}. vtagd labels calibrate makes a new one.`, true);
    });
  }

  /**
   * Names the cameras on which the set's threshold of a label does not count, until others are looked at.
   * @param {string} label @param {(stream: string, score: object) => void} found for each of their regions
   */
  async function eachCalibrated(label, found) {
    const [of, { set: name, streams }] = [told, set];
    for (const stream of streams) {
      const { scores } = await get(`streams/${encodeURIComponent(stream)}/scores`, { set: name, label });
      if (left || told !== of) return;
      for (const one of scores) if (one.thresholds_from !== 'configuration') found(stream, one);
      await betweenTwo(streams.length);
    }
  }

  function fields() {
    const options = sets.map((one) => [one.set, one.set]);
    put(choices, options.length > 1 ? field('set', choice(options, set.set, (value) => {
      set = sets.find((one) => one.set === value);
      choose();
      fillBackground();
      fields();
      attempt(look);
    })) : null, field('time', hours));
    put(known, (set?.labels || []).map((label) => h('option', { value: label })));
    if (set?.copy) choices.append(h('p', { class: 'small' }, `a copy of ${set.file} is in force, made ${time(set.copy.made_at)}${set.copy.file_changed ? '; its file has changed since' : ''}`));
    if (set?.refused) choices.append(h('p', { class: 'small bad' }, `its copy is not in force: ${set.refused}; vtagd labels reset removes it`));
  }

  async function again() {
    await reread();
    await look();
  }

  attempt(again);
  return () => {
    left = true;
    under?.abort();
  };
}

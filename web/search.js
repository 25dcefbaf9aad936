// Moments of the past that fit words, a picture, or both; from each of them its neighbours, and a mark for a label.

import { ApiError, ask, attempt, get, located, notice, post } from './api.js';
import { button, choice, field, h, here, put, replaceAddress, say, time } from './dom.js';
import { learn } from './learn.js';
import { addMark, takeBack } from './marks.js';

const LIMIT = 40;
const SINCE = [
  ['1h', 'the last hour'],
  ['1d', 'the last day'],
  ['7d', 'the last week'],
  ['', 'all that is kept'],
];

/** Its words, with a blank before and after each: of a scarf's no car is a part. */
function spoken(text) {
  return ` ${text.toLowerCase().split(/[^\p{L}\p{M}\p{N}]+/u).join(' ').trim()} `;
}

export function search(body, parameters) {
  let wanted = { ...parameters };
  let picture = null;
  let under = null;
  let sets = [];
  const words = h('input', { type: 'search', value: wanted.q || '', placeholder: 'a red lorry', maxlength: 1000 });
  const file = h('input', { type: 'file', accept: 'image/jpeg,image/png,image/webp', onchange: () => file.files[0] && withPicture(file.files[0], file.files[0].name) });
  const of = h('p', { hidden: true });
  const answer = h('p', { role: 'status' });
  const found = h('ul', { class: 'moments' });
  const filters = h('div', { class: 'filters' });
  const form = h('form', { class: 'ask', onsubmit: submit }, field('What to look for', words), h('button', { type: 'submit', class: 'main' }, 'Search'), field('or a picture (choose, drop or paste one)', file));
  put(body, form, of, filters, answer, found);

  function submit(event) {
    event.preventDefault();
    wanted = { ...wanted, q: words.value.trim(), near: '' };
    replaceAddress('search', wanted);
    attempt(look);
  }

  /** @param {Blob} blob @param {string} name */
  function withPicture(blob, name) {
    picture = blob;
    put(of, `Like the picture ${name} `, button('without it', () => {
      picture = null;
      of.hidden = true;
      file.value = '';
      attempt(look);
    }));
    of.hidden = false;
    return attempt(look);
  }

  async function look() {
    under?.abort();
    under = new AbortController();
    if (!picture && !wanted.q) return say(answer, 'Type what to look for: any words, no label is needed.');
    say(answer, 'looking …');
    const given = { text: wanted.q, stream: wanted.stream, since: wanted.since, limit: LIMIT };
    const signal = under.signal;
    let told;
    try {
      told = picture ? await post('search', given, { body: picture, kind: picture.type || 'image/jpeg', signal }) : await get('search', given, { signal });
    } catch (error) {
      if (error.name === 'AbortError') return null;
      const off = error.message.includes('history') ? ' Its key `history` in the configuration keeps what cameras have shown, from then on.' : '';
      put(found);
      return say(answer, `${error.message}.${off}`);
    }
    const { moments, stands_out: stands, searched } = told;
    const doubt = stands === false ? 'Nothing stands out: what was asked for was probably not seen. The nearest there are:' : '';
    say(answer, doubt || `${moments.length} moments, the best first, of ${searched.rows} that were looked at.`);
    return put(found, moments.map(moment));
  }

  function moment(one) {
    const at = located(one.picture);
    const place = one.region ? `${one.stream} (${one.region})` : one.stream;
    const image = at ? h('a', { href: at, class: 'picture' }, h('img', { src: at, alt: `${place}, ${time(one.from)}`, loading: 'lazy' })) : h('p', { class: 'small' }, 'no picture is kept');
    const near = async () => withPicture(await (await ask(at)).blob(), `of ${place}, ${time(one.from)}`);
    const said = h('span', { role: 'status', class: 'said' });
    const labels = sets.filter((set) => set.streams.includes(one.stream)).flatMap((set) => set.labels.map((label) => [JSON.stringify([set.set, label]), `${label} (${set.set})`]));
    // A mark of a label that nobody has chosen would be a wrong one.
    const asked = spoken(wanted.q || '');
    const within = labels.map(([value, text]) => ({ value, words: spoken(text.slice(0, text.lastIndexOf(' ('))) })).filter(({ words }) => words.trim() && asked.includes(words));
    const meant = within.sort((a, b) => b.words.length - a.words.length)[0]?.value ?? (labels.length === 1 ? labels[0][0] : '');
    const label = choice([['', 'which label?'], ...labels], meant);
    label.setAttribute('aria-label', 'label to mark');
    const chosen = () => {
      if (!label.value) {
        label.focus();
        throw new ApiError(0, 'choose which label it is of first');
      }
      return JSON.parse(label.value);
    };
    const mark = (kind) => () =>
      attempt(async () => {
        const [set, name] = chosen();
        // A moment that is a single look has no length, and a mark has.
        const to = new Date(Math.max(new Date(one.until).getTime(), new Date(one.from).getTime() + 1000)).toISOString();
        const made = await addMark({ stream: one.stream, region: one.region, set, kind, label: name, from: one.from, to });
        const words = `${name} ${kind}`;
        const undo = button('Take back', () => attempt(async () => {
          await takeBack(made.id);
          say(said, `taken back: ${words}`);
          label.focus();
        }), { 'aria-label': `Take back: ${words}` });
        put(said, `marked: ${words} `, undo);
      });
    const teach = (key) => () =>
      attempt(async () => {
        const [name, of] = chosen();
        // As it is by now: each change gives the set another hash.
        ({ sets } = await get('labels'));
        const set = sets.find((known) => known.set === name);
        await learn(set, set?.details.find((known) => known.label === of), key, { stream: one.stream, region: one.region, at: one.from });
      });
    const events = here('events', { stream: one.stream, since: one.from, until: new Date(new Date(one.until).getTime() + 60_000).toISOString() });
    return h(
      'li',
      {},
      image,
      h('p', {}, h('a', { href: here(`camera/${encodeURIComponent(one.stream)}`) }, place), ` · ${time(one.from)} · `, one.margin === null ? `likeness ${one.score.toFixed(2)}` : `margin ${one.margin.toFixed(1)}`),
      h('p', { class: 'verdict' }, at ? button('neighbours', () => attempt(near)) : null, h('a', { href: events }, 'what was told then')),
      labels.length ? h('p', { class: 'verdict' }, label, button('seen', mark('seen')), button('absent', mark('absent')), button('example', teach('examples')), button('counter-example', teach('counter_examples')), said) : null,
    );
  }

  const drop = (event) => {
    event.preventDefault();
    const dropped = event.dataTransfer?.files[0];
    if (!dropped) return;
    if (dropped.type.startsWith('image/')) withPicture(dropped, dropped.name);
    else notice(`${dropped.name} is no picture`, true);
  };
  const over = (event) => event.preventDefault();
  const paste = (event) => {
    const pasted = [...(event.clipboardData?.files || [])].find((one) => one.type.startsWith('image/'));
    if (pasted) withPicture(pasted, 'that was pasted');
  };
  addEventListener('drop', drop);
  addEventListener('dragover', over);
  addEventListener('paste', paste);

  attempt(async () => {
    const [{ streams }, labels] = await Promise.all([get('streams'), get('labels')]);
    sets = labels.sets;
    const change = (key) => (value) => {
      wanted = { ...wanted, [key]: value };
      replaceAddress('search', wanted);
      attempt(look);
    };
    const all = [['', 'all streams'], ...streams.map((one) => [one.id, one.id])];
    put(filters, field('stream', choice(all, wanted.stream || '', change('stream'))), field('time', choice(SINCE, wanted.since || '', change('since'))));
    await look();
  });
  return () => {
    under?.abort();
    removeEventListener('drop', drop);
    removeEventListener('dragover', over);
    removeEventListener('paste', paste);
  };
}

// The first steps: cameras of the network with a picture each, any other address, and labels to begin with. A camera that is added here is kept by the daemon
// in its state directory, and can be removed here again.

import { address, ApiError, ask, attempt, get, notice, post, whyStarting } from './api.js';
import { button, choice, field, h, here, put, replaceAddress, say } from './dom.js';

/** Devices whose pictures are asked for by themselves; the others have a button for it. */
const PICTURED = 8;

/** Until a daemon that starts is asked again. */
const STARTING = 4000;

/** What a stream may be called. @param {string} text */
function slug(text) {
  return text.toLowerCase().replace(/[^a-z0-9_-]+/g, '-').replace(/^-+|-+$/g, '').slice(0, 60) || 'camera';
}

export function setup(body, parameters) {
  const urls = new Set();
  let ended = false;
  let known = [];
  const about = h('div', {});
  const network = h('section', { 'aria-labelledby': 'setup-network' });
  const byAddress = h('section', { 'aria-labelledby': 'setup-address' });
  const added = h('section', { 'aria-labelledby': 'setup-added', hidden: true });
  const labels = h('section', { 'aria-labelledby': 'setup-labels', hidden: true });
  put(body, about, network, byAddress, added, labels);

  /** An id that no stream has. @param {string} wish */
  function free(wish) {
    let id = slug(wish);
    for (let number = 2; known.includes(id); number += 1) id = `${slug(wish)}-${number}`;
    return id;
  }

  /** A picture of a camera that is no stream yet, or why there is none. */
  async function picture(place, camera) {
    put(place, h('p', { role: 'status' }, 'looking …'));
    try {
      const answer = await ask(address('preview'), { method: 'POST', json: camera });
      const url = URL.createObjectURL(await answer.blob());
      urls.add(url);
      if (ended) URL.revokeObjectURL(url);
      put(place, h('img', { src: url, alt: `what ${camera.url} shows` }));
      return true;
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      const problems = (error.problems || []).map((one) => `${one.message}; ${one.remedy}`);
      put(place, h('p', { class: 'bad', role: 'status' }, [error.message, ...problems].join(': ')));
      return false;
    }
  }

  /** @param {object} camera @param {boolean} [stays] there are others to be added */
  async function add(camera, stays) {
    const { result } = await post('streams', {}, { json: camera });
    notice(result === 'under way' ? `${camera.id} is kept, and watched in a moment, unless the log says otherwise.` : `${camera.id} is added.`);
    if (stays) {
      parameters.added = camera.id;
      if (location.hash.startsWith('#/add')) replaceAddress('add', parameters);
      await read();
      return;
    }
    const there = here('add', { added: camera.id });
    // One that went and came back: nothing would be read anew.
    if (location.hash === there) await read();
    else location.hash = there;
  }

  /**
   * A camera that answered, with the streams that it told. Anybody may answer, and name any host: who has given a password sees each place before it is sent
   * there, and types it again for a host that has not answered itself.
   */
  function device(found, login, looks, isOneOfMany) {
    const name = found.name || found.hardware || found.address;
    const told = [found.address, found.hardware, found.location].filter(Boolean).join(' · ');
    const stream = (one, at) => {
      const id = h('input', { type: 'text', value: free(at === 0 ? found.id : `${found.id}-${one.profile}`), maxlength: 64, required: true, pattern: '[a-z0-9_\\-]+' });
      const place = h('div', { class: 'picture' });
      const own = { username: h('input', { type: 'text', autocomplete: 'off', maxlength: 256 }), password: h('input', { type: 'password', autocomplete: 'new-password', maxlength: 256 }) };
      const proof = () => (one.elsewhere ? { username: own.username.value, password: own.password.value } : login);
      const camera = () => ({ id: id.value.trim(), url: one.url, ...proof() });
      const looked = () => picture(place, { url: one.url, ...proof() });
      const size = one.width ? `${one.width}×${one.height}` : '';
      const words = [one.profile, one.codec, size, one.frame_rate ? `${one.frame_rate} fps` : ''].filter(Boolean).join(' · ');
      const lines = [h('p', { class: 'small' }, words), h('p', { class: 'small' }, one.url)];
      if (one.incomplete) return h('li', {}, lines, h('p', { class: 'bad' }, 'Its address holds a password, which stands as *** here: give the whole address below.'));
      if (at === 0 && looks.length < PICTURED && !one.elsewhere && !login.username && !login.password) looks.push(looked);
      else put(place, button('Look', () => attempt(looked)));
      const adding = button(`Add ${name}`, () => attempt(async () => {
        await add(camera(), isOneOfMany);
        adding.disabled = true;
        say(adding, `${name} is added`);
      }), { class: 'main' });
      const other = one.elsewhere ? [h('p', { class: 'bad' }, `${found.address} has answered, and names another host: give user and password again if that one is yours.`), field('User there', own.username), field('Password there', own.password)] : null;
      return h('li', {}, place, lines, other, field('Its name here', id), h('p', {}, adding));
    };
    return h('section', { 'aria-label': name }, h('h3', {}, name), h('p', { class: 'small' }, told), found.error ? h('p', { class: 'bad' }, found.error) : null, h('ul', { class: 'moments' }, found.streams.map(stream)));
  }

  function showNetwork() {
    const username = h('input', { type: 'text', autocomplete: 'off', maxlength: 256 });
    const password = h('input', { type: 'password', autocomplete: 'new-password', maxlength: 256 });
    const one = h('input', { type: 'text', autocomplete: 'off', placeholder: '10.0.0.12', maxlength: 64 });
    const state = h('p', { role: 'status' });
    // Who has found several adds one after the other: the view stays.
    const list = h('div', { class: 'found' });
    const look = async (event) => {
      event.preventDefault();
      say(state, 'asking the network …');
      put(list);
      const login = { username: username.value, password: password.value };
      const answer = await attempt(() => post('discover', {}, { json: { ...login, address: one.value.trim() } }));
      if (!answer || ended) return say(state, '');
      const { devices } = answer;
      const none = 'No camera has answered. Not all do: give the address of yours below. From another network, name its address above.';
      say(state, devices.length === 0 ? none : `${devices.length === 1 ? 'one camera has' : `${devices.length} cameras have`} answered.`);
      const looks = [];
      put(list, devices.map((found) => device(found, login, looks, devices.length > 1)));
      // One after the other: the daemon looks at two at most.
      for (const each of looks) {
        if (ended) return null;
        await each();
      }
      return null;
    };
    const form = h('form', { class: 'ask', onsubmit: look }, field('User at the cameras (if they want one)', username), field('Password', password), field('Only this address', one), h('button', { type: 'submit', class: 'main' }, 'Look for cameras'));
    put(network, h('h2', { id: 'setup-network' }, 'Cameras of this network'), h('p', {}, 'Those that speak ONVIF are found by themselves.'), form, state, list);
  }

  function showAddress() {
    const id = h('input', { type: 'text', value: free('camera'), maxlength: 64, required: true, pattern: '[a-z0-9_\\-]+' });
    const url = h('input', { type: 'text', inputmode: 'url', autocomplete: 'off', spellcheck: 'false', placeholder: 'rtsp://10.0.0.12/stream1', required: true, maxlength: 2048 });
    const username = h('input', { type: 'text', autocomplete: 'off', maxlength: 256 });
    const password = h('input', { type: 'password', autocomplete: 'new-password', maxlength: 256 });
    const place = h('div', { class: 'looked' });
    const camera = () => ({ id: id.value.trim(), url: url.value.trim(), username: username.value, password: password.value });
    const submit = (event) => {
      event.preventDefault();
      attempt(() => add(camera()));
    };
    const look = button('Look at it first', () => form.reportValidity() && attempt(() => picture(place, camera())));
    const form = h('form', { class: 'lab-form', onsubmit: submit }, h('div', { class: 'columns' }, field('Address', url), field('Name here', id), field('User', username), field('Password', password)), h('p', {}, look, ' ', h('button', { type: 'submit', class: 'main' }, 'Add this camera')));
    put(byAddress, h('h2', { id: 'setup-address' }, 'Any other address'), h('p', {}, 'rtsp://, rtsps://, http:// or https://, as its manual has it. Files and devices of this machine stand in the configuration.'), form, place);
  }

  function showAdded(streams) {
    added.hidden = streams.length === 0;
    const remove = (id) => attempt(async () => {
      await ask(address(`streams/${encodeURIComponent(id)}`), { method: 'DELETE' });
      notice(`${id} is removed.`);
      await read();
    });
    const row = (id) => {
      const place = h('span', {});
      const offer = () => put(place, button(`Remove ${id}`, question));
      const question = () => {
        const yes = button(`Yes, remove ${id}`, () => remove(id));
        put(place, 'It is watched no more, and its address and password go. ', yes, ' ', button('Keep it', offer));
        yes.focus();
      };
      offer();
      return h('li', {}, h('a', { href: here(`camera/${encodeURIComponent(id)}`) }, id), ' ', place);
    };
    put(added, h('h2', { id: 'setup-added' }, 'Added here'), h('ul', { class: 'plain' }, streams.map(row)));
  }

  async function showLabels() {
    const [{ sets: own }, { sets: examples }] = await Promise.all([get('labels'), get('example-sets')]);
    labels.hidden = own.length === 0 || examples.length === 0;
    if (labels.hidden) return;
    const list = h('ul', { class: 'plain offered' });
    let into = own[0];
    let from = examples[0];
    const show = () => put(list, from.labels.map((one) => h('li', {}, button(`Add ${one.label}`, () => attempt(() => take(one)), { disabled: into.labels.includes(one.label) }), ' ', one.prompts.join(', '))));
    const take = async (one) => {
      const { result } = await post(`labels/${encodeURIComponent(into.set)}/edit`, {}, { json: { label: one.label, prompts: one.prompts, negatives: one.negatives, sha256: into.sha256 } });
      if (result === 'under way') {
        notice(`${one.label} is kept, and looked for in a moment, unless the log says otherwise.`);
        return;
      }
      notice(`${one.label} is looked for from now on. The label lab shows how it stands.`);
      location.hash = here('lab', { set: into.set, label: one.label });
    };
    const choices = [field('Examples of', choice(examples.map((one) => [one.set, one.set]), from.set, (value) => {
      from = examples.find((one) => one.set === value);
      show();
    }))];
    if (own.length > 1) {
      choices.push(field('into the set', choice(own.map((one) => [one.set, one.set]), into.set, (value) => {
        into = own.find((one) => one.set === value);
        show();
      })));
    }
    show();
    put(labels, h('h2', { id: 'setup-labels' }, 'A first label'), h('p', {}, 'Take one to begin with, or ', h('a', { href: here('lab') }, 'write one in your own words'), '.'), h('div', { class: 'filters' }, choices), list);
  }

  async function read() {
    const waits = await whyStarting();
    if (waits) {
      put(about, h('p', { role: 'status' }, waits));
      setTimeout(() => !ended && attempt(read), STARTING);
      return;
    }
    const { streams, additions } = await get('streams');
    known = [...streams.map((one) => one.id), ...additions.streams];
    if (additions.obstacle) {
      put(about, h('p', { class: 'bad' }, 'No camera can be added here yet: ', additions.obstacle, '.'), h('p', {}, 'Or name cameras under ', h('code', {}, 'streams'), ' in the configuration, and reload it.'));
      for (const section of [network, byAddress]) put(section);
    } else if (!network.firstChild) {
      showNetwork();
      showAddress();
    }
    const id = parameters.added;
    if (!additions.obstacle) put(about, id && known.includes(id) ? h('p', {}, h('a', { href: here(`camera/${encodeURIComponent(id)}`) }, id), ' is watched from now on. Next: a label, below.') : h('p', {}, 'Name a camera, then say what to look for.'));
    showAdded(additions.streams);
    if (streams.length > 0) await showLabels();
  }

  attempt(read);
  return () => {
    ended = true;
    urls.forEach((url) => URL.revokeObjectURL(url));
  };
}

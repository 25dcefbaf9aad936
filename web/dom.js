// What views build their elements with. Text always becomes a text node: names of streams and labels are other people's words.

const SVG = 'http://www.w3.org/2000/svg';

/** @typedef {Node | string | number | null | undefined | false} Child */

/**
 * An element. Properties that begin with `on` are listeners, all others attributes; `true` is an empty one, `null` and `false` are none.
 * @param {string} tag @param {Record<string, any>} [properties] @param {...(Child | Child[])} children
 */
export function h(tag, properties = {}, ...children) {
  return fill(document.createElement(tag), properties, children);
}

/** The same of a drawing. @param {string} tag @param {Record<string, any>} [properties] @param {...(Child | Child[])} children */
export function svg(tag, properties = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), properties, children);
}

function fill(element, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, '');
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, String(value));
  }
  element.append(...nodes(children));
  return element;
}

function nodes(children) {
  return children.flat(3).filter((child) => child !== null && child !== undefined && child !== false && child !== '').map((child) => (child instanceof Node ? child : document.createTextNode(String(child))));
}

/** Puts other children in the place of those that an element has. @param {Element} element @param {...(Child | Child[])} children */
export function put(element, ...children) {
  element.replaceChildren(...nodes(children));
}

/** Sets a text only where it differs, so that nothing is drawn or read out again. @param {Element} element @param {string} text */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/**
 * Makes the children of `parent` those of `items`: one each, made once, in their order; those of items that are gone go.
 * @template T @param {Element} parent @param {T[]} items @param {(item: T) => string} key
 * @param {(item: T) => Element} make @param {(element: Element, item: T) => void} [update]
 */
export function each(parent, items, key, make, update) {
  const before = new Map([...parent.children].map((child) => [child.getAttribute('data-key'), child]));
  let at = parent.firstElementChild;
  for (const item of items) {
    const name = key(item);
    let element = before.get(name);
    before.delete(name);
    if (!element) {
      element = make(item);
      element.setAttribute('data-key', name);
    }
    if (element === at) at = at.nextElementSibling;
    else parent.insertBefore(element, at);
    if (update) update(element, item);
  }
  for (const element of before.values()) element.remove();
}

/** The address of a view; parameters that are empty are left out. @param {string} path @param {Record<string, any>} [parameters] */
export function here(path, parameters = {}) {
  const given = Object.entries(parameters).filter(([, value]) => value !== '' && value !== null && value !== undefined);
  const query = new URLSearchParams(given).toString();
  return `#/${path}${query ? `?${query}` : ''}`;
}

/** Changes the address without a step of its own in the browser's history, as a filter does. */
export function replaceAddress(path, parameters) {
  history.replaceState(null, '', here(path, parameters));
}

let numbers = 0;

/** A control with its name beside it. @param {string} name @param {Element} control */
export function field(name, control) {
  control.id ||= `field-${(numbers += 1)}`;
  return h('div', { class: 'field' }, h('label', { for: control.id }, name), control);
}

/** A choice. @param {[string, string][]} options value and text @param {string} chosen @param {(value: string) => void} [changed] */
export function choice(options, chosen, changed) {
  const made = options.map(([value, text]) => h('option', { value, selected: value === chosen }, text));
  return h('select', { onchange: (event) => changed?.(event.target.value) }, made);
}

/** @param {string} text @param {() => any} clicked @param {Record<string, any>} [more] */
export function button(text, clicked, more = {}) {
  return h('button', { type: 'button', onclick: clicked, ...more }, text);
}

/** Waits until nobody has asked again for a while. @param {number} wait milliseconds @param {() => void} then */
export function settled(wait, then) {
  let timer = 0;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(then, wait);
  };
}

/** One run at a time: who asks while it goes on waits for the same. @template T @param {() => Promise<T>} run @returns {() => Promise<T>} */
export function oneAtATime(run) {
  let under = null;
  return () => {
    under ||= run().finally(() => {
      under = null;
    });
    return under;
  };
}

/** @param {number} milliseconds @returns {Promise<void>} */
export function pause(milliseconds) {
  return new Promise((then) => {
    setTimeout(then, milliseconds);
  });
}

/** How long, for people. @param {number} seconds */
export function duration(seconds) {
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  return seconds < 172800 ? `${Math.round(seconds / 3600)} h` : `${Math.round(seconds / 86400)} days`;
}

/** A moment by the clock of who looks; the date where it is not today. @param {string | number | Date} at */
export function time(at) {
  const then = new Date(at);
  const clock = then.toLocaleTimeString([], { hour: '2-digit', minute: '2-digit', second: '2-digit' });
  return then.toDateString() === new Date().toDateString() ? clock : `${then.toLocaleDateString()} ${clock}`;
}

/** @param {number | null} score 0 to 1 */
export function percent(score) {
  return score === null || score === undefined ? '–' : `${Math.round(score * 100)} %`;
}

/** The score of a margin. @param {number} margin */
export function scoreOf(margin) {
  return 1 / (1 + Math.exp(-margin));
}

/** The margin of a score. @param {number} score */
export function marginOf(score) {
  const held = Math.min(Math.max(score, 1e-6), 1 - 1e-6);
  return Math.log(held / (1 - held));
}

// The page: which view is shown, by the part of the address behind `#`, and how the daemon is. Every view is a function that fills an element, is given the
// parameters of the address, and returns what is to be called when it is left.

import { h, put, say } from './dom.js';
import { hasSession, logOut, readiness, tokenOfAddress } from './api.js';
import * as live from './live.js';
import { cameras, camera } from './cameras.js';
import { events } from './events.js';
import { search } from './search.js';
import { lab } from './lab.js';
import { setup } from './setup.js';
import { system } from './system.js';

const VIEWS = {
  cameras: ['Cameras', cameras],
  events: ['Events', events],
  search: ['Search', search],
  lab: ['Label lab', lab],
  add: ['Add a camera', setup],
  system: ['System', system],
};

const main = document.getElementById('main');
const nav = document.getElementById('nav');
const connection = document.getElementById('connection');

let leave = null;
let shown = '';

/** Whatever somebody has typed there. @param {string} text */
function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** The address's view, what it is of, and its parameters. */
function route() {
  const [path, query = ''] = location.hash.replace(/^#\/?/, '').split('?');
  const [name, ...rest] = path.split('/');
  return { name: name || 'cameras', of: decoded(rest.join('/')), parameters: Object.fromEntries(new URLSearchParams(query)) };
}

async function show() {
  if (location.hash.startsWith('#token=')) await tokenOfAddress();
  const { name, of, parameters } = route();
  leave?.();
  leave = null;
  const [title, view] = name === 'camera' ? [of, camera] : VIEWS[Object.hasOwn(VIEWS, name) ? name : 'cameras'];
  document.title = `${title} · vtagd`;
  const heading = h('h1', { tabindex: '-1' }, title);
  const body = h('div', { class: `view ${name}` });
  put(main, heading, body);
  put(nav, Object.entries(VIEWS).map(([key, [text]]) => h('a', { href: `#/${key}`, 'aria-current': key === name || (name === 'camera' && key === 'cameras') ? 'page' : null }, text)));
  if (hasSession()) nav.append(h('button', { type: 'button', class: 'quiet', onclick: logOut }, 'Log out'));
  // Who goes on by keyboard or hears the page begins with what is new; at the first view the top is the right place.
  if (shown) heading.focus({ preventScroll: true });
  if (shown !== location.hash) scrollTo(0, 0);
  shown = location.hash || '#/cameras';
  leave = view(body, parameters, of) || null;
}

const SAYS = {
  connecting: 'connecting …',
  live: 'live',
  away: 'the daemon does not answer: trying again',
  hidden: 'paused while nobody looks',
  polling: 'no live stream is free: looking every few seconds',
};

async function about() {
  // Where that fails the connection says so already.
  const ready = await readiness().catch(() => null);
  say(document.getElementById('instance'), ready?.instance || '');
}

/** A daemon of another version has other files: the page is that one's from then on. */
async function sameVersion() {
  const own = new URL('.', import.meta.url).pathname.split('/').slice(-3).join('/');
  const page = await fetch('./').then((answer) => (answer.ok ? answer.text() : own)).catch(() => own);
  if (!page.includes(own)) location.reload();
}

live.on('state', ({ now, before }) => {
  say(connection, SAYS[now]);
  connection.className = now;
  if (['live', 'polling'].includes(now) && ['away', 'hidden'].includes(before)) {
    sameVersion();
    about();
  }
});

document.querySelector('.skip').addEventListener('click', (event) => {
  event.preventDefault();
  main.focus();
});
await tokenOfAddress();
addEventListener('hashchange', show);
await show();
// Also waits until who asks has logged in.
await about();
live.start();

// What the page asks the daemon, and how it shows that it may. Addresses are below the page's own, so that a proxy may serve it below a path.
//
// The token is kept in this tab's memory alone, so that the page comes back by itself when the daemon was restarted, which ends sessions; the browser keeps
// a cookie that no script can read, and `localStorage` the token against forged requests, which is worth nothing without the cookie. All tabs share both: who
// logs in or out in one has done so in the others.

import { h, button, field, pause } from './dom.js';

/** A proxy's one name may have a daemon below each of several paths. */
const CSRF = `vtagd-csrf ${new URL('.', location.href).pathname}`;

let token = '';
let asking = null;
/** Ends the question for the token, while it is asked. */
let letIn = null;

addEventListener('storage', ({ key, newValue }) => {
  if (key !== CSRF) return;
  if (newValue !== null) {
    letIn?.();
    return;
  }
  token = '';
  location.reload();
});

/** Streams that are asked about in turn, each by itself, until the daemon is given time between two: it answers one address 50 times a second. */
const AT_ONCE = 40;
const BETWEEN = 30;

/** What was answered instead of what was asked for. */
export class ApiError extends Error {
  /** @param {number} status 0: nothing @param {string} message @param {object[]} [problems] */
  constructor(status, message, problems = []) {
    super(message);
    this.status = status;
    this.problems = problems;
  }
}

/** An address with parameters; those that are empty are left out. @param {string} path @param {Record<string, any>} [parameters] */
export function address(path, parameters = {}) {
  const given = Object.entries(parameters).filter(([, value]) => value !== '' && value !== null && value !== undefined);
  const query = new URLSearchParams(given).toString();
  return `api/v1/${path}${query ? `?${query}` : ''}`;
}

/** Where something is that an answer names, such as a picture. @param {string | null} url */
export function located(url) {
  const at = url ? url.indexOf('/api/v1/') : -1;
  return at < 0 ? null : url.slice(at + 1);
}

async function once(path, { method = 'GET', json, body, kind, headers = {}, signal } = {}) {
  const sent = { ...headers };
  if (json !== undefined) sent['Content-Type'] = 'application/json';
  if (kind) sent['Content-Type'] = kind;
  const csrf = localStorage.getItem(CSRF);
  if (method !== 'GET' && csrf) sent['X-CSRF-Token'] = csrf;
  try {
    return await fetch(path, { method, headers: sent, body: json === undefined ? body : JSON.stringify(json), signal });
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new ApiError(0, 'the daemon does not answer');
  }
}

/** Asks, and once more when who asks has logged in meanwhile. @returns {Promise<Response>} */
export async function ask(path, options) {
  const before = localStorage.getItem(CSRF);
  let answer = await once(path, options);
  if (answer.status === 401 || (answer.status === 403 && options?.method && (await lacksSession(answer)))) {
    await loggedIn(before);
    answer = await once(path, options);
  }
  if (answer.ok || answer.status === 304) return answer;
  const told = await answer.json().catch(() => ({}));
  throw new ApiError(answer.status, told.error || `the daemon answered ${answer.status}`, told.problems);
}

/** A cookie that goes on, and a browser that has lost what belongs to it. */
async function lacksSession(answer) {
  const told = await answer.clone().json().catch(() => ({}));
  return String(told.error).includes('X-CSRF-Token');
}

/** @param {string} path @param {Record<string, any>} [parameters] */
export async function get(path, parameters, options) {
  return (await ask(address(path, parameters), options)).json();
}

/** A change, or a question with a body. @param {string} path @param {Record<string, any>} [parameters] */
export async function post(path, parameters, options = {}) {
  return (await ask(address(path, parameters), { method: 'POST', ...options })).json();
}

/** Waits between two questions of so `many`. @param {number} many */
export async function betweenTwo(many) {
  if (many > AT_ONCE) await pause(BETWEEN);
}

/** How the daemon is, ready or not. */
export async function readiness() {
  const before = localStorage.getItem(CSRF);
  const answer = await once('readyz');
  if (answer.status === 401) {
    await loggedIn(before);
    return readiness();
  }
  const told = await answer.json().catch(() => ({}));
  // Refused before it was looked at.
  if (told.ready === undefined) throw new ApiError(answer.status, told.error || `the daemon answered ${answer.status}`);
  return told;
}

/** What to say where a daemon that starts knows nothing yet; empty of one that has started. */
export async function whyStarting() {
  const { model, reason } = await readiness();
  return model === null ? `The daemon starts: ${reason}.` : '';
}

async function logIn(given) {
  const answer = await once(address('session'), { method: 'POST', headers: { Authorization: `Bearer ${given}` } });
  if (!answer.ok) throw new ApiError(answer.status, answer.status === 401 ? 'this is not the token' : 'nobody can log in');
  localStorage.setItem(CSRF, (await answer.json()).csrf_token);
  token = given;
}

/** Takes the token out of the address, `#token=…`, before anything else is done with that. */
export async function tokenOfAddress() {
  const given = /^#token=([^&]+)/.exec(location.hash);
  if (!given) return;
  history.replaceState(null, '', `${location.pathname}${location.search}#/cameras`);
  try {
    await logIn(decodeURIComponent(given[1]));
  } catch {
    // One that is wrong is asked for, as none is.
  }
}

/** Logs in, with the token of this tab or one that is asked for; everybody who waits for it waits for the same. @param {string | null} before what was known
 * when it was asked without success */
async function loggedIn(before) {
  const known = localStorage.getItem(CSRF);
  // Another tab has done so meanwhile.
  if (known && known !== before && !asking) return;
  const again = (error) => {
    // One that does not answer has not refused it.
    if (error.status === 0) throw error;
    return askForToken();
  };
  asking ||= (token ? logIn(token).catch(again) : askForToken()).finally(() => {
    asking = null;
  });
  await asking;
}

function askForToken() {
  return new Promise((done) => {
    const input = h('input', { type: 'password', autocomplete: 'current-password', required: true, 'aria-describedby': 'token-help' });
    const wrong = h('p', { class: 'bad', role: 'alert' });
    letIn = () => {
      letIn = null;
      dialog.close();
      dialog.remove();
      done();
    };
    const submit = async (event) => {
      event.preventDefault();
      try {
        await logIn(input.value.trim());
        letIn?.();
      } catch (error) {
        wrong.textContent = error.message;
        input.select();
      }
    };
    const help = h('p', { id: 'token-help' }, 'This daemon wants a token: the one that ', h('code', {}, 'api.token'), ' of its configuration names. It is asked for once.');
    const form = h('form', { onsubmit: submit }, h('h2', { id: 'token-title' }, 'Log in'), help, field('Token', input), wrong, h('p', {}, h('button', { type: 'submit', class: 'main' }, 'Log in')));
    const dialog = h('dialog', { 'aria-labelledby': 'token-title', oncancel: (event) => event.preventDefault() }, form);
    document.body.append(dialog);
    dialog.showModal();
  });
}

/** Ends the session of this browser, in all tabs; one that has ended is none to log in for again. */
export async function logOut() {
  const csrf = localStorage.getItem(CSRF) || '';
  token = '';
  localStorage.removeItem(CSRF);
  const answer = await once(address('session'), { method: 'DELETE', headers: { 'X-CSRF-Token': csrf } }).catch(() => null);
  // 401: it has ended before.
  if (!answer || (!answer.ok && answer.status !== 401)) {
    localStorage.setItem(CSRF, csrf);
    notice('The session has not ended: try again in a moment.', true);
    return;
  }
  location.reload();
}

/** Whether this browser has logged in, as far as it knows. */
export function hasSession() {
  return localStorage.getItem(CSRF) !== null;
}

/** Tells something at the edge of the page for a while. @param {string} text @param {boolean} [bad] */
export function notice(text, bad = false) {
  const line = h('p', { class: bad ? 'bad' : '' }, text, ' ', button('Close', () => line.remove()));
  document.getElementById('notices').append(line);
  if (!bad) setTimeout(() => line.remove(), 8000);
}

/** Does something, and tells what is wrong where it fails. @param {() => Promise<any>} what */
export async function attempt(what) {
  try {
    return await what();
  } catch (error) {
    if (error.name === 'AbortError') return null;
    const problems = (error.problems || []).map((one) => `${one.field}: ${one.message}; ${one.remedy}`);
    notice([error.message, ...problems].join(' · '), true);
    return null;
  }
}

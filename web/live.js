// The live stream of the daemon: one for the tab, closed while nobody sees it. Who listens is told of scores, events and states as they come.
//
// A browser opens six connections to a host at most, whatever tabs it has: so a hidden tab holds none.

import { ask } from './api.js';

/** Heartbeats come every 15 s. */
const SILENT = 40_000;

const listeners = { scores: new Set(), event: new Set(), status: new Set(), lost: new Set(), state: new Set() };
/** What was told last of each stream and sink. */
export const known = { streams: new Map(), sinks: new Map() };

let source = null;
let heard = 0;
let state = 'connecting';
let wait = 1000;
let timer = 0;
let asking = false;

/** Calls `listener` with every message of this kind, until what is returned is called. @param {keyof listeners} kind @param {(data: any) => void} listener */
export function on(kind, listener) {
  listeners[kind].add(listener);
  return () => listeners[kind].delete(listener);
}

function tell(kind, data) {
  for (const listener of listeners[kind]) listener(data);
}

function change(now) {
  if (now === state) return;
  const before = state;
  state = now;
  tell('state', { now, before });
}

/** `connecting`, `live`, `away`, `hidden`, or `polling`: the daemon answers, and has no live stream for this tab. */
export function connection() {
  return state;
}

function remember(data) {
  if (data.whole) {
    known.streams.clear();
    known.sinks.clear();
  }
  for (const stream of data.streams) known.streams.set(stream.id, stream);
  for (const sink of data.sinks) known.sinks.set(sink.name, sink);
  for (const id of data.gone) known.streams.delete(id);
}

function open() {
  clearTimeout(timer);
  close();
  source = new EventSource('api/v1/live');
  let begun = false;
  source.onopen = () => {
    begun = true;
  };
  const hear = (kind) => {
    source.addEventListener(kind, (message) => {
      heard = Date.now();
      wait = 1000;
      change('live');
      const data = JSON.parse(message.data);
      if (kind === 'status') remember(data);
      if (listeners[kind]) tell(kind, data);
    });
  };
  ['scores', 'event', 'status', 'lost', 'heartbeat'].forEach(hear);
  heard = Date.now();
  source.onerror = () => {
    // Nothing begins without an answer of the daemon before it. One address has so many streams, and no more.
    change(begun ? 'away' : 'polling');
    close();
    later();
  };
}

function later() {
  timer = setTimeout(again, wait);
  wait = Math.min(wait * 2, 10_000);
}

/** Asks first whether the daemon is there, and whether it still knows this browser: an event source does not say why it failed. */
async function again() {
  if (document.hidden || asking) return;
  asking = true;
  try {
    await ask('api/v1/sinks');
  } catch (error) {
    if (document.hidden) return;
    // Who asks too much is answered all the same.
    if (error.status !== 429) change('away');
    later();
    return;
  } finally {
    asking = false;
  }
  // Whoever looks again later comes back by himself.
  if (!document.hidden) open();
}

function close() {
  source?.close();
  source = null;
}

export function start() {
  // As a tab that was opened behind others.
  if (document.hidden) change('hidden');
  else open();
  document.addEventListener('visibilitychange', () => {
    if (document.hidden) {
      clearTimeout(timer);
      close();
      change('hidden');
    } else if (!source) {
      wait = 1000;
      again();
    }
  });
  setInterval(() => {
    if (source && Date.now() - heard > SILENT) source.onerror();
  }, 5000);
  addEventListener('pagehide', close);
}

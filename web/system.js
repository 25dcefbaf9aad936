// What computes, where events go, and what is wrong with either.

import { attempt, get, readiness } from './api.js';
import { duration, h, put, time } from './dom.js';

const EVERY = 5000;

const HEALTH = { starting: 'nothing to deliver yet', up: 'up', down: 'down', disabled: 'disabled', gone: 'gone' };

/** A table that stays where it is while its rows change: who reads it by keyboard, or has marked a part of it, is not disturbed. */
class Table {
  /** @param {string} caption @param {string[]} heads */
  constructor(caption, heads) {
    this.rows = h('tbody', {});
    this.element = h('div', { class: 'wide', tabindex: 0, role: 'region', 'aria-label': caption }, h('table', {}, h('caption', {}, caption), h('thead', {}, h('tr', {}, heads.map((head) => h('th', { scope: 'col' }, head)))), this.rows));
  }

  /** @param {Element[]} rows */
  show(rows) {
    const fresh = h('tbody', {}, rows);
    if (fresh.isEqualNode(this.rows)) return;
    this.rows.replaceWith(fresh);
    this.rows = fresh;
  }
}

function line(first, ...others) {
  return h('tr', {}, h('th', { scope: 'row' }, first), others.map((other) => h('td', {}, other)));
}

export function system(body) {
  const daemon = new Table('This daemon', ['what', 'is']);
  const ways = new Table('Sinks', ['sink', 'state', 'waiting', 'oldest', 'dead letters']);
  const wanted = new Table('Label sets', ['set', 'labels', 'streams', 'in force', 'doubtful']);
  const links = h('p', {}, h('a', { href: 'metrics' }, 'metrics'), ' · ', h('a', { href: 'readyz' }, 'readiness'), ' · ', h('a', { href: 'api/v1/openapi.json' }, 'all of the API'));
  const look = async () => {
    if (document.hidden) return;
    const [ready, { outbox, sinks }, { sets }] = await Promise.all([readiness(), get('sinks'), get('labels')]);
    const inference = ready.inference;
    const about = [
      line('state', ready.ready ? 'ready' : h('span', { class: 'bad' }, ready.reason)),
      line('instance', ready.instance),
      line('version', ready.version),
      line('model', ready.model || 'none'),
      line('provider', ready.provider || 'none'),
      ready.refused.map((one) => line('refused', h('span', { class: 'bad' }, `${one.provider} refused: ${one.reason}`))),
      inference ? line('inference', `${inference.sessions === 1 ? 'one session' : `${inference.sessions} sessions`}, ${inference.threads === 0 ? 'on all cores' : `${inference.threads} threads each`}, up to ${inference.max_size} pictures a batch`) : null,
      line('outbox', `${outbox.path || 'in memory'}, ${(outbox.bytes / 1e6).toFixed(1)} MB`),
      outbox.error ? line('outbox', h('span', { class: 'bad' }, `events cannot be stored: ${outbox.error}`)) : null,
    ];
    const sink = (one) => {
      const why = [one.why, one.notice].filter(Boolean).join('; ');
      const oldest = one.oldest_pending_seconds === null ? '–' : duration(one.oldest_pending_seconds);
      return line(one.name, h('span', { class: why ? 'bad' : '' }, why ? `${HEALTH[one.state]}: ${why}` : HEALTH[one.state]), one.pending, oldest, one.dead);
    };
    const set = (one) => {
      const from = one.copy ? `a copy, made ${time(one.copy.made_at)}${one.copy.file_changed ? '; the file has changed since' : ''}` : 'its file';
      return line(one.set, one.labels.join(', '), one.streams.join(', '), from, one.warnings.join('; '));
    };
    daemon.show(about.flat());
    ways.show(sinks.map(sink));
    wanted.show(sets.map(set));
    if (!links.isConnected) put(body, daemon.element, ways.element, wanted.element, links);
  };
  attempt(look);
  const timer = setInterval(() => look().catch(() => {}), EVERY);
  return () => clearInterval(timer);
}

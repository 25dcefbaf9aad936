// What people say of the past, as the daemon keeps it: marks are made here, read, and taken back.

import { address, ApiError, ask, get, post } from './api.js';

/** As many as a daemon tells at once. */
const MOST = 10_000;
const ELSEWHERE = 'take back the other one first, in the label lab below the curve';

/** Those that are kept. @param {Record<string, any>} of such as `set` and `label` @returns {Promise<object[]>} */
export async function readMarks(of) {
  return (await get('marks', { ...of, limit: MOST })).marks;
}

/** Where a mark contradicts another, who makes it is told what to do. */
async function marking(path, parameters, remedy) {
  try {
    return (await post(path, parameters)).mark;
  } catch (error) {
    if (error.status !== 409 || !error.message.includes('at the same time')) throw error;
    throw new ApiError(error.status, `${error.message}: ${remedy}`);
  }
}

/** Marks a moment of the past. @param {Record<string, any>} mark @param {string} [remedy] @returns {Promise<object>} */
export function addMark(mark, remedy = ELSEWHERE) {
  return marking('marks', mark, remedy);
}

/** Marks a tag. @param {string} event one of its events @param {'right' | 'wrong'} verdict @returns {Promise<object>} */
export function judge(event, verdict) {
  return marking(`events/${event}/mark`, { verdict }, ELSEWHERE);
}

/** @param {string} id */
export function takeBack(id) {
  return ask(address(`marks/${encodeURIComponent(id)}`), { method: 'DELETE' });
}

const name = (one) => [one.stream, one.set, one.label ?? ''].join('\n');

/** How tags are marked, by whomever. */
export class Judged {
  /** @param {object[]} marks */
  constructor(marks) {
    this.known = new Map();
    this.marks = new Map();
    for (const mark of marks) {
      const isMedia = typeof mark.from === 'number';
      const [from, to] = [mark.from, mark.to].map((at) => (isMedia ? at : new Date(at).getTime()));
      const own = this.marks.get(name(mark)) || [];
      own.push({ ...mark, isMedia, from, to });
      this.marks.set(name(mark), own);
    }
  }

  /** @param {{id: string}} tag @param {string} kind */
  note(tag, kind) {
    this.known.set(tag.id, kind);
  }

  /** What is said of its beginning, since it may have been open when that was said; empty: nothing. @returns {string} */
  of(tag) {
    if (!this.known.has(tag.id)) {
      const at = new Date(tag.from).getTime();
      const covers = (mark) => (mark.isMedia ? mark.from <= tag.media && tag.media <= mark.to : mark.from <= at && at <= mark.to);
      const all = [tag, { ...tag, label: null }].flatMap((one) => this.marks.get(name(one)) || []);
      const fit = all.filter((mark) => (mark.region === null || mark.region === (tag.region ?? null)) && covers(mark));
      // A mark reaches a little beyond its own tag: of two the later one is of this.
      const [own] = fit.sort((a, b) => b.from - a.from);
      this.note(tag, own?.kind || '');
    }
    return this.known.get(tag.id);
  }
}

// Where a threshold is put: from what was seen, from what is marked, and what it tells of that.

import { percent } from './dom.js';

/** `exit` of a threshold that is saved here. @param {number} enter */
export function below(enter) {
  return Math.round((enter - 1) * 10) / 10;
}

/** @param {number[]} points */
export function suggestion(points) {
  const sorted = [...points].sort((a, b) => a - b);
  const usual = sorted[Math.floor(sorted.length * 0.9)];
  return ((usual + sorted[sorted.length - 1]) / 2).toFixed(1);
}

/** The threshold with the best F1 over points that are marked; in the middle of those that are as good. */
export function best(seen, absent) {
  const all = [...new Set([...seen, ...absent])].sort((a, b) => a - b);
  const cuts = all.slice(1).map((margin, at) => (margin + all[at]) / 2);
  let found = { f1: -1, cuts: [all[0]] };
  for (const cut of cuts) {
    const right = seen.filter((margin) => margin >= cut).length;
    const wrong = absent.filter((margin) => margin >= cut).length;
    const f1 = (2 * right) / (right + wrong + seen.length);
    if (f1 > found.f1) found = { f1, cuts: [cut] };
    else if (f1 === found.f1) found.cuts.push(cut);
  }
  return found.cuts[Math.floor(found.cuts.length / 2)];
}

export function share(points, level) {
  return percent(points.filter((margin) => margin >= Number(level)).length / points.length);
}

// What a label learns from: moments of the past, as examples of what it looks like, or of what it is not.

import { ApiError, notice, post } from './api.js';

/**
 * Adds a moment to a label's examples, or to its counter-examples; all else of it stays as it is in the set.
 * @param {object} set as `/api/v1/labels` tells it @param {object | undefined} label of its `details`
 * @returns {Promise<boolean>} whether that counts by now
 * @param {'examples' | 'counter_examples'} key @param {{stream: string, region: string | null, at: string}} moment
 */
export async function learn(set, label, key, moment) {
  if (!label) throw new ApiError(0, 'only a label that is saved can learn: save it first');
  const sent = { label: label.label, prompts: label.prompts, negatives: label.negatives, [key]: [moment], sha256: set.sha256 };
  const { changed, result } = await post(`labels/${encodeURIComponent(set.set)}/edit`, {}, { json: sent });
  const what = key === 'examples' ? 'an example' : 'a counter-example';
  if (result === 'under way') {
    notice(`The moment is kept as ${what} of ${label.label}, and counts in a moment, unless the log says otherwise.`);
    return false;
  }
  notice(changed ? `The moment is ${what} of ${label.label} from now on.` : `It was ${what} of ${label.label} already.`);
  return true;
}

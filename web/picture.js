// Pictures that come and go, drawn. An `<img>` would do, but Chromium keeps what it has decoded for one: a page with four of them held 220 MB of shared memory
// after some hundred pictures each, outside its scripts. docs/benchmarks.md has the numbers.

import { h } from './dom.js';

/** A place for one, not seen until there is one. @param {Record<string, any>} [properties] */
export function picturePlace(properties = {}) {
  return h('canvas', { role: 'img', hidden: true, ...properties });
}

/**
 * Shows a picture in the place of the one before. @param {HTMLCanvasElement} place @param {Blob} blob
 * @param {string} text what it is of, for who does not see it @param {number} [width] pixels that are enough
 */
export async function drawPicture(place, blob, text, width) {
  const bitmap = await createImageBitmap(blob, width ? { resizeWidth: width, resizeQuality: 'medium' } : {});
  if (place.width !== bitmap.width) place.width = bitmap.width;
  if (place.height !== bitmap.height) place.height = bitmap.height;
  place.getContext('bitmaprenderer').transferFromImageBitmap(bitmap);
  place.setAttribute('aria-label', text);
  place.hidden = false;
}

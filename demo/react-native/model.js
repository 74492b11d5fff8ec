// What the application does with a bundle, independent of React Native and of files.
import { EdgeClip } from "../web/js/clip.js";
import { PageError } from "../web/js/errors.js";
import { replay } from "../web/js/golden.js";
import { readManifest } from "../web/js/manifest.js";

/**
 * Open a bundle in its default precision, and replay its golden vectors; throw PageError for a
 * broken bundle, or if this device's results differ from those recorded.
 */
export async function openModel({ source, ort, backend, decode, progress }) {
  const manifest = await readManifest(source);
  const precision = manifest.default_precision;
  const clip = await EdgeClip.open({ source, manifest, precision, ort, backend, progress });
  const result = await replay(clip, { rounds: 1, decode });
  if (result.failures.length) {
    await clip.release();
    throw new PageError(`this device gives other results than recorded: ${result.failures.join(", ")}`);
  }
  return { clip, result };
}

/** Labels with their probabilities, best first, of a decoded picture. */
export async function classify(clip, picture, labels) {
  const classes = await clip.classFeatures(labels, ["{}"]);
  const { embedding } = await clip.encodeImage(picture);
  const chances = clip.probabilities(embedding, classes);
  const rows = labels.map((label, i) => ({ label, chance: chances[i] }));
  return rows.sort((a, b) => b.chance - a.chance);
}

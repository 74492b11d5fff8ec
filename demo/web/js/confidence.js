// Whether a prediction is confident enough, as in tinyclip_edge/runtime/confidence.py.
import { PageError } from "./errors.js";

export const ALWAYS = { temperature: 1, threshold: null };

/** The temperature and the threshold of a precision for these labels; ALWAYS if they were not calibrated. */
export function decisionOf({ confidence: entry, name }, precision, labels, templates) {
  if (!Object.keys(entry ?? {}).length) return ALWAYS;
  const { labels: known, templates: prompts, precisions } = entry;
  const own = precisions?.[precision];
  if (!Array.isArray(known) || !Array.isArray(prompts) || !own) {
    throw new PageError(`bundle ${name}: confidence of ${precision} is broken; export it again`);
  }
  const same = equalSets(labels, known) && JSON.stringify(templates) === JSON.stringify(prompts);
  return same ? { temperature: own.temperature, threshold: own.threshold } : ALWAYS;
}

function equalSets(one, other) {
  const set = new Set(other);
  return new Set(one).size === set.size && one.every((label) => set.has(label));
}

// node classify.mjs BUNDLE PICTURE… --labels a,b,c   or   node classify.mjs BUNDLE --check
import { parseArgs } from "node:util";
import { PageError } from "../web/js/errors.js";
import { replay } from "../web/js/golden.js";
import { decode, openBundle } from "./bundle.mjs";

const USAGE = "usage: node classify.mjs BUNDLE PICTURE… --labels a,b,c [--precision NAME], or BUNDLE --check";
const SHOWN = 5;

async function main() {
  const { values, positionals } = parsed();
  const [folder, ...pictures] = positionals;
  if (!folder || (!values.check && !(pictures.length && values.labels))) throw new PageError(USAGE);
  const clip = await openBundle(folder, { precision: values.precision });
  try {
    if (values.check) return await check(clip);
    const labels = values.labels.split(",").map((label) => label.trim()).filter(Boolean);
    const note = clip.promptNote(labels, ["{}"]);
    if (note) console.error(note);
    const classes = await clip.classFeatures(labels, ["{}"]);
    for (const picture of pictures) {
      const { embedding } = await clip.encodeImage(await decode(picture));
      const chances = clip.probabilities(embedding, classes);
      const rows = labels.map((label, i) => [chances[i], label]).sort(([a], [b]) => b - a);
      console.log(picture);
      for (const [chance, label] of rows.slice(0, SHOWN)) console.log(`  ${(100 * chance).toFixed(1)} %  ${label}`);
    }
    return 0;
  } finally {
    await clip.release();
  }
}

function parsed() {
  const options = { labels: { type: "string" }, precision: { type: "string" }, check: { type: "boolean" } };
  try {
    return parseArgs({ options, allowPositionals: true });
  } catch (error) {
    throw new PageError(`${error.message}; ${USAGE}`);
  }
}

/** Replay the bundle's golden vectors; exit code 3 if this machine gives other results. */
async function check(clip) {
  const result = await replay(clip, { decode });
  console.log(JSON.stringify(result, null, 2));
  return result.failures.length ? 3 : 0;
}

try {
  process.exitCode = await main();
} catch (error) {
  if (!(error instanceof PageError)) throw error;
  console.error(`error: ${error.message}`);
  process.exitCode = 2;
}

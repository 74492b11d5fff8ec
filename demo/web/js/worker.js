// The model runs in this worker, so that the page stays responsive.
import { EdgeClip } from "./clip.js";
import { decodeBlob, pixelsOf } from "./decode.js";
import { PageError, line } from "./errors.js";
import { replay } from "./golden.js";
import { bytesOf, pixelTower, precisions, readManifest } from "./manifest.js";
import { measure, recordOf } from "./record.js";
import { capabilities, loadOrt } from "./runtime.js";
import { canHash, openSource } from "./source.js";

const BLANK = { data: new Uint8ClampedArray(4 * 32 * 32), width: 32, height: 32 };
const loaded = new Map(); // backend -> onnxruntime-web
let source, manifest, host, settings, clip, classes;

const METHODS = { look, open, setLabels, classify, selfTest, record };

/** Read the manifest and the browser's capabilities without loading a model. */
async function look({ bundle, ort, threads }) {
  source = openSource(bundle);
  host = await capabilities();
  settings = { ort, threads: host.isolated ? (threads ?? host.threads) : 1 };
  manifest = await readManifest(source);
  return {
    host: { ...host, threads: settings.threads, hashed: canHash() },
    manifest: { ...manifest, golden: null, files: null },
    precisions: precisions(manifest).map((name) => ({ name, bytes: bytesOf(manifest, name) })),
    whole: precisions(manifest).filter((name) => pixelTower(manifest, name)),
    golden: Object.keys(manifest.golden.embeddings ?? {}),
  };
}

/** Load one precision; fall back to WASM unless WebGPU passes the golden vectors. */
async function open({ precision, backend, pixels }) {
  classes = null;
  await clip?.release();
  clip = null;
  let refused = null;
  if (backend === "webgpu") {
    try {
      clip = await openClip({ precision, backend, pixels });
      const { failures } = await replay(clip, { rounds: 0 });
      if (failures.length) throw new PageError(failures.join(", "));
    } catch (error) {
      refused = line(error);
      await clip?.release();
      clip = null;
    }
  }
  clip ??= await openClip({ precision, backend: "wasm", pixels });
  await clip.encodeImage(BLANK); // the first run sets up memory and kernels, so its time would mislead
  return {
    precision,
    backend: clip.backend,
    pixels: clip.wholePictures ? "model" : "page",
    refused,
    bytes: bytesOf(manifest, precision, clip.wholePictures ? pixelTower(manifest, precision) : null),
    noTokenizer: clip.noTokenizer?.message ?? null,
  };
}

async function ortOf(backend) {
  if (!loaded.has(backend)) loaded.set(backend, await loadOrt(backend, settings.ort, settings.threads));
  return loaded.get(backend);
}

async function openClip(options) {
  const ort = await ortOf(options.backend);
  const progress = (name, bytes, of) => postMessage({ event: "progress", name, bytes, of });
  return EdgeClip.open({ source, manifest, ort, progress, ...options });
}

async function setLabels({ labels, templates }) {
  const started = performance.now();
  const cut = clip.promptNote(labels, templates);
  const features = await clip.classFeatures(labels, templates);
  classes = { labels, features, decision: clip.decision(labels, templates) };
  return { ms: performance.now() - started, texts: labels.length * templates.length, cut };
}

/**
 * Classify a Blob or an ImageBitmap; returns {rows: [{label, chance}] best first, familiar, unknown,
 * ms, size}. `unknown` is null unless a threshold was calibrated for the labels.
 */
async function classify({ blob, bitmap, name }) {
  const started = performance.now();
  const picture = bitmap ? pixelsOf(bitmap) : await decodeBlob(blob, name);
  const decoded = performance.now() - started;
  const encoded = await clip.encodeImage(picture);
  const { embedding, preprocess, encode } = encoded;
  const compared = performance.now();
  const { temperature, threshold } = classes.decision;
  const chances = clip.probabilities(embedding, classes.features, temperature);
  const rows = classes.labels.map((label, i) => ({ label, chance: chances[i] }));
  rows.sort((a, b) => b.chance - a.chance);
  return {
    rows,
    familiar: clip.knows(encoded),
    unknown: threshold === null ? null : rows[0].chance < threshold,
    ms: { preprocess: decoded + preprocess, encode, compare: performance.now() - compared },
    size: [picture.width, picture.height],
  };
}

/** Replay the golden vectors of every precision on every backend; report each row when it is done. */
async function selfTest() {
  const rows = [];
  for (const backend of host.gpu ? ["wasm", "webgpu"] : ["wasm"]) {
    for (const precision of precisions(manifest)) {
      for (const pixels of pixelTower(manifest, precision) ? ["page", "model"] : ["page"]) {
        const row = await testOne({ precision, backend, pixels });
        rows.push(row);
        postMessage({ event: "tested", row });
      }
    }
  }
  return rows;
}

async function testOne(options) {
  let tested = null;
  postMessage({ event: "testing", ...options });
  try {
    tested = await openClip(options);
    return await replay(tested);
  } catch (error) {
    if (!(error instanceof PageError)) console.debug(error);
    return { ...options, failures: [line(error)] };
  } finally {
    await tested?.release();
  }
}

/** Measure every precision on every backend; return the record, without what does not open. */
async function record({ rounds }) {
  const rows = [];
  for (const backend of host.gpu ? ["wasm", "webgpu"] : ["wasm"]) {
    const { env } = await ortOf(backend); // before the clock starts
    settings.version = env.versions.web ?? env.versions.common;
    for (const precision of precisions(manifest)) {
      postMessage({ event: "testing", precision, backend });
      try {
        rows.push(await measure(() => openClip({ precision, backend, pixels: "page" }), { rounds }));
      } catch (error) {
        if (!(error instanceof PageError)) console.debug(error);
      }
    }
  }
  if (!rows.length) throw new PageError("no precision of this bundle can be measured here; run the self-test");
  return recordOf({ manifest, host, ...settings }, rows);
}

// One call at a time: a session cannot run two.
let queue = Promise.resolve();
addEventListener("message", ({ data: { id, method, options } }) => {
  queue = queue.then(async () => {
    try {
      postMessage({ id, result: await METHODS[method](options) });
    } catch (error) {
      postMessage({ id, error: line(error), expected: error instanceof PageError });
    }
  });
});

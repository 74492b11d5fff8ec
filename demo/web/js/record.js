// A record of this device, as tinyclip_edge/evaluation/device_record.py reads it.
import { replay } from "./golden.js";
import { bytesOf } from "./manifest.js";

const CAPTIONS = ["a photo of a cat", "a red bicycle", "two people on a beach", "an open book"];
const SIDE = 256; // pixels of the picture that is timed
const WARM_UP = 3;
const LEAST_ROUNDS = 3;
const CLOCK_MS = 3000; // a slow device is timed over fewer rounds
const GIGABYTE_MB = 1073.741824;

/** Open a model by `open()`, time it and replay its golden vectors; return an entry of `precisions`. */
export async function measure(open, { rounds = 50 } = {}) {
  const started = performance.now();
  const clip = await open();
  try {
    const texts = captions(clip);
    await texts(0);
    const cold = performance.now() - started;
    const picture = noise();
    const image = await timed(() => clip.encodeImage(picture), rounds);
    const text = await timed(texts, rounds);
    const golden = await replay(clip, { rounds: 0 });
    return {
      precision: clip.precision,
      device: clip.backend,
      bytes: bytesOf(clip.manifest, clip.precision),
      rounds: Math.min(image.length, text.length),
      cold_start_ms: rounded(cold),
      image: summary(image),
      text: summary(text),
      images_per_second: null,
      text_mb: null,
      peak_mb: null,
      energy: null,
      golden: {
        passed: golden.failures.length === 0,
        image_cosine: cosine(golden.image),
        text_cosine: cosine(golden.text),
        same_ids: golden.sameIds,
        same_pixels: golden.samePixels,
      },
    };
  } finally {
    await clip.release();
  }
}

/** Return the record of these entries. */
export async function recordOf({ manifest, host, threads, version }, precisions) {
  const { parameters } = manifest;
  return {
    format: "tinyclip-edge-device-record",
    format_version: 1,
    created_by: "tinyclip-edge in the browser",
    date: new Date().toISOString().slice(0, 10),
    device: await deviceFacts(host),
    software: { runtime: "onnxruntime-web", version, interpreter: browserName() },
    model: {
      sha256: manifest.model_hash,
      image_parameters: parameters.image,
      text_parameters: parameters.text,
      token_parameters: parameters.token_embedding,
      image_size: manifest.image_size,
      context_length: manifest.context_length,
      embedding_dim: manifest.embedding_dim,
    },
    threads,
    precisions,
  };
}

/** Return a function that embeds the i-th caption, or a golden text if there is no tokenizer. */
function captions(clip) {
  const { texts } = clip.manifest.golden;
  if (!clip.tokenizer) return (i) => clip.encodeIds([texts[i % texts.length].input_ids]);
  return (i) => clip.encodeText([CAPTIONS[i % CAPTIONS.length]]);
}

function noise() {
  const data = new Uint8ClampedArray(4 * SIDE * SIDE);
  let state = 1;
  for (let i = 0; i < data.length; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    data[i] = i % 4 === 3 ? 255 : state >>> 24;
  }
  return { data, width: SIDE, height: SIDE };
}

async function timed(call, rounds) {
  for (let i = 0; i < WARM_UP; i++) await call(i);
  const times = [];
  const end = performance.now() + CLOCK_MS;
  while (times.length < LEAST_ROUNDS || (times.length < rounds && performance.now() < end)) {
    const started = performance.now();
    await call(times.length);
    // Browser clocks are coarse: a quick call may seem to take no time.
    times.push(Math.max(performance.now() - started, 0.001));
  }
  return times.sort((a, b) => a - b);
}

function summary(times) {
  return { p50_ms: rounded(at(times, 0.5)), p95_ms: rounded(at(times, 0.95)), least_ms: rounded(times[0]) };
}

/** Percentile of sorted numbers, as numpy interpolates it. */
function at(sorted, share) {
  const place = share * (sorted.length - 1);
  const below = Math.floor(place), above = Math.ceil(place);
  return sorted[below] + (place - below) * (sorted[above] - sorted[below]);
}

const rounded = (value) => Number(value.toPrecision(4));
const cosine = (value) => (Number.isFinite(value) ? Number(value.toFixed(7)) : 0);

async function deviceFacts(host) {
  const agent = navigator.userAgentData;
  let model = null, architecture = null;
  try {
    // The model of a phone, but nothing that tells two phones of one model apart.
    ({ model, architecture } = await agent.getHighEntropyValues(["model", "architecture"]));
  } catch {
    // Not in this browser.
  }
  return {
    kind: "browser",
    model: publicText(model),
    processor: null,
    architecture: architecture?.replace(/\W/g, "") || null,
    system: publicText(agent?.platform) ?? systemName(navigator.userAgent),
    cores: host.cores,
    memory_mb: navigator.deviceMemory ? Math.round(navigator.deviceMemory * GIGABYTE_MB) : null,
    flags: [host.simd && "simd128", host.isolated && "threads", host.gpu && "webgpu"].filter(Boolean),
  };
}

function browserName() {
  const brands = navigator.userAgentData?.brands ?? [];
  // Browsers add a made-up brand so that pages do not rely on the list.
  const brand = brands.filter(({ brand }) => !/not.*brand/i.test(brand)).at(-1);
  if (brand) return publicText(`${brand.brand} ${brand.version}`);
  const [, name, version] = navigator.userAgent.match(/(Firefox|Edg|Chrome|Version)\/(\d+)/) ?? [];
  return name ? `${name === "Version" ? "Safari" : name} ${version}` : "browser";
}

const systemName = (agent) =>
  agent.match(/Android|iPhone|iPad|Windows|Mac OS|Linux/)?.[0].replace("Mac OS", "macOS") ?? "unknown";

const publicText = (text) =>
  text?.replace(/[^\p{L}\p{N}_ ()@.,:+&'®™-]|\s+/gu, " ").trim().slice(0, 100) || null;

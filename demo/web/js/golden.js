// The self-test: does this browser give the same results as the machine that exported the bundle?
import { dot } from "./clip.js";
import { decodeBlob } from "./decode.js";
import { PageError } from "./errors.js";
import { canHash, fromBase64, sha256 } from "./source.js";

// In integer kernels the last bit of a float can move an activation to the next of its 255 steps;
// a GPU computes fp16 in half precision, a CPU does not. The manifest lists the exceptions.
const LEAST_OTHER = 0.999;
const CLOCK_MS = 1000; // a slow backend is timed over fewer rounds

/** Smallest allowed cosine between a result and the golden one. */
export function leastCosine({ manifest, precision, backend, wholePictures }) {
  const halves = backend === "webgpu" && precision === "fp16";
  // Another resizing kernel changes one pixel in several thousand by one level.
  return halves || wholePictures ? LEAST_OTHER : (manifest.golden.least_cosine?.[precision] ?? LEAST_OTHER);
}

/**
 * Run the golden inputs through the model, `rounds` times for timing; return the results. `decode`
 * turns a PNG's bytes into {data, width, height} where there is no canvas.
 */
export async function replay(clip, { rounds = 5, decode = decodePng } = {}) {
  const golden = await readGolden(clip.manifest, clip.precision, decode);
  const images = await timed(golden.images, rounds, async (image) => (await clip.encodeImage(image)).embedding);
  const texts = await timed(golden.ids, rounds, async (ids) => (await clip.encodeIds([ids]))[0]);
  const row = {
    precision: clip.precision,
    backend: clip.backend,
    pixels: clip.wholePictures ? "model" : "page",
    image: least(images.found, golden.image),
    text: least(texts.found, golden.text),
    least: leastCosine(clip),
    imageMs: images.ms,
    textMs: texts.ms,
    sameIds: clip.tokenizer ? golden.texts.every((text, i) => equal(clip.tokenIds(text), golden.ids[i])) : null,
    samePixels: await samePixels(clip, golden),
  };
  return { ...row, failures: failuresOf(row) };
}

function failuresOf(row) {
  const found = row.sameIds === false ? ["texts give different token ids"] : [];
  for (const name of ["image", "text"]) {
    if (!(row[name] >= row.least)) found.push(`${name} cosine ${row[name].toFixed(5)} is below ${row.least}`);
  }
  return found;
}

async function samePixels(clip, golden) {
  if (clip.wholePictures || !canHash()) return null;
  const hashes = await Promise.all(
    golden.images.map((image) => sha256(new Uint8Array(clip.preprocess.floats(image).buffer))),
  );
  return hashes.every((hash, i) => hash === golden.hashes[i]);
}

const decodePng = (bytes, name) => decodeBlob(new Blob([bytes], { type: "image/png" }), name);

async function readGolden(manifest, precision, decode) {
  const { images, texts, embeddings } = manifest.golden;
  const none = new PageError(`this bundle has no golden vectors for ${precision}; export it again`);
  if (!images?.length || !texts?.length || !embeddings?.[precision]) throw none;
  const width = manifest.embedding_dim;
  let read;
  try {
    read = {
      images: await Promise.all(
        images.map(({ png }) => decode(fromBase64(png), "a golden picture")),
      ),
      hashes: images.map((entry) => entry.pixels_sha256),
      texts: texts.map((entry) => entry.text),
      ids: texts.map((entry) => entry.input_ids),
      image: rowsOf(embeddings[precision].image, width),
      text: rowsOf(embeddings[precision].text, width),
    };
  } catch (error) {
    throw error instanceof PageError ? error : none;
  }
  if (read.image.length !== images.length || read.text.length !== texts.length) {
    throw new PageError(`golden vectors for ${precision} do not have ${width} dimensions; export the bundle again`);
  }
  return read;
}

function rowsOf(base64, width) {
  const values = new Float32Array(fromBase64(base64).buffer);
  return Array.from({ length: values.length / width }, (_, i) => values.subarray(i * width, (i + 1) * width));
}

function least(found, golden) {
  // Comparisons with NaN are always false, so a minimum would hide it.
  const cosines = found.map((row, i) => dot(row, golden[i]));
  return cosines.some(Number.isNaN) ? NaN : Math.min(...cosines);
}

function equal(a, b) {
  return a.length === b.length && a.every((value, i) => value === b[i]);
}

async function timed(items, rounds, encode) {
  const found = [];
  for (const item of items) found.push(await encode(item));
  const times = [];
  const end = performance.now() + CLOCK_MS;
  for (let round = 0; round < rounds && performance.now() < end; round++) {
    for (const item of items) {
      const started = performance.now();
      await encode(item);
      times.push(performance.now() - started);
    }
  }
  times.sort((a, b) => a - b);
  return { found, ms: times.length ? (times[(times.length - 1) >> 1] + times[times.length >> 1]) / 2 : null };
}

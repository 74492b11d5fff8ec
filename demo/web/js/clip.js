// EdgeClip: a bundle as image encoder, text encoder and classifier, like EdgeCLIP in Python.
import { decisionOf } from "./confidence.js";
import { Familiarity } from "./familiarity.js";
import { pixelTower } from "./manifest.js";
import { Preprocess } from "./preprocess.js";
import { readChecked } from "./source.js";
import { ClipTokenizer } from "./tokenizer.js";
import { Tower } from "./tower.js";
import { PageError } from "./errors.js";

const TEXT_BATCH = 64;

export class EdgeClip {
  /**
   * Open both towers of one precision. `pixels`: "page" resizes here, as Pillow does; "model" passes
   * the whole picture to the bundle's uint8 tower. `progress(name, bytes, of)` is called while files
   * load.
   */
  static async open({ source, manifest, precision, ort, backend, pixels = "page", progress }) {
    const clip = new EdgeClip(manifest, precision, backend);
    const read = (name) =>
      readChecked(source, manifest, name, (bytes) => progress?.(name, bytes, manifest.files[name].bytes));
    clip.preprocess = new Preprocess(JSON.parse(new TextDecoder().decode(await read("preprocessor_config.json"))));
    const settings = await read("tokenizer.json");
    try {
      clip.tokenizer = new ClipTokenizer(settings, manifest);
    } catch (error) {
      if (!(error instanceof PageError)) throw error;
      // Pictures can still be encoded, and the self-test brings its own token ids.
      clip.noTokenizer = error;
    }
    const whole = pixels === "model" ? pixelTower(manifest, precision) : null;
    const batch = manifest.inputs.batch ?? null;
    const image = whole ?? manifest.towers.image[precision];
    const open = async (name, facts) => Tower.open(ort, backend, await read(name), { name, ...facts });
    clip.wholePictures = whole !== null;
    clip.image = whole
      ? await open(image, { input: "image", output: "image_embeds" })
      : await open(image, { input: "pixel_values", output: "image_embeds", batch });
    try {
      clip.text = await open(manifest.towers.text[precision], { input: "input_ids", output: "text_embeds", batch });
    } catch (error) {
      await clip.image.release();
      throw error;
    }
    return clip;
  }

  constructor(manifest, precision, backend) {
    this.manifest = manifest;
    this.precision = precision;
    this.backend = backend;
    this.familiarity = Familiarity.of(manifest, precision);
  }

  /** Embed a picture {data, width, height}; returns {embedding, pixels, preprocess, encode} with ms. */
  async encodeImage(picture) {
    const started = performance.now();
    const input = this.wholePictures ? rgbOf(picture) : this.preprocess.floats(picture);
    const ready = performance.now();
    const { height, width } = this.preprocess;
    const [embedding] = this.wholePictures
      ? await this.image.run(new this.image.ort.Tensor("uint8", input, [picture.height, picture.width, 3]))
      : await this.image.rows("float32", input, 1, [3, height, width]);
    return {
      embedding,
      pixels: this.wholePictures ? null : input,
      preprocess: ready - started,
      encode: performance.now() - ready,
    };
  }

  /** Whether the picture is like those of the training; null if the bundle or the tower cannot tell. */
  knows({ embedding, pixels }) {
    const { height, width } = this.preprocess;
    return pixels && this.familiarity ? this.familiarity.knows(embedding, pixels, height, width) : null;
  }

  /** Token ids for the text tower; throw PageError for an unsupported tokenizer. */
  tokenIds(text) {
    if (!this.tokenizer) throw this.noTokenizer;
    return this.padded(this.tokenizer.encode(text));
  }

  padded(ids) {
    const { padding, pad_id: pad } = this.manifest.inputs;
    if (padding !== "max_length") return ids;
    return [...ids, ...Array(this.manifest.context_length - ids.length).fill(pad ?? 0)];
  }

  /** Embed texts; texts of equal length share a batch and none is padded, as in Python. */
  async encodeText(texts) {
    return this.encodeIds(texts.map((text) => this.tokenIds(text)));
  }

  async encodeIds(tokens) {
    const lengths = new Map();
    tokens.forEach((ids, i) => lengths.set(ids.length, [...(lengths.get(ids.length) ?? []), i]));
    const found = Array(tokens.length);
    const step = this.manifest.inputs.batch ?? TEXT_BATCH;
    for (const [length, places] of lengths) {
      for (let start = 0; start < places.length; start += step) {
        const part = places.slice(start, start + step);
        const ids = BigInt64Array.from(part.flatMap((place) => tokens[place]), BigInt);
        const rows = await this.text.rows("int64", ids, part.length, [length]);
        part.forEach((place, i) => (found[place] = rows[i]));
      }
    }
    return found;
  }

  /**
   * Return a warning about truncated prompts, or null; throw PageError for two labels whose prompts
   * have the same tokens, as in Python.
   */
  promptNote(labels, templates) {
    const context = this.manifest.context_length;
    const seen = new Map();
    const cut = [];
    for (const label of labels) {
      const prompts = fill(label, templates);
      cut.push(...prompts.filter((prompt) => !this.tokenizer?.fits(prompt)));
      const key = JSON.stringify(prompts.map((prompt) => this.tokenIds(prompt)));
      const other = seen.get(key);
      if (other !== undefined) {
        const why = [...fill(other, templates), ...prompts].every((prompt) => this.tokenizer.fits(prompt))
          ? "become the same tokens; reword or remove one"
          : `are the same after truncation to the model's ${context} tokens; shorten the labels or the templates`;
        throw new PageError(`labels ${short(other)} and ${short(label)} ${why}`);
      }
      seen.set(key, label);
    }
    if (!cut.length) return null;
    const all = labels.length * templates.length;
    return `${cut.length.toLocaleString("en")} of ${all.toLocaleString("en")} prompts are longer than the model's ${context} tokens and are truncated: ${short(cut[0])}`;
  }

  /** Mean embedding of each label in every template, unit norm. */
  async classFeatures(labels, templates) {
    const prompts = labels.flatMap((label) => fill(label, templates));
    const rows = await this.encodeText(prompts);
    return labels.map((_, i) => meanUnit(rows.slice(i * templates.length, (i + 1) * templates.length)));
  }

  /** The temperature and the threshold below which a picture counts as none of these labels. */
  decision(labels, templates) {
    return decisionOf(this.manifest, this.precision, labels, templates);
  }

  /** Class probabilities: softmax, or independent sigmoids if the model was trained with them. */
  probabilities(embedding, classes, temperature = 1) {
    const { logit_scale: scale, logit_bias: bias } = this.manifest;
    const logits = classes.map((row) => (scale * dot(row, embedding)) / temperature);
    if (bias != null) return logits.map((logit) => 0.5 + 0.5 * Math.tanh((logit + bias / temperature) / 2));
    const most = Math.max(...logits);
    const weights = logits.map((logit) => Math.exp(logit - most));
    const sum = weights.reduce((a, b) => a + b, 0);
    return weights.map((weight) => weight / sum);
  }

  async release() {
    await this.image.release();
    await this.text.release();
  }
}

const fill = (label, templates) => templates.map((template) => template.replaceAll("{}", () => label));

const short = (text) => `"${text.length > 60 ? `${text.slice(0, 60)}…` : text}"`;

export function dot(a, b) {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i] * b[i];
  return sum;
}

function meanUnit(rows) {
  const mean = Float64Array.from(rows[0], (_, i) => rows.reduce((sum, row) => sum + row[i], 0) / rows.length);
  const norm = Math.hypot(...mean);
  return Float32Array.from(mean, (value) => value / norm);
}

function rgbOf({ data, width, height }) {
  const rgb = new Uint8Array(3 * width * height);
  for (let from = 0, to = 0; to < rgb.length; from += 4) {
    rgb[to++] = data[from];
    rgb[to++] = data[from + 1];
    rgb[to++] = data[from + 2];
  }
  return rgb;
}

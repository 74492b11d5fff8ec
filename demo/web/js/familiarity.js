// Whether a picture is like those of the training, as in tinyclip_edge/runtime/familiarity.py.
import { PageError } from "./errors.js";
import { fromBase64 } from "./source.js";

const FLAT = 0.03, SCALES = 3, LOOKS = 7;

export class Familiarity {
  /** Read the entry of a precision; null if the bundle has none; throw PageError if it is broken. */
  static of({ familiarity: entry, embedding_dim: width, name }, precision) {
    if (!Object.keys(entry ?? {}).length) return null;
    try {
      const own = entry.precisions[precision];
      return new Familiarity(
        new Distance(entry.embedding, own.quantiles, width),
        new Distance(entry.looks, entry.looks.quantiles, LOOKS),
        own.threshold,
      );
    } catch {
      throw new PageError(`bundle ${name}: familiarity of ${precision} is broken; export it again`);
    }
  }

  constructor(embedding, look, threshold) {
    Object.assign(this, { embedding, look, threshold });
  }

  /** Judge a picture by its embedding and its preprocessed pixels, three planes. */
  knows(embedding, pixels, height, width) {
    const look = this.look.rarity(looks(pixels, height, width));
    return Math.max(this.embedding.rarity(embedding), look) >= this.threshold;
  }
}

/** Squared distance from a mean along whitened directions, and how rare it is. */
class Distance {
  constructor({ mean, directions, scales }, quantiles, width) {
    this.mean = new Float32Array(fromBase64(mean).buffer);
    this.directions = new Int8Array(fromBase64(directions).buffer);
    this.scales = scales;
    this.quantiles = Float32Array.from(quantiles).sort();
    if (this.mean.length !== width || this.directions.length !== width * scales.length || !quantiles.length) {
      throw new RangeError("sizes");
    }
  }

  /** The share of familiar pictures that are at least as far away, as a p-value. */
  rarity(row) {
    const width = this.mean.length;
    let distance = 0;
    for (let i = 0; i < this.scales.length; i++) {
      let along = 0;
      for (let j = 0; j < width; j++) along += (row[j] - this.mean[j]) * this.directions[i * width + j];
      distance += (along * this.scales[i]) ** 2;
    }
    const count = this.quantiles.length;
    const nearer = this.quantiles.filter((value) => value < distance).length;
    return (1 + count - nearer) / (1 + count);
  }
}

/** Mean of the border by channel, share of flat area, logarithm of the detail at three sizes. */
export function looks(pixels, height, width) {
  const found = [];
  for (let channel = 0; channel < 3; channel++) {
    const at = (y, x) => pixels[(channel * height + y) * width + x];
    let sum = 0;
    for (let x = 0; x < width; x++) sum += at(0, x) + at(height - 1, x);
    for (let y = 0; y < height; y++) sum += at(y, 0) + at(y, width - 1);
    found.push(sum / (2 * (height + width)));
  }
  found.push(flatShare(pixels, height, width));
  let level = { pixels, height, width };
  for (let scale = 0; scale < SCALES; scale++) {
    found.push(Math.log(1e-3 + meanStep(level, 1, 0) + meanStep(level, 0, 1)));
    level = halved(level);
  }
  return found;
}

function flatShare(pixels, height, width) {
  const plane = height * width;
  let flat = 0;
  for (let y = 0; y < height; y++) {
    for (let i = y * width; i < (y + 1) * width - 1; i++) {
      let step = 0;
      for (let from = i; from < 3 * plane; from += plane) step += Math.abs(pixels[from + 1] - pixels[from]);
      if (step / 3 < FLAT) flat++;
    }
  }
  return flat / (height * (width - 1));
}

function meanStep({ pixels, height, width }, down, right) {
  let sum = 0;
  for (let channel = 0; channel < 3; channel++) {
    for (let y = 0; y < height - down; y++) {
      for (let x = 0; x < width - right; x++) {
        const i = (channel * height + y) * width + x;
        sum += Math.abs(pixels[i + down * width + right] - pixels[i]);
      }
    }
  }
  return sum / (3 * (height - down) * (width - right));
}

function halved({ pixels, height, width }) {
  const [rows, columns] = [height >> 1, width >> 1];
  const half = new Float32Array(3 * rows * columns);
  for (let channel = 0; channel < 3; channel++) {
    for (let y = 0; y < rows; y++) {
      for (let x = 0; x < columns; x++) {
        const i = (channel * height + 2 * y) * width + 2 * x;
        const sum = pixels[i] + pixels[i + 1] + pixels[i + width] + pixels[i + width + 1];
        half[(channel * rows + y) * columns + x] = sum / 4;
      }
    }
  }
  return { pixels: half, height: rows, width: columns };
}

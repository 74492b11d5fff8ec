// Picture to model input: the steps of tinyclip_edge/runtime/preprocess.py.
import { PageError } from "./errors.js";
import { resizeRGB } from "./resize.js";

const HF_FILTERS = { 2: "bilinear", 3: "bicubic" };
export const MAX_PIXELS = 89478485;

/** Resize, crop and normalise; `pixels` is {data: RGBA bytes, width, height}. */
export class Preprocess {
  constructor(config) {
    const { size } = config;
    let target = config.do_center_crop ?? true ? config.crop_size : size;
    if (typeof target === "number") target = { height: target, width: target };
    const short = typeof size === "number" || size?.shortest_edge !== undefined;
    this.height = target?.shortest_edge ?? target?.height;
    this.width = target?.shortest_edge ?? target?.width;
    this.mean = config.image_mean;
    this.std = config.image_std;
    this.filter = HF_FILTERS[config.resample ?? 3];
    this.mode = config.resize_mode || (short ? "shortest" : "squash");
    this.fill = config.fill_color || 0;
    this.#check();
    const levels = Float32Array.from({ length: 256 }, (_, i) => Math.fround(i / 255));
    this.tables = this.mean.map((mean, c) =>
      levels.map((level) => Math.fround(Math.fround(level - Math.fround(mean)) / Math.fround(this.std[c]))),
    );
  }

  #check() {
    const three = (list) => Array.isArray(list) && list.length === 3 && list.every(Number.isFinite);
    const problem =
      !(this.height >= 1 && this.width >= 1) ? "no size"
      : !this.filter ? "a resample that is neither 2 (bilinear) nor 3 (bicubic)"
      : !["shortest", "longest", "squash"].includes(this.mode) ? `resize_mode "${this.mode}"`
      : !three(this.mean) || !three(this.std) || this.std.includes(0) ? "no mean and std of three numbers"
      : null;
    if (problem) throw new PageError(`preprocessor_config.json has ${problem}; export the bundle again`);
  }

  /** Return RGB bytes [height, width, 3]. */
  bytes({ data, width, height }) {
    const [wide, high] = this.#resized(width, height);
    if (wide * high > MAX_PIXELS) throw new PageError(`the picture is too long and thin: ${width}x${height} pixels`);
    const oblong = this.mode === "shortest" && this.width !== this.height;
    const rgb = resizeRGB(data, width, height, wide, high, oblong ? "bicubic" : this.filter);
    return centre(rgb, wide, high, this.width, this.height, this.fill);
  }

  /** Return float32 [3, height, width]. */
  floats(pixels) {
    const rgb = this.bytes(pixels);
    const plane = this.width * this.height;
    const out = new Float32Array(3 * plane);
    for (let channel = 0; channel < 3; channel++) {
      const table = this.tables[channel];
      for (let i = 0; i < plane; i++) out[channel * plane + i] = table[rgb[3 * i + channel]];
    }
    return out;
  }

  #resized(width, height) {
    if (this.mode === "squash") return [this.width, this.height];
    if (this.mode === "shortest" && this.width === this.height) {
      const long = Math.trunc((this.width * Math.max(width, height)) / Math.min(width, height));
      return width <= height ? [this.width, long] : [long, this.width];
    }
    const ratios = [height / this.height, width / this.width];
    const ratio = this.mode === "longest" ? Math.max(...ratios) : Math.min(...ratios);
    return [width, height].map((edge) => Math.max(1, halfToEven(edge / ratio)));
  }
}

/** Round as Python and open_clip's crop do. */
export function halfToEven(value) {
  const low = Math.floor(value), rest = value - low;
  return rest < 0.5 || (rest === 0.5 && low % 2 === 0) ? low : low + 1;
}

function centre(rgb, width, height, toWidth, toHeight, fill) {
  const padX = Math.max(toWidth - width, 0), padY = Math.max(toHeight - height, 0);
  const left = halfToEven((width + padX - toWidth) / 2) - Math.floor(padX / 2);
  const top = halfToEven((height + padY - toHeight) / 2) - Math.floor(padY / 2);
  const out = new Uint8ClampedArray(3 * toWidth * toHeight).fill(fill);
  for (let y = 0; y < toHeight; y++) {
    const from = y + top;
    if (from < 0 || from >= height) continue;
    const start = Math.max(left, 0), end = Math.min(left + toWidth, width);
    out.set(rgb.subarray(3 * (from * width + start), 3 * (from * width + end)), 3 * (y * toWidth + start - left));
  }
  return out;
}

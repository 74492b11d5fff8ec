// Pillow's resize of 8-bit pictures: two passes with fixed-point coefficients, so that the bytes
// equal Pillow's. A canvas would give different ones.
const BITS = 22; // 32 minus 8 for a byte and 2 for sums above it
const FILTERS = {
  bilinear: { support: 1, at: (x) => Math.max(0, 1 - Math.abs(x)) },
  bicubic: { support: 2, at: cubic },
};

function cubic(x) {
  const a = -0.5, t = Math.abs(x);
  if (t < 1) return ((a + 2) * t - (a + 3)) * t * t + 1;
  return t < 2 ? (((t - 5) * t + 8) * t - 4) * a : 0;
}

/** Resize RGBA bytes of width x height; returns RGB bytes of toWidth x toHeight. */
export function resizeRGB(rgba, width, height, toWidth, toHeight, filter) {
  const wider = (rgb, rows) =>
    toWidth === width ? rgb : across(rgb, width, rows, weights(width, toWidth, filter));
  const lower = (rgb, columns) =>
    toHeight === height ? rgb : down(rgb, columns, weights(height, toHeight, filter));
  const rgb = dropAlpha(rgba, width * height);
  // Columns first only where Pillow does the same: in pictures over a hundred times as high as wide.
  const thin = height > 100 * width && toHeight < height;
  return thin ? wider(lower(rgb, width), toHeight) : lower(wider(rgb, height), toWidth);
}

function dropAlpha(rgba, count) {
  const rgb = new Uint8ClampedArray(3 * count);
  for (let i = 0, to = 0, from = 0; i < count; i++, from += 4) {
    rgb[to++] = rgba[from];
    rgb[to++] = rgba[from + 1];
    rgb[to++] = rgba[from + 2];
  }
  return rgb;
}

/** For each output pixel: the first input pixel, the number of them, and integer coefficients. */
function weights(size, toSize, filter) {
  const { support, at } = FILTERS[filter];
  const scale = size / toSize;
  const stretch = Math.max(scale, 1);
  const reach = support * stretch;
  const most = 2 * Math.ceil(reach) + 1;
  const first = new Int32Array(toSize), count = new Int32Array(toSize);
  const factors = new Int32Array(toSize * most);
  const row = new Float64Array(most);
  for (let to = 0; to < toSize; to++) {
    const centre = (to + 0.5) * scale;
    const start = Math.max(0, Math.trunc(centre - reach + 0.5));
    const length = Math.min(size, Math.trunc(centre + reach + 0.5)) - start;
    let sum = 0;
    for (let i = 0; i < length; i++) sum += row[i] = at((i + start - centre + 0.5) * (1 / stretch));
    for (let i = 0; i < length; i++) {
      const value = (sum === 0 ? row[i] : row[i] / sum) * (1 << BITS);
      factors[to * most + i] = Math.trunc(value + (value < 0 ? -0.5 : 0.5));
    }
    first[to] = start;
    count[to] = length;
  }
  return { first, count, factors, most, size: toSize };
}

function across(rgb, width, height, { first, count, factors, most, size }) {
  const out = new Uint8ClampedArray(3 * size * height);
  const half = 1 << (BITS - 1);
  for (let y = 0, to = 0; y < height; y++) {
    for (let x = 0; x < size; x++) {
      let from = 3 * (y * width + first[x]);
      let red = half, green = half, blue = half;
      for (let i = x * most, end = i + count[x]; i < end; i++, from += 3) {
        const factor = factors[i];
        red += rgb[from] * factor;
        green += rgb[from + 1] * factor;
        blue += rgb[from + 2] * factor;
      }
      // The array clamps to 0 … 255.
      out[to++] = red >> BITS;
      out[to++] = green >> BITS;
      out[to++] = blue >> BITS;
    }
  }
  return out;
}

function down(rgb, width, { first, count, factors, most, size }) {
  const stride = 3 * width;
  const out = new Uint8ClampedArray(stride * size);
  const sums = new Float64Array(stride);
  for (let y = 0; y < size; y++) {
    sums.fill(1 << (BITS - 1));
    for (let i = 0; i < count[y]; i++) {
      const factor = factors[y * most + i];
      const from = (first[y] + i) * stride;
      for (let x = 0; x < stride; x++) sums[x] += rgb[from + x] * factor;
    }
    for (let x = 0; x < stride; x++) out[y * stride + x] = sums[x] >> BITS;
  }
  return out;
}

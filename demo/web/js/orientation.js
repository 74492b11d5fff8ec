// EXIF orientation of WebP files: browsers rotate JPEG, PNG and AVIF themselves, but not WebP.
const ORIENTATION = 0x0112;

/** Return the EXIF orientation, 1 to 8, of a WebP file; 1 for other files and damaged metadata. */
export function webpOrientation(buffer) {
  const view = new DataView(buffer);
  try {
    if (text(view, 0) !== "RIFF" || text(view, 8) !== "WEBP") return 1;
    for (let at = 12; at + 8 <= view.byteLength; ) {
      const size = view.getUint32(at + 4, true);
      if (text(view, at) === "EXIF") return tiffOrientation(new DataView(buffer, at + 8, size));
      at += 8 + size + (size % 2);
    }
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
  }
  return 1;
}

/** Canvas transformation that draws a bitmap of this size and orientation upright. */
export function turned(orientation, width, height) {
  return [
    [1, 0, 0, 1, 0, 0],
    [-1, 0, 0, 1, width, 0],
    [-1, 0, 0, -1, width, height],
    [1, 0, 0, -1, 0, height],
    [0, 1, 1, 0, 0, 0],
    [0, 1, -1, 0, height, 0],
    [0, -1, -1, 0, height, width],
    [0, -1, 1, 0, 0, width],
  ][orientation - 1];
}

function tiffOrientation(view) {
  const start = text(view, 0) === "Exif" ? 6 : 0;
  const little = view.getUint16(start) === 0x4949;
  const directory = start + view.getUint32(start + 4, little);
  const entries = view.getUint16(directory, little);
  for (let i = 0; i < entries; i++) {
    const entry = directory + 2 + 12 * i;
    if (view.getUint16(entry, little) === ORIENTATION) {
      const found = view.getUint16(entry + 8, little);
      return found >= 1 && found <= 8 ? found : 1;
    }
  }
  return 1;
}

function text(view, at) {
  return String.fromCharCode(...[0, 1, 2, 3].map((i) => view.getUint8(at + i)));
}

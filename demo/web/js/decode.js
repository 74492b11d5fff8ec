// Decodes files and camera frames to RGBA bytes, as the browser shows them: upright, transparency on white.
import { PageError } from "./errors.js";
import { turned, webpOrientation } from "./orientation.js";
import { MAX_PIXELS } from "./preprocess.js";

export const MAX_BYTES = 64 * 1024 * 1024;
let canvas = null;

/** Decode a Blob; throw PageError if it is not a picture. Messages call it `name`. */
export async function decodeBlob(blob, name) {
  if (blob.size === 0) throw new PageError(`${name} is empty`);
  if (blob.size > MAX_BYTES) {
    throw new PageError(`${name} has ${Math.round(blob.size / 1e6)} MB; at most ${Math.round(MAX_BYTES / 1e6)} are opened`);
  }
  const declared = declaredSize(new DataView(await blob.slice(0, 32).arrayBuffer()));
  checkSize(name, ...declared);
  const isRiff = (await blob.slice(0, 4).text()) === "RIFF";
  const orientation = isRiff ? webpOrientation(await blob.arrayBuffer()) : 1;
  let bitmap;
  try {
    // Pillow ignores colour profiles too.
    const options = { colorSpaceConversion: "none" };
    if (orientation !== 1) options.imageOrientation = "none"; // otherwise it would be rotated twice
    bitmap = await createImageBitmap(blob, options);
  } catch {
    throw new PageError(`${name} is not a picture that this browser can read (PNG, JPEG, WebP, GIF, AVIF, BMP)`);
  }
  checkSize(name, bitmap.width, bitmap.height);
  return pixelsOf(bitmap, orientation);
}

/** Return {data: RGBA bytes, width, height} of an ImageBitmap rotated upright, and close it. */
export function pixelsOf(bitmap, orientation = 1) {
  const lying = orientation > 4;
  const [width, height] = lying ? [bitmap.height, bitmap.width] : [bitmap.width, bitmap.height];
  if (canvas?.width !== width || canvas?.height !== height) canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true, alpha: false });
  context.fillStyle = "#fff";
  context.fillRect(0, 0, width, height);
  context.setTransform(...turned(orientation, bitmap.width, bitmap.height));
  context.drawImage(bitmap, 0, 0);
  context.resetTransform();
  bitmap.close();
  return { data: context.getImageData(0, 0, width, height).data, width, height };
}

/** Width and height in the header of a PNG or GIF, before anything is decoded; zeros otherwise. */
function declaredSize(head) {
  if (head.byteLength < 24) return [0, 0];
  if (head.getUint32(0) === 0x89504e47) return [head.getUint32(16), head.getUint32(20)];
  if (head.getUint32(0) === 0x47494638) return [head.getUint16(6, true), head.getUint16(8, true)];
  return [0, 0];
}

function checkSize(name, width, height) {
  if (width * height > MAX_PIXELS) {
    throw new PageError(`${name} has ${width}x${height} pixels; at most ${MAX_PIXELS.toLocaleString("en")} are opened`);
  }
}

// A bundle in a folder, for the modules of demo/web/js under Node.
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import * as ort from "onnxruntime-node";
import sharp from "sharp";
import { EdgeClip } from "../web/js/clip.js";
import { PageError } from "../web/js/errors.js";
import { readManifest } from "../web/js/manifest.js";
import { MAX_PIXELS } from "../web/js/preprocess.js";

/** Open one precision of a bundle, its default one if unset; throw PageError for a broken bundle. */
export async function openBundle(folder, { precision, device = "cpu" } = {}) {
  const source = folderSource(folder);
  const manifest = await readManifest(source);
  const name = precision ?? manifest.default_precision;
  if (!(name in manifest.towers.image && name in manifest.towers.text)) {
    throw new PageError(`${folder} has no precision ${name}; it has ${Object.keys(manifest.towers.image).join(", ")}`);
  }
  return EdgeClip.open({ source, manifest, precision: name, ort, backend: device });
}

/** Decode the bytes or the path of a file to {data: RGBA bytes, width, height}: upright, transparency on white. */
export async function decode(picture, name = String(picture)) {
  try {
    const upright = sharp(picture, { limitInputPixels: MAX_PIXELS }).rotate().flatten({ background: "#fff" });
    const { data, info } = await upright.toColourspace("srgb").ensureAlpha().raw().toBuffer({ resolveWithObject: true });
    return { data: new Uint8ClampedArray(data), width: info.width, height: info.height };
  } catch (error) {
    throw new PageError(`${name} cannot be decoded: ${error.message}`);
  }
}

function folderSource(folder) {
  return {
    noBundle: `${folder} is not a bundle: it has no manifest.json; "tinyclip-edge export" writes one`,
    async read(name, { missing } = {}) {
      try {
        return new Uint8Array(await readFile(join(folder, name)));
      } catch (error) {
        if (error.code === "ENOENT") throw new PageError(missing ?? `${name} is missing from ${folder}; copy it again`);
        throw new PageError(`${join(folder, name)} cannot be read: ${error.message}`);
      }
    },
  };
}

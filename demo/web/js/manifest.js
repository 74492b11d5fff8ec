// manifest.json of a bundle, checked as tinyclip_edge/runtime/bundle.py checks it.
import { PageError } from "./errors.js";

export const MANIFEST = "manifest.json";
const FORMAT = "tinyclip-edge-bundle";
const FORMAT_VERSION = 1;
const CONFIG_FILES = ["preprocessor_config.json", "tokenizer.json"];
const TYPES = {
  created_by: "string", name: "string", model_hash: "string", default_precision: "string",
  image_size: "number", embedding_dim: "number", context_length: "number",
  logit_scale: "number", eot_token_id: "number",
  source: "object", parameters: "object", towers: "object", files: "object",
};
const OPTIONAL = ["recipe", "verification", "golden", "extras", "inputs", "tokenizer"];

/** Read and check a bundle's manifest; throw PageError that names the key and the cure. */
export async function readManifest(source) {
  const bytes = await source.read(MANIFEST, { missing: source.noBundle });
  let content;
  try {
    content = JSON.parse(new TextDecoder().decode(bytes));
  } catch (error) {
    throw new PageError(`${MANIFEST} is not JSON: ${error.message}`);
  }
  check(content);
  for (const key of OPTIONAL) content[key] ??= {};
  return content;
}

/** Precisions that both towers have. */
export function precisions(manifest) {
  return Object.keys(manifest.towers.image).filter((name) => name in manifest.towers.text);
}

/** Relative path of the image tower that takes pictures of any size, if the bundle has one. */
export function pixelTower(manifest, precision) {
  return manifest.extras.uint8?.files?.[precision] ?? null;
}

/** Bytes of the files that one precision reads: both towers and two settings. */
export function bytesOf(manifest, precision, image = null) {
  const { towers, files } = manifest;
  const names = [image ?? towers.image[precision], towers.text[precision], ...CONFIG_FILES];
  return names.reduce((sum, name) => sum + (files[name]?.bytes ?? 0), 0);
}

function check(content) {
  if (kind(content) !== "object" || content.format !== FORMAT) {
    throw new PageError(`${MANIFEST} is no bundle's: "format" is not "${FORMAT}"`);
  }
  const version = content.format_version;
  if (!Number.isInteger(version) || version < 1) {
    throw new PageError(`${MANIFEST}: format_version ${JSON.stringify(version)} is no positive number`);
  }
  if (version > FORMAT_VERSION) {
    throw new PageError(
      `${MANIFEST}: format_version ${version} is newer than ${FORMAT_VERSION}, the newest this page ` +
        "reads; serve the page of a newer tinyclip-edge",
    );
  }
  for (const [key, wanted] of Object.entries(TYPES)) {
    if (!(key in content)) throw new PageError(`${MANIFEST}: key "${key}" is missing; export the bundle again`);
    checkType(key, content[key], wanted);
  }
  for (const key of OPTIONAL) if (key in content) checkType(key, content[key], "object");
  checkNumbers(content);
  checkFiles(content.files);
  checkTowers(content);
}

function kind(value) {
  if (value === null) return "null";
  return Array.isArray(value) ? "list" : typeof value;
}

function checkType(key, value, wanted) {
  if (kind(value) !== wanted) throw new PageError(`${MANIFEST}: ${key} must be ${wanted}, not ${kind(value)}`);
}

function checkNumbers(content) {
  for (const [key, least] of [["image_size", 1], ["embedding_dim", 1], ["context_length", 2]]) {
    if (!Number.isInteger(content[key]) || content[key] < least) {
      throw new PageError(`${MANIFEST}: ${key} ${content[key]} is no whole number from ${least}`);
    }
  }
  if (!(content.logit_scale > 0)) {
    throw new PageError(`${MANIFEST}: logit_scale ${content.logit_scale} is not a positive number`);
  }
  const { batch, padding, pad_id: pad } = content.inputs ?? {};
  if (batch != null && !(Number.isInteger(batch) && batch >= 1)) {
    throw new PageError(`${MANIFEST}: inputs.batch must be a number from 1`);
  }
  if (pad != null && !(Number.isInteger(pad) && pad >= 0)) {
    throw new PageError(`${MANIFEST}: inputs.pad_id must be a number from 0`);
  }
  if (padding != null && !["none", "max_length"].includes(padding)) {
    throw new PageError(`${MANIFEST}: inputs.padding must be none or max_length`);
  }
}

function checkFiles(files) {
  for (const [name, entry] of Object.entries(files)) {
    if (!name || /^[/\\]|\\|^[a-z]+:|\0/i.test(name) || name.split("/").includes("..")) {
      throw new PageError(`${MANIFEST}: file "${name}" lies outside the bundle; do not use this one`);
    }
    if (kind(entry) !== "object" || typeof entry.sha256 !== "string" || !Number.isInteger(entry.bytes)) {
      throw new PageError(`${MANIFEST}: files["${name}"] has no sha256 or no bytes`);
    }
  }
  for (const name of CONFIG_FILES) {
    if (!(name in files)) throw new PageError(`${MANIFEST}: ${name} is not among its files; export the bundle again`);
  }
}

function checkTowers(content) {
  for (const tower of ["image", "text"]) {
    const paths = content.towers[tower];
    if (kind(paths) !== "object" || Object.keys(paths).length === 0) {
      throw new PageError(`${MANIFEST}: the ${tower} tower is missing; export the bundle again`);
    }
    for (const [precision, name] of Object.entries(paths)) {
      if (!(name in content.files)) {
        throw new PageError(`${MANIFEST}: ${tower} tower ${precision} "${name}" is not in files`);
      }
    }
    if (!(content.default_precision in paths)) {
      throw new PageError(`${MANIFEST}: default_precision "${content.default_precision}" is not there for both towers`);
    }
  }
}

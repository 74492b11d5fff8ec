// manifest.json of a bundle, with the same checks as tinyclip_edge/runtime/bundle.py.
import { PageError } from "./errors.js";
import { CONFIG_FILES, FORMAT, FORMAT_VERSION, KEYS } from "./manifest_keys.js";

export const MANIFEST = "manifest.json";

/** Read and check a bundle's manifest; throw a PageError that names the key and what to do. */
export async function readManifest(source) {
  const bytes = await source.read(MANIFEST, { missing: source.noBundle });
  let content;
  try {
    content = JSON.parse(new TextDecoder().decode(bytes));
  } catch (error) {
    throw new PageError(`${MANIFEST} is not JSON: ${error.message}`);
  }
  check(content);
  for (const { key, kind } of KEYS) {
    if (kind === "an object" && !key.includes(".")) content[key] ??= {};
  }
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

/** Total bytes of the files for one precision: both towers and two settings files. */
export function bytesOf(manifest, precision, image = null) {
  const { towers, files } = manifest;
  const names = [image ?? towers.image[precision], towers.text[precision], ...CONFIG_FILES];
  return names.reduce((sum, name) => sum + (files[name]?.bytes ?? 0), 0);
}

function check(content) {
  if (kindOf(content) !== "an object" || content.format !== FORMAT) {
    throw new PageError(`${MANIFEST} is not a bundle's: "format" is not "${FORMAT}"`);
  }
  const version = content.format_version;
  if (!Number.isInteger(version) || version < 1) {
    throw new PageError(`${MANIFEST}: format_version ${JSON.stringify(version)} is not a positive number`);
  }
  if (version > FORMAT_VERSION) {
    throw new PageError(
      `${MANIFEST}: format_version ${version} is newer than ${FORMAT_VERSION}, the newest this page ` +
        "reads; serve the page of a newer tinyclip-edge",
    );
  }
  for (const rule of KEYS) {
    for (const [name, value] of valuesOf(content, rule.key.split("."))) checkValue(rule, name, value);
  }
  checkFiles(content.files);
  checkTowers(content);
}

/** [name, value] for each place that a dotted key matches; undefined for a missing value. */
function* valuesOf(part, keys, prefix = "") {
  if (keys.length === 0) {
    yield [prefix, part];
  } else if (kindOf(part) === "an object") {
    for (const key of keys[0] === "*" ? Object.keys(part) : [keys[0]]) {
      yield* valuesOf(part[key], keys.slice(1), prefix ? `${prefix}.${key}` : key);
    }
  }
}

function checkValue(rule, name, value) {
  const { kind, required = true, minimum = -Infinity, above = -Infinity, maximum = Infinity, choices } = rule;
  if (value === undefined || value === null) {
    if (required) throw new PageError(`${MANIFEST}: key "${name}" is missing; export the bundle again`);
    return;
  }
  const whole = kind === "a whole number";
  if (kindOf(value) !== (whole ? "a number" : kind) || (whole && !Number.isInteger(value))) {
    throw new PageError(`${MANIFEST}: ${name} must be ${kind}, not ${kindOf(value)}`);
  }
  if (choices && !choices.includes(value)) {
    throw new PageError(`${MANIFEST}: ${name} must be ${choices.join(" or ")}`);
  }
  if (kind.endsWith("number") && !(value >= minimum && value > above && value <= maximum)) {
    const start = above > -Infinity ? `above ${above}` : `from ${minimum}`;
    throw new PageError(`${MANIFEST}: ${name} ${value} is not ${kind} ${start} to ${maximum}`);
  }
}

function kindOf(value) {
  if (value === null) return "null";
  if (Array.isArray(value)) return "a list";
  const names = { string: "text", number: "a number", boolean: "true or false", object: "an object" };
  return names[typeof value] ?? typeof value;
}

function checkFiles(files) {
  for (const name of Object.keys(files)) {
    if (!name || /^[/\\]|\\|^[a-z]+:|\0/i.test(name) || name.split("/").includes("..")) {
      throw new PageError(`${MANIFEST}: file "${name}" is outside the bundle; do not use this bundle`);
    }
  }
  for (const name of CONFIG_FILES) {
    if (!(name in files)) throw new PageError(`${MANIFEST}: ${name} is missing from files; export the bundle again`);
  }
}

function checkTowers({ towers, files, default_precision: precision }) {
  for (const tower of ["image", "text"]) {
    for (const [name, path] of Object.entries(towers[tower])) {
      if (!(path in files)) throw new PageError(`${MANIFEST}: ${tower} tower ${name} "${path}" is not in files`);
    }
    if (!(precision in towers[tower])) {
      throw new PageError(`${MANIFEST}: default_precision "${precision}" does not exist for both towers`);
    }
  }
}

// Source of a bundle's files: an address on this host, or a folder that the user opened.
import { PageError } from "./errors.js";

/** Open a source: {address} of a folder, or {files} as {relative path: File}. */
export function openSource({ address, files }) {
  return files ? new FolderSource(files) : new AddressSource(address);
}

class AddressSource {
  constructor(address) {
    this.address = address.endsWith("/") ? address : `${address}/`;
    this.noBundle =
      `no bundle at ${this.address}: start the page with "tinyclip-edge demo --web BUNDLE", ` +
      "or open a bundle's folder below";
  }

  async read(name, { missing, progress } = {}) {
    const path = name.split("/").map(encodeURIComponent).join("/");
    let response;
    try {
      response = await fetch(this.address + path);
    } catch (error) {
      throw new PageError(`${name} cannot be fetched from ${this.address}: is the server still running?`);
    }
    if (response.status === 404) throw new PageError(missing ?? `${name} is missing from the bundle; copy it again`);
    if (!response.ok) throw new PageError(`${name}: the server answered ${response.status} ${response.statusText}`);
    return collect(response, progress);
  }
}

class FolderSource {
  constructor(files) {
    this.files = files;
    this.noBundle =
      'this folder is not a bundle: it has no manifest.json; "tinyclip-edge export" writes one';
  }

  async read(name, { missing, progress } = {}) {
    const file = this.files[name];
    if (!file) throw new PageError(missing ?? `${name} is missing from the folder; copy it again`);
    try {
      const bytes = new Uint8Array(await file.arrayBuffer());
      progress?.(bytes.length);
      return bytes;
    } catch (error) {
      throw new PageError(`${name} cannot be read: it changed after the folder was opened, open it again`);
    }
  }
}

async function collect(response, progress) {
  const parts = [];
  let total = 0;
  const reader = response.body.getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    parts.push(value);
    total += value.length;
    progress?.(total);
  }
  const bytes = new Uint8Array(total);
  let offset = 0;
  for (const part of parts) {
    bytes.set(part, offset);
    offset += part.length;
  }
  return bytes;
}

/** Read a file of the manifest and check its SHA-256; throw PageError if it has changed. */
export async function readChecked(source, manifest, name, progress) {
  const bytes = await source.read(name, { progress });
  const wanted = manifest.files[name].sha256;
  // Browsers hash only on pages from https or this machine; otherwise the facts say "not checked".
  if (!canHash()) return bytes;
  const found = await sha256(bytes);
  if (found !== wanted) {
    throw new PageError(
      `${name} has changed: sha256 ${found.slice(0, 12)}…, the manifest says ${wanted.slice(0, 12)}…; ` +
        "copy or export the bundle again",
    );
  }
  return bytes;
}

export const canHash = () => globalThis.crypto?.subtle !== undefined;

/** SHA-256 of bytes in hex. */
export async function sha256(bytes) {
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export const fromBase64 = (text) => Uint8Array.from(atob(text), (char) => char.charCodeAt(0));

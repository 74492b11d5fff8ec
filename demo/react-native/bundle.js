// A bundle's files on this device: downloaded once from an address, then read from the device.
import { CryptoDigestAlgorithm, digest } from "expo-crypto";
import { Directory, File, Paths } from "expo-file-system";
import { PageError } from "../web/js/errors.js";

// The shared modules check the hash of each file only if there is Web Crypto.
globalThis.crypto ??= {};
globalThis.crypto.subtle ??= { digest: (_, bytes) => digest(CryptoDigestAlgorithm.SHA256, bytes) };

/** A source for the shared modules: {read(name), forget()}. */
export function deviceSource(address) {
  const folder = new Directory(Paths.document, "bundle");
  const base = address.endsWith("/") ? address : `${address}/`;
  return {
    noBundle: `no bundle at ${base}: it has no manifest.json`,
    async read(name, { missing, progress } = {}) {
      const file = new File(folder, ...name.split("/"));
      if (!file.exists) await download(file, base + name.split("/").map(encodeURIComponent).join("/"), missing);
      const bytes = await file.bytes();
      progress?.(bytes.length);
      return bytes;
    },
    /** Delete the files, so that the next read downloads them. */
    forget() {
      if (folder.exists) folder.delete();
    },
  };
}

async function download(file, address, missing) {
  file.parentDirectory.create({ intermediates: true, idempotent: true });
  try {
    await File.downloadFileAsync(address, file);
  } catch (error) {
    if (file.exists) file.delete();
    throw new PageError(missing ?? `${address} cannot be downloaded: ${error.message}`);
  }
}

// onnxruntime-web: its location, and the backends of this browser.
import { PageError } from "./errors.js";

const MODULES = { wasm: "ort.wasm.min.mjs", webgpu: "ort.webgpu.min.mjs" };
const MOST_THREADS = 4; // more do not help with small batches
// (module (func (result v128) i32.const 0 i8x16.splat))
const SIMD_MODULE = Uint8Array.of(
  0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 8, 1, 6, 0, 65, 0, 253, 15, 11,
);

/** Capabilities of this browser: {simd, isolated, cores, threads, gpu: name or null}. */
export async function capabilities() {
  const cores = navigator.hardwareConcurrency ?? 1;
  const isolated = globalThis.crossOriginIsolated === true;
  return {
    simd: WebAssembly.validate(SIMD_MODULE),
    isolated,
    cores,
    threads: isolated ? Math.min(cores, MOST_THREADS) : 1,
    gpu: await gpuName(),
  };
}

async function gpuName() {
  try {
    const adapter = await navigator.gpu?.requestAdapter();
    if (!adapter) return null;
    const { description, vendor, architecture } = adapter.info ?? {};
    return description || [vendor, architecture].filter(Boolean).join(" ") || "GPU";
  } catch {
    return null;
  }
}

/** Load onnxruntime-web's module for a backend from `folder`; throw PageError if it is missing. */
export async function loadOrt(backend, folder, threads) {
  if (!WebAssembly.validate(SIMD_MODULE)) {
    throw new PageError("this browser has no WebAssembly SIMD, which onnxruntime-web needs; use a newer one");
  }
  let ort;
  try {
    ort = await import(new URL(MODULES[backend], folder));
  } catch (error) {
    throw new PageError(
      `onnxruntime-web is not at ${folder} (${MODULES[backend]}): copy the dist folder of the npm package ` +
        "onnxruntime-web there",
    );
  }
  // If unset, the .wasm files would be fetched from another host.
  ort.env.wasm.wasmPaths = String(folder);
  ort.env.wasm.numThreads = threads;
  ort.env.logLevel = "error";
  return ort;
}

// The page's side of the worker: calls as promises, events as callbacks.
import { PageError } from "./errors.js";

export class Engine {
  /** `on` maps events (progress, testing, tested) to callbacks. */
  constructor(on) {
    this.on = on;
    this.waiting = new Map();
    this.last = 0;
    this.worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
    this.worker.addEventListener("message", ({ data }) => this.#heard(data));
    this.worker.addEventListener("error", (event) => {
      event.preventDefault();
      this.#failAll(new PageError(`the page's worker stopped: ${event.message ?? "its script does not load"}`));
    });
  }

  /** Call a method of the worker; objects in `transfer` are moved there. */
  call(method, options, transfer = []) {
    const id = ++this.last;
    return new Promise((resolve, reject) => {
      this.waiting.set(id, { resolve, reject });
      this.worker.postMessage({ id, method, options }, transfer);
    });
  }

  close() {
    this.worker.terminate();
    this.#failAll(new Closed());
  }

  #heard({ id, result, error, event, ...more }) {
    if (event) return this.on[event]?.(more);
    const call = this.waiting.get(id);
    if (!call) return; // it was rejected when the worker failed
    this.waiting.delete(id);
    if (error === undefined) call.resolve(result);
    else call.reject(more.expected ? new PageError(error) : new Error(error));
  }

  #failAll(error) {
    for (const { reject } of this.waiting.values()) reject(error);
    this.waiting.clear();
  }
}

/** An abandoned call: another bundle or backend was chosen. */
export class Closed extends Error {}

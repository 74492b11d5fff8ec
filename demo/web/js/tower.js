// One tower as a function, for any build of onnxruntime.
import { PageError, line } from "./errors.js";

/** Display names of the backends. */
export const BACKENDS = { wasm: "WASM", webgpu: "WebGPU" };

/** One encoder: rows of input to rows of unit-norm embeddings. */
export class Tower {
  /** Open an ONNX file; throw PageError if it does not load or has different names. */
  static async open(ort, backend, bytes, { name, input, output, batch = null }) {
    let session;
    try {
      session = await ort.InferenceSession.create(bytes, {
        executionProviders: [backend],
        graphOptimizationLevel: "all",
        logSeverityLevel: 3,
      });
    } catch (error) {
      throw new PageError(`${name} does not load on ${BACKENDS[backend] ?? backend}: ${line(error)}`);
    }
    if (String(session.inputNames) !== input || !session.outputNames.includes(output)) {
      throw new PageError(
        `${name} must have input ${input} and output ${output}, but has ${session.inputNames} and ${session.outputNames}`,
      );
    }
    return new Tower(ort, session, { name, input, output, batch });
  }

  constructor(ort, session, facts) {
    Object.assign(this, facts);
    this.ort = ort;
    this.session = session;
  }

  /** Return one Float32Array per row for data of shape [rows, ...shape]; fill up a fixed batch. */
  async rows(type, data, rows, shape) {
    const full = this.batch === null ? data : filled(data, rows, this.batch);
    const dims = this.batch === null ? [rows, ...shape] : [this.batch, ...shape];
    return (await this.run(new this.ort.Tensor(type, full, dims))).slice(0, rows);
  }

  /** Return one Float32Array per output row. */
  async run(tensor) {
    let found;
    try {
      found = await this.session.run({ [this.input]: tensor }, [this.output]);
    } catch (error) {
      throw new PageError(`${this.name} failed on [${tensor.dims}]: ${line(error)}`);
    }
    const { data, dims } = found[this.output];
    const width = dims.at(-1);
    return Array.from({ length: data.length / width }, (_, i) => this.#unit(data.slice(i * width, (i + 1) * width)));
  }

  #unit(row) {
    const norm = Math.hypot(...row);
    if (!(norm > 0 && Number.isFinite(norm))) {
      throw new PageError(`${this.name} returned an embedding that is not finite or is zero`);
    }
    return Float32Array.from(row, (value) => value / norm);
  }

  release() {
    return this.session.release();
  }
}

function filled(data, rows, batch) {
  const width = data.length / rows;
  const full = new data.constructor(width * batch);
  full.set(data);
  for (let row = rows; row < batch; row++) full.copyWithin(row * width, (rows - 1) * width, rows * width);
  return full;
}

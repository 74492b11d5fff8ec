"""One contender in its own process and environment: embeds what it receives over a pipe.

    python peer_worker.py RUNTIME IMAGE TEXT THREADS

A request is a line of JSON (tower, dtype, shape) and the bytes of an array; so is the reply, which
also has the seconds of the call. Needs numpy and the runtime, nothing of tinyclip-edge.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

Encoder: TypeAlias = Callable[[np.ndarray], np.ndarray]  # a batch -> embeddings [B, D]


def onnx(path: str, threads: int) -> Encoder:
    """Open an ONNX file with the options of a bundle's runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    outputs = [value.name for value in session.get_outputs()]
    embeds = next((name for name in outputs if name.endswith("embeds")), outputs[0])

    def encode(batch: np.ndarray) -> np.ndarray:
        feed = {name: batch if name != "attention_mask" else np.ones_like(batch) for name in names}
        embeddings: np.ndarray = session.run([embeds], feed)[0]
        return embeddings

    return encode


def openvino(path: str, threads: int) -> Encoder:
    """Open an OpenVINO file for one request at a time."""
    import openvino as ov

    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    model = ov.Core().compile_model(path, "CPU", settings)
    return lambda batch: model(batch)[0]


def litert(path: str, threads: int) -> Encoder:
    """Open a LiteRT file, whose shapes are fixed."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=path, num_threads=threads)
    interpreter.allocate_tensors()
    (source,), (target, *_) = interpreter.get_input_details(), interpreter.get_output_details()

    def encode(batch: np.ndarray) -> np.ndarray:
        interpreter.set_tensor(source["index"], batch.astype(source["dtype"]))
        interpreter.invoke()
        embeddings: np.ndarray = interpreter.get_tensor(target["index"])
        return embeddings

    return encode


def torch(path: str, threads: int, *, compiled: bool = False) -> Encoder:
    """Open a tower of a transformers folder: FOLDER#image or FOLDER#text."""
    import torch as pytorch
    from transformers import CLIPTextModelWithProjection, CLIPVisionModelWithProjection

    pytorch.set_num_threads(threads)
    folder, _, tower = path.partition("#")
    kind = CLIPVisionModelWithProjection if tower == "image" else CLIPTextModelWithProjection
    model: Any = kind.from_pretrained(folder).eval()
    call: Any = pytorch.compile(model, dynamic=False) if compiled else model
    output = f"{tower}_embeds"

    def encode(batch: np.ndarray) -> np.ndarray:
        with pytorch.inference_mode():
            embeddings: np.ndarray = call(pytorch.from_numpy(batch))[output].numpy()
        return embeddings

    return encode


def compiled(path: str, threads: int) -> Encoder:
    """Open a tower of a transformers folder, compiled for the shapes of each call."""
    return torch(path, threads, compiled=True)


RUNTIMES = {f.__name__: f for f in (onnx, openvino, litert, torch, compiled)}


def main() -> None:
    runtime, image, text, threads = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # keep what libraries print out of the replies
    paths = {"image": image, "text": text}
    towers = {tower: RUNTIMES[runtime](path, int(threads)) for tower, path in paths.items()}
    send(answers, {"ready": True}, np.empty(0, np.float32))
    while header := sys.stdin.buffer.readline():
        request = json.loads(header)
        count = int(np.prod(request["shape"])) * np.dtype(request["dtype"]).itemsize
        content = sys.stdin.buffer.read(count)
        batch = np.frombuffer(content, request["dtype"]).reshape(request["shape"]).copy()
        started, cpu = time.perf_counter(), time.process_time()
        embeddings = towers[request["tower"]](batch)
        seconds = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - started}
        send(answers, seconds, np.asarray(embeddings, np.float32))


def send(stream: Any, about: dict[str, Any], array: np.ndarray) -> None:  # noqa: ANN401
    """Write a line of JSON and the bytes of a float32 array."""
    stream.write(json.dumps({**about, "shape": list(array.shape)}).encode() + b"\n")
    stream.write(np.ascontiguousarray(array).tobytes())
    stream.flush()


if __name__ == "__main__":
    main()

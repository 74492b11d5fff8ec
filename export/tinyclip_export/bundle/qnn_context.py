"""Towers compiled for one of Qualcomm's chips: context binaries inside ONNX files.

On x86, onnxruntime-qnn compiles for any chip but runs on none. Its library stays loaded and prints,
so this module is also the main program of a separate process.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyclip_edge.child import ChildError, ChildTimeoutError, run_child
from tinyclip_edge.errors import ModelError, missing_extra

if TYPE_CHECKING:
    from tinyclip_export.export_job import ExportJob, FloatTowers

TIMEOUT = 600  # seconds per tower
PROVIDER = "QNNExecutionProvider"


def write_contexts(job: ExportJob, _: FloatTowers) -> dict[str, Any]:
    """Compile both towers of the default precision for a chip; return the manifest's entry.

    Every node has to run on the chip. Raises MissingExtraError without onnxruntime-qnn, ModelError
    for a tower that it cannot compile as a whole.
    """
    from importlib.util import find_spec

    if find_spec("onnxruntime_qnn") is None:
        raise missing_extra("--native for qnn needs", "onnxruntime-qnn", "qnn")
    soc = job.settings.extras.soc_model
    folder = job.folder / "native" / f"soc-{soc}"
    folder.mkdir(parents=True)
    files, version = {}, ""
    for tower, path in job.paths(job.default_precision).items():
        target = folder / path.name
        version = _compiled(path, target, soc)
        files[tower] = target.relative_to(job.folder).as_posix()
    return {"format": "QNN context binary", "soc_model": soc, "version": version, "files": files}


def _compiled(source: Path, target: Path, soc: int) -> str:
    """Compile one file in a separate process; return the package's version."""
    try:
        result = run_child(__name__, str(source), str(target), str(soc), timeout=TIMEOUT)
    except ChildTimeoutError:
        raise ModelError(f"{source.name}: onnxruntime-qnn took over {TIMEOUT} seconds") from None
    except ChildError as error:
        raise ModelError(f"{source.name}: onnxruntime-qnn cannot compile it: {error}") from None
    if not target.is_file():
        raise ModelError(f"{source.name}: onnxruntime-qnn cannot compile it: it wrote no file")
    return str(result["version"])


def main(arguments: list[str]) -> int:
    """Compile a file; print the version of onnxruntime-qnn as JSON on the last line."""
    import onnxruntime as ort
    import onnxruntime_qnn

    source, target, soc = arguments
    ort.register_execution_provider_library(PROVIDER, onnxruntime_qnn.get_library_path())
    options = ort.SessionOptions()
    settings = {
        "ep.context_enable": "1",
        "ep.context_file_path": target,
        "ep.context_embed_mode": "1",
        "session.disable_cpu_ep_fallback": "1",
    }
    for key, value in settings.items():
        options.add_session_config_entry(key, value)
    devices = [device for device in ort.get_ep_devices() if device.ep_name == PROVIDER]
    chip = {
        "backend_type": "htp",
        "soc_model": soc,
        "offload_graph_io_quantization": "0",
        "enable_htp_prepare_only": "1",
    }
    options.add_provider_for_devices(devices[:1], chip)
    ort.InferenceSession(source, options)
    sys.stdout.write("\n" + json.dumps({"version": onnxruntime_qnn.__version__}) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

"""A copy of onnxruntime that uses its AVX2 kernels on a processor with AVX512, to time them there.

onnxruntime has no switch for this: it reads the processor's flags once, when it is loaded. In the
copy, the branch to its AVX512 kernels is never taken; everything else is as in the installed
package.
For measurements only, on x86-64 Linux:

    python benchmarks/avx2_onnxruntime.py runs/avx2
    PYTHONPATH=runs/avx2 python benchmarks/export_latency.py --target x86-avx2
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

# `test al, 0xe0`, then a branch if the system saves AVX512's registers (bits 5 to 7 of xcr0).
CHECK, BRANCH = b"\xa8\xe0", b"\x0f\x84"
BRANCH_BYTES = 6
NOTHING = b"\x90"  # an instruction of one byte


def without_avx512(code: bytes) -> bytes:
    """Return a library's bytes without the branch to its AVX512 kernels.

    Exits unless there is exactly one such branch.
    """
    pattern = CHECK + BRANCH
    if (count := code.count(pattern)) != 1:
        raise SystemExit(f"{count} places look like the choice of AVX512 kernels; expected one")
    start = code.index(pattern) + len(CHECK)
    return code[:start] + NOTHING * BRANCH_BYTES + code[start + BRANCH_BYTES :]


def main() -> None:
    import onnxruntime

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="new folder, for PYTHONPATH")
    out = parser.parse_args().out
    package = out / "onnxruntime"
    shutil.copytree(Path(onnxruntime.__file__).parent, package)
    (library,) = (package / "capi").glob("onnxruntime_pybind11_state*.so")
    library.write_bytes(without_avx512(library.read_bytes()))


if __name__ == "__main__":
    main()

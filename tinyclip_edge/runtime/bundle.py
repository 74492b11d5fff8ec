"""The manifest of a bundle folder: its content, and the hashes of its files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from tinyclip_edge.errors import BundleError, did_you_mean
from tinyclip_edge.file_aside import file_written_aside
from tinyclip_edge.json_text import read_json_table
from tinyclip_edge.paths import exists, expanded, refuse_pointer, stays_inside
from tinyclip_edge.precisions import PRECISIONS
from tinyclip_edge.runtime.manifest_keys import CONFIG_FILES, FORMAT, FORMAT_VERSION, check_keys

MANIFEST = "manifest.json"
TOWERS = ("image", "text")

# Files whose bytes this process has hashed already: (path, size, mtime in ns) -> sha256.
_hashed: dict[tuple[str, int, int], str] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Content of ``manifest.json``, validated when read."""

    created_by: str
    name: str
    source: Mapping[str, Any]  # {"model", "sha256"} of the checkpoint it was made from
    model_hash: str
    image_size: int  # pixels, square
    embedding_dim: int
    context_length: int  # tokens, start and end included
    logit_scale: float
    eot_token_id: int
    parameters: Mapping[str, int]  # image, text, token_embedding
    default_precision: str
    towers: Mapping[str, Mapping[str, str]]  # tower -> precision -> relative path
    files: Mapping[str, Mapping[str, Any]]  # relative path -> {"sha256", "bytes"}
    recipe: Mapping[str, Any] = field(default_factory=dict)  # precision -> how it was made
    verification: Mapping[str, Any] = field(default_factory=dict)
    golden: Mapping[str, Any] = field(default_factory=dict)
    extras: Mapping[str, Any] = field(default_factory=dict)  # files beyond the towers
    inputs: Mapping[str, Any] = field(default_factory=dict)  # fixed batch, padding of texts
    target: Mapping[str, Any] = field(default_factory=dict)  # "name" of the platform it is for
    tokenizer: Mapping[str, Any] = field(default_factory=dict)  # settings if it is not CLIP's
    matryoshka: Mapping[str, Any] = field(default_factory=dict)  # "dimensions" of prefixes
    familiarity: Mapping[str, Any] = field(default_factory=dict)  # what training pictures are like
    confidence: Mapping[str, Any] = field(default_factory=dict)  # threshold for some labels
    logit_bias: float | None = None  # if each label has its own sigmoid (SigLIP)

    @classmethod
    def read(cls, folder: str | Path) -> Manifest:
        """Read and check a bundle's manifest; raise BundleError with the cause and the remedy."""
        path = bundle_file(folder, MANIFEST)
        if not exists(path):
            raise BundleError(
                f"{folder} is not a bundle: it has no {MANIFEST}; `tinyclip-edge export` writes one"
            )
        content = read_json_table(path, BundleError, unique_keys=True)
        _check(path, content)
        field_names = {f.name for f in fields(cls)}
        return cls(
            **{
                key: value
                for key, value in content.items()
                if key in field_names and value is not None
            }
        )

    def write(self, folder: str | Path) -> Path:
        """Write ``manifest.json`` into the folder atomically, and return its path."""
        path = Path(folder) / MANIFEST
        content = {"format": FORMAT, "format_version": FORMAT_VERSION, **asdict(self)}
        _check(path, json.loads(json.dumps(content)))
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
        with file_written_aside(path) as file:
            file.write(text.encode() + b"\n")
        return path

    def precisions(self) -> list[str]:
        """Return the precisions of both towers, in the manifest's order."""
        return [p for p in self.towers["image"] if p in self.towers["text"]]

    def tower_path(self, tower: str, precision: str) -> str:
        """Return a tower's relative path; raise BundleError for a precision it does not have."""
        paths = self.towers[tower]
        if precision not in paths:
            raise BundleError(
                f"bundle {self.name} has no {precision} {tower} tower"
                f"{did_you_mean(precision, paths)}"
            )
        return paths[precision]

    def saturates(self, tower: str, precision: str) -> bool:
        """Whether sums of int8 products can overflow on x86 CPUs that add them in 16 bits.

        There, such a file runs in the precise mode, which is slower but correct. Float and
        weight-only files have no such sums; for others the recipe records ``reduce_range``.
        """
        recipe = self.recipe.get(precision) or {}
        if tower == "image" and isinstance(recipe.get("image"), Mapping):
            recipe = recipe["image"]
        reduced = recipe.get("reduce_range")
        if reduced is None:
            entry = PRECISIONS.get(precision)
            return "kind" not in recipe and entry is not None and entry.fills_int8
        return not reduced

    @property
    def static_batch(self) -> int | None:
        """Fixed batch size of the towers; None for any."""
        batch: int | None = self.inputs.get("batch")
        return batch

    @property
    def pad_id(self) -> int | None:
        """Token that pads a text to the context length; None if texts are not padded."""
        padded = self.inputs.get("padding") == "max_length"
        return int(self.inputs.get("pad_id", 0)) if padded else None

    def verify_files(self, folder: str | Path, only: Iterable[str] | None = None) -> None:
        """Compare files with the manifest's SHA-256; raise BundleError for the first that differs.

        ``only`` limits the check to some relative paths. Each file is hashed once per process.
        """
        for name in self.files if only is None else only:
            if name not in self.files:
                raise BundleError(f"bundle {folder}: {name} is not listed in {MANIFEST}")
            path, expected = bundle_file(folder, name), str(self.files[name]["sha256"])
            try:
                actual = _sha256_once(path)
            except OSError as error:
                raise BundleError(f"bundle {folder}: {name} is missing; copy it again") from error
            if actual != expected:
                refuse_pointer(path, BundleError)
                raise BundleError(
                    f"bundle {folder}: {name} has changed: sha256 {actual[:12]}…, the manifest "
                    f"says {expected[:12]}…; copy or export the bundle again"
                )


def bundle_file(folder: str | Path, name: str) -> Path:
    """Return the path of a bundle's file; raise BundleError for a link out of the folder."""
    folder = expanded(folder)
    path = Path(folder) / name
    _check_name(Path(folder) / MANIFEST, name)
    if not stays_inside(folder, name):
        raise BundleError(
            f"bundle {folder}: {name} is a link to another file; copy the bundle as plain files "
            "(cp -rL)"
        )
    return path


def list_files(folder: str | Path) -> dict[str, dict[str, Any]]:
    """Return ``{"sha256", "bytes"}`` of every file in the folder except the manifest."""
    root = Path(folder)
    paths = sorted(path for path in root.rglob("*") if path.is_file() and path != root / MANIFEST)
    return {
        path.relative_to(root).as_posix(): {
            "sha256": _sha256_once(path),
            "bytes": path.stat().st_size,
        }
        for path in paths
    }


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _sha256_once(path: Path) -> str:
    stat = path.stat()
    key = (str(path.resolve()), stat.st_size, stat.st_mtime_ns)
    if key not in _hashed:
        _hashed[key] = file_sha256(path)
    return _hashed[key]


def _check(path: Path, content: Mapping[str, Any]) -> None:
    if content.get("format") != FORMAT:
        raise BundleError(f'{path} is not a bundle manifest: "format" is not "{FORMAT}"')
    version = content.get("format_version")
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise BundleError(f"{path}: format_version {version!r} is not a positive number")
    if version > FORMAT_VERSION:
        raise BundleError(
            f"{path}: format_version {version} is newer than {FORMAT_VERSION}, the newest this "
            "tinyclip-edge reads; upgrade tinyclip-edge"
        )
    check_keys(path, content)
    _check_files(path, content["files"])
    _check_towers(path, content)


def _check_files(path: Path, files: Iterable[str]) -> None:
    for name in files:
        _check_name(path, name)
    for name in CONFIG_FILES:
        if name not in files:
            raise BundleError(f"{path}: {name} is missing from files; export the bundle again")


def _check_name(path: Path, name: str) -> None:
    posix, windows = PurePosixPath(name), PureWindowsPath(name)
    escapes = posix.is_absolute() or windows.is_absolute() or windows.drive or "\\" in name
    if not name or escapes or ".." in posix.parts or "\0" in name:
        raise BundleError(f"{path}: file {name!r} is outside the bundle; do not use this bundle")


def _check_towers(path: Path, content: Mapping[str, Any]) -> None:
    default = content["default_precision"]
    for tower in TOWERS:
        paths = content["towers"][tower]
        for precision, name in paths.items():
            if name not in content["files"]:
                raise BundleError(f"{path}: {tower} tower {precision} {name!r} is not in files")
        if default not in paths:
            raise BundleError(
                f"{path}: default_precision {default!r} does not exist for both towers"
            )

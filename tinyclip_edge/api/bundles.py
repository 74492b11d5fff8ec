"""``check``: whether a bundle gives the same results here as where it was made."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyclip_edge.errors import TinyClipWarning
from tinyclip_edge.notebook import NotebookReport, report_table
from tinyclip_edge.paths import model_name
from tinyclip_edge.units import three_digits

if TYPE_CHECKING:
    from rich.table import Table

    from tinyclip_edge.runtime.golden import Replay
    from tinyclip_export.form_replay import FormReplay


@dataclass(frozen=True, slots=True)
class BundleCheck(NotebookReport):
    """The golden vectors of a bundle, replayed on this machine."""

    bundle: Path
    name: str
    files: int
    replays: tuple[Replay, ...]
    target: str | None = None  # that the bundle was made for
    misfit: str | None = None  # why it does not suit this machine
    forms: tuple[FormReplay, ...] = ()  # for other engines, strings, encoded pictures
    not_replayed: tuple[str, ...] = ()  # files, with the package that is missing

    @property
    def failures(self) -> list[str]:
        """One line for each fault, with its precision."""
        return [
            *(f"{each.precision} {line}" for each in self.replays for line in each.failures),
            *(f"{each.name} {line}" for each in self.forms for line in each.failures),
        ]

    @property
    def passed(self) -> bool:
        """Whether all results are as recorded."""
        return not self.failures

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        from tinyclip_edge.runtime.cpu import int8_saturates

        return {
            "bundle": str(self.bundle),
            "name": self.name,
            "passed": self.passed,
            "files": self.files,
            "int8_saturates": int8_saturates(),
            "target": self.target,
            "misfit": self.misfit,
            "precisions": [each.as_dict() for each in self.replays],
            "forms": [each.as_dict() for each in self.forms],
            "not_replayed": list(self.not_replayed),
        }

    def table(self) -> Table:
        """Return the table to print."""
        legend = "cosine: lowest, against the recorded golden vectors; ms: median of one input"
        places = [
            f"{each.precision} {tower}: nodes {place}"
            for each in self.replays
            for tower, place in each.placement.items()
        ]
        left_out = [f"not replayed: {'; '.join(self.not_replayed)}"] if self.not_replayed else []
        table = report_table(
            f"{self.name}: golden vectors on this machine",
            (
                "cosine\nimage",
                "\ntext",
                "image\nms",
                "text\nms",
                "token\nids",
                "\npixels",
                "\nverdict",
            ),
            [legend, *places, *left_out, *([self.misfit] if self.misfit else [])],
        )
        for each in self.replays:
            table.add_row(
                each.precision,
                f"{each.image_cosine:.5f}",
                f"{each.text_cosine:.5f}",
                three_digits(each.image_ms),
                three_digits(each.text_ms),
                "equal" if each.same_ids else "differ",
                "equal" if each.same_pixels else "differ",
                "FAILED" if each.failures else "ok",
            )
        for form in self.forms:
            table.add_row(
                form.name,
                *_cells(form.cosine, lambda value: f"{value:.5f}"),
                *_cells(form.ms, three_digits),
                {None: "–", True: "equal", False: "differ"}[form.same_ids],
                "–",
                "FAILED" if form.failures else "ok",
            )
        return table


def _cells(values: Mapping[str, float], show: Callable[[float], str]) -> list[str]:
    return [show(values[tower]) if tower in values else "–" for tower in ("image", "text")]


def check(
    bundle: str | Path,
    *,
    precision: str | None = None,
    threads: int | None = None,
    device: str = "cpu",
    device_options: Mapping[str, str] | None = None,
) -> BundleCheck:
    """Check the hashes of a bundle's files and replay its golden vectors; needs no torch.

    Files for other engines, and graphs that take strings or encoded pictures, are replayed too, on
    the CPU, if their packages are installed. ``precision``: one of the bundle's, all by default.
    ``device``, ``device_options``: as for ``EdgeCLIP.load``, but not "auto".

    Raises BundleError for a changed file, DeviceError for a missing device; other failures are in
    the result.
    """
    from tinyclip_edge.runtime.bundle import Manifest
    from tinyclip_edge.runtime.devices import Device
    from tinyclip_edge.runtime.fit import misfit
    from tinyclip_edge.runtime.replay import replay
    from tinyclip_export.replays import replay_forms

    folder = Path(bundle)
    manifest = Manifest.read(folder)
    manifest.verify_files(folder)
    names = manifest.precisions() if precision is None else [precision]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TinyClipWarning)  # the misfit is in the result
        replays = tuple(
            replay(folder, name, threads=threads, device=device, device_options=device_options)
            for name in names
        )
    forms, not_replayed = replay_forms(folder, manifest, precision=precision, threads=threads)
    return BundleCheck(
        folder,
        model_name(folder),
        len(manifest.files),
        replays,
        manifest.target.get("name"),
        misfit(manifest, Device(device)),
        forms,
        not_replayed,
    )

"""``tinyclip_edge.select``: choose the pairs of a large set that match a target."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from tinyclip_edge.data.selection_file import SUFFIX
from tinyclip_edge.errors import ConfigError, DataError, missing_extra
from tinyclip_edge.paths import expanded, read_lines
from tinyclip_edge.runtime.picture_files import folder_pictures
from tinyclip_edge.runtime.protocol import Progress
from tinyclip_edge.selection.course import select_pairs
from tinyclip_edge.selection.ngrams import Hashing
from tinyclip_edge.selection.request import Request, SelectionReport
from tinyclip_edge.selection.shard_writer import write_shards as write_chosen

_PACKAGES = ("webdataset", "braceexpand")


def select(  # noqa: PLR0913 - by keyword
    sources: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    count: int,
    target_texts: str | Path | Sequence[str] | None = None,
    target_images: str | Path | Sequence[str | Path] | None = None,
    teacher: str = "starter-teacher",
    feature_cache: str | Path | None = None,
    words: int = 2,
    drop_duplicates: float | None = None,
    write_shards: str | Path | None = None,
    seed: int = 0,
    workers: int = 1,
    cluster: str | None = None,
    work: str | Path | None = None,
    progress: Progress = False,
) -> SelectionReport:
    """Draw ``count`` pairs in proportion to how much likelier the target is to contain them.

    ``sources``: as in ``data.train``; they are not copied. ``out``: a file NAME.selection, for use
    in ``data.train``. ``target_texts``: texts, or a file with one per line; captions are compared
    by hashed n-grams of up to ``words`` words. ``target_images``: pictures, or a folder;
    ``teacher`` embeds them and the set, whose features are stored in ``feature_cache`` (which may
    be one of ``cache`` with ``data.views: 0``). With both targets, log weights are added.
    ``drop_duplicates``: cosine from which two pictures are near-duplicates, of which one is drawn.
    ``write_shards``: a folder for copies of the chosen pairs. ``workers`` and ``cluster``: as in
    ``embed_shards``. ``work``: a folder for what was read of the set, so that a later selection
    does not read it again; by default it is temporary.

    The same call continues where an interrupted one stopped, with the same result. Raises
    ConfigError, DataError, ModelError and MissingExtraError.
    """
    if missing := [name for name in _PACKAGES if find_spec(name) is None]:
        raise missing_extra("selecting pairs needs", missing[0], "embed")
    path = Path(expanded(out)).absolute()
    if path.suffix != SUFFIX or path.is_dir():
        raise ConfigError(f"{out} must be a file whose name ends in {SUFFIX}")
    folder = path.with_name(f"{path.name}.work") if work is None else Path(expanded(work))
    listed = [sources] if isinstance(sources, (str, Path)) else sources
    request = Request(
        sources=tuple(map(str, listed)),
        out=path,
        count=count,
        work=folder.absolute(),
        texts=_texts(target_texts),
        pictures=_pictures(target_images),
        teacher=teacher,
        feature_cache=None if feature_cache is None else Path(expanded(feature_cache)).absolute(),
        near_duplicates=drop_duplicates,
        hashing=Hashing(longest=words),
        seed=seed,
        workers=workers,
        cluster=cluster,
        progress=progress,
    )
    request.check()
    report = select_pairs(request)
    if write_shards is not None:
        shards = Path(expanded(write_shards)).absolute()
        report = replace(report, shards=write_chosen(path, shards, progress=progress))
    if work is None:
        shutil.rmtree(request.work, ignore_errors=True)
    return report


def _texts(target: str | Path | Sequence[str] | None) -> tuple[str, ...]:
    if target is None:
        return ()
    if isinstance(target, (str, Path)):
        return read_lines(Path(expanded(target)), "target texts")
    texts = tuple(text for text in target if text.strip())
    if not texts:
        raise DataError("target_texts has no text")
    return texts


def _pictures(target: str | Path | Sequence[str | Path] | None) -> tuple[Path, ...]:
    if target is None:
        return ()
    if isinstance(target, (str, Path)):
        return tuple(map(Path, folder_pictures([Path(expanded(target))])))
    return tuple(map(Path, target))

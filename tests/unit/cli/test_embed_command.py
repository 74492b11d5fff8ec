"""``tinyclip-edge embed``: what it prints, and its mistakes."""

from __future__ import annotations

import json
import re

import pytest

from pair_shards import toy_samples, write_shard
from tinyclip_edge import ImageIndex
from tinyclip_edge.collection import embedding


@pytest.fixture
def words(tmp_path, monkeypatch, shared_tiny_bundle):
    monkeypatch.chdir(tmp_path)
    for number in range(3):
        write_shard(tmp_path / f"{number}.tar", toy_samples()[16 * number : 16 * number + 16])
    return ("--out", "out", "--bundle", shared_tiny_bundle.folder)


def test_a_line_says_what_it_did(command_line, words, tmp_path):
    code, out, err = command_line("embed", "{0..1}.tar", *words)
    pattern = (
        r"\S+/out: 32 pictures and 64 captions of 2 shards, in [\d.]+ m?s \([\d,]+ pictures/s\)"
    )
    assert (code, err) == (0, "") and re.fullmatch(pattern, out.strip())
    assert len(ImageIndex.from_parquet(tmp_path / "out")) == 32
    code, out, _ = command_line("embed", "*.tar", *words, "--json")
    report = json.loads(out)
    assert (report["shards"], report["whole"], report["embedded"]) == (3, 2, 16)
    assert "3 shards, 3 of them embedded before, in" in command_line("embed", "*.tar", *words)[1]


def test_an_interrupt_is_one_line(command_line, words, monkeypatch):
    def interrupt(*_, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(embedding, "embed_shards", interrupt)
    code, out, err = command_line("embed", "0.tar", *words)
    assert (code, out) == (130, "")
    assert err == "interrupted; complete files stay; the same command continues\n"


def test_a_cluster_has_workers_of_its_own(command_line, words):
    code, _, err = command_line("embed", "0.tar", *words, "--workers", 2, "--dask", "tcp://a:1")
    assert (
        code == 2 and err == "error: --workers is for this machine; leave it out with --cluster\n"
    )


def test_a_folder_has_one_decode_mode(command_line, words, tmp_path):
    assert command_line("embed", "0.tar", *words, "--decode", "fast")[0] == 0
    assert ImageIndex.from_parquet(tmp_path / "out").decode == "fast"
    code, _, err = command_line("embed", "1.tar", *words)
    assert code == 2 and "was made with --decode fast, not exact; choose another folder" in err

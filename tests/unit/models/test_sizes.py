"""Sizes that nobody can build are refused by name before memory is asked for; real ones pass."""

import open_clip
import pytest

from tinyclip_edge.errors import ModelError
from tinyclip_edge.models.sizes import check_sizes

PLAIN = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 128, "layers": 4},
    "text_cfg": {"context_length": 16, "vocab_size": 600, "width": 128, "heads": 2, "layers": 3},
}


@pytest.mark.parametrize(
    ("tower", "key", "value"),
    [
        ("vision_cfg", "layers", 10**6),
        ("text_cfg", "layers", 10**400),
        ("vision_cfg", "layers", [3, 10**6, 3, 3]),
        ("vision_cfg", "width", 10**6),
        ("vision_cfg", "image_size", 10**7),
        ("vision_cfg", "patch_size", 10**6),
        ("vision_cfg", "mlp_ratio", 1e308),
        ("text_cfg", "vocab_size", 10**10),
        ("text_cfg", "context_length", 10**6),
        ("vision_cfg", "patch_size", 1e308),
        ("text_cfg", "context_length", None),
        ("text_cfg", "vocab_size", float("nan")),
        ("text_cfg", "vocab_size", 0),
    ],
)
def test_broken_sizes_are_refused(tower, key, value):
    config = {**PLAIN, tower: {**PLAIN[tower], key: value}}
    with pytest.raises(ModelError, match=f"broken.json: model_cfg.{tower}"):
        check_sizes(config, "broken.json")


def test_all_models_of_open_clip_pass():
    configs = {name: open_clip.get_model_config(name) for name in open_clip.list_models()}
    assert len(configs) > 100
    for name, config in configs.items():
        check_sizes(config, name)

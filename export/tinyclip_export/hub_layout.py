"""The files that let Hugging Face clients open a bundle: configs and model card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyclip_edge.errors import ModelError
from tinyclip_export.towers import Block, ImageTower, TextTower

if TYPE_CHECKING:
    from tinyclip_edge.models import LoadedClip
    from tinyclip_export.report import ExportReport
    from tinyclip_export.tokenizer_file import SpecialTokens

_RESAMPLE = {"bilinear": 2, "bicubic": 3}  # Pillow's numbers


def write_model_config(
    clip: LoadedClip, folder: Path, towers: tuple[ImageTower, TextTower], special: SpecialTokens
) -> None:
    """Write ``config.json`` of model type clip; unequal layers are all given as the last one."""
    image, text = towers
    dim, activation = clip.embedding_dim, _activation(clip)
    text_config = {
        "model_type": "clip_text_model",
        **_transformer(text.last, len(text.body) + 1, activation),
        "vocab_size": text.tokens.num_embeddings,
        "max_position_embeddings": text.context_length,
        "projection_dim": dim,
        "bos_token_id": special.start,
        "eos_token_id": special.end,
        "pad_token_id": special.end,
    }
    vision_config = {
        "model_type": "clip_vision_model",
        **_transformer(image.last, len(image.body) + 1, activation),
        "image_size": clip.image_size,
        "patch_size": image.patch.kernel_size[0],
        "num_channels": 3,
        "projection_dim": dim,
    }
    config = {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": dim,
        "logit_scale_init_value": float(clip.model.get_parameter("logit_scale").detach().item()),
        "text_config": text_config,
        "vision_config": vision_config,
    }
    _write_json(folder / "config.json", config)


def write_preprocessor_config(clip: LoadedClip, folder: Path) -> None:
    """Write ``preprocessor_config.json`` in CLIPImageProcessor form.

    Raises ModelError for an interpolation that clients do not know.
    """
    from tinyclip_edge.runtime.preprocess import Preprocess

    ours = Preprocess.from_config(clip.config["preprocess_cfg"])
    if ours.interpolation not in _RESAMPLE:
        raise ModelError(f"{clip.name}: no client resizes with {ours.interpolation!r}")
    pixels = {"height": ours.height, "width": ours.width}
    squash = ours.resize_mode == "squash"
    config: dict[str, Any] = {
        "image_processor_type": "CLIPImageProcessor",
        "feature_extractor_type": "CLIPFeatureExtractor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": pixels if squash else {"shortest_edge": min(ours.height, ours.width)},
        "resample": _RESAMPLE[ours.interpolation],
        "do_center_crop": not squash,
        "crop_size": pixels,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(ours.mean),
        "image_std": list(ours.std),
    }
    if ours.resize_mode == "longest":
        config |= {"resize_mode": "longest", "fill_color": ours.fill_color}
    _write_json(folder / "preprocessor_config.json", config)


def write_model_card(folder: Path, report: ExportReport, context_length: int) -> None:
    """Write ``README.md``: what the bundle is, what was measured, how to open it."""
    rows = "\n".join(
        f"| {precision} | {report.tower_bytes(precision) / 1e6:.1f} "
        f"| {found['image']['cosine_min']:.5f} | {found['text']['cosine_min']:.5f} "
        f"| {found['ranking']['recall@1']:.1f} | {found['ranking']['recall@1_drop']:+.2f} "
        f"± {found['ranking']['recall@1_stderr']:.2f} |"
        for precision, found in report.verification["precisions"].items()
    )
    suffix = "_quantized" if "int8" in report.precisions else ""
    dtype = "q8" if suffix else "fp32"
    card = _CARD.format(
        name=report.name,
        pairs=report.verification["pairs"],
        rows=rows,
        reference=report.verification["reference_recall@1"],
        context=context_length,
        dtype=dtype,
        suffix=suffix,
    )
    (folder / "README.md").write_text(card, encoding="utf-8")


def _transformer(block: Block, layers: int, activation: str) -> dict[str, Any]:
    return {
        "hidden_size": block.down.out_features,
        "intermediate_size": block.up.out_features,
        "num_hidden_layers": layers,
        "num_attention_heads": block.attention.heads,
        "hidden_act": activation,
        "layer_norm_eps": block.ln_1.eps,
    }


def _activation(clip: LoadedClip) -> str:
    return "quick_gelu" if clip.config["model_cfg"].get("quick_gelu") else "gelu"


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


_CARD = """---
library_name: transformers.js
pipeline_tag: zero-shot-image-classification
tags: [clip, onnx, tinyclip-edge]
---
# {name}

A CLIP as two ONNX towers, exported and verified by tinyclip-edge. Image and text go in apart;
projected, unit-norm embeddings come out, ready for a dot product.

| precision | MB | min cosine image | min cosine text | text→image recall@1, % | lost, points |
|---|---|---|---|---|---|
{rows}

Measured against the PyTorch model (recall@1 {reference:.1f} %) on {pairs} image-text pairs, one
input at a time, texts unpadded. Dynamic int8 finds its scales per call, so batches and padding
move its embeddings a little. Where the recipe in `manifest.json` says `reduce_range`, no sum of
the 8-bit kernels can overflow, so x86 CPUs with and without VNNI give the same answers.

## Use

```python
from tinyclip_edge import EdgeCLIP

clip = EdgeCLIP.load("path/to/this/folder")
clip.classify("photo.jpg", ["cat", "dog"], templates=["a photo of a {{}}"])
```

```js
import {{ AutoTokenizer, CLIPTextModelWithProjection }} from "@huggingface/transformers";

const folder = "path/to/this/folder";
const tokenizer = await AutoTokenizer.from_pretrained(folder);
const model = await CLIPTextModelWithProjection.from_pretrained(folder, {{ dtype: "{dtype}" }});
const {{ text_embeds }} = await model(tokenizer(["a photo of a cat"]));
```

`CLIPVisionModelWithProjection` opens the image tower in the same way.

Plain onnxruntime: `onnx/vision_model{suffix}.onnx` takes `pixel_values` float32 [batch, 3, H, W]
and gives `image_embeds`; `onnx/text_model{suffix}.onnx` takes `input_ids` int64 [batch, sequence],
2 to {context} tokens, and gives `text_embeds`. Preprocessing and tokenizer are in the JSON files.

Licence and limits are those of the model it was exported from.
"""

"""The configurations and the model card that Hugging Face clients read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyclip_edge.models.hf_config import clip_config, transformer_config
from tinyclip_edge.models.json_file import write_json
from tinyclip_export.towers.blocks import Block
from tinyclip_export.towers.encoder_text import EncoderBlock
from tinyclip_export.towers.factory import AnyImageTower, AnyTextTower
from tinyclip_export.towers.vit import ImageTower

if TYPE_CHECKING:
    from tinyclip_edge.models import LoadedClip
    from tinyclip_edge.models.tokenizer_files import SpecialTokens
    from tinyclip_export.export_job import ExportJob


def write_model_config(
    clip: LoadedClip,
    folder: Path,
    towers: tuple[AnyImageTower, AnyTextTower],
    special: SpecialTokens,
) -> None:
    """Write ``config.json`` of model type clip, with the sizes of the last layer for all layers.

    Clients of the graphs read only the model type, so an image tower that is not a ViT is described
    as a ViT with one layer.
    """
    image, text = towers
    if isinstance(image, ImageTower):
        vision = _transformer(image.last, len(image.body) + 1, image.ln_post.eps)
        vision["patch_size"] = image.patch.size[0]
    else:
        width = clip.embedding_dim
        vision = transformer_config(width=width, neurons=width, layers=1, heads=1, eps=1e-5)
        vision["patch_size"] = clip.image_size
    eps = getattr(text.ln_final, "eps", 1e-5)  # any value if the last norm is in a block
    language = _transformer(text.last, len(text.body) + 1, eps)
    language["vocab_size"] = text.tokens.num_embeddings
    language["max_position_embeddings"] = text.context_length
    write_json(folder / "config.json", clip_config(clip, vision, language, special))


def write_model_card(job: ExportJob, verification: Mapping[str, Any]) -> None:
    """Write ``README.md``: what the bundle is, what was measured, how to open it."""
    rows = "\n".join(
        f"| {precision} | {_tower_bytes(job, precision) / 1e6:.1f} "
        f"| {figures['image']['cosine_min']:.5f} | {figures['text']['cosine_min']:.5f} "
        f"| {figures['ranking']['recall@1']:.1f} | {figures['ranking']['recall@1_drop']:+.2f} "
        f"± {figures['ranking']['recall@1_stderr']:.2f} |"
        for precision, figures in verification["precisions"].items()
    )
    suffix = "_quantized" if "int8" in job.precisions else ""
    card = _CARD.format(
        name=job.name,
        pairs=verification["pairs"],
        rows=rows,
        reference=verification["reference_recall@1"],
        context=job.clip.context_length,
        dtype="q8" if suffix else "fp32",
        suffix=suffix,
        prefixes=_prefixes(job.clip),
    )
    (job.folder / "README.md").write_text(card, encoding="utf-8")


def _prefixes(clip: LoadedClip) -> str:
    """Return the sentence about prefixes that the model was trained for, if there are any."""
    if not clip.prefixes:
        return ""
    lengths = ", ".join(map(str, clip.prefixes))
    return (
        f"\nEmbeddings may be cut to their first {lengths} of {clip.embedding_dim} dimensions and\n"
        "normalised again: the model was trained for these lengths too\n"
        f"(`index.compressed(dimensions={clip.prefixes[0]})`).\n"
    )


def _tower_bytes(job: ExportJob, precision: str) -> int:
    return sum((job.folder / path).stat().st_size for path in job.bundle_files(precision).values())


def _transformer(block: Block | EncoderBlock, layers: int, eps: float) -> dict[str, Any]:
    return transformer_config(
        width=block.down.out_features,
        neurons=block.neurons,
        layers=layers,
        heads=block.heads,
        eps=eps,
    )


_CARD = """---
library_name: transformers.js
pipeline_tag: zero-shot-image-classification
tags: [clip, onnx, tinyclip-edge]
---
# {name}

A CLIP as two ONNX towers, one for images and one for texts, exported and verified by tinyclip-edge.
Their outputs are projected, unit-norm embeddings, ready for a dot product.

| precision | MB | min cosine image | min cosine text | text→image recall@1, % | lost, points |
|---|---|---|---|---|---|
{rows}

Measured against the PyTorch model (recall@1 {reference:.1f} %) on {pairs:,} image-text pairs, one
input at a time, texts unpadded. Dynamic int8 computes its scales per call, so batching and padding
change its embeddings slightly. If the recipe in `manifest.json` has `reduce_range`, no sum of the
8-bit kernels can overflow, and x86 CPUs with and without VNNI give the same results.
{prefixes}
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

Plain onnxruntime: `onnx/vision_model{suffix}.onnx` maps `pixel_values` float32 [batch, 3, H, W] to
`image_embeds`; `onnx/text_model{suffix}.onnx` maps `input_ids` int64 [batch, sequence], 2 to
{context} tokens, to `text_embeds`. Preprocessing and tokenizer are in the JSON files.

The licence and limitations are those of the source model.
"""

"""transformers' own CLIPModel beside ours: what it saves we open, what we save it opens."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer, CLIPConfig, CLIPImageProcessor, CLIPModel

from hugging_face import PillowProcessor, embedding
from tinyclip_edge.errors import ModelError
from tinyclip_edge.models import load_clip, save_huggingface, save_local_dir, weights_hash
from tinyclip_edge.models.assemble import assemble

TEXTS = ["a photo of a cat", "the red bicycle", "dog", "blue circle of the square"]
WITHIN = {"atol": 1e-5, "rtol": 0}


def picture(seed=0):
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 255, (50, 40, 3), dtype=np.uint8))


def pixels(clip):
    return torch.stack([clip.preprocess(picture(seed)) for seed in range(3)])


def our_features(clip):
    with torch.inference_mode():
        text = clip.model.encode_text(clip.tokenizer(TEXTS))
        return clip.model.encode_image(pixels(clip)), text


def their_features(model, clip):
    with torch.inference_mode():
        text = model.get_text_features(input_ids=clip.tokenizer(TEXTS))
        image = model.get_image_features(pixel_values=pixels(clip))
        return embedding(image), embedding(text)


def compare(clip, model):
    for ours, theirs in zip(our_features(clip), their_features(model, clip), strict=True):
        assert theirs.abs().max() > 0.1
        torch.testing.assert_close(ours, theirs, **WITHIN)
    scale = model.logit_scale.exp().item()
    assert clip.logit_scale == pytest.approx(scale, rel=1e-6)


def save_theirs(folder, tokenizer_file, **changes):
    """A random CLIPModel of toy size, written by transformers; ``text__key`` changes one key."""
    vocabulary = len(json.loads(tokenizer_file.read_text())["model"]["vocab"]) + 2
    shared = {"hidden_act": "gelu", "projection_dim": 48, "layer_norm_eps": 1e-5}
    text = {
        "vocab_size": vocabulary, "hidden_size": 64, "intermediate_size": 160,
        "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 16,
        "eos_token_id": vocabulary - 1, "bos_token_id": vocabulary - 2, **shared,
    }  # fmt: skip
    vision = {
        "hidden_size": 96, "intermediate_size": 384, "num_hidden_layers": 3,
        "num_attention_heads": 3, "image_size": 32, "patch_size": 8, **shared,
    }  # fmt: skip
    for key, value in changes.items():
        tower, _, name = key.partition("__")
        {"text": text, "vision": vision}[tower][name] = value
    torch.manual_seed(3)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=48)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
            elif "embedding" in name:
                parameter.mul_(20)
    model.save_pretrained(folder)
    shutil.copyfile(tokenizer_file, folder / "tokenizer.json")
    CLIPImageProcessor(
        size={"shortest_edge": 32}, crop_size=32, image_mean=[0.4, 0.5, 0.6],
        image_std=[0.2, 0.25, 0.3], resample=2,
    ).save_pretrained(folder)  # fmt: skip
    return model


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"text__hidden_act": "quick_gelu", "vision__hidden_act": "quick_gelu"},
        {"text__layer_norm_eps": 1e-3, "vision__layer_norm_eps": 1e-2},
        {"text__eos_token_id": 2},
    ],
    ids=["gelu", "quick_gelu", "eps", "legacy end"],
)
def test_we_open_what_transformers_saves(tmp_path, toy_tokenizer_file, changes):
    model = save_theirs(tmp_path / "theirs", toy_tokenizer_file, **changes)
    clip = load_clip(str(tmp_path / "theirs"))
    compare(clip, model)
    table = clip.config["preprocess_cfg"]
    assert table["mean"] == [0.4, 0.5, 0.6]
    assert table["std"] == [0.2, 0.25, 0.3]
    assert (table["interpolation"], table["resize_mode"]) == ("bilinear", "shortest")
    processed = PillowProcessor.from_pretrained(tmp_path / "theirs")(picture(), return_tensors="pt")
    torch.testing.assert_close(processed.pixel_values[0], clip.preprocess(picture()), **WITHIN)


def test_an_end_token_that_is_not_the_highest(tmp_path, toy_tokenizer_file):
    # 40 rows of the embedding that no text uses; transformers looks for the end by its id
    vocabulary = len(json.loads(toy_tokenizer_file.read_text())["model"]["vocab"]) + 2
    ids = {"text__vocab_size": vocabulary + 40, "text__eos_token_id": vocabulary - 1}
    model = save_theirs(tmp_path / "theirs", toy_tokenizer_file, **ids)
    clip = load_clip(str(tmp_path / "theirs"))
    assert clip.config["model_cfg"]["text_cfg"]["eos_id"] == vocabulary - 1
    compare(clip, model)
    save_huggingface(tmp_path / "ours", clip)
    compare(clip, CLIPModel.from_pretrained(tmp_path / "ours"))
    wrong = save_theirs(tmp_path / "wrong", toy_tokenizer_file, text__eos_token_id=5)
    assert wrong is not None
    with pytest.raises(ModelError, match=f"eos_token_id is 5, .* ends texts with {vocabulary - 1}"):
        load_clip(str(tmp_path / "wrong"))


@pytest.mark.parametrize("kind", ["shards", "bin", "bin shards", "half"])
def test_weight_files_of_all_kinds(tmp_path, toy_tokenizer_file, kind):
    folder = tmp_path / "theirs"
    model = save_theirs(folder, toy_tokenizer_file)
    (folder / "model.safetensors").unlink()
    if kind == "half":
        model = model.half()
    size = "200KB" if "shards" in kind else "5GB"
    model.save_pretrained(folder, safe_serialization="bin" not in kind, max_shard_size=size)
    assert (len(list(folder.glob("*-of-*"))) > 1) == ("shards" in kind)
    compare(load_clip(str(folder)), model.float())


@pytest.mark.parametrize("quick", [False, True], ids=["gelu", "quick_gelu"])
@pytest.mark.parametrize("mode", ["shortest", "squash"])
def test_transformers_opens_what_we_save(tmp_path, toy_teacher, toy_tokenizer_file, quick, mode):
    config = {**toy_teacher.config["model_cfg"], "quick_gelu": quick}
    # other sizes than the usual: a feed-forward block of 2.5 widths, eps 1e-3
    config["vision_cfg"] = {**config["vision_cfg"], "mlp_ratio": 2.5, "norm_kwargs": {"eps": 1e-3}}
    table = {**toy_teacher.config["preprocess_cfg"], "resize_mode": mode}
    clip = assemble(config, table, name="student", tokenizer_file=toy_tokenizer_file)
    folder = tmp_path / "student"
    save_huggingface(folder, clip)
    model, facts = CLIPModel.from_pretrained(folder, output_loading_info=True)
    assert not facts["missing_keys"]
    assert not facts["unexpected_keys"]
    compare(clip, model)
    processor = PillowProcessor.from_pretrained(folder)
    theirs = processor(picture(), return_tensors="pt").pixel_values[0]
    torch.testing.assert_close(theirs, clip.preprocess(picture()), **WITHIN)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for text, ids in zip(TEXTS, clip.tokenizer(TEXTS).tolist(), strict=True):
        assert tokenizer(text).input_ids == [i for i in ids if i]


def test_open_clip_opens_the_same_folder(tmp_path, toy_teacher):
    import open_clip

    save_huggingface(tmp_path / "student", toy_teacher)
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{tmp_path}/student")
    model.eval()
    assert torch.equal(transform(picture()), toy_teacher.preprocess(picture()))
    with torch.inference_mode():
        image = model.encode_image(pixels(toy_teacher))
        text = model.encode_text(toy_teacher.tokenizer(TEXTS))
    for theirs, ours in zip((image, text), our_features(toy_teacher), strict=True):
        assert torch.equal(theirs, ours)


def test_open_clip_opens_what_came_from_transformers(tmp_path, toy_teacher, toy_tokenizer_file):
    import open_clip

    model = save_theirs(tmp_path / "theirs", toy_tokenizer_file)
    save_huggingface(tmp_path / "toy", toy_teacher)  # for complete tokenizer files
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(tmp_path / "toy" / name, tmp_path / "theirs" / name)
    save_local_dir(tmp_path / "ours", load_clip(str(tmp_path / "theirs")))
    place = f"local-dir:{tmp_path}/ours"
    network, _, transform = open_clip.create_model_and_transforms(place)
    ids = open_clip.get_tokenizer(place)(TEXTS)
    images = torch.stack([transform(picture(seed)) for seed in range(3)])
    with torch.inference_mode():
        image, text = network.eval().encode_image(images), network.encode_text(ids)
    clip = load_clip(str(tmp_path / "ours"))
    for theirs, ours in zip(their_features(model, clip), (image, text), strict=True):
        torch.testing.assert_close(ours, theirs, **WITHIN)


def test_there_and_back_is_the_same_to_the_bit(tmp_path, toy_teacher):
    save_huggingface(tmp_path / "there", toy_teacher)
    for name in ("open_clip_config.json", "open_clip_model.safetensors"):
        (tmp_path / "there" / name).unlink()
    back = load_clip(str(tmp_path / "there"))
    assert weights_hash(back.model) == weights_hash(toy_teacher.model)
    assert back.config["preprocess_cfg"] == toy_teacher.config["preprocess_cfg"]
    save_local_dir(tmp_path / "back", back)
    again = load_clip(str(tmp_path / "back")).model.state_dict()
    assert all(torch.equal(t, again[key]) for key, t in toy_teacher.model.state_dict().items())


def test_vocabulary_and_merges_instead_of_a_tokenizer_file(tmp_path):
    """Two of the older files, of the vocabulary that transformers writes for them."""
    from transformers import CLIPTokenizer

    symbols = [*"abcdefghijklmnopqrstuvwxyz", *(f"{c}</w>" for c in "abcdefghijklmnopqrstuvwxyz")]
    pieces = [*symbols, "ca", "cat</w>", "<|startoftext|>", "<|endoftext|>"]
    folder = tmp_path / "old"
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps({p: i for i, p in enumerate(pieces)}))
    (folder / "merges.txt").write_text("#version: 0.2\nc a\nca t</w>\n")
    theirs = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    source = tmp_path / "tokenizer.json"
    source.write_text(json.dumps({"model": {"vocab": dict.fromkeys(pieces[:-2], 0)}}))
    save_theirs(folder, source)
    (folder / "tokenizer.json").unlink()
    clip = load_clip(str(folder))
    for text in ("a cat", "cat dog", "tac"):
        ids = clip.tokenizer([text])[0].tolist()
        expected = theirs(text).input_ids
        assert ids[: len(expected)] == expected
    save_local_dir(tmp_path / "new", clip)
    assert (tmp_path / "new" / "tokenizer.json").is_file()
    (folder / "merges.txt").write_text("x\n")
    (tmp_path / "again").mkdir()
    for name in ("config.json", "model.safetensors", "vocab.json", "merges.txt"):
        shutil.copyfile(folder / name, tmp_path / "again" / name)
    with pytest.raises(ModelError, match=r"vocab\.json and merges\.txt are not a CLIP vocabulary"):
        load_clip(str(tmp_path / "again"))

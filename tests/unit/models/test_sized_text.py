"""Students of text encoders of transformers: of the teacher's kind, in other sizes, offline."""

from __future__ import annotations

import math
import sys
from copy import deepcopy

import open_clip
import pytest
import torch
import transformers

from families import ENCODERS, M2M_100, MT5, ROBERTA, family
from tinyclip_edge.errors import InheritanceError, MissingExtraError, ModelError
from tinyclip_edge.families.tokenizers import tokenizer_file, vocabulary
from tinyclip_edge.models import create_student, inherit_student, load_clip, save_local_dir
from tinyclip_edge.models.assemble import assemble
from tinyclip_edge.models.build import build_model
from tinyclip_edge.models.cost import traced_macs
from tinyclip_edge.models.describe import describe
from tinyclip_edge.models.vocabulary import Vocabulary
from tinyclip_export.bundle.trim_vocab import trim_vocabulary

CLASSES = {
    "XLM-R": (transformers.XLMRobertaConfig, ROBERTA),
    "RoBERTa": (transformers.RobertaConfig, ROBERTA),
    "mT5": (transformers.MT5Config, MT5),
    "NLLB": (transformers.M2M100Config, {**M2M_100, "decoder_layers": 1}),
}
HALF = {"width": 32, "heads": 2, "layers": 2}


@pytest.fixture(params=CLASSES)
def kind(request):
    return request.param


def of_open_clip(kind, monkeypatch, **longer):
    """The family as open_clip itself builds it, from the configuration that a hub would serve."""
    make, sizes = CLASSES[kind]
    served = make(**{**sizes, **longer}, vocab_size=vocabulary(kind))
    monkeypatch.setattr(open_clip.hf_model.AutoConfig, "from_pretrained", lambda *_: served)
    config = deepcopy(ENCODERS[kind])
    del config["text_cfg"]["hf_config"]
    torch.manual_seed(5)
    teacher = assemble(config, None, name=kind, tokenizer_file=tokenizer_file(kind))
    for parameter in teacher.model.parameters():
        parameter.data.add_(torch.randn(parameter.shape) * 0.05)
    monkeypatch.setattr(
        open_clip.hf_model.AutoConfig, "from_pretrained", lambda *_: pytest.fail("the hub")
    )
    return teacher


@torch.no_grad()
def texts(clip, lines=("a cat", "the dog and a bird in the rain at night", "")):
    return clip.model.encode_text(clip.tokenizer(list(lines)))


def test_a_student_of_open_clips_own_tower_is_that_tower(kind, monkeypatch, tmp_path):
    teacher = of_open_clip(kind, monkeypatch)
    student = create_student({}, teacher)
    report = inherit_student(teacher, student)
    assert {t.origin for t in report.tensors if t.tower != "shared"} == {"copied"}
    assert torch.equal(texts(student), texts(teacher))
    save_local_dir(tmp_path / "student", student)
    loaded = load_clip(str(tmp_path / "student"))
    assert torch.equal(texts(loaded), texts(teacher))
    assert loaded.model.text.transformer.training is False


def test_positions_beyond_the_context_are_left_out(monkeypatch):
    """Positions of RoBERTa start after the padding token's, so that 12 tokens need 14 rows."""
    for kind in ("XLM-R", "RoBERTa"):
        teacher = of_open_clip(kind, monkeypatch, max_position_embeddings=40)
        student = create_student({}, teacher)
        inherit_student(teacher, student)
        key = "text.transformer.embeddings.position_embeddings.weight"
        table = student.model.state_dict()[key]
        assert torch.equal(table, teacher.model.state_dict()[key][:14])
        assert torch.equal(texts(student), texts(teacher))
        shorter = create_student({"text_cfg": {"context_length": 9}}, teacher)
        inherit_student(teacher, shorter)
        assert shorter.model.state_dict()[key].shape == (11, 48)


def test_a_narrower_m2m_100_has_its_teachers_positions_and_scale(monkeypatch):
    teacher = of_open_clip("NLLB", monkeypatch, max_position_embeddings=40)
    student = create_student({"text_cfg": HALF}, teacher)
    report = inherit_student(teacher, student)
    encoder = student.model.text.transformer
    assert encoder.embed_tokens.embed_scale == math.sqrt(48)
    frequencies = torch.exp(torch.arange(24) * -(math.log(10_000) / 23))
    angles = torch.arange(2, 14)[:, None] * frequencies
    expected = torch.cat([angles.sin(), angles.cos()], dim=1)[:, :32]
    torch.testing.assert_close(encoder.embed_positions.weights[2:], expected, atol=1e-5, rtol=0)
    assert {t.origin for t in report.tensors if t.tower == "text"} == {"sliced"}
    embedded = encoder.embed_tokens(torch.tensor([5])) + encoder.embed_positions(
        torch.tensor([[5]])
    )
    theirs = teacher.model.text.transformer
    full = theirs.embed_tokens(torch.tensor([5])) + theirs.embed_positions(torch.tensor([[5]]))
    torch.testing.assert_close(embedded, full[..., :32])


def test_the_table_of_relative_positions_is_cut_by_heads():
    teacher = family("mT5")
    student = create_student({"text_cfg": {"heads": 2, "layers": 2}}, teacher)
    report = inherit_student(teacher, student)
    key = "text.transformer.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    table = student.model.state_dict()[key]
    assert torch.equal(table, teacher.model.state_dict()[key][:, :2])
    assert report.text.layers == (0, 2)
    values = student.model.state_dict()["text.transformer.block.1.layer.0.SelfAttention.v.weight"]
    origin = teacher.model.state_dict()["text.transformer.block.2.layer.0.SelfAttention.v.weight"]
    assert torch.equal(values, origin[:24])  # heads are 12 wide


def test_sizes_follow_from_the_width(kind):
    teacher = family(kind)
    student = create_student({"text_cfg": {"width": 32}}, teacher)
    text = student.config["model_cfg"]["text_cfg"]
    assert (text["width"], text["layers"], text["heads"]) == (32, 4, 2)
    assert text["mlp_ratio"] == 2.0
    inherit_student(teacher, student, plan="evenly")
    name = ENCODERS[kind]["text_cfg"]["hf_model_name"]
    assert f"text of {name} in width 32, 4 layers, 2 heads, 64 neurons" in describe(student)


def test_a_student_without_noise_in_training(kind):
    student = create_student({"text_cfg": HALF}, family(kind))
    student.model.train()
    assert torch.equal(texts(student), texts(student))


def test_multiply_accumulates_are_counted(kind):
    """Of the feed-forward blocks alone: 12 tokens, 4 layers, 48 by 96, twice or thrice."""
    with torch.device("meta"):
        model = build_model(ENCODERS[kind], kind)
    _, macs = traced_macs(model, ENCODERS[kind])
    feed_forward = 12 * 4 * 48 * 96 * (3 if kind == "mT5" else 2)
    assert feed_forward < macs < 4 * feed_forward


def test_an_open_clip_transformer_is_one_word_away():
    teacher = family("XLM-R")
    student = create_student({"text_cfg": {**HALF, "hf_model_name": None}}, teacher)
    assert "hf_config" not in student.config["model_cfg"]["text_cfg"]
    assert not hasattr(student.model, "text") or not hasattr(student.model.text, "pooler")
    with pytest.raises(InheritanceError, match="RoBERTa text encoder"):
        inherit_student(teacher, student)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"auto_map": {"AutoModel": "evil.Evil"}}, "unknown key 'auto_map'"),
        ({"_name_or_path": "/etc"}, "unknown key '_name_or_path'"),
        ({"model_type": "gpt2"}, "model_type 'gpt2' is not one of bert, roberta"),
        ({"model_type": ["bert"]}, "model_type"),
        ({"hidden_size": 10**400}, "hidden_size"),
        ({"hidden_size": True}, "hidden_size True must be a whole number"),
        ({"num_hidden_layers": 10**6}, "layers is 1e"),
        ({"num_attention_heads": 5}, "width 48 does not split into 5 heads"),
        ({"pad_token_id": 10**6}, "hf_config.pad_token_id 1000000 must be below vocab_size"),
        ({"pad_token_id": -1}, "pad_token_id cannot be -1"),
        ({"max_position_embeddings": 13}, "it must be from 14"),
        ({"max_position_embeddings": 10**7}, "to 65536"),
        ({"type_vocab_size": 10**7}, "type_vocab_size cannot be 10000000"),
        ({"type_vocab_size": 0}, "too few token types or relative positions"),
        ({"hidden_act": 3}, "hidden_act cannot be 3"),
        ({"hidden_act": "no_such"}, "cannot build this model_cfg"),
    ],
)
def test_a_broken_configuration_is_refused(changes, message):
    config = deepcopy(ENCODERS["XLM-R"])
    config["text_cfg"]["hf_config"] |= changes
    with pytest.raises(ModelError, match=message) as raised:
        assemble(config, None, name="broken.json", tokenizer_file=tokenizer_file("XLM-R"))
    assert "broken.json" in str(raised.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 0}, "text_cfg.width 0 must be a whole number above 0"),
        ({"mlp_ratio": float("nan")}, "mlp_ratio nan"),
        ({"mlp_ratio": "4"}, "mlp_ratio '4'"),
        ({"vocab_size": 1}, "hf_config.pad_token_id 1 must be below vocab_size 1"),
        ({"hf_pooler_type": "max_pooler"}, "max_pooler cannot be run"),
        ({"hf_proj_type": None}, "leaves 48 channels, the embedding has 40"),
        ({"hf_config": []}, "hf_config must be a table"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes, message):
    config = deepcopy(ENCODERS["XLM-R"])
    config["text_cfg"] |= changes
    with pytest.raises(ModelError, match=message):
        assemble(config, None, name="broken.json", tokenizer_file=tokenizer_file("XLM-R"))


@pytest.mark.parametrize(
    ("heads", "changes", "message"),
    [
        (1000, {}, "1000 heads of 12 are too many for a width of 48"),
        (3, {"relative_attention_num_buckets": 3}, "too few token types or relative positions"),
        (3, {"relative_attention_max_distance": 2}, "max_distance must be more than 2"),
    ],
)
def test_a_broken_t5_is_refused(heads, changes, message):
    config = deepcopy(ENCODERS["mT5"])
    config["text_cfg"]["hf_config"] |= changes
    config["text_cfg"]["heads"] = heads
    with pytest.raises(ModelError, match=message):
        assemble(config, None, name="broken.json", tokenizer_file=tokenizer_file("mT5"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_act": "relu"}, "hidden_act differs: teacher gelu, student relu"),
        ({"layer_norm_eps": 1e-3}, "layer_norm_eps differs"),
        ({"num_attention_heads": 6}, "heads are 8 wide in the student, 16 in the teacher"),
        ({"hidden_size": 96, "num_attention_heads": 6}, "width 96 is more than the teacher's 48"),
    ],
)
def test_encoders_that_do_not_agree_are_refused(changes, message):
    teacher = family("XLM-R")
    table = {**ENCODERS["XLM-R"]["text_cfg"]["hf_config"], **changes}
    with pytest.raises(InheritanceError, match=message):
        inherit_student(teacher, family("XLM-R", text_cfg={"hf_config": table}))


def test_a_folder_from_the_hub_gets_its_tokenizer(tmp_path):
    """A tokenizer that open_clip fetched is written beside the student's weights."""
    student = create_student({"text_cfg": HALF}, family("XLM-R"))
    student.tokenizer_file = None
    save_local_dir(tmp_path / "student", student)
    loaded = load_clip(str(tmp_path / "student"))
    lines = ["a red bicycle", "猫 zebra </s>", ""]
    assert torch.equal(loaded.tokenizer(lines), student.tokenizer(lines))


def test_the_ordinary_file_name_is_refused(tmp_path):
    student = create_student({"text_cfg": HALF}, family("XLM-R"))
    save_local_dir(tmp_path, student)
    (tmp_path / "tinyclip_edge_config.json").rename(tmp_path / "open_clip_config.json")
    with pytest.raises(ModelError, match=r"name it tinyclip_edge_config\.json"):
        load_clip(str(tmp_path))


def test_without_transformers_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'tinyclip-edge\[huggingface\]'"):
        build_model(ENCODERS["NLLB"], "NLLB")


def test_a_smaller_vocabulary_is_saved_and_loaded(kind, tmp_path):
    student = create_student({"text_cfg": HALF}, family(kind))
    vocabulary = Vocabulary(student)
    lines = ["a red cat", "the dog in the snow", "small bicycle"]
    cut = vocabulary.cut(vocabulary.needed(vocabulary.read(lines, "lines")))
    save_local_dir(tmp_path / "cut", cut)
    loaded = load_clip(str(tmp_path / "cut"))
    assert loaded.vocabulary == cut.vocabulary < student.vocabulary
    torch.testing.assert_close(texts(loaded, lines), texts(student, lines), atol=1e-6, rtol=0)
    smaller = create_student({"text_cfg": {"layers": 1}}, loaded)
    assert inherit_student(loaded, smaller).text.layers == (0,)
    assert smaller.vocabulary == loaded.vocabulary


@pytest.mark.parametrize("name", ["XLM-R", "NLLB"])
def test_a_tower_of_the_hub_with_fewer_tokens_describes_itself(name, tmp_path):
    """Its folder needs no hub, whose sizes are those of the whole vocabulary."""
    clip = family(name)
    del clip.config["model_cfg"]["text_cfg"]["hf_config"]
    if name == "NLLB":
        places = clip.model.text.transformer.embed_positions
        places.weights = torch.nn.Buffer(places.weights, persistent=False)
    texts = ["a red bicycle", "the cat in the rain"]
    small = trim_vocabulary(clip, texts).clip
    save_local_dir(tmp_path / "small", small)
    loaded = load_clip(str(tmp_path / "small"))
    with torch.no_grad():
        expected = clip.model.encode_text(clip.tokenizer(texts))
        torch.testing.assert_close(loaded.model.encode_text(loaded.tokenizer(texts)), expected)

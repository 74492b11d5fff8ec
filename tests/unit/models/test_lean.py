"""Lean towers give open_clip's own features and gradients, block by block and as a whole."""

import pytest
import torch

from tinyclip_edge.models import create_student
from tinyclip_edge.models.lean import LeanTowers, run_any_block, run_block


@pytest.fixture
def pixels():
    return torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def tokens(toy_teacher):
    texts = ["cat", "a photo of the blue bicycle", "a dog", "the red square", "red"]
    ids = toy_teacher.tokenizer(texts)
    return ids[:, : int(ids.argmax(dim=-1).max()) + 1]


def padded(tokens, length=16):
    return torch.nn.functional.pad(tokens, (0, length - tokens.shape[1]))


def grads(model, loss):
    model.zero_grad()
    loss.backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def test_images_and_their_gradients(toy_teacher, pixels):
    model = toy_teacher.model.train().requires_grad_(True)
    lean = LeanTowers(model)
    assert lean.image
    ours, theirs = lean.encode_image(pixels), model.encode_image(pixels)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    expected = grads(model, model.encode_image(pixels).square().sum())
    actual = grads(model, lean.encode_image(pixels).square().sum())
    assert actual.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(actual[name], gradient, rtol=1e-3, atol=1e-3, msg=name)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_texts_and_their_gradients(toy_teacher, tokens, checkpointing):
    model = toy_teacher.model.train().requires_grad_(True)
    lean = LeanTowers(model)
    assert lean.text
    theirs = model.encode_text(padded(tokens))
    expected = grads(model, theirs.square().sum())
    model.set_grad_checkpointing(checkpointing)
    ours = lean.encode_text(tokens)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    actual = grads(model, ours.square().sum())
    model.set_grad_checkpointing(False)
    assert actual.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(actual[name], gradient, rtol=1e-3, atol=1e-3, msg=name)


@pytest.mark.parametrize("causal", [False, True])
def test_one_asking_token_is_a_row_of_the_full_block(toy_teacher, causal):
    block = toy_teacher.model.transformer.resblocks[1]
    x = torch.randn(3, 7, 128, generator=torch.Generator().manual_seed(2))
    at = torch.tensor([0, 3, 6])
    with torch.no_grad():
        full = run_any_block(block, x, None, causal)
        torch.testing.assert_close(run_block(block, x, None, causal), full, rtol=1e-5, atol=1e-5)
        rows = full[torch.arange(3), at]
        torch.testing.assert_close(run_block(block, x, at, causal), rows, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(run_any_block(block, x, at, causal), rows, rtol=1e-5, atol=1e-5)


def test_the_last_block_works_for_one_token_only(toy_teacher, pixels):
    from torch.utils.flop_counter import FlopCounterMode

    model = toy_teacher.model.train()  # in eval mode torch fuses what would be counted
    counts = []
    for encode in (LeanTowers(model).encode_image, model.encode_image):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            encode(pixels)
        counts.append(counter.get_total_flops())
    # Of 12 W^2 a token and block, the last of four spares 10 for 16 of 17 tokens.
    blocks = 4 * 12 * 128**2 * 17 * 5 * 2
    spared = 10 * 128**2 * 16 * 5 * 2
    assert counts[1] - counts[0] >= spared
    assert counts[1] - counts[0] < spared + 0.02 * blocks  # attention itself gets cheaper too


@pytest.mark.parametrize(
    "vision",
    [
        {"layers": [1, 1, 1, 1], "width": 16, "head_width": 16},
        {"width": 64, "layers": 2, "pool_type": "avg"},
        {"width": 64, "layers": 2, "attentional_pool": True, "attn_pooler_heads": 2},
    ],
    ids=["resnet", "mean pool", "attentional pool"],
)
def test_other_image_towers_are_delegated_to_open_clip(toy_teacher, vision):
    text = {"width": 64, "heads": 1, "layers": 2}
    student = create_student({"vision_cfg": vision, "text_cfg": text}, toy_teacher)
    assert not LeanTowers(student.model).image


def test_blocks_of_another_make_run_completely(toy_teacher, pixels):
    """qk_norm makes blocks whose attention is not the plain one."""
    vision = {"width": 64, "layers": 2, "block_type": "custom", "qk_norm": True}
    text = {"width": 64, "heads": 1, "layers": 2}
    torch.manual_seed(0)
    model = create_student({"vision_cfg": vision, "text_cfg": text}, toy_teacher).model.eval()
    with torch.no_grad():
        ours = LeanTowers(model).encode_image(pixels)
        torch.testing.assert_close(ours, model.encode_image(pixels), rtol=1e-5, atol=1e-5)


@pytest.fixture
def traced_only(monkeypatch):
    """Compile without making machine code, which takes minutes; told when torch gives up."""
    torch._dynamo.reset()
    compile_fully = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda run, **kw: compile_fully(run, backend="eager", **kw)
    )
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        yield
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.usefixtures("traced_only")
def test_compiled_blocks_answer_alike_in_every_stage(toy_teacher, pixels, tokens):
    for width in (64, 32):  # each is compiled anew: with and without gradient, last block apart
        shape = {
            "vision_cfg": {"width": width, "layers": 2, "head_width": 16},
            "text_cfg": {"width": width, "heads": width // 16, "layers": 2},
        }
        model = create_student(shape, toy_teacher).model.train().requires_grad_(True)
        plain, compiled = LeanTowers(model), LeanTowers(model)
        compiled.compile()
        for grad in (True, False):
            with torch.set_grad_enabled(grad):
                for side, inputs in (("encode_image", pixels), ("encode_text", tokens)):
                    expected = getattr(plain, side)(inputs)
                    torch.testing.assert_close(
                        getattr(compiled, side)(inputs), expected, rtol=1e-5, atol=1e-5
                    )

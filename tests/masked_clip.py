"""A tiny CLIP for mask tests, random masks, and the masked forward written out step by step."""

from __future__ import annotations

import torch

from tinyclip_edge.inheritance.gates import ClipMasks, TowerMasks

END, CONTEXT = 400, 10  # an id above all others of a text
MODEL_CFG = {
    "embed_dim": 12,
    "vision_cfg": {
        "image_size": 16,
        "patch_size": 8,
        "width": 32,
        "layers": 3,
        "head_width": 8,
        "mlp_ratio": 2.0,
    },
    "text_cfg": {
        "context_length": CONTEXT,
        "width": 24,
        "heads": 3,
        "layers": 2,
        "mlp_ratio": 2.0,
    },
}


def make_clip(tokenizer_file, *, quick_gelu=False, seed=0, **vision):
    """A random CLIP whose biases, norms and embeddings are not trivial, so that slips show."""
    from tokenizers import Tokenizer

    from tinyclip_edge.models.assemble import assemble

    vocabulary = Tokenizer.from_file(str(tokenizer_file)).get_vocab_size()
    config = {
        **MODEL_CFG,
        "quick_gelu": quick_gelu,
        "vision_cfg": {**MODEL_CFG["vision_cfg"], **vision},
        "text_cfg": {**MODEL_CFG["text_cfg"], "vocab_size": vocabulary},
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        clip = assemble(config, None, name="tiny", tokenizer_file=tokenizer_file)
        with torch.no_grad():
            for name, parameter in clip.model.named_parameters():
                if name != "logit_scale":
                    parameter.add_(0.3 * torch.randn_like(parameter))
    return clip


def pairs(n=5, seed=1):
    """Pixels, and ids that end at different places; the highest id ends a text."""
    rng = torch.Generator().manual_seed(seed)
    pixels = torch.randn(n, 3, 16, 16, generator=rng)
    ids = torch.randint(1, END, (n, CONTEXT), generator=rng)
    for row, end in enumerate(torch.randint(2, 7, (n,), generator=rng).tolist()):
        ids[row, end], ids[row, end + 1 :] = END, 0
    return pixels, ids


def random_masks(units, seed, *, off=0.4):
    """Masks in (0, 1], a share of them off."""
    rng = torch.Generator().manual_seed(seed)

    def draw(n):
        on = torch.rand(n, generator=rng) >= off
        return (0.2 + 0.8 * torch.rand(n, generator=rng)) * on

    def tower(of):
        hidden = draw(of.width)
        hidden[0] = 0.5  # a tower without channels is another test
        return TowerMasks(
            hidden, tuple(draw(n) for n in of.heads), tuple(draw(n) for n in of.neurons)
        )

    return ClipMasks(tower(units.image), tower(units.text))


def reference_features(model, masks, pixels, ids):
    """Image and text features in float64: masks multiply activations, nothing is folded or cut."""
    state = {k: v.double() for k, v in model.state_dict().items()}
    quick = type(model.visual.transformer.resblocks[0].mlp.gelu).__name__ == "QuickGELU"
    image_masks, text_masks = (
        TowerMasks(
            m.hidden.double(), [z.double() for z in m.heads], [z.double() for z in m.neurons]
        )
        for m in masks
    )
    patches = torch.nn.functional.conv2d(
        pixels.double(), state["visual.conv1.weight"], stride=model.visual.conv1.stride
    )
    x = patches.flatten(2).transpose(1, 2)
    first = state["visual.class_embedding"].expand(len(x), 1, -1)
    x = torch.cat([first, x], dim=1) + state["visual.positional_embedding"]
    x = _norm(x * image_masks.hidden, state, "visual.ln_pre", image_masks.hidden)
    x = _blocks(x, state, "visual.", image_masks, quick, causal=False)
    image = _norm(x[:, 0], state, "visual.ln_post", image_masks.hidden) @ state["visual.proj"]
    x = state["token_embedding.weight"][ids] + state["positional_embedding"][: ids.shape[1]]
    x = _blocks(x * text_masks.hidden, state, "", text_masks, quick, causal=True)
    x = x[torch.arange(len(ids)), ids.argmax(dim=-1)]
    text = _norm(x, state, "ln_final", text_masks.hidden) @ state["text_projection"]
    return image / image.norm(dim=-1, keepdim=True), text / text.norm(dim=-1, keepdim=True)


def _norm(x, state, name, hidden):
    on = hidden > 0
    mean = x[..., on].mean(dim=-1, keepdim=True)
    variance = ((x[..., on] - mean) ** 2).mean(dim=-1, keepdim=True)
    y = (x - mean) / torch.sqrt(variance + 1e-5)
    return (y * state[f"{name}.weight"] + state[f"{name}.bias"]) * on


def _blocks(x, state, prefix, masks, quick, *, causal):
    for layer, (heads, neurons) in enumerate(zip(masks.heads, masks.neurons, strict=True)):
        at = f"{prefix}transformer.resblocks.{layer}."
        out = state[f"{at}attn.out_proj.bias"]
        if f"{at}attn.in_proj_weight" in state:
            y = _norm(x, state, f"{at}ln_1", masks.hidden)
            out = out + _attention(y, state, at, heads, causal)
        x = x + out * masks.hidden
        out = state[f"{at}mlp.c_proj.bias"]
        if f"{at}mlp.c_fc.weight" in state:
            y = _norm(x, state, f"{at}ln_2", masks.hidden)
            y = y @ state[f"{at}mlp.c_fc.weight"].T + state[f"{at}mlp.c_fc.bias"]
            y = y * torch.sigmoid(1.702 * y) if quick else y * 0.5 * (1 + torch.erf(y / 2**0.5))
            out = out + (y * neurons) @ state[f"{at}mlp.c_proj.weight"].T
        x = x + out * masks.hidden
    return x


def _attention(y, state, at, heads, causal):
    """What the heads add, one by one; the head's factor stands before out_proj."""
    weights = state[f"{at}attn.in_proj_weight"].chunk(3)
    biases = state[f"{at}attn.in_proj_bias"].chunk(3)
    width = len(weights[0]) // len(heads)
    out = torch.zeros((), dtype=y.dtype)
    for head, factor in enumerate(heads):
        rows = slice(head * width, (head + 1) * width)
        q, k, v = (y @ w[rows].T + b[rows] for w, b in zip(weights, biases, strict=True))
        scores = q @ k.transpose(1, 2) / width**0.5
        if causal:
            future = torch.ones(scores.shape[1:]).triu(1).bool()
            scores = scores.masked_fill(future, -torch.inf)
        values = scores.softmax(dim=-1) @ v
        out = out + (values * factor) @ state[f"{at}attn.out_proj.weight"][:, rows].T
    return out


def pixels(clip, count=3):
    generator = torch.Generator().manual_seed(2)
    return torch.randn(count, 3, clip.image_size, clip.image_size, generator=generator)


@torch.no_grad()
def image_features(clip, images):
    return clip.model.encode_image(images, normalize=True)

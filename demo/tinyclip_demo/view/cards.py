"""Title and one card per model: its facts, its loading state, whether it is compared."""

from __future__ import annotations

from html import escape

from tinyclip_demo.model_registry import FAILED, LOADING, READY, ModelRegistry, ModelSlot
from tinyclip_demo.view.parts import RUNTIMES, hue, megabytes, millions
from tinyclip_edge.models.names import STARTER_TEACHER

PUBLISHED = "ViT-B-32/laion2b_s34b_b79k"  # a model that knows photographs
STATES = {READY: "ready", LOADING: "loading …", FAILED: "failed"}


def header(registry: ModelRegistry) -> str:
    """Return the title and the cards of all models, all of them checked."""
    ready_count = sum(slot.state == READY for slot in registry.slots)
    cards = "".join(_card(registry, i) for i in range(len(registry)))
    return (
        '<header class="tc-head"><div class="tc-title"><h1>tinyclip-edge</h1>'
        f"{_about(registry.slots[0])}</div>"
        f'<p class="tc-state" role="status"><b>{ready_count} of {len(registry)}</b> models ready'
        "</p>"
        f'</header><ul class="tc-cards" aria-label="Models">{cards}</ul>'
    )


def _about(first: ModelSlot) -> str:
    """Return what the page compares; for the starter models, what they do not know."""
    if first.model != STARTER_TEACHER:
        return "<p>A CLIP and its distilled students on the same input</p>"
    return (
        '<p class="tc-limits">The starter models know <b>pictograms</b> by their English names, '
        f"not photographs.<span> For those: <code>demo --teacher {PUBLISHED}</code></span></p>"
    )


def _card(registry: ModelRegistry, number: int) -> str:
    slot, name = registry.slots[number], escape(registry.names[number])
    state = STATES.get(slot.state, "waiting")
    runtime = RUNTIMES.get(slot.runtime, slot.runtime)
    size = f"<span>{slot.spec.image_size} px</span>" if slot.spec else ""
    return (
        f'<li {hue(number)} class="{slot.state}"><label title="{name}">'
        f'<input type="checkbox" data-name="{name}" checked aria-label="Compare {name}">'
        f"<h2>{name}</h2><em>{state}</em></label>"
        f'<p class="tc-tags"><span>{escape(runtime)}</span><span>{escape(slot.precision)}</span>'
        f"{size}</p>{_facts(slot, registry.slots[0], number)}</li>"
    )


def _facts(slot: ModelSlot, first: ModelSlot, number: int) -> str:
    if slot.state == FAILED:
        return f'<p class="tc-fault">{escape(slot.error)}</p>'
    parameters = disk = "…"
    if slot.spec:
        reference = first.spec if number and first.spec else slot.spec
        count, size = slot.spec.encoder_parameters, slot.spec.bytes_on_disk
        parameters = millions(count) + _change(count, reference.encoder_parameters)
        disk = megabytes(size) + _change(size, reference.bytes_on_disk)
    return (
        f"<dl><div><dt>Encoder parameters</dt><dd>{parameters}</dd></div>"
        f"<div><dt>On disk</dt><dd>{disk}</dd></div></dl>"
    )


def _change(value: int, reference: int) -> str:
    if value <= 0 or reference <= 0:
        return ""
    change = value / reference - 1
    return f" <small>{change:+.0%}</small>".replace("-", "−") if round(change, 2) else ""

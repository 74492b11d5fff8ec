"""The routes of the server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from fastapi import Body, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from tinyclip_edge.access import App, HostGuard, HostRule
from tinyclip_edge.errors import TinyClipError, one_line
from tinyclip_edge.runtime.edge import EdgeCLIP
from tinyclip_edge.runtime.protocol import Features
from tinyclip_edge.runtime.vectors import unit
from tinyclip_edge.serve.content import AsciiResponse, base64_vector, is_picture, rounded
from tinyclip_edge.serve.engine import ServedModel
from tinyclip_edge.serve.errors import RequestError, error_body
from tinyclip_edge.serve.guard import RequestGuard
from tinyclip_edge.serve.metrics import CONTENT_TYPE, ServerMetrics
from tinyclip_edge.serve.schema import ClassifyRequest, EmbeddingsRequest, SearchRequest
from tinyclip_edge.serve.settings import ServerLimits


def create_app(
    clip: EdgeCLIP,
    *,
    index: str | Path | None = None,
    rule: HostRule | None = None,
    keys: Sequence[str] = (),
    limits: ServerLimits | None = None,
) -> App:
    """Return an ASGI application that serves a bundle.

    ``index``: file of an ImageIndex for ``/search``. ``rule``: host names that it accepts, by
    default those of this machine. ``keys``: if any, a request needs one of them as bearer token.
    Raise BundleError for a broken bundle or an index of another model, DataError without an index.
    """
    limits, metrics = limits or ServerLimits(), ServerMetrics()
    engine = ServedModel(clip, limits, metrics, None if index is None else Path(index))

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        engine.close()

    app = FastAPI(
        title="tinyclip-edge", lifespan=lifespan, docs_url=None, redoc_url=None,
        default_response_class=AsciiResponse,
        exception_handlers={
            TinyClipError: _refused, RequestValidationError: _invalid, HTTPException: _no_route,
        },
    )  # fmt: skip
    _add_model_routes(app, engine)
    _add_status_routes(app, engine, metrics)
    routes = [path for path in (getattr(route, "path", None) for route in app.routes) if path]
    guarded = RequestGuard(app, limits, metrics, routes=routes, keys=keys)
    return HostGuard(guarded, rule or HostRule("127.0.0.1"))


def _add_model_routes(app: FastAPI, engine: ServedModel) -> None:
    @app.post("/v1/embeddings")
    @app.post("/embeddings")
    async def embeddings(request: Annotated[EmbeddingsRequest, Body()]) -> AsciiResponse:
        """Embed texts or pictures."""
        inputs = [request.input] if isinstance(request.input, str) else request.input
        kinds = [
            is_picture(text, request.modality, f"input {number}")
            for number, text in enumerate(inputs)
        ]
        _check_inputs(inputs, kinds, engine)
        rows, tokens = await _embed(engine, inputs, kinds)
        features = _cut(rows, request.dimensions)
        write = base64_vector if request.encoding_format == "base64" else rounded
        return AsciiResponse({
            "object": "list",
            "model": engine.clip.name,
            "data": [
                {"object": "embedding", "index": row, "embedding": write(vector)}
                for row, vector in enumerate(features)
            ],
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        })  # fmt: skip

    @app.post("/classify")
    async def classify(request: Annotated[ClassifyRequest, Body()]) -> dict[str, Any]:
        """Return the labels of a picture with their probabilities."""
        answer = await engine.classify(
            request.image, request.labels, request.templates, request.threshold
        )
        return {
            "model": engine.clip.name,
            "familiar": answer.familiar,
            "unknown": answer.unknown,
            "labels": [
                {"label": label, "probability": chance} for label, chance in answer[: request.top]
            ],
        }

    @app.post("/search")
    async def search(request: Annotated[SearchRequest, Body()]) -> dict[str, Any]:
        """Return pictures of the index."""
        if request.text is None and request.image is None:
            raise RequestError("search needs text or image")
        if request.top > engine.limits.hits:
            raise RequestError(f"top is at most {engine.limits.hits:,}")
        without = [request.without] if isinstance(request.without, str) else request.without
        texts = ([] if request.text is None else [request.text]) + without
        if not all(map(str.strip, texts)):
            raise RequestError("text and without must not be empty")
        if texts:
            _check_inputs(texts, [False] * len(texts), engine)
        rows = list(await engine.embed_texts(texts)) if texts else []
        vectors = [] if request.text is None else [rows.pop(0)]
        if request.image is not None:
            vectors.extend(await engine.embed_pictures([request.image]))
        query: Features = np.stack([*vectors, *(-row for row in rows)]).sum(axis=0)
        hits = await engine.search(query, request.top, request.min_score)
        results = [
            {"key": hit.key, "score": hit.score}
            | ({} if hit.metadata is None else {"metadata": dict(hit.metadata)})
            for hit in hits
        ]
        return {"model": engine.clip.name, "results": results}


def _add_status_routes(app: FastAPI, engine: ServedModel, metrics: ServerMetrics) -> None:
    clip = engine.clip

    @app.get("/health")
    async def health() -> dict[str, Any]:
        """Report that the server is up, and what it serves."""
        return {"status": "ok", "model": clip.name, "precision": clip.precision}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """List the one model, for OpenAI's clients."""
        entry = {"id": clip.name, "object": "model", "created": 0, "owned_by": "tinyclip-edge"}
        return {"object": "list", "data": [entry]}

    @app.get("/metrics")
    async def figures() -> Response:
        """Return counts and times."""
        return Response(metrics.text(), media_type=CONTENT_TYPE)


async def _embed(
    engine: ServedModel, inputs: Sequence[str], kinds: Sequence[bool]
) -> tuple[list[Features], int]:
    """Return the embedding of each input, and the number of tokens of the texts."""
    pictures = [text for text, picture in zip(inputs, kinds, strict=True) if picture]
    texts = [text for text, picture in zip(inputs, kinds, strict=True) if not picture]
    tokens = await engine.token_ids(texts)
    rows = {
        True: iter(await engine.embed_pictures(pictures) if pictures else ()),
        False: iter(await engine.embed_tokens(tokens) if texts else ()),
    }
    return [next(rows[picture]) for picture in kinds], sum(map(len, tokens))


def _check_inputs(inputs: Sequence[str], pictures: Sequence[bool], engine: ServedModel) -> None:
    limits = engine.limits
    if not inputs:
        raise RequestError("input is empty")
    if len(inputs) > limits.inputs:
        raise RequestError(f"{len(inputs):,} inputs; at most {limits.inputs:,} in a request", 413)
    for number, (text, picture) in enumerate(zip(inputs, pictures, strict=True)):
        if not picture and len(text) > limits.text_chars:
            raise RequestError(
                f"text {number} has {len(text):,} characters; at most {limits.text_chars:,}", 413
            )


def _cut(features: Sequence[Features], dimensions: int | None) -> Sequence[Features]:
    width = len(features[0])
    if dimensions is None or dimensions == width:
        return features
    if dimensions > width:
        raise RequestError(f"dimensions is at most {width}, the length of the model's embeddings")
    return [unit(vector[None, :dimensions])[0] for vector in features]


async def _refused(_: Request, error: Exception) -> AsciiResponse:
    status = error.status if isinstance(error, RequestError) else 400
    headers = error.headers if isinstance(error, RequestError) else {}
    return AsciiResponse(error_body(str(error), status), status, headers)


async def _invalid(_: Request, error: Exception) -> AsciiResponse:
    """Name the first wrong field; never repeat what the client sent."""
    faults = error.errors() if isinstance(error, RequestValidationError) else []
    first = faults[0] if faults else {"loc": (), "msg": "invalid request", "type": ""}
    if first["type"] == "json_invalid":
        text = f"body: not JSON from character {first['loc'][-1]} on"
        return AsciiResponse(error_body(text, 400), 400)
    # A value that fits no form of a field has a fault for each; the innermost says most.
    of_field = [fault for fault in faults if fault["loc"][:2] == first["loc"][:2]]
    deepest = max(of_field, key=lambda fault: len(fault["loc"]), default=first)
    name, *below = deepest["loc"][1:] or ("body",)
    place = ".".join(map(str, [name, *(part for part in below if isinstance(part, int))]))
    return AsciiResponse(error_body(one_line(f"{place}: {deepest['msg']}"), 400), 400)


async def _no_route(_: Request, error: Exception) -> AsciiResponse:
    status = error.status_code if isinstance(error, HTTPException) else 500
    detail = error.detail if isinstance(error, HTTPException) else "error"
    headers = error.headers if isinstance(error, HTTPException) else None
    return AsciiResponse(error_body(one_line(str(detail)), status), status, headers)

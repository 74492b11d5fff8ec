"""A bundle served over HTTP: embeddings in OpenAI's format, classification, search, metrics."""

from tinyclip_edge.serve.app import create_app
from tinyclip_edge.serve.server import serve
from tinyclip_edge.serve.settings import ServerLimits

__all__ = ["ServerLimits", "create_app", "serve"]

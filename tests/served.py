"""Requests to a server in this process, and its answers."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

BASE = "http://127.0.0.1"


def picture(colour="red", size=(12, 9)):
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return file.getvalue()


def data_url(content):
    return "data:image/png;base64," + base64.b64encode(content).decode()


def vectors(response):
    assert response.status_code == 200, response.text
    return np.array([row["embedding"] for row in response.json()["data"]], dtype=np.float32)


def refused(response, status):
    """The one line of a refusal."""
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert "\n" not in error["message"] and set(error) == {"message", "type", "param", "code"}
    return error["message"]

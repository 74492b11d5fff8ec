"""The demo as a Hugging Face Space, or anywhere: ``python app.py``.

Compares the models named in ``TINYCLIP_MODELS`` (separated by spaces; the first is the reference).
If it is not set, compares the starter teacher and every bundle in ``bundles/`` next to this file.
``TINYCLIP_IMAGES`` is a folder to search instead of the starter artwork. A Space sets the address
to listen on, ``GRADIO_SERVER_NAME`` and ``GRADIO_SERVER_PORT``; elsewhere, ``TINYCLIP_HOSTS`` lists
the host names under which browsers reach the page.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tinyclip_demo import Visitors, launch, open_gallery
from tinyclip_edge.errors import ConfigError, TinyClipError

HERE = Path(__file__).parent


def chosen_models() -> list[str]:
    """Return the MODEL strings to compare."""
    named = os.environ.get("TINYCLIP_MODELS", "").split()
    bundles = sorted(path.parent for path in (HERE / "bundles").glob("*/manifest.json"))
    return named or ["starter-teacher", *map(str, bundles)]


def chosen_port() -> int:
    """Return the port to listen on; raise ConfigError if it is not a number."""
    value = os.environ.get("GRADIO_SERVER_PORT", "7860")
    if not value.isdecimal():
        raise ConfigError(
            f"GRADIO_SERVER_PORT {value!r} is not a port: set it to a number from 1 to 65535"
        )
    return int(value)


def allowed_hosts() -> list[str]:
    """Return the host names that the page accepts; any name in a Space, whose proxy decides."""
    return ["*"] if os.environ.get("SPACE_ID") else os.environ.get("TINYCLIP_HOSTS", "").split()


def main() -> int:
    """Serve until the process ends; return the exit code."""
    try:
        launch(
            chosen_models(),
            open_gallery(os.environ.get("TINYCLIP_IMAGES") or None),
            host=os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"),
            port=chosen_port(),
            visitors=Visitors(allowed_hosts()),
        )
    except TinyClipError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())

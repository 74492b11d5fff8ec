"""``tinyclip-edge``, and ``python -m tinyclip_edge``, which launchers such as torchrun call."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; Ctrl-C prints one line, even during the imports."""
    try:
        from tinyclip_edge.cli.app import main as run

        run()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; nothing was changed\n")
        sys.exit(130)


if __name__ == "__main__":
    main()

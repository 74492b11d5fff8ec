"""``python -m tinyclip_edge``, which launchers such as torchrun and accelerate call."""

from tinyclip_edge.cli.app import main

if __name__ == "__main__":
    main()

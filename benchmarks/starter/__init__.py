"""How the starter kit and its teacher were made: ``cd benchmarks && python -m starter.NAME``."""

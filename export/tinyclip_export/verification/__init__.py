"""Checks that a bundle must pass: structure, values, ranking, latency, reload."""

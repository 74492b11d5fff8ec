"""A collection of pictures in folders: its index on disk, kept up to date, and its uses.

Needs only the base installation, except for embedding shards.
"""

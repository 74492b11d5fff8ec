"""A collection of pictures in folders: its index on disk, kept up to date, and its uses.

Needs the base installation only.
"""

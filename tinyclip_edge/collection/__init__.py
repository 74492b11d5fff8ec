"""A collection of pictures in folders: its index on disk, kept up to date, and what is made of it.

Needs the base installation only.
"""

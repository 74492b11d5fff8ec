"""Pairs of a large set that match a target: weighed, drawn, written as an index or as shards."""

"""Select pairs of a large set that match a target: weigh, draw, write an index or shards."""

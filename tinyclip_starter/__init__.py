"""Data of tinyclip-edge's starter kit: shards of captioned pictograms and a small teacher.

``tinyclip_edge.starter`` locates and reads them.
"""

__version__ = "0.1.0"

"""Stages of a run: their steps, their students, and the transitions between them."""

"""Stages of a run: their steps, their students, and the way from one to the next."""

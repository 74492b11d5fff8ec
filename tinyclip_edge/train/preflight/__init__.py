"""Checks before a run: data, teacher, memory, time, the student at step 0."""

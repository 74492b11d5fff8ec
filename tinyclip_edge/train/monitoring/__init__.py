"""Events, progress and trackers of a run."""

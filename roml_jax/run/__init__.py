"""The host side of a run: the loop over compiled chunks, checkpoints, metrics and the run's folder."""

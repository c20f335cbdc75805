"""The host's side of a run: everything between two compiled chunks, and on disk."""

"""The run folder: stages, checkpoints, log, lock, summary, comparison, report."""

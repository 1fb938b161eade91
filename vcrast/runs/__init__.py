"""The run folder and its life: stages, checkpoints, log, lock, summary, comparison, report."""

"""Settings: schemas, composing, saving and resuming; registries of swappable parts."""

"""Settings: schemas, composition, saving and resuming; the registries of parts."""

"""Settings: their schemas, how they are composed, saved and resumed, and the registries of swappable parts."""

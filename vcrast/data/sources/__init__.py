"""One file per kind of dataset; each registers a function that turns a `DataConfig` into a `Corpus`."""

"""A small labelled sound engine: procedural sounds from formulas, one family a file."""

"""Figures, one self-contained HTML page, and the table at the end of a run."""

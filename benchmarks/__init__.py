"""Measurements and computed tables; each prints where it ran."""

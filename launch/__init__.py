"""Launchers: they turn a command line into a run, here or on a cluster."""

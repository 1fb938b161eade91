"""Launchers: from a command line to a run on this machine or to jobs on a cluster."""

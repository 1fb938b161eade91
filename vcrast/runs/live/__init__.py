"""Serve a page that shows runs while they run."""

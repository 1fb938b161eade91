"""The `vcrast` command, one verb a file."""

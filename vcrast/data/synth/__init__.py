"""Generated sounds: parameters, programs, endless pairs and labelled classes."""

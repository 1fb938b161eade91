"""Generated sounds: parameters, the programs that play them, endless pairs and labelled classes."""

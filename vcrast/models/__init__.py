"""The encoder and its parts."""

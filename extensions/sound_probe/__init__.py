"""Probe of generated sounds' parameters, `vcrast probe`; the maths are in README.md."""

"""Linear probe of generated sounds' parameters. `vcrast probe RUN`; the maths are in README.md."""

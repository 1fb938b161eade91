"""Random Feature Attention: linear in the number of tokens. `attention=rfa`; the maths are in README.md."""

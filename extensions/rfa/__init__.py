"""`attention=rfa`: Random Feature Attention, linear in the tokens; maths in README.md."""

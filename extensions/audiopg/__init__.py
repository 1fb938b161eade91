"""AudioPG's kind of sounds as a program of pairs. `source=audiopg`; the maths are in README.md."""

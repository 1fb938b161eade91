"""AudioPG's kind of sounds, `source=audiopg`; the maths are in README.md."""

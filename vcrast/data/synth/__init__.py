"""The sound engine: one space of parameters, one program that plays them; pairs without end and labelled classes."""

"""The version, where every part may read it: `vcrast/__init__.py` imports parts that need it."""

__version__ = "0.1.0"

"""Hypercomplex layers: `linear=quaternion` and `linear=phm`; the maths are in README.md."""

"""Backbones and their parts; weights in and out."""

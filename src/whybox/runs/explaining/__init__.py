"""Explain many images."""

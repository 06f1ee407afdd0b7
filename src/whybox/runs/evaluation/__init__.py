"""Measure heat maps over a data set."""

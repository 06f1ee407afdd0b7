"""Fitting networks: a detector from images and boxes."""

"""Analyses of an image-text model's maps: how words add up, what they follow, which of them count."""

"""Fitting networks: one loop; a detector from images and boxes, a CLIP from images and texts."""

"""Training: one loop for all tasks; a detector from images and boxes, a CLIP from images and texts."""

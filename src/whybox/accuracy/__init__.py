"""Measures of a detector, one file each: pure functions from detections and truth to numbers."""

"""Ultralytics' detectors. The package is found by the names of its classes, and imported only to open a file of its own."""

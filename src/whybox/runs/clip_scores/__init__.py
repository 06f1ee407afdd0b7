"""Scores of image-text models: classes of regions, retrieval, zero-shot classification, and their paired differences."""

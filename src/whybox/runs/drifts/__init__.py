"""What new weights see that the old did not: over many images, the largest changes first."""

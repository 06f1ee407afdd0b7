"""The live viewer: images, models and what is asked of them, in a browser on this machine."""

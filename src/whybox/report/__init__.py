"""Pictures of heat maps: overlays and the self-contained page."""

"""Rules of duplicate removal on annotated images: what they are worth, and weights fitted for them."""

"""Human attention: the agreement between people, and whether agreement with people predicts the trust in a map."""

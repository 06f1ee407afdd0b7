"""Studies with people: questions about maps, answers, and the statistics on them."""

"""A detector's mistakes over a data set, explained."""

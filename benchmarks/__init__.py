"""What is fast, and what is faithful: measured, as ratios within one run."""

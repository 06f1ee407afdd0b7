"""Any detector, through one small function of the user's."""

"""Measured figures as data: a record for every study, and the tables on pages that show them."""

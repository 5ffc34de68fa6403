"""Measured figures as data: a record for every study, and the tables of pages that are made of them."""

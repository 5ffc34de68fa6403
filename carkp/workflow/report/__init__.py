"""The accuracy report: the runs that it is made of, and what they say."""

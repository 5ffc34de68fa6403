"""A tuning study: its trials, the processes that work on them, and what came of it."""

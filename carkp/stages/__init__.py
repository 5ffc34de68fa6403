"""One module per MLproject entry point."""

import os

# Before torch is imported: OpenMP threads that wait for each other spin 300,000 times by default. Where another program
# runs too, that makes training several times slower; a short spin costs nothing measurable on idle cores.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

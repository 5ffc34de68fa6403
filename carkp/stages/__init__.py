"""One module per MLproject entry point."""

import os

# Before torch is imported: OpenMP threads that spin while they wait stop each other wherever anything else runs too.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

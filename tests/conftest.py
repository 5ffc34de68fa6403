"""One torch thread: the networks of the tests are too small for more, and threads that wait for each other stall."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

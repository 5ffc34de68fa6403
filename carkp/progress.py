"""Whether progress bars are shown."""

import os

TQDM_DISABLE = "TQDM_DISABLE"
"""tqdm's own environment variable, which a bar that says ``disable`` itself does not look at."""


def is_hidden(unwanted: bool = False) -> bool:
    """Whether a progress bar is left out: it is ``unwanted`` here, or ``carkp -q`` leaves out all."""
    return unwanted or os.environ.get(TQDM_DISABLE, "") not in ("", "0")

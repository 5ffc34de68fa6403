"""Whether progress bars are shown."""

import os

TQDM_DISABLE = "TQDM_DISABLE"
"""Environment variable of tqdm. A bar created with an explicit ``disable`` ignores it."""


def is_hidden(unwanted: bool = False) -> bool:
    """Return whether to hide a progress bar: it is ``unwanted`` here, or ``carkp -q`` hides all of them."""
    return unwanted or os.environ.get(TQDM_DISABLE, "") not in ("", "0")

"""What can be wrong with a study; apart, so that who catches it need not import Optuna."""


class StorageError(Exception):
    """A database of studies that cannot be used; the message names it."""

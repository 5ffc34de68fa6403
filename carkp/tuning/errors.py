"""Errors of a study, in their own module, so that a caller can catch them without importing Optuna."""


class StorageError(Exception):
    """A database of studies that cannot be used; the message names it."""

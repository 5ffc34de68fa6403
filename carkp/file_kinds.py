"""Detection of a model file's kind by its first bytes."""

from pathlib import Path

_ZIP_START = b"PK\x03\x04"
_SAFETENSORS_HEADER = slice(8, 9)


def is_checkpoint(path: Path) -> bool:
    """Return whether a file begins like one of ``torch.save``: as a ZIP archive."""
    with path.open("rb") as file:
        return file.read(len(_ZIP_START)) == _ZIP_START


def is_safetensors(path: Path) -> bool:
    """Return whether a file begins like a safetensors file."""
    with path.open("rb") as file:
        return file.read(_SAFETENSORS_HEADER.stop)[_SAFETENSORS_HEADER] == b"{"

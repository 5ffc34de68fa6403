"""Digests of the meshes of rendered cars."""

from pathlib import Path

from carkp import disk
from carkp.config.schema import RenderedConfig
from carkp.data.files import expand_path, is_directory, walk_files
from carkp.data.issues import DataError

_DESCRIBING = (".md", ".txt", "")
"""Suffixes of read-me files and licences, which describe meshes and do not change any picture."""


def mesh_digests(rendered: RenderedConfig) -> dict[str, str]:
    """Return setting of a folder of meshes -> digest of its content; "" without a folder.

    Raises:
        DataError: the folder does not exist or cannot be read.
    """
    setting = "rendered.meshes"
    return {setting: _digest(setting, expand_path(rendered.meshes)) if rendered.meshes else ""}


def _digest(setting: str, folder: Path) -> str:
    if not is_directory(folder):
        raise DataError(
            f"{setting}={folder}: no such folder; name the folder of the files, or, if the data are already prepared, "
            "give them with data=…"
        )
    try:
        return disk.content_digest(folder, (path for path in walk_files(folder) if path.suffix not in _DESCRIBING))
    except OSError as error:
        raise DataError(f"{setting}={folder} cannot be read: {error.strerror or error}") from error

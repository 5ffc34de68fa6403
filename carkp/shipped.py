"""The models that come with carkp, and where their files lie in this installation.

A name such as ``carkp-car12`` means the int8 ONNX for prediction. For training, calibration and float scores it means
the float weights. ``carkp-car12/weights.safetensors`` names one file of the model.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

ROOT = Path(__file__).parent / "models"
"""Folder of the models, one subfolder each. It holds data only: a model has no effect unless a user names it."""

DEFAULT_MODEL = "carkp-car12"
FOLDERS: Mapping[str, str] = MappingProxyType({DEFAULT_MODEL: "car12"})
"""Name -> folder below ``ROOT``."""

ONNX_FILE, WEIGHTS_FILE, CARD_FILE, FIGURES_FILE = "int8.onnx", "weights.safetensors", "card.md", "card.yaml"
FILES = (ONNX_FILE, WEIGHTS_FILE, CARD_FILE, FIGURES_FILE)
MAX_BYTES = 16 * 2**20
"""Limit on all files of a model together, because they are part of every installation."""


class ShippedModelError(FileNotFoundError):
    """A model that should come with carkp but is missing in this installation; the message says what to do."""


@dataclass(frozen=True)
class ShippedModel:
    """The files of a model.

    Attributes:
        name: name for users.
        onnx: the int8 program for ONNX Runtime, with any number of images.
        weights: weights of the float network, in float16.
        card: text for people: how the model was made, how good it is and what it cannot do.
        figures: numbers that the card shows, as data.
    """

    name: str
    onnx: Path
    weights: Path
    card: Path
    figures: Path

    @property
    def files(self) -> tuple[Path, ...]:
        return self.onnx, self.weights, self.card, self.figures


def shipped_names() -> tuple[str, ...]:
    """Return the names of all models that come with carkp, even if their files are not in this installation."""
    return tuple(FOLDERS)


def is_shipped(reference: str) -> bool:
    """Return whether ``reference`` is the name of such a model, or of one of its files, as ``<name>/<file>``.

    A user's own file with such a name must be given as ``./carkp-car12``.
    """
    return _split(reference)[0] in FOLDERS


def shipped_folder(name: str) -> Path:
    """Return the folder of the files of the model ``name``; it need not exist.

    Raises:
        ValueError: there is no model of this name.
    """
    if name not in FOLDERS:
        raise ValueError(f"{name!r} is not a model that comes with carkp; the models are {', '.join(FOLDERS)}")
    return ROOT / FOLDERS[name]


def find_shipped(name: str = DEFAULT_MODEL) -> ShippedModel:
    """Return the files of the model ``name``.

    Raises:
        ValueError: there is no model of this name.
        ShippedModelError: its files are not in this installation.
    """
    folder = shipped_folder(name)
    missing = [file for file in FILES if not (folder / file).is_file()]
    if missing:
        raise ShippedModelError(
            f"{name}: this installation of carkp does not have the model ({folder} lacks {', '.join(missing)}): "
            "install a release or check out a commit that has it, make it (`python experiments/ship_model.py --help` "
            "says how), or name another model: latest, a file, or runs:/<id>"
        )
    return ShippedModel(name, *(folder / file for file in FILES))


def find_shipped_file(reference: str, default: str) -> Path:
    """Return the file that ``reference`` names; ``default`` is the file that the name alone stands for.

    Raises:
        ValueError: there is no model of this name.
        ShippedModelError: the model is not in this installation, or has no such file.
    """
    name, _, file = _split(reference)
    model = find_shipped(name)
    paths = {path.name: path for path in model.files}
    if (file or default) not in paths:
        raise ShippedModelError(f"{reference}: {name} has no such file, it has {', '.join(paths)}")
    return paths[file or default]


def _split(reference: str) -> tuple[str, str, str]:
    return reference.rstrip("/").partition("/")

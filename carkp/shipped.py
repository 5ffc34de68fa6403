"""The models that come with carkp: which there are, and where their files lie in this installation.

A name, such as ``carkp-car12``, stands for the int8 ONNX where a model predicts and for the float weights where one is
trained, calibrated or scored in float. ``carkp-car12/weights.safetensors`` names one file of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

ROOT = Path(__file__).parent / "models"
"""Where the models lie, a folder each; data alone, so that they decide nothing but where they are named."""

DEFAULT_MODEL = "carkp-car12"
FOLDERS: Mapping[str, str] = MappingProxyType({DEFAULT_MODEL: "car12"})
"""Name -> folder below ``ROOT``."""

ONNX_FILE, WEIGHTS_FILE, CARD_FILE, FIGURES_FILE = "int8.onnx", "weights.safetensors", "card.md", "card.yaml"
FILES = (ONNX_FILE, WEIGHTS_FILE, CARD_FILE, FIGURES_FILE)
MAX_BYTES = 16 * 2**20
"""Of all files of a model together: they come with every installation."""


class ShippedModelError(FileNotFoundError):
    """A model that comes with carkp and is not in this installation; the message says what to do."""


@dataclass(frozen=True)
class ShippedModel:
    """The files of a model.

    Attributes:
        name: as users give it.
        onnx: the int8 program for ONNX Runtime, with any number of images.
        weights: of the float network, in float16.
        card: what it was made of, what it is worth and what it cannot do, for a person.
        figures: what the card shows, as data.
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
    """Of all models that come with carkp, whether their files are in this installation or not."""
    return tuple(FOLDERS)


def is_shipped(reference: str) -> bool:
    """Whether ``reference`` is the name of such a model or, as ``<name>/<file>``, of a file of one.

    A file of one's own that is called so has to be given as ``./carkp-car12``.
    """
    return _split(reference)[0] in FOLDERS


def shipped_folder(name: str) -> Path:
    """Where the files of the model ``name`` belong.

    Raises:
        ValueError: there is no model of this name.
    """
    if name not in FOLDERS:
        raise ValueError(f"{name!r} is no model that comes with carkp: there are {', '.join(FOLDERS)}")
    return ROOT / FOLDERS[name]


def find_shipped(name: str = DEFAULT_MODEL) -> ShippedModel:
    """The files of the model ``name``.

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
    """The file that ``reference`` names; ``default`` is the one that the name alone stands for.

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

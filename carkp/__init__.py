"""carkp: train, quantise and ship car keypoint detectors."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from carkp.predictor import Predictor as Predictor

__version__ = "0.1.0"
__all__ = ["Predictor", "__version__"]


def __getattr__(name: str) -> object:
    """Import ``carkp.Predictor`` on first access, so that ``import carkp`` alone stays fast."""
    if name == "Predictor":
        from carkp.predictor import Predictor

        return Predictor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

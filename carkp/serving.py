"""The registered model ``carkp``: MLflow's pyfunc around the predictor, as ``mlflow models serve`` runs it.

A request is a table of pictures: ``{"dataframe_records": [{"image": "<base64>", "boxes": [[x, y, w, h], ...]}]}``;
``image`` is a JPEG, PNG or another picture file in base64, ``boxes`` is optional: without it the whole picture is one
car. The answer is ``{"predictions": [{"width": …, "height": …, "cars": [...]}]}``, as ``Prediction.cars`` gives cars.

The model holds ``artifacts/model.onnx`` and three lines that name the class below, no copy of carkp and no pickle: it
loads wherever carkp is installed.
"""

import base64
import binascii
import importlib.metadata
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from mlflow.types.schema import AnyType, ColSpec, DataType, Schema

from carkp.data import jpeg
from carkp.data.issues import DataError
from carkp.data.pictures import decode_picture
from carkp.predictor import Predictor
from carkp.tracking.tracker import PyfuncModel, Tracker

REGISTERED_NAME = "carkp"
ARTIFACT = "model"
FILE_NAME = "model.onnx"

_ANYTHING = AnyType()  # type: ignore[no-untyped-call]
SIGNATURE = ModelSignature(
    inputs=Schema([ColSpec(DataType.string, "image"), ColSpec(_ANYTHING, "boxes", required=False)]),
    outputs=Schema([ColSpec(DataType.long, "width"), ColSpec(DataType.long, "height"), ColSpec(_ANYTHING, "cars")]),
)

_SHOWN = 200
_CODE = """from mlflow.models import set_model

from carkp.serving import KeypointModel

set_model(KeypointModel())
"""
_REQUIREMENTS = ("mlflow", "numpy", "onnxruntime", "opencv-python-headless", "pandas", "timm", "torch")


class RequestError(ValueError):
    """A request that cannot be answered; the message says what is wrong with it."""


class KeypointModel(PythonModel):
    """Rows of ``image`` and ``boxes`` in, a dictionary of keypoints a row out."""

    predictor: Predictor

    def load_context(self, context: PythonModelContext) -> None:
        self.predictor = Predictor.load(context.artifacts[ARTIFACT])

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> list[dict[str, Any]]:
        """Answers all rows.

        Raises:
            MlflowException: a malformed row; the server answers with status 400 and its message.
        """
        del context, params
        answers = []
        for number, row in enumerate(model_input.to_dict("records")):
            try:
                answers.append(answer(self.predictor, row.get("image"), row.get("boxes")))
            except (RequestError, DataError, ValueError) as error:
                raise MlflowException(f"row {number}: {error}", error_code=INVALID_PARAMETER_VALUE) from None
        return answers


def answer(predictor: Predictor, image: object, boxes: object) -> dict[str, Any]:
    """Keypoints of one row.

    Args:
        predictor: the opened model.
        image: a picture file in base64.
        boxes: lists of x, y, width, height; None or NaN (a table's empty cell): the whole picture.

    Raises:
        RequestError: no image, or broken base64.
        DataError: the picture cannot be decoded.
        ValueError: boxes that are no boxes (``BoxError`` is one).
    """
    if not isinstance(image, str) or not image:
        raise RequestError(f"image: expected a picture file in base64, got {image!r}"[:_SHOWN])
    try:
        data = base64.b64decode(image, validate=True)
    except (binascii.Error, ValueError) as error:
        raise RequestError(f"image: not base64: {error}") from error
    picture = decode_picture(data)
    prediction = predictor(picture, None if _is_absent(boxes) else _plain(boxes))
    height, width = picture.shape[:2]
    return {"width": width, "height": height, "cars": prediction.cars()}


def register(path: Path, alias: str, folder: Path, tracker: Tracker) -> str:
    """Register the ONNX file at ``path`` as a new version of ``carkp`` and give it ``alias``; the version's number.

    ``folder`` takes the files under the names that they have in the registered model.

    Raises:
        ModelError: the file cannot be served.
    """
    folder.mkdir(parents=True, exist_ok=True)
    copied, code = folder / FILE_NAME, folder / "served_model.py"
    shutil.copyfile(path, copied)
    code.write_text(_CODE)
    Predictor.load(copied)
    served = PyfuncModel(
        code=code,
        artifacts={ARTIFACT: copied},
        signature=SIGNATURE,
        example=pd.DataFrame([example_row()]),
        requirements=[f"{name}=={importlib.metadata.version(name)}" for name in _REQUIREMENTS],
    )
    return tracker.register_pyfunc(REGISTERED_NAME, alias, served)


def example_row() -> dict[str, Any]:
    """A request that is answered: a grey picture with one box."""
    picture = jpeg.encode_bgr(np.full((64, 96, 3), 128, np.uint8), 90)
    return {"image": base64.b64encode(picture).decode(), "boxes": [[8.0, 8.0, 80.0, 48.0]]}


def _is_absent(boxes: object) -> bool:
    return boxes is None or (isinstance(boxes, float) and np.isnan(boxes))


def _plain(boxes: object) -> Any:
    """Nested lists of what a table may hold as arrays of arrays."""
    if isinstance(boxes, np.ndarray):
        return [_plain(item) for item in boxes]
    if isinstance(boxes, Sequence) and not isinstance(boxes, str):
        return [_plain(item) for item in boxes]
    return boxes

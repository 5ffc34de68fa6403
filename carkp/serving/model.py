"""The registered model as MLflow loads and runs it. This module needs no packages beyond ``REQUIREMENTS``."""

import base64
from typing import Any

import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, INVALID_PARAMETER_VALUE
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from mlflow.types.schema import AnyType, ColSpec, DataType, Schema
from pydantic import ValidationError

from carkp.data import jpeg
from carkp.data.issues import DataError
from carkp.predictor import HeatmapError, ModelError, Predictor
from carkp.serving.request import DEFAULT_SETTINGS, SETTINGS_VARIABLE, Settings, answer, check_request

REGISTERED_NAME = "carkp"
ARTIFACT = "model"
FILE_NAME = "model.onnx"

_ANYTHING = AnyType()  # type: ignore[no-untyped-call]
SIGNATURE = ModelSignature(
    inputs=Schema([ColSpec(DataType.string, "image"), ColSpec(_ANYTHING, "boxes", required=False)]),
    outputs=Schema([ColSpec(DataType.long, "width"), ColSpec(DataType.long, "height"), ColSpec(_ANYTHING, "cars")]),
)

REQUIREMENTS = (
    "filelock",
    "mlflow-skinny",  # serves like the full MLflow, without the packages of its tracking server
    "numpy",
    "onnxruntime",
    "opencv-python-headless",
    "pandas",
    "Pillow",
    "pyarrow",  # for requests in Parquet
    "pydantic",
)
"""Packages that must be installed where the model is loaded; carkp's own code is part of the model."""


class AnswerError(MlflowException):
    """A request that gets no answer.

    Its message does not change when MLflow's server sets it again: the server would put the whole request before it,
    pictures included.
    """

    @property
    def message(self) -> str:
        return self._message

    @message.setter
    def message(self, text: str) -> None:
        self._message = getattr(self, "_message", text)


class KeypointModel(PythonModel):
    """Answers rows of ``image`` and ``boxes`` with a dictionary of keypoints for each row."""

    predictor: Predictor
    settings: Settings = DEFAULT_SETTINGS

    def load_context(self, context: PythonModelContext) -> None:
        """Load the model. Raises MlflowException if the given settings are not valid."""
        self.predictor = Predictor.load(context.artifacts[ARTIFACT])
        try:
            self.settings = Settings.model_validate(context.model_config or {})
        except ValidationError as error:
            raise MlflowException(
                f"the settings of carkp's model (model_config or {SETTINGS_VARIABLE}): {error}",
                error_code=INVALID_PARAMETER_VALUE,
            ) from error

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> list[dict[str, Any]]:
        """Answer all rows.

        Raises:
            MlflowException: a row is malformed, or the request exceeds the limits; the server answers with status 400
                and its message.
        """
        del context, params
        rows: list[dict[str, Any]] = model_input.to_dict("records")
        try:
            check_request(rows, self.settings)
        except ValueError as error:
            raise AnswerError(str(error), error_code=INVALID_PARAMETER_VALUE) from None
        return [self._answer(number, row) for number, row in enumerate(rows)]

    def _answer(self, number: int, row: dict[str, Any]) -> dict[str, Any]:
        try:
            return answer(self.predictor, row.get("image"), row.get("boxes"), self.settings)
        except (ModelError, HeatmapError) as error:  # not an error of the request
            raise AnswerError(str(error), error_code=INTERNAL_ERROR) from None
        except (DataError, ValueError) as error:
            raise AnswerError(f"row {number}: {error}", error_code=INVALID_PARAMETER_VALUE) from None


def example_row() -> dict[str, Any]:
    """Return a valid request: a grey picture with one box."""
    picture = jpeg.encode_bgr(np.full((64, 96, 3), 128, np.uint8), 90)
    return {"image": base64.b64encode(picture).decode(), "boxes": [[8.0, 8.0, 80.0, 48.0]]}

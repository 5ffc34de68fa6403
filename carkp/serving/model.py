"""The registered model as MLflow keeps and runs it.

It holds ``artifacts/model.onnx`` and three lines that name the class below, no copy of carkp and no pickle: it loads
wherever carkp is installed.
"""

import base64
import importlib.metadata
import shutil
from pathlib import Path
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
from carkp.tracking.tracker import PyfuncModel, Tracker

REGISTERED_NAME = "carkp"
ARTIFACT = "model"
FILE_NAME = "model.onnx"

_ANYTHING = AnyType()  # type: ignore[no-untyped-call]
SIGNATURE = ModelSignature(
    inputs=Schema([ColSpec(DataType.string, "image"), ColSpec(_ANYTHING, "boxes", required=False)]),
    outputs=Schema([ColSpec(DataType.long, "width"), ColSpec(DataType.long, "height"), ColSpec(_ANYTHING, "cars")]),
)

_CODE = """from mlflow.models import set_model

from carkp.serving import KeypointModel

set_model(KeypointModel())
"""
_REQUIREMENTS = ("mlflow", "numpy", "onnxruntime", "opencv-python-headless", "pandas", "pillow", "timm", "torch")


class AnswerError(MlflowException):
    """A request that gets no answer. Its message stays as it is: MLflow's server would put the whole request before
    it, pictures included.
    """

    @property
    def message(self) -> str:
        return self._message

    @message.setter
    def message(self, text: str) -> None:
        self._message = getattr(self, "_message", text)


class KeypointModel(PythonModel):
    """Rows of ``image`` and ``boxes`` in, a dictionary of keypoints a row out."""

    predictor: Predictor
    settings: Settings = DEFAULT_SETTINGS

    def load_context(self, context: PythonModelContext) -> None:
        """Raises MlflowException where the settings that are given make no sense."""
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
        """Answers all rows.

        Raises:
            MlflowException: a malformed row, or a request beyond the limits; the server answers with status 400 and
                its message.
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
        except (ModelError, HeatmapError) as error:  # not the request's fault
            raise AnswerError(str(error), error_code=INTERNAL_ERROR) from None
        except (DataError, ValueError) as error:
            raise AnswerError(f"row {number}: {error}", error_code=INVALID_PARAMETER_VALUE) from None


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
        config=DEFAULT_SETTINGS.model_dump(),
    )
    return tracker.register_pyfunc(REGISTERED_NAME, alias, served)


def example_row() -> dict[str, Any]:
    """A request that is answered: a grey picture with one box."""
    picture = jpeg.encode_bgr(np.full((64, 96, 3), 128, np.uint8), 90)
    return {"image": base64.b64encode(picture).decode(), "boxes": [[8.0, 8.0, 80.0, 48.0]]}

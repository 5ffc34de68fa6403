"""The registered model ``carkp``: MLflow's pyfunc around the predictor, as ``mlflow models serve`` runs it.

A request is a table of pictures: ``{"dataframe_records": [{"image": "<base64>", "boxes": [[x, y, w, h], ...]}]}``.
``image`` is a JPEG, PNG, WebP, BMP, TIFF or GIF file in base64 (standard or URL-safe, with or without line breaks), or
a ``data:`` URL of it. ``boxes`` is optional: without it, the whole picture is one car. The answer is
``{"predictions": [{"width": …, "height": …, "cars": [...]}]}``, with cars as in ``Prediction.cars``.

MLflow's other request formats get the same answers: ``dataframe_split``, ``inputs`` as a list of records or as columns,
Parquet. MLflow accepts ``instances`` only if all pictures have the same number of boxes, and does not accept CSV. It
ignores ``params`` and columns other than ``image`` and ``boxes``. Each car in the answer includes its box.

The size of a request is limited, and EXIF orientation is ignored: :class:`carkp.serving.request.Settings` says how to
change both.
"""

from carkp.serving.model import REGISTERED_NAME, REQUIREMENTS, SIGNATURE, KeypointModel, example_row
from carkp.serving.request import RequestError, Settings

__all__ = [
    "REGISTERED_NAME",
    "REQUIREMENTS",
    "SIGNATURE",
    "KeypointModel",
    "RequestError",
    "Settings",
    "example_row",
]

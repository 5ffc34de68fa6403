"""The registered model ``carkp``: MLflow's pyfunc around the predictor, as ``mlflow models serve`` runs it.

A request is a table of pictures: ``{"dataframe_records": [{"image": "<base64>", "boxes": [[x, y, w, h], ...]}]}``;
``image`` is a JPEG, PNG, WebP, BMP, TIFF or GIF file in base64 (standard or URL-safe, with line breaks or without, or a
``data:`` URL of it). ``boxes`` is optional: without it the whole picture is one car. The answer is
``{"predictions": [{"width": …, "height": …, "cars": [...]}]}``, as ``Prediction.cars`` gives cars.

MLflow's other forms get the same answers: ``dataframe_split``, ``inputs`` as a list of records or as columns, Parquet.
MLflow takes ``instances`` only where all pictures have the same number of boxes, and no CSV. It ignores ``params`` and
columns other than ``image`` and ``boxes``; each car in the answer says the box that it was looked for in.

What a request may ask for is limited, and EXIF orientation is ignored: :class:`carkp.serving.request.Settings` says how
to change both.
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

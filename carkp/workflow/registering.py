"""Registration of an exported model with all that a server needs, so that it loads without an installed carkp.

MLflow keeps the ONNX file, the modules of carkp that serving imports (``code/carkp``), a script that names the serving
class, and the required versions of packages. There is no pickle.
"""

import importlib.metadata
import shutil
from pathlib import Path

import pandas as pd

import carkp
from carkp.predictor import Predictor
from carkp.serving.model import ARTIFACT, FILE_NAME, REGISTERED_NAME, REQUIREMENTS, SIGNATURE, example_row
from carkp.serving.request import DEFAULT_SETTINGS
from carkp.tracking.tracker import PyfuncModel, Tracker
from carkp.workflow.source_code import PACKAGE, module_files

_SERVING = "carkp.serving"
_SCRIPT = f"""import importlib.util
import sys
from pathlib import Path

from mlflow.models import set_model

# MLflow puts the model's code before all else. It has what serving imports and no more: a whole carkp comes first.
code = Path(__file__).parent / "code"
sys.path[:] = [path for path in sys.path if Path(path) != code]
if importlib.util.find_spec("{PACKAGE}") is None:
    sys.path.append(str(code))

from {_SERVING} import KeypointModel

set_model(KeypointModel())
"""


def register(path: Path, alias: str, folder: Path, tracker: Tracker) -> str:
    """Register the ONNX file at ``path`` as a new version of ``carkp`` with ``alias``; return the version's number.

    The files are copied into ``folder`` under the names that they have in the registered model.

    Raises:
        ModelError: the file cannot be served.
    """
    folder.mkdir(parents=True, exist_ok=True)
    copied, script = folder / FILE_NAME, folder / "served_model.py"
    shutil.copyfile(path, copied)
    script.write_text(_SCRIPT, encoding="utf-8")
    Predictor.load(copied)
    served = PyfuncModel(
        script=script,
        code=[copy_served_code(folder)],
        artifacts={ARTIFACT: copied},
        signature=SIGNATURE,
        example=pd.DataFrame([example_row()]),
        requirements=[f"{name}=={importlib.metadata.version(name)}" for name in REQUIREMENTS],
        config=DEFAULT_SETTINGS.model_dump(),
    )
    return tracker.register_pyfunc(REGISTERED_NAME, alias, served)


def copy_served_code(folder: Path) -> Path:
    """Copy the modules that serving imports, also inside functions, into ``folder``; return the copied package."""
    package = Path(carkp.__file__).parent
    copied = folder / package.name
    for source in (package / "__init__.py", *module_files([_SERVING]).values()):
        target = copied / source.relative_to(package)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    return copied

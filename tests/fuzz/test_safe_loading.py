"""Nothing that carkp reads is executed: no pickle, no ``eval``, and every loader is told so."""

import ast
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest

from carkp.keypoints.predictions import PredictionsError, load_predictions
from carkp.model.weight_files import read_state_dict
from carkp.training.checkpoint import CheckpointError, load_checkpoint
from tests.fuzz import seeds

ROOT = Path(__file__).parents[2]
FILES = sorted([*(ROOT / "carkp").rglob("*.py"), *(ROOT / "experiments").glob("*.py")])

REQUIRED = {
    "np.load": ("allow_pickle", False),
    "numpy.load": ("allow_pickle", False),
    "torch.load": ("weights_only", True),
}
"""Call -> the argument that it must have."""

FORBIDDEN = frozenset(
    (
        *("eval", "exec", "pickle.load", "pickle.loads", "pickle.Unpickler", "marshal.load", "marshal.loads"),
        *("joblib.load", "cloudpickle.load", "cloudpickle.loads", "dill.load", "dill.loads", "shelve.open"),
        *("yaml.unsafe_load", "yaml.full_load", "yaml.load_all", "os.system", "os.popen"),
        *("torch.jit.load", "torch.package.PackageImporter", "pd.read_pickle", "pandas.read_pickle"),
        *("mlflow.sklearn.load_model", "mlflow.pytorch.load_model"),
    )
)
SAFE_LOADERS = ("_Loader", "_PlainLoader", "loader", "yaml.SafeLoader")


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def problem_of(name: str, call: ast.Call) -> str:
    given = {word.arg: word.value for word in call.keywords if word.arg}
    if name in FORBIDDEN:
        return "executes what it reads"
    if name in REQUIRED:
        argument, wanted = REQUIRED[name]
        value = given.get(argument)
        return "" if isinstance(value, ast.Constant) and value.value is wanted else f"needs {argument}={wanted}"
    if name == "yaml.load" and ast.unparse(call.args[1]) not in SAFE_LOADERS:
        return "needs a SafeLoader"
    shell = given.get("shell")
    return "goes through a shell" if isinstance(shell, ast.Constant) and shell.value else ""


def test_loaders_execute_nothing() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{call.lineno}: {name} {problem}"
        for path in FILES
        for name, call in calls(path)
        if (problem := problem_of(name, call))
    ]
    assert found == []


@pytest.mark.parametrize(
    "text",
    [
        *("torch.load(path)", "torch.load(path, weights_only=False)", "np.load(path)", "np.load(p, allow_pickle=True)"),
        *("pickle.loads(x)", "eval(x)", "yaml.load(text, yaml.Loader)", "subprocess.run(x, shell=True)"),
    ],
)
def test_the_check_sees_what_executes(text: str) -> None:
    call = ast.parse(text).body[0].value  # type: ignore[attr-defined]
    assert problem_of(ast.unparse(call.func), call)


def test_no_pickle_in_a_file_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    files = {}
    for name, content in seeds.executing_pickles().items():
        files[name] = tmp_path / name
        files[name].write_bytes(content)
    for name in ("checkpoint", "pickle"):
        with pytest.raises(
            CheckpointError, match=r"contains more than tensors and plain values|written by another program"
        ):
            load_checkpoint(files[name])
        with pytest.raises(ValueError, match="loaded"):
            read_state_dict(files[name])
    with pytest.raises(PredictionsError, match="Python objects"):
        load_predictions(files["predictions"])
    mark = tmp_path / "carkp-was-unpickled"
    assert not mark.exists()
    pickle.loads(files["pickle"].read_bytes())
    assert mark.exists()  # it would have shown

"""What an installation without training can do: modules that it lacks are never asked for."""

import subprocess
import sys
import textwrap
from collections.abc import Mapping, Sequence

import pytest

HEAVY = ("torch", "torchvision", "timm", "lmdb", "mlflow", "onnx", "matplotlib", "numba", "pandas", "scipy", "optuna")

BLOCK = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent!r}:
            raise ModuleNotFoundError("No module named " + repr(name), name=name)
sys.meta_path.insert(0, Absent())
"""


def run_without(
    code: str, absent: Sequence[str] = HEAVY, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """``code`` in a process of its own, where the modules ``absent`` cannot be imported."""
    words = [sys.executable, "-c", BLOCK.format(absent=tuple(absent)) + textwrap.dedent(code)]
    return subprocess.run(words, capture_output=True, text=True, timeout=120, env=environment)


def test_the_shipped_model_predicts() -> None:
    done = run_without(
        """
        import carkp, numpy
        found = carkp.Predictor.load()(numpy.zeros((200, 300, 3), numpy.uint8))
        print(found.points.shape)
        """
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "(1, 12, 2)"


def test_a_float_network_says_what_it_needs() -> None:
    done = run_without(
        """
        import carkp
        try:
            carkp.Predictor.load("carkp-car12/weights.safetensors")
        except ValueError as error:
            print(error)
        """
    )
    assert done.returncode == 0, done.stderr
    assert "needs torch" in done.stdout
    assert 'pip install "carkp[train]"' in done.stdout


@pytest.mark.parametrize("module", HEAVY)
def test_the_block_works(module: str) -> None:
    assert run_without(f"import {module}").returncode == 1

"""Files that are not ours are refused by name."""

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from carkp.deploy.runtime import OnnxRunner


def write_identity(path: Path, shape: list[int | str], kind: int = TensorProto.FLOAT) -> Path:
    ends = [helper.make_tensor_value_info(name, kind, shape) for name in ("a", "b")]
    graph = helper.make_graph([helper.make_node("Identity", ["a"], ["b"])], "g", ends[:1], ends[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.onnx: no such ONNX file"):
        OnnxRunner(tmp_path / "none.onnx")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 this is a zip", b"\x00" * 100])
def test_other_files(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "other.onnx"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"other\.onnx"):
        OnnxRunner(path)


@pytest.mark.parametrize("shape", [["n", 3], ["n", 1, 8, 8], ["n", 3, "h", "w"]])
def test_models_with_other_ends(shape: list[int | str], tmp_path: Path) -> None:
    path = write_identity(tmp_path / "foreign.onnx", shape)
    with pytest.raises(ValueError, match="expected one float input"):
        OnnxRunner(path)


def test_models_of_other_types(tmp_path: Path) -> None:
    path = write_identity(tmp_path / "foreign.onnx", ["n", 3, 8, 8], TensorProto.DOUBLE)
    with pytest.raises(ValueError, match=r"found a tensor\(double\)"):
        OnnxRunner(path)


def test_fitting_model_is_accepted(tmp_path: Path) -> None:
    runner = OnnxRunner(write_identity(tmp_path / "ours.onnx", ["n", 3, 8, 8]))
    assert runner.input_size == (8, 8)


def test_number_of_threads_is_checked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="num_threads"):
        OnnxRunner(tmp_path / "x.onnx", num_threads=0)

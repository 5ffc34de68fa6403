"""Writing a quantised program to one ONNX file of standard operators, and reading it back.

The program is in the metadata as JSON. Its arrays are the initializers of the graph; the JSON has their digests. A file
can be read back only if its graph equals the one that its program gives.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from carkp.deploy.int8_graph import program_to_graph
from carkp.deploy.notes import COMPILED_PREFIX, DIGEST_KEY, ORIGIN_PREFIX, PREFIX, PROGRAM_KEY, SCALES_KEY, TARGET_KEY
from carkp.disk import write_atomic
from carkp.quant.program import (
    FloatOp,
    Layer,
    QAdd,
    QConcat,
    QConv,
    QDepthToSpace,
    QProgram,
    QTensor,
    check_program,
)
from carkp.quant.target import Target

FORMAT = 1
"""Version of the JSON in the metadata; it is raised when older files can no longer be read."""

OPSET, IR_VERSION = 18, 8
"""The operator set, and the oldest version of the file format that supports it."""

WIDE_OPSET, WIDE_IR_VERSION = 21, 10
"""The same for the first operator set that can quantise to 16 bits."""

LAYER_TYPES: dict[str, type[Layer]] = {kind.__name__: kind for kind in (QConv, QAdd, QConcat, QDepthToSpace, FloatOp)}


class Int8OnnxError(ValueError):
    """A file cannot be written, or read back as a program; the message has the path, the problem and what to do."""


def save_program(program: QProgram, path: Path | str, batch: int | None = None) -> None:
    """Write ``program`` to ``path``; an existing file is replaced only by the complete new one.

    Args:
        program: program that passes :func:`carkp.quant.program.check_program`.
        path: path of the file; its folder is created.
        batch: number of images of every run; None means any number.

    Raises:
        ProgramError: the program is inconsistent.
        UnsupportedOperatorError: a FloatOp has no ONNX form.
        Int8OnnxError: the batch is below 1, or the program gives no valid ONNX model.
    """
    path = Path(path)
    try:
        model = program_to_onnx(program, batch)
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise Int8OnnxError(f"{path}: not written, the program does not give a valid ONNX model: {error}") from error
    write_atomic(path, _serialise(model))


def load_program(path: Path | str) -> QProgram:
    """Read the program that :func:`save_program` wrote to ``path``; it is equal in every number.

    Raises:
        Int8OnnxError: there is no such file, it is not an ONNX file, it has no program or another format, or its graph
            is not that of the program (it was edited).
    """
    path = Path(path)
    model = _read_model(path)
    try:
        return _read_program(path, model)
    except UnicodeDecodeError as error:
        raise Int8OnnxError(
            f"{path}: damaged, it contains text that is not UTF-8 ({error}); export it again"
        ) from error


def program_to_onnx(program: QProgram, batch: int | None) -> ModelProto:
    """Return the model of ``program``: float32 ``image`` (B, 3, H, W) to float32 ``heatmaps`` (B, K, h, w).

    Args:
        program: program that passes :func:`carkp.quant.program.check_program`.
        batch: B; None means any.

    Raises:
        ProgramError: the program is inconsistent, for example two layers have the same name.
        UnsupportedOperatorError: a FloatOp has no ONNX form.
        Int8OnnxError: the batch is below 1, or the program has values that JSON cannot store.
    """
    if batch is not None and batch < 1:
        raise Int8OnnxError(f"batch must be at least 1, or None for any, got {batch}")
    check_program(program)
    graph = program_to_graph(program, "batch" if batch is None else batch)
    opset, version = (WIDE_OPSET, WIDE_IR_VERSION) if program.wide_tensors else (OPSET, IR_VERSION)
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=version, producer_name="carkp"
    )
    helper.set_model_props(model, _metadata(program))
    return model


def _metadata(program: QProgram) -> dict[str, str]:
    scales = {name: tensor.scale for name, tensor in program.tensors.items()}
    text = _encode_program(program)
    return {
        PROGRAM_KEY: text,
        DIGEST_KEY: hashlib.sha256(text.encode()).hexdigest(),
        TARGET_KEY: program.target.name,
        SCALES_KEY: json.dumps(scales),
        **{ORIGIN_PREFIX + name: value for name, value in program.origin.items()},
    }


def _encode_program(program: QProgram) -> str:
    """Return a program without its arrays as JSON."""
    document = {
        "format": FORMAT,
        "target": program.target.model_dump(mode="json"),
        "input": program.input,
        "output": program.output,
        "tensors": {
            name: {item.name: _plain(getattr(tensor, item.name)) for item in fields(tensor)}
            for name, tensor in program.tensors.items()
        },
        "layers": [_encode_layer(layer) for layer in program.layers],
        "origin": dict(program.origin),
    }
    try:
        text = json.dumps(document, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise Int8OnnxError(f"the program has a value that JSON cannot store: {error}") from error
    if json.loads(text) != document:
        raise Int8OnnxError("the program has a value that JSON cannot store: a tuple or a key that is not a string")
    return text


def _encode_layer(layer: Layer) -> dict[str, Any]:
    arrays = _arrays(layer)
    plain = {
        item.name: _plain(getattr(layer, item.name))
        for item in fields(layer)
        if item.name != "weights" and item.name not in arrays
    }
    described = {role: {"shape": list(array.shape), "sha256": _digest(array)} for role, array in arrays.items()}
    return {"type": type(layer).__name__, **plain, "arrays": described}


def _arrays(layer: Layer) -> Mapping[str, NDArray[Any]]:
    """Return the arrays of a layer by their role; ``<layer>.<role>`` is the name of the initializer."""
    match layer:
        case QConv():
            return {"weight": layer.weight, "weight_scale": layer.weight_scale, "bias": layer.bias}
        case FloatOp():
            return layer.weights
    return {}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, tuple) else value


def _digest(array: NDArray[Any]) -> str:
    return hashlib.sha256(f"{array.dtype} {array.shape} ".encode() + array.tobytes()).hexdigest()


def _decode_program(document: dict[str, Any], model: ModelProto) -> QProgram:
    initializers = {tensor.name: tensor for tensor in model.graph.initializer}
    return QProgram(
        target=Target.model_validate(document["target"]),
        input=document["input"],
        output=document["output"],
        tensors={name: QTensor(**_with_tuples(item)) for name, item in document["tensors"].items()},
        layers=tuple(_decode_layer(item, initializers) for item in document["layers"]),
        origin=document["origin"],
    )


def _decode_layer(item: dict[str, Any], initializers: Mapping[str, TensorProto]) -> Layer:
    arrays = {
        role: _cropped(numpy_helper.to_array(initializers[f"{item['name']}.{role}"]), described["shape"])
        for role, described in item["arrays"].items()
    }
    plain = {name: value for name, value in item.items() if name not in ("type", "arrays", "attributes")}
    if item["type"] == FloatOp.__name__:
        return FloatOp(**_with_tuples(plain), attributes=item["attributes"], weights=arrays)
    make: Callable[..., Layer] = LAYER_TYPES[item["type"]]
    return make(**_with_tuples(plain), **arrays)


def _cropped(array: NDArray[Any], shape: list[int]) -> NDArray[Any]:
    """Return the array without the channels that were added for the kernels."""
    return np.array(array[tuple(slice(length) for length in shape)])


def _with_tuples(item: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in item.items()}


def _read_program(path: Path, model: ModelProto) -> QProgram:
    """Read the program of ``model``, and require that it gives the same model again."""
    document = _read_document(path, model)
    try:
        program = _decode_program(document, model)
        expected = program_to_onnx(program, _batch_of(model))
    except (AttributeError, ArithmeticError, LookupError, TypeError, ValueError) as error:
        problem = f"its program cannot be rebuilt ({type(error).__name__}: {error})"
        raise Int8OnnxError(f"{path}: {problem}; the file was edited or damaged, export it again") from error
    found = _without_foreign_metadata(model)
    if _serialise(found) != _serialise(expected):
        raise Int8OnnxError(
            f"{path}: the graph does not match its program: {_difference(found, expected)}. The file was changed "
            "after it was written; export it again"
        )
    return program


def _read_model(path: Path) -> ModelProto:
    if not path.is_file():
        raise Int8OnnxError(f"{path}: no such file; export the quantised model first")
    try:
        model = onnx.load_model_from_string(path.read_bytes())
    except Exception as error:  # onnx does not export protobuf's DecodeError
        raise Int8OnnxError(f"{path}: truncated or not an ONNX file ({error}); export it again") from error
    outside = [tensor.name for tensor in model.graph.initializer if tensor.data_location == TensorProto.EXTERNAL]
    if outside:
        raise Int8OnnxError(f"{path}: {outside[0]} is stored in another file, which is not supported; export it again")
    if not model.graph.node:
        raise Int8OnnxError(f"{path}: truncated or not an ONNX file (no graph in it); export it again")
    return model


def _read_document(path: Path, model: ModelProto) -> dict[str, Any]:
    metadata = _metadata_of(model)
    text = metadata.get(PROGRAM_KEY)
    if text is None and f"{COMPILED_PREFIX}source" in metadata:
        raise Int8OnnxError(
            f"{path}: was compiled for ONNX Runtime and no longer contains its program; give the export it was made "
            f"from: {metadata[f'{COMPILED_PREFIX}source']}"
        )
    if text is None:
        producer = model.producer_name or "an unknown program"
        raise Int8OnnxError(
            f"{path}: an ONNX file of {producer} without a quantised program ({PROGRAM_KEY} in its metadata); a float "
            "model must be quantised first"
        )
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Int8OnnxError(f"{path}: {PROGRAM_KEY} is not JSON ({error}); export it again") from error
    version = document.get("format") if isinstance(document, dict) else None
    if version != FORMAT:
        raise Int8OnnxError(
            f"{path}: its program has format {version}, this carkp reads format {FORMAT}; export it again from its "
            "checkpoint, or read it with the carkp that wrote it"
        )
    assert isinstance(document, dict)
    return document


def _metadata_of(model: ModelProto) -> dict[str, str]:
    return {str(item.key): str(item.value) for item in model.metadata_props}  # a damaged text may be bytes


def _batch_of(model: ModelProto) -> int | None:
    batch = model.graph.input[0].type.tensor_type.shape.dim[0]
    return batch.dim_value if batch.HasField("dim_value") else None


def _without_foreign_metadata(model: ModelProto) -> ModelProto:
    """Return the model with only carkp's metadata: other programs may have added their own."""
    copied = ModelProto()
    copied.CopyFrom(model)
    ours = {name: value for name, value in _metadata_of(model).items() if name.startswith(PREFIX)}
    helper.set_model_props(copied, ours)
    return copied


def _serialise(model: ModelProto) -> bytes:
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _difference(found: ModelProto, expected: ModelProto) -> str:
    """Return text that names the first few initializers or nodes that differ."""
    digests = _changed(_digests(found), _digests(expected))
    if digests:
        return f"the weights of {digests} differ from those of its program"
    for what in ("initializer", "node"):
        names = _changed(*({item.name: item for item in getattr(model.graph, what)} for model in (found, expected)))
        if names:
            return f"{what} {names}"
    return "its inputs, outputs, order or metadata"


def _changed(found: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
    names = [name for name in {**found, **expected} if found.get(name) != expected.get(name)]
    return ", ".join(map(str, names[:4])) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _digests(model: ModelProto) -> dict[str, Any]:
    document = json.loads(_metadata_of(model)[PROGRAM_KEY])
    return {layer["name"]: layer["arrays"] for layer in document["layers"]}

"""A quantised program as one ONNX file of standard operators, and back.

All activations are stored as uint8: an int8 tensor of the program holds q + 128 with its zero point moved likewise.
ONNX Runtime's kernels for signed activations are slower, and a signed tensor with zero point 0 behind an activation
keeps it from running the convolution in int8 at all.

Three things are written otherwise than the program says them, with the same numbers, for ONNX Runtime's sake:

- depth to space as transpositions and reshapes, of which ONNX Runtime, which computes in NHWC, drops the outer ones;
- convolutions of fewer than 16 output channels with 16, and a Slice behind; those of input channels that 4 does not
  divide with empty ones, and a Pad in front. Only so does it use its direct kernels (MlasConvSym), and no im2col.

The program is in the metadata as JSON, its arrays are the graph's own initializers, of which the JSON has digests. A
file is read back only where its graph is the one that its program gives.

Values in the graph are named after the tensors and layers: ``<tensor>.q``, ``.q_scale`` and ``.q_zero_point``;
``<layer>.weight`` and the like.
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
from onnx import ModelProto, TensorProto, ValueInfoProto, helper, numpy_helper

from carkp.deploy.float_ops import FloatSite, GraphParts, write_float_op
from carkp.deploy.runtime import INPUT_NAME, OUTPUT_NAME
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
from carkp.quant.target import RANGES, Target

FORMAT = 1
"""Of the JSON in the metadata; goes up when older files can no longer be read."""

OPSET, IR_VERSION = 18, 8
"""The operator set, and the oldest file format that has it."""

SIGNED_OFFSET = 128
"""What an int8 value is moved by to be stored as uint8."""

KERNEL_OUTPUTS, KERNEL_INPUTS = 16, 4
"""Fewest output channels, and the divisor of the input channels, of ONNX Runtime's direct convolutions on x86."""

PREFIX = "carkp."
PROGRAM_KEY, DIGEST_KEY = "carkp.program", "carkp.program_sha256"
TARGET_KEY, SCALES_KEY, ORIGIN_PREFIX = "carkp.target", "carkp.scales", "carkp.origin."

LAYER_TYPES: dict[str, type[Layer]] = {kind.__name__: kind for kind in (QConv, QAdd, QConcat, QDepthToSpace, FloatOp)}


class Int8OnnxError(ValueError):
    """A file that cannot be written or read back as a program: path, what was found, what to do."""


def save_program(program: QProgram, path: Path | str, batch: int | None = None) -> None:
    """Writes ``program`` to ``path``, replacing it at once when it is complete; its folder is made.

    Args:
        program: holds :func:`carkp.quant.program.check_program`.
        path: the file.
        batch: the number of images of every run, or None: any number.

    Raises:
        ProgramError: the program contradicts itself.
        UnsupportedOperatorError: a FloatOp that has no ONNX form.
        Int8OnnxError: what the program says gives no valid ONNX model.
    """
    path = Path(path)
    try:
        model = program_to_onnx(program, batch)
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise Int8OnnxError(f"{path}: not written, the program gives no valid ONNX model: {error}") from error
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_bytes(_serialise(model))
    temporary.replace(path)


def load_program(path: Path | str) -> QProgram:
    """The program that :func:`save_program` wrote to ``path``, the same in every number.

    Raises:
        Int8OnnxError: no such file, not an ONNX file, one without a program or of another format, or one whose graph
            is not the program's (it was edited).
    """
    path = Path(path)
    model = _read_model(path)
    try:
        return _read_program(path, model)
    except UnicodeDecodeError as error:
        raise Int8OnnxError(f"{path}: damaged, a text in it is not UTF-8 ({error}); export it again") from error


def program_to_onnx(program: QProgram, batch: int | None) -> ModelProto:
    """The model of ``program``: float32 ``image`` (B, 3, H, W) to float32 ``heatmaps`` (B, K, h, w).

    Args:
        program: holds :func:`carkp.quant.program.check_program`.
        batch: B, or None: any.

    Raises:
        ProgramError: the program contradicts itself, or two layers have one name.
        UnsupportedOperatorError: a FloatOp that has no ONNX form.
        Int8OnnxError: a batch below 1, or values in the program that JSON cannot keep.
    """
    if batch is not None and batch < 1:
        raise Int8OnnxError(f"batch must be at least 1, or None for any, got {batch}")
    check_program(program)
    parts = GraphParts()
    image, heatmaps = program.tensors[program.input], program.tensors[program.output]
    parts.node("QuantizeLinear", [INPUT_NAME, *_units(parts, image)], _stored(image))
    for layer in program.layers:
        _write_layer(parts, program, layer)
    parts.node("DequantizeLinear", [_stored(heatmaps), *_units(parts, heatmaps)], OUTPUT_NAME)
    return _assemble(program, parts, "batch" if batch is None else batch)


def _assemble(program: QProgram, parts: GraphParts, batch: int | str) -> ModelProto:
    tensors = program.tensors
    made = [tensors[name] for name in (program.input, *(layer.output for layer in program.layers))]
    graph = helper.make_graph(
        parts.nodes,
        program.target.name,
        [_value_info(INPUT_NAME, TensorProto.FLOAT, batch, tensors[program.input])],
        [_value_info(OUTPUT_NAME, TensorProto.FLOAT, batch, tensors[program.output])],
        list(parts.initializers.values()),
        value_info=[_value_info(_stored(tensor), TensorProto.UINT8, batch, tensor) for tensor in made],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="carkp"
    )
    helper.set_model_props(model, _metadata(program))
    return model


def _value_info(name: str, kind: int, batch: int | str, tensor: QTensor) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, [batch, *tensor.shape])


def _stored(tensor: QTensor) -> str:
    return f"{tensor.name}.q"


def _offset(tensor: QTensor) -> int:
    return SIGNED_OFFSET if tensor.dtype == "int8" else 0


def _units(parts: GraphParts, tensor: QTensor) -> list[str]:
    """The names of a tensor's scale and of its zero point as it is stored."""
    zero_point = np.asarray(tensor.zero_point + _offset(tensor), np.uint8)
    return [
        parts.constant(f"{tensor.name}.q_scale", np.asarray(tensor.scale, np.float32)),
        parts.constant(f"{tensor.name}.q_zero_point", zero_point),
    ]


def _write_layer(parts: GraphParts, program: QProgram, layer: Layer) -> None:
    sources, result = [program.tensors[name] for name in layer.inputs], program.tensors[layer.output]
    match layer:
        case QConv():
            _write_conv(parts, layer, sources[0], result)
        case QAdd():
            total = parts.node("Add", _dequantise(parts, layer, sources), f"{layer.name}.sum")
            parts.node("QuantizeLinear", [total, *_units(parts, result)], _raw(layer, result))
            _write_clip(parts, layer, result)
        case QConcat():
            parts.node("Concat", [_stored(source) for source in sources], _stored(result), axis=1)
        case QDepthToSpace():
            _write_depth_to_space(parts, layer, sources[0], result)
        case FloatOp():
            has_matrix = "weight" in layer.weights
            values = tuple((_dequantise_channels if has_matrix else _dequantise)(parts, layer, sources))
            shapes = tuple(source.shape for source in sources)
            value = write_float_op(FloatSite(parts, layer, values, shapes, result.shape))
            parts.node("QuantizeLinear", [value, *_units(parts, result)], _stored(result))


def _write_conv(parts: GraphParts, conv: QConv, source: QTensor, result: QTensor) -> None:
    num_outputs, num_inputs = conv.weight.shape[:2]
    is_dense = conv.groups == 1
    extra_outputs = max(0, KERNEL_OUTPUTS - num_outputs) if is_dense else 0
    extra_inputs = -num_inputs % KERNEL_INPUTS if is_dense else 0
    name, outputs = conv.name, (0, extra_outputs)
    inputs = [
        _padded_channels(parts, conv, source, extra_inputs) if extra_inputs else _stored(source),
        *_units(parts, source),
        parts.constant(f"{name}.weight", np.pad(conv.weight, (outputs, (0, extra_inputs), (0, 0), (0, 0)))),
        parts.constant(f"{name}.weight_scale", np.pad(conv.weight_scale, outputs, constant_values=1)),
        parts.constant(f"{name}.weight_zero_point", np.zeros(num_outputs + extra_outputs, np.int8)),
        *_units(parts, result),
        parts.constant(f"{name}.bias", np.pad(conv.bias, outputs)),
    ]
    attributes = {
        "kernel_shape": conv.weight.shape[2:],
        "strides": conv.stride,
        "pads": conv.pads,
        "dilations": conv.dilation,
        "group": conv.groups,
    }
    raw = _raw(conv, result)
    made = parts.node("QLinearConv", inputs, f"{name}.padded" if extra_outputs else raw, **attributes)
    if extra_outputs:
        bounds = [("start", 0), ("end", num_outputs), ("axis", 1)]
        limits = [parts.constant(f"{name}.slice_{role}", np.array([value], np.int64)) for role, value in bounds]
        parts.node("Slice", [made, *limits], raw)
    _write_clip(parts, conv, result)


def _padded_channels(parts: GraphParts, conv: QConv, source: QTensor, num: int) -> str:
    """The input with ``num`` more channels, all zero."""
    pads = parts.constant(f"{conv.name}.channel_pads", np.array([0, 0, 0, 0, 0, num, 0, 0], np.int64))
    return parts.node("Pad", [_stored(source), pads, _units(parts, source)[1]], f"{conv.name}.input_padded")


def _write_depth_to_space(parts: GraphParts, layer: QDepthToSpace, source: QTensor, result: QTensor) -> None:
    channels, height, width = result.shape
    block, name = layer.block, layer.name
    blocks = [0, height // block, width // block, block, block, channels]  # 0: the batch, as it is
    rows = [0, height, width, channels]
    shapes = [
        parts.constant(f"{name}.{role}_shape", np.array(shape, np.int64))
        for role, shape in (("blocks", blocks), ("rows", rows))
    ]
    nhwc = parts.node("Transpose", [_stored(source)], f"{name}.nhwc", perm=(0, 2, 3, 1))
    split = parts.node("Reshape", [nhwc, shapes[0]], f"{name}.blocks")
    ordered = parts.node("Transpose", [split], f"{name}.rows_of_blocks", perm=(0, 1, 3, 2, 4, 5))
    joined = parts.node("Reshape", [ordered, shapes[1]], f"{name}.rows")
    parts.node("Transpose", [joined], _stored(result), perm=(0, 3, 1, 2))


def _raw(layer: QConv | QAdd, result: QTensor) -> str:
    """Where a layer's values go before its clamp, if uint8 itself is no clamp tight enough."""
    return _stored(result) if _stored_clamp(layer, result) == RANGES["uint8"] else f"{layer.name}.unclamped"


def _write_clip(parts: GraphParts, layer: QConv | QAdd, result: QTensor) -> None:
    raw = _raw(layer, result)
    if raw == _stored(result):
        return
    limits = [
        parts.constant(f"{layer.name}.clamp_{role}", np.asarray(limit, np.uint8))
        for role, limit in zip(("min", "max"), _stored_clamp(layer, result), strict=True)
    ]
    parts.node("Clip", [raw, *limits], _stored(result))


def _stored_clamp(layer: QConv | QAdd, result: QTensor) -> tuple[int, int]:
    lowest, highest = layer.clamp
    return lowest + _offset(result), highest + _offset(result)


def _dequantise(parts: GraphParts, layer: Layer, sources: list[QTensor]) -> list[str]:
    """Float values of a layer's inputs, its own ones: ONNX Runtime fuses none that two layers share."""
    return [
        parts.node("DequantizeLinear", [_stored(source), *_units(parts, source)], f"{layer.name}.input{index}")
        for index, source in enumerate(sources)
    ]


def _dequantise_channels(parts: GraphParts, layer: Layer, sources: list[QTensor]) -> list[str]:
    """The same values, by one scale a channel, all equal.

    Behind a DequantizeLinear with a single scale, ONNX Runtime (1.31, WeightBiasQuantization) makes int8 of the float
    weights of Gemm and ConvTranspose, with one scale for all outputs. It leaves them alone here, unless the tensor has
    one channel only.
    """
    values = []
    for index, source in enumerate(sources):
        name, num_channels = f"{layer.name}.input{index}", source.shape[0]
        zero_points = np.full(num_channels, source.zero_point + _offset(source), np.uint8)
        units = [
            parts.constant(f"{name}_scale", np.full(num_channels, source.scale, np.float32)),
            parts.constant(f"{name}_zero_point", zero_points),
        ]
        values.append(parts.node("DequantizeLinear", [_stored(source), *units], name, axis=1))
    return values


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
    """All of a program but its arrays, as JSON."""
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
        raise Int8OnnxError(f"the program has a value that JSON cannot keep: {error}") from error
    if json.loads(text) != document:
        raise Int8OnnxError("the program has a value that JSON cannot keep: a tuple or a key that is no string")
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
    """The arrays of a layer by their role; ``<layer>.<role>`` is the initializer."""
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
    """Without the channels that were added for the kernels."""
    return np.array(array[tuple(slice(length) for length in shape)])


def _with_tuples(item: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in item.items()}


def _read_program(path: Path, model: ModelProto) -> QProgram:
    """The program of ``model``, provided that it gives the same model again."""
    document = _read_document(path, model)
    try:
        program = _decode_program(document, model)
        expected = program_to_onnx(program, _batch_of(model))
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        problem = f"its program cannot be rebuilt ({type(error).__name__}: {error})"
        raise Int8OnnxError(f"{path}: {problem}; the file was edited or damaged, export it again") from error
    found = _without_foreign_metadata(model)
    if _serialise(found) != _serialise(expected):
        raise Int8OnnxError(
            f"{path}: the graph is not that of its program: {_difference(found, expected)}. The file was changed "
            "after it was written; export it again"
        )
    return program


def _read_model(path: Path) -> ModelProto:
    if not path.is_file():
        raise Int8OnnxError(f"{path}: no such file; export the quantised model first")
    try:
        model = onnx.load_model_from_string(path.read_bytes())
    except Exception as error:  # protobuf's DecodeError has no public home in onnx
        raise Int8OnnxError(f"{path}: truncated or not an ONNX file ({error}); export it again") from error
    if not model.graph.node:
        raise Int8OnnxError(f"{path}: truncated or not an ONNX file (no graph in it); export it again")
    return model


def _read_document(path: Path, model: ModelProto) -> dict[str, Any]:
    text = _metadata_of(model).get(PROGRAM_KEY)
    if text is None:
        producer = model.producer_name or "an unknown program"
        raise Int8OnnxError(
            f"{path}: an ONNX file of {producer} without a quantised program ({PROGRAM_KEY} in its metadata); a float "
            "model must be quantised first"
        )
    try:
        document = json.loads(text)
    except ValueError as error:
        raise Int8OnnxError(f"{path}: {PROGRAM_KEY} is no JSON ({error}); export it again") from error
    version = document.get("format") if isinstance(document, dict) else None
    if version != FORMAT:
        raise Int8OnnxError(
            f"{path}: its program has format {version}, this carkp reads format {FORMAT}; export it again from its "
            "checkpoint, or read it with the carkp that wrote it"
        )
    assert isinstance(document, dict)
    return document


def _metadata_of(model: ModelProto) -> dict[str, str]:
    return {str(item.key): str(item.value) for item in model.metadata_props}  # bytes where a text is damaged


def _batch_of(model: ModelProto) -> int | None:
    batch = model.graph.input[0].type.tensor_type.shape.dim[0]
    return batch.dim_value if batch.HasField("dim_value") else None


def _without_foreign_metadata(model: ModelProto) -> ModelProto:
    """The model with our own metadata only: others may add notes of theirs."""
    copied = ModelProto()
    copied.CopyFrom(model)
    ours = {name: value for name, value in _metadata_of(model).items() if name.startswith(PREFIX)}
    helper.set_model_props(copied, ours)
    return copied


def _serialise(model: ModelProto) -> bytes:
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _difference(found: ModelProto, expected: ModelProto) -> str:
    """Names the first few initializers or nodes that differ."""
    digests = _changed(_digests(found), _digests(expected))
    if digests:
        return f"the weights of {digests} are others than its program was written with"
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

"""Running a .tflite file in independent programs: LiteRT with each of its kinds of kernels, and tflite-micro.

Legend: B batch, K keypoints, H W height and width of the image, h w of the heatmaps.
"""

import struct
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from carkp.quant.target import Requantisation

Float32Array = NDArray[np.float32]

Kernels = Literal["reference", "optimised", "xnnpack"]
"""LiteRT's plain loops, its own fast kernels, and the delegate that it uses on CPUs by default."""

RULES: Mapping[Kernels, Requantisation] = {
    "reference": "tflite_reference",
    "optimised": "tflite_optimised",
    "xnnpack": "xnnpack",
}
"""The arithmetic of each kind of kernels; tflite-micro has that of the reference kernels."""

DELEGATE = "DELEGATE"

FILE_IDENTIFIER = b"TFL3"

INSTALL = "pip install -e '.[litert]'"

ARENA_BYTES = 64 << 20
"""Memory for tflite-micro's tensors: more than a microcontroller has, because only the arithmetic matters here."""


class TfliteError(ValueError):
    """TensorFlow Lite cannot express a program; the message names the layer and the reason."""


class NotDelegatedError(ValueError):
    """XNNPACK does not run all operators, or an operator computes in float."""


def is_tflite(path: Path) -> bool:
    """Return whether a file is a .tflite file, judged by its content."""
    with path.open("rb") as content:
        return content.read(8)[4:] == FILE_IDENTIFIER


def read_tflite(path: Path) -> bytes:
    """Return the content of a .tflite file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a .tflite file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such .tflite file")
    content = path.read_bytes()
    if content[4:8] != FILE_IDENTIFIER:
        raise ValueError(f"{path}: not a .tflite file")
    return content


def notes_of(content: bytes) -> dict[str, str]:
    """Return the metadata of a file, by name; entries that are not text are left out."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAs(content, 0)
    found = {}
    for place in range(model.MetadataLength()):
        try:
            item = model.Metadata(place)
            data = model.Buffers(item.Buffer()).DataAsNumpy()
            found[item.Name().decode()] = bytes(data).decode() if not isinstance(data, int) else ""
        except (UnicodeDecodeError, AttributeError, IndexError, TypeError, ValueError, struct.error):
            continue
    return found


def _litert() -> Any:
    try:
        from ai_edge_litert import interpreter
    except ImportError as error:
        raise ImportError(f"LiteRT is not installed: {INSTALL}") from error
    return interpreter


class LiteRtRunner:
    """LiteRT on the CPU: normalised YUV images in, heatmaps out."""

    def __init__(self, path: Path | str, kernels: Kernels = "xnnpack", num_threads: int = 1) -> None:
        """Open ``path``, a file with a float interface.

        Raises:
            FileNotFoundError: there is no such file.
            ImportError: LiteRT is not installed; the message says how to install it.
            ValueError: the file is not a readable .tflite file or has another interface, or ``kernels`` is unknown.
        """
        self.path = Path(path)
        content = read_tflite(self.path)
        if kernels not in get_args(Kernels):
            raise ValueError(f"kernels must be one of {', '.join(get_args(Kernels))}, got {kernels!r}")
        litert = _litert()
        resolvers = litert.OpResolverType
        resolver = {
            "reference": resolvers.BUILTIN_REF,
            "optimised": resolvers.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            "xnnpack": resolvers.BUILTIN,
        }[kernels]
        try:
            self.interpreter: Any = litert.Interpreter(
                model_content=content, experimental_op_resolver_type=resolver, num_threads=num_threads
            )
        except (ValueError, RuntimeError) as error:
            raise ValueError(f"{path}: not a readable .tflite file (truncated, or another format): {error}") from error
        ends = self.interpreter.get_input_details(), self.interpreter.get_output_details()
        if not all(ends):
            raise ValueError(f"{path}: not a readable .tflite file: it has no input or no output")
        (given, *_), (made, *_) = ends
        self._input, self._output = given["index"], made["index"]
        self._check_interface(given, made)
        _, height, width, _ = given["shape"].tolist()
        _, rows, columns, keypoints = made["shape"].tolist()
        self.input_size: tuple[int, int] = (height, width)
        self.heatmaps_shape: tuple[int, int, int, int] = (1, keypoints, rows, columns)
        self.metadata = notes_of(content)
        self._batch = 0
        self._lock = threading.Lock()  # an interpreter serves one thread at a time

    def _check_interface(self, given: dict[str, Any], made: dict[str, Any]) -> None:
        kinds, shapes = ([detail[key] for detail in (given, made)] for key in ("dtype", "shape"))
        is_ours = set(kinds) == {np.float32} and all(len(shape) == 4 for shape in shapes) and shapes[0][3] == 3
        if not is_ours:
            found = " and ".join(f"{kind.__name__} {shape.tolist()}" for kind, shape in zip(kinds, shapes, strict=True))
            raise ValueError(
                f"{self.path}: expected one float32 input (batch, height, width, 3) and one float32 output (batch, "
                f"height, width, keypoints), found {found}: export writes such a file next to the int8 file"
            )

    def run(self, images: Float32Array) -> Float32Array:
        """Return heatmaps (B, K, h, w) for images (B, 3, H, W) in float32 normalised YUV; B is at least 1."""
        interpreter = self.interpreter
        nhwc = np.ascontiguousarray(images.transpose(0, 2, 3, 1))
        with self._lock:
            if len(images) != self._batch:
                interpreter.resize_tensor_input(self._input, nhwc.shape)
                interpreter.allocate_tensors()
                self._batch = len(images)
            interpreter.set_tensor(self._input, nhwc)
            interpreter.invoke()
            heatmaps: Float32Array = interpreter.get_tensor(self._output)
        return np.ascontiguousarray(heatmaps.transpose(0, 3, 1, 2))


class TfliteMicroRunner:
    """tflite-micro, the interpreter of microcontrollers, one image at a time."""

    def __init__(self, path: Path | str) -> None:
        """Open ``path``, a file with a float interface.

        Raises:
            FileNotFoundError: there is no such file.
            ImportError: tflite-micro is not installed; the message says how to install it.
            ValueError: it is not a .tflite file.
        """
        content = read_tflite(Path(path))
        try:
            from tflite_micro.python.tflite_micro import runtime
        except ImportError as error:
            raise ImportError(f"tflite-micro is not installed: {INSTALL}") from error
        self._interpreter: Any = runtime.Interpreter.from_bytes(content, arena_size=ARENA_BYTES)

    def run(self, images: Float32Array) -> Float32Array:
        """Return heatmaps (B, K, h, w) for images (B, 3, H, W) in float32 normalised YUV."""
        heatmaps = []
        for image in images:
            self._interpreter.set_input(np.ascontiguousarray(image.transpose(1, 2, 0)[None]), 0)
            self._interpreter.invoke()
            heatmaps.append(self._interpreter.get_output(0).transpose(0, 3, 1, 2))
        return np.concatenate(heatmaps)


def require_delegated(path: Path | str) -> int:
    """Require that in LiteRT XNNPACK runs every operator of a file with a float interface, in int8.

    Returns:
        The number of operators.

    Raises:
        FileNotFoundError, ValueError: as :class:`LiteRtRunner`.
        NotDelegatedError: XNNPACK does not run every operator, or not in int8.
    """
    interpreter = LiteRtRunner(path).interpreter
    try:
        interpreter.allocate_tensors()
    except RuntimeError as error:
        raise NotDelegatedError(f"{path}: XNNPACK refuses the network: {error}") from error
    operators = interpreter._get_ops_details()  # the only way to get the execution plan
    ends = {detail["index"] for detail in (*interpreter.get_input_details(), *interpreter.get_output_details())}
    delegates = [item for item in operators if item["op_name"] == DELEGATE]
    num_operators, num_pieces = len(operators) - len(delegates), len(delegates)
    if num_pieces != 1 or not ends >= set(delegates[0]["outputs"].tolist()):
        raise NotDelegatedError(
            f"{path}: XNNPACK takes the {num_operators} operators in {num_pieces} pieces, not in one"
        )
    in_float = [
        detail["name"]
        for detail in interpreter.get_tensor_details()
        if detail["dtype"] not in (np.int8, np.int32) and detail["index"] not in ends and detail["name"]
    ]
    if in_float:
        raise NotDelegatedError(f"{path}: tensors of types other than int8 and int32: {', '.join(in_float)}")
    return num_operators

"""A .tflite file run by programs that nobody here wrote: LiteRT with each of its kinds of kernels, and tflite-micro.

Legend: B batch, K keypoints, H W height and width of the image, h w of the heatmaps.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from carkp.quant.target import Requantisation

Float32Array = NDArray[np.float32]

Kernels = Literal["reference", "optimised", "xnnpack"]
"""LiteRT's plain loops, its own fast kernels, and the delegate that it runs on CPUs unless asked otherwise."""

RULES: Mapping[Kernels, Requantisation] = {
    "reference": "tflite_reference",
    "optimised": "tflite_optimised",
    "xnnpack": "xnnpack",
}
"""Whose arithmetic each kind of kernels follows; tflite-micro follows the reference's."""

DELEGATE = "DELEGATE"

ARENA_BYTES = 64 << 20
"""Memory for tflite-micro's tensors: more than a microcontroller has, for what is asked is the arithmetic."""


class LiteRtRunner:
    """LiteRT on the CPU: normalised YUV images in, heatmaps out."""

    def __init__(self, path: Path | str, kernels: Kernels = "xnnpack", num_threads: int = 1) -> None:
        """Opens ``path``, a file with a float interface.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: not a readable .tflite file, or kernels that do not exist.
        """
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"{path}: no such .tflite file")
        if kernels not in get_args(Kernels):
            raise ValueError(f"kernels must be one of {', '.join(get_args(Kernels))}, got {kernels!r}")
        resolver = {
            "reference": OpResolverType.BUILTIN_REF,
            "optimised": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            "xnnpack": OpResolverType.BUILTIN,
        }[kernels]
        try:
            self.interpreter: Any = Interpreter(
                model_path=str(self.path), experimental_op_resolver_type=resolver, num_threads=num_threads
            )
        except (ValueError, RuntimeError) as error:
            raise ValueError(f"{path}: not a readable .tflite file (truncated, or something else): {error}") from error
        self._batch = 0

    def run(self, images: Float32Array) -> Float32Array:
        """Heatmaps (B, K, h, w) of images (B, 3, H, W), float32 normalised YUV."""
        interpreter = self.interpreter
        (given,), (made,) = interpreter.get_input_details(), interpreter.get_output_details()
        nhwc = np.ascontiguousarray(images.transpose(0, 2, 3, 1))
        if len(images) != self._batch:
            interpreter.resize_tensor_input(given["index"], nhwc.shape)
            interpreter.allocate_tensors()
            self._batch = len(images)
        interpreter.set_tensor(given["index"], nhwc)
        interpreter.invoke()
        heatmaps: Float32Array = interpreter.get_tensor(made["index"])
        return np.ascontiguousarray(heatmaps.transpose(0, 3, 1, 2))


class TfliteMicroRunner:
    """tflite-micro, the interpreter of microcontrollers, one image at a time."""

    def __init__(self, path: Path | str) -> None:
        """Opens ``path``, a file with a float interface.

        Raises:
            FileNotFoundError: there is no such file.
        """
        from tflite_micro.python.tflite_micro import runtime

        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"{path}: no such .tflite file")
        self._interpreter: Any = runtime.Interpreter.from_bytes(self.path.read_bytes(), arena_size=ARENA_BYTES)

    def run(self, images: Float32Array) -> Float32Array:
        """Heatmaps (B, K, h, w) of images (B, 3, H, W), float32 normalised YUV."""
        heatmaps = []
        for image in images:
            self._interpreter.set_input(np.ascontiguousarray(image.transpose(1, 2, 0)[None]), 0)
            self._interpreter.invoke()
            heatmaps.append(self._interpreter.get_output(0).transpose(0, 3, 1, 2))
        return np.concatenate(heatmaps)


class NotDelegatedError(ValueError):
    """XNNPACK leaves operators to other kernels, or an operator computes in float."""


def require_delegated(path: Path | str) -> int:
    """Hold a file with a float interface against what LiteRT makes of it: XNNPACK takes every operator, in int8.

    The number of operators.

    Raises:
        FileNotFoundError, ValueError: as :class:`LiteRtRunner`.
        NotDelegatedError: it does not.
    """
    interpreter = LiteRtRunner(path).interpreter
    try:
        interpreter.allocate_tensors()
    except RuntimeError as error:
        raise NotDelegatedError(f"{path}: XNNPACK refuses the network: {error}") from error
    operators = interpreter._get_ops_details()  # the only way to the execution plan
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
        raise NotDelegatedError(f"{path}: tensors of another type than int8 and int32: {', '.join(in_float)}")
    return num_operators

"""Comparisons between the executions of one int8 program for `align`: differences, verdicts, and both in words."""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from carkp.config.schema import AlignConfig

Pair = tuple[str, str]

SAME: Pair = ("simulated_float32", "onnxruntime")
REFERENCE: Pair = ("simulated", "reference")
LITERT: Pair = ("simulated", "litert")
"""Two executions of the target's own arithmetic, for targets with another requantisation than ONNX Runtime."""

ARITHMETIC: Pair = ("simulated", "onnxruntime")
FAKE_QUANT: Pair = ("fake_quant", "simulated")
COST: Pair = ("float", "fake_quant")
"""Not judged: the cost of calibration is not a question of alignment."""

PAIRS: tuple[Pair, ...] = (SAME, REFERENCE, LITERT, ARITHMETIC, FAKE_QUANT, COST)
JUDGED: tuple[Pair, ...] = (SAME, REFERENCE, LITERT, ARITHMETIC, FAKE_QUANT)

ALIGNED = "aligned"


@dataclass(frozen=True)
class Comparison:
    """Difference between two executions on the test split.

    Attributes:
        first, second: names of the executions.
        max_lsb: largest difference of an output element, in steps of the output's scale.
        equal_share: share of output elements that do not differ.
        moved_share: share of keypoints that lie further apart than the tolerance; NaN without a labelled keypoint.
        max_moved_px: largest distance between two keypoints, in input pixels; NaN without a labelled keypoint.
        pck_difference: PCK of second minus PCK of first.
    """

    first: str
    second: str
    max_lsb: int
    equal_share: float
    moved_share: float
    max_moved_px: float
    pck_difference: float


@dataclass(frozen=True)
class KernelCheck:
    """Comparison of the kernels that run a .tflite file with the simulator under the same requantisation rule.

    Attributes:
        kernels: ``reference``, ``optimised`` or ``xnnpack`` of LiteRT, or ``tflite-micro``.
        requantisation: rule of requantisation.
        num_elements: number of compared output elements.
        num_different: number of them that are not equal.
    """

    kernels: str
    requantisation: str
    num_elements: int
    num_different: int


def judge_kernels(checks: Sequence[KernelCheck]) -> list[str]:
    """Return in words which kernels differ from the simulator."""
    return [
        f"{item.kernels} kernels and the simulator ({item.requantisation}) differ in {item.num_different} of "
        f"{item.num_elements} output elements, expected 0"
        for item in checks
        if item.num_different > 0
    ]


def pairs_of(executions: AbstractSet[str]) -> list[Pair]:
    """Return the pairs with both executions present."""
    return [pair for pair in PAIRS if executions >= set(pair)]


def judge(tolerances: AlignConfig, comparisons: Sequence[Comparison], num_steps: int = 1) -> list[str]:
    """Return in words what is out of tolerance.

    ``num_steps``: steps of the output's scale per step of an 8-bit grid.
    """
    found = {(item.first, item.second): item for item in comparisons}
    return [
        *(reason for pair in (SAME, REFERENCE, LITERT) if pair in found for reason in _judge_same(found[pair])),
        *_judge_moved(found[ARITHMETIC], tolerances),
        *_judge_heatmaps(found[ARITHMETIC], num_steps * tolerances.max_heatmap_lsb, "align.max_heatmap_lsb"),
        *_judge_heatmaps(found[FAKE_QUANT], num_steps * tolerances.max_fake_quant_lsb, "align.max_fake_quant_lsb"),
        *_judge_pck(found[ARITHMETIC], tolerances),
    ]


def verdict_of(failures: Sequence[str]) -> str:
    """Return ``aligned``, or what is out of tolerance."""
    return "; ".join(failures) or ALIGNED


def describe_differences(comparisons: Sequence[Comparison]) -> str:
    """Describe the largest differences between the judged executions."""
    found = {(item.first, item.second): item for item in comparisons}
    return "; ".join(_difference(found[pair]) for pair in JUDGED if pair in found)


def parse_comparisons(rows: Sequence[Mapping[str, str]]) -> list[Comparison]:
    """Parse the rows of the table ``comparisons.csv``.

    Raises:
        KeyError, ValueError: the rows are of another version.
    """
    return [
        Comparison(
            row["first"],
            row["second"],
            int(row["max_lsb"]),
            *(float(row[name]) for name in ("equal_share", "moved_share", "max_moved_px", "pck_difference")),
        )
        for row in rows
    ]


def _difference(item: Comparison) -> str:
    words = f"{NAMES.get(item.first, item.first)} and {NAMES.get(item.second, item.second)}"
    if item.max_lsb == 0:
        return f"{words}: none"
    return (
        f"{words}: up to {item.max_lsb} LSB in {1 - item.equal_share:.2%} of the heatmap elements, "
        f"{item.moved_share:.2%} of the keypoints moved by more than align.moved_px, the farthest by "
        f"{item.max_moved_px:.1f} px, "
        f"pck {item.pck_difference:+.4f}"
    )


NAMES: Mapping[str, str] = {
    "fake_quant": "fake quantisation",
    "simulated": "the simulator",
    "simulated_float32": "the simulator in float32 requantisation",
    "onnxruntime": "ONNX Runtime",
    "reference": "ONNX Runtime on the reference file",
    "litert": "LiteRT",
}


def _judge_same(item: Comparison) -> list[str]:
    if item.max_lsb == 0:
        return []
    between = f"{NAMES[item.first]} and {NAMES[item.second]}"
    return [f"{between} differ by up to {item.max_lsb} LSB, expected 0"]


def _judge_moved(item: Comparison, tolerances: AlignConfig) -> list[str]:
    if item.moved_share <= tolerances.max_moved_share:
        return []
    if item.moved_share != item.moved_share:
        return [
            "the test split has no labelled keypoint: it cannot be measured how far the target's arithmetic moves "
            "keypoints"
        ]
    return [
        f"the target's arithmetic moves {item.moved_share:.2%} of the keypoints by more than {tolerances.moved_px} px "
        f"compared with ONNX Runtime, but align.max_moved_share is {tolerances.max_moved_share:.2%}"
    ]


def _judge_heatmaps(item: Comparison, allowed: int, setting: str) -> list[str]:
    if item.max_lsb <= allowed:
        return []
    between = f"{NAMES[item.first]} and {NAMES[item.second]}"
    return [f"an output element differs by {item.max_lsb} LSB between {between}, {setting} is {allowed}"]


def _judge_pck(item: Comparison, tolerances: AlignConfig) -> list[str]:
    if abs(item.pck_difference) <= tolerances.max_pck_difference:
        return []
    return [
        f"pck of {item.second} - {item.first} is {item.pck_difference:+.4f}, align.max_pck_difference is "
        f"{tolerances.max_pck_difference}"
    ]

"""The judgement of `align`: every tolerance bites, and what passed is said with its size."""

from dataclasses import replace

import pytest

from carkp.config.schema import AlignConfig
from carkp.workflow.alignment import (
    ARITHMETIC,
    FAKE_QUANT,
    PAIRS,
    REFERENCE,
    SAME,
    Comparison,
    KernelCheck,
    describe_differences,
    judge,
    judge_kernels,
    pairs_of,
    parse_comparisons,
    verdict_of,
)

NAN = float("nan")


def comparisons(pair: tuple[str, str], **changes: float) -> list[Comparison]:
    """All pairs equal but for ``changes`` of ``pair``."""
    same = [Comparison(*names, 0, 1.0, 0.0, 0.0, 0.0) for names in PAIRS]
    return [replace(item, **changes) if (item.first, item.second) == pair else item for item in same]


def test_fake_quantisation_is_judged_on_heatmaps_too() -> None:
    tolerances = AlignConfig(max_fake_quant_lsb=5)
    assert judge(tolerances, comparisons(FAKE_QUANT, max_lsb=5)) == []
    (reason,) = judge(tolerances, comparisons(FAKE_QUANT, max_lsb=6))
    assert "differs by 6 LSB between fake quantisation and the simulator, align.max_fake_quant_lsb is 5" in reason


def test_the_default_lets_pass_what_the_default_model_shows_and_not_much_more() -> None:
    """20 LSB were measured on the default model for bpu, where element after element is off by one on the way."""
    assert judge(AlignConfig(), comparisons(FAKE_QUANT, max_lsb=20)) == []
    assert judge(AlignConfig(), comparisons(FAKE_QUANT, max_lsb=33)) != []


def test_another_execution_of_the_target_s_arithmetic_may_not_differ_at_all() -> None:
    (reason,) = judge(AlignConfig(), comparisons(REFERENCE, max_lsb=1, equal_share=0.9999999))
    assert "the simulator and ONNX Runtime on the reference file differ by up to 1 LSB, expected 0" in reason


def test_targets_without_a_reference_file_are_judged_by_the_others() -> None:
    found = [item for item in comparisons(SAME, max_lsb=1) if item.second != "reference"]
    assert len(judge(AlignConfig(), found)) == 1
    assert REFERENCE not in pairs_of({"simulated", "simulated_float32", "onnxruntime", "fake_quant", "float"})


def test_no_hint_at_the_cpu_where_it_was_not_looked_at() -> None:
    (reason,) = judge(AlignConfig(), comparisons(SAME, max_lsb=1))
    assert "differ by up to 1 LSB" in reason
    assert "saturate" not in reason


def test_a_split_without_a_labelled_keypoint_does_not_pass() -> None:
    reasons = judge(AlignConfig(), comparisons(ARITHMETIC, moved_share=NAN, max_moved_px=NAN, pck_difference=NAN))
    assert "no labelled keypoint" in reasons[0]
    assert verdict_of(reasons) != "aligned"


def test_what_passed_is_said_with_its_size() -> None:
    found = comparisons(
        ARITHMETIC, max_lsb=6, equal_share=0.9, moved_share=0.004, max_moved_px=68.3, pck_difference=3e-4
    )
    assert judge(AlignConfig(), found) == []
    words = describe_differences(found)
    assert "the simulator in float32 requantisation and ONNX Runtime: none" in words
    assert "the simulator and ONNX Runtime: up to 6 LSB in 10.00% of the heatmap elements" in words
    assert "0.40% of the keypoints moved by more than align.moved_px, the farthest by 68.3 px, pck +0.0003" in words
    assert "fake quantisation and the simulator: none" in words
    assert "float" not in words.replace("float32", "")  # what calibration costs is not judged


def test_the_table_of_an_earlier_run_is_read_back() -> None:
    row = {"first": "simulated", "second": "onnxruntime", "max_lsb": "6", "equal_share": "0.9", "moved_share": "0.1",
           "max_moved_px": "2.5", "pck_difference": "-0.001"}  # fmt: skip
    assert parse_comparisons([row]) == [Comparison("simulated", "onnxruntime", 6, 0.9, 0.1, 2.5, -0.001)]
    with pytest.raises(KeyError):
        parse_comparisons([{"first": "simulated"}])


def test_kernels_that_differ_in_one_element_are_named() -> None:
    checks = [KernelCheck("xnnpack", "xnnpack", 1000, 0), KernelCheck("tflite-micro", "tflite_reference", 1000, 1)]
    (reason,) = judge_kernels(checks)
    assert reason == (
        "tflite-micro kernels and the simulator (tflite_reference) differ in 1 of 1000 output elements, expected 0"
    )

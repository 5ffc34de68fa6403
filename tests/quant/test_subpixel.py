import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from carkp.quant.subpixel import depth_to_space, subpixel_phases


def rewritten(x: torch.Tensor, weight: torch.Tensor, groups: int, stride: int, padding: int, size: tuple[int, int]):
    phases = subpixel_phases(weight, groups, stride, (padding, padding), (x.shape[2], x.shape[3]), size)
    assert len(phases) == stride * stride
    outputs = []
    for phase in phases:
        top, left, bottom, right = phase.pads
        outputs.append(F.conv2d(F.pad(x, (left, right, top, bottom)), phase.weight, groups=groups))
    return depth_to_space(torch.cat(outputs, 1), stride)


@given(
    kernel=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    stride=st.integers(1, 4),
    padding=st.integers(0, 3),
    output_padding=st.integers(0, 3),
    groups=st.sampled_from([1, 2, 3]),
    size=st.tuples(st.integers(2, 7), st.integers(2, 7)),
    seed=st.integers(0, 100),
)
@settings(max_examples=200, deadline=None)
def test_rewritten_equals_the_transposed_convolution(kernel, stride, padding, output_padding, groups, size, seed):
    assume(output_padding < stride)
    out = [(n - 1) * stride - 2 * padding + k + output_padding for n, k in zip(size, kernel, strict=True)]
    assume(min(out) > 0 and all(n % stride == 0 for n in out))
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 2 * groups, *size, generator=generator)
    weight = torch.randn(2 * groups, 3, *kernel, generator=generator)
    expected = F.conv_transpose2d(x, weight, None, stride, padding, output_padding, groups)
    got = rewritten(x, weight, groups, stride, padding, (out[0], out[1]))
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_the_head_s_transposed_convolution_becomes_four_2x2_convolutions_with_one_sided_pads():
    phases = subpixel_phases(torch.randn(5, 7, 4, 4), 1, 2, (1, 1), (4, 4), (8, 8))
    assert [tuple(phase.weight.shape) for phase in phases] == [(7, 5, 2, 2)] * 4
    assert [phase.pads for phase in phases] == [(1, 1, 0, 0), (1, 0, 0, 1), (0, 1, 1, 0), (0, 0, 1, 1)]


def test_output_channels_of_a_phase_are_axis_1_of_the_transposed_weight():
    weight = torch.ones(2, 3, 4, 4) * torch.tensor([1.0, 10.0, 100.0])[None, :, None, None]
    for phase in subpixel_phases(weight, 1, 2, (1, 1), (4, 4), (8, 8)):
        assert phase.weight.amax(dim=(1, 2, 3)).tolist() == [1, 10, 100]


def test_an_output_that_is_no_multiple_of_the_stride_is_refused():
    with pytest.raises(ValueError, match="not a multiple of its stride 2"):
        subpixel_phases(torch.randn(1, 1, 3, 3), 1, 2, (1, 1), (4, 4), (7, 7))


def test_depth_to_space_is_onnx_dcr():
    values = torch.arange(8.0).reshape(1, 8, 1, 1)  # block 2, 2 channels: channel (i 2 + j) 2 + c
    got = depth_to_space(values, 2)
    assert got[0, 0].tolist() == [[0, 2], [4, 6]]
    assert got[0, 1].tolist() == [[1, 3], [5, 7]]

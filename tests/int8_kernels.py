"""Which tests need kernels that multiply 8-bit integers exactly."""

import pytest

from carkp.deploy.cpu import cpu_features

NEEDS_EXACT_KERNELS = pytest.mark.skipif(
    cpu_features().may_saturate, reason="onnxruntime's u8s8 kernels saturate pairs of products at 16 bits without VNNI"
)

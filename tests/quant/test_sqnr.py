import math

import torch

from carkp.quant.sqnr import layer_sqnr
from tests.quant.networks import BPU, SmallNet, calibrated, images, with_statistics


def test_rows_are_the_layers_in_order_and_agree_with_a_direct_computation():
    net = calibrated(with_statistics(SmallNet()), BPU)
    rows = layer_sqnr(net, [images(2), images(4)[2:]])
    names = [row.name for row in rows]
    assert names[:2] == ["image", "stem/1"]
    assert names[-1] == "final"
    assert not [name for name in names if name.endswith(("concat", "depth_to_space"))]
    with torch.inference_mode():
        exact, rounded = net.graph(images()), net(images())
    expected = 10 * math.log10(float(exact.square().sum() / (exact - rounded).square().sum()))
    assert math.isclose(rows[-1].total_db, expected, abs_tol=1e-3)


def test_coarser_steps_lose_about_six_decibels_a_bit():
    net = calibrated(with_statistics(SmallNet()), BPU, percentile=100.0)
    fine = {row.name: row for row in layer_sqnr(net, [images()])}
    net.quantiser("narrow/0").scale.mul_(4)
    coarse = {row.name: row for row in layer_sqnr(net, [images()])}
    assert 10 < fine["narrow/0"].activations_db - coarse["narrow/0"].activations_db < 14
    assert fine["narrow/0"].weights_db == coarse["narrow/0"].weights_db
    assert coarse["final"].total_db < fine["final"].total_db
    assert math.isnan(fine["block/add"].weights_db)
    assert fine["image"].total_db > 200  # bytes are exact

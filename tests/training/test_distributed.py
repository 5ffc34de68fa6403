"""Two gloo processes on this machine."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from carkp.training.fit import fit
from tests.training.nets import FixedBatches, make_net, make_net_without_batch_norm, make_settings, make_trainer, score

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, object]]:
    """What each of two processes reports of a training."""
    out = tmp_path_factory.mktemp("ranks")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    subprocess.run(
        [*command, "-m", "tests.training.two_ranks", str(out)],
        cwd=ROOT, check=True, capture_output=True, timeout=240,
    )  # fmt: skip
    return [json.loads((out / f"rank{rank}.json").read_text()) for rank in range(2)]


def test_parameters_and_buffers_that_are_scored_are_identical_on_both_ranks(ranks: list[dict[str, object]]) -> None:
    assert ranks[0]["weights_sha"] == ranks[1]["weights_sha"]
    assert ranks[0]["average_sha"] == ranks[1]["average_sha"]
    assert ranks[0]["pck"] == ranks[1]["pck"]


def test_validation_by_two_processes_equals_one_process(ranks: list[dict[str, object]]) -> None:
    assert ranks[0]["untrained_mean_dist"] == score(make_net(), FixedBatches()).mean_dist


def test_the_loss_curve_is_that_of_one_process_with_the_same_total_batch(
    ranks: list[dict[str, object]], tmp_path: Path
) -> None:
    alone = make_trainer(make_settings(), FixedBatches(), net=make_net_without_batch_norm())
    fit(alone, tmp_path, lambda result: None)
    losses = [numbers["loss"] for numbers in alone.history]
    assert losses[-1] < losses[0]
    for rank in ranks:
        assert rank["losses"] == pytest.approx(losses, rel=1e-4)


def test_no_sample_is_lost_or_counted_twice(ranks: list[dict[str, object]]) -> None:
    assert ranks[0]["num_points"] == 12 * 32


def test_a_step_that_is_bad_on_one_rank_is_left_out_on_both(ranks: list[dict[str, object]]) -> None:
    steps = [[step[:2] for step in rank["left_out"]] for rank in ranks]  # type: ignore[attr-defined]
    assert steps[0] == steps[1]
    assert len(steps[0]) == 2
    assert {step[2] for step in ranks[1]["left_out"]} == {"loss"}  # type: ignore[attr-defined]
    assert ranks[0]["weights_after_sha"] == ranks[1]["weights_after_sha"]


def test_rank_zero_alone_writes_checkpoints(ranks: list[dict[str, object]]) -> None:
    assert [rank["num_epochs_reported"] for rank in ranks] == [2, 0]


def test_the_ranks_saw_different_batches(ranks: list[dict[str, object]]) -> None:
    assert ranks[0]["first_index"] != ranks[1]["first_index"]
    assert torch.distributed.is_available()

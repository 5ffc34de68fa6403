"""One rank of the training in test_distributed: ``torchrun -m tests.training.two_ranks <folder>``."""

import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path

from torch import nn

from carkp.training.distributed import ProcessContext, process_context
from carkp.training.divergence import Divergence
from carkp.training.fit import EpochResult, fit
from tests.training.nets import (
    FixedBatches,
    make_net,
    make_net_without_batch_norm,
    make_settings,
    make_trainer,
    score,
    share_of_each,
)


def sha(net: nn.Module) -> str:
    digest = hashlib.sha256()
    for value in net.state_dict().values():
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()


def train_with_a_bad_batch(context: ProcessContext) -> tuple[list[tuple[int, int, str]], str]:
    """Labels of one batch of rank 1 are no numbers: the steps that were left out, and the weights at the end."""
    batches = FixedBatches(num_batches=4)
    batches.batches = batches.batches[context.rank :: context.world_size]
    if context.rank == 1:
        batches.batches[0]["points"][0, 0] = float("nan")
    trainer = make_trainer(make_settings(epochs=2), batches, context)
    found: list[Divergence] = []
    trainer.inputs = replace(trainer.inputs, on_divergence=found.append)
    for _ in range(2):
        trainer.run_epoch(lambda loss: None)
    return [(item.epoch, item.step, item.origin.kind) for item in found], sha(trainer.net)


def main(out: Path) -> None:
    with process_context() as context:
        batches = FixedBatches(num_batches=4)
        batches.batches = batches.batches[context.rank :: context.world_size]
        untrained = score(make_net(), FixedBatches(), context)
        trainer = make_trainer(make_settings(epochs=2, ema_decay=0.9), batches, context)
        reported: list[EpochResult] = []
        fit(trainer, out, reported.append)
        assert trainer.average is not None
        divided = make_trainer(
            make_settings(), share_of_each(FixedBatches(), context), context, make_net_without_batch_norm()
        )
        fit(divided, out / "divided", lambda result: None)
        scores = score(trainer.eval_net, FixedBatches(), context)
        left_out, weights_after = train_with_a_bad_batch(context)
        report = {
            "left_out": left_out,
            "weights_after_sha": weights_after,
            "weights_sha": sha(trainer.net),
            "average_sha": sha(trainer.average.net),
            "pck": scores.pck,
            "num_points": scores.num_points,
            "untrained_mean_dist": untrained.mean_dist,
            "num_epochs_reported": len(reported),
            "losses": [numbers["loss"] for numbers in divided.history],
            "first_index": int(batches.batches[0]["index"][0]),
        }
        (out / f"rank{context.rank}.json").write_text(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""One rank of the training in test_distributed: ``torchrun -m tests.training.two_ranks <folder>``."""

import hashlib
import json
import sys
from pathlib import Path

from torch import nn

from carkp.training.distributed import process_context
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
        report = {
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

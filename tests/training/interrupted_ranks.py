"""One rank of the training in test_random_state, which is stopped in the middle of an epoch and resumed."""

import json
import sys
from pathlib import Path

import torch

from carkp.training.checkpoint import load_checkpoint, weights_digest
from carkp.training.distributed import ProcessContext, process_context
from carkp.training.fit import Trainer, fit
from tests.training.nets import FixedBatches, make_dropout_net, make_settings, make_trainer

STEPS_AN_EPOCH = 2
STOP_AFTER = 2 * STEPS_AN_EPOCH + 1


class StopError(Exception):
    """Raised on every rank at once."""


def new_trainer(context: ProcessContext, seed: int) -> Trainer:
    batches = FixedBatches(num_batches=2 * STEPS_AN_EPOCH)
    batches.batches = batches.batches[context.rank :: context.world_size]
    trainer = make_trainer(make_settings(epochs=4, ema_decay=0.9), batches, context, make_dropout_net())
    torch.manual_seed(seed + context.rank)  # each rank draws others
    return trainer


def main(out: Path) -> None:
    with process_context() as context:
        whole = new_trainer(context, 100)
        fit(whole, out / "whole", lambda result: None)
        whole_draws = torch.rand(4).tolist()

        cut, num_steps = new_trainer(context, 100), 0

        def stop(loss: float) -> None:
            nonlocal num_steps
            num_steps += 1
            if num_steps == STOP_AFTER:
                raise StopError

        try:
            fit(cut, out / "cut", lambda result: None, stop)
        except StopError:
            context.barrier()
        resumed = new_trainer(context, 900)
        resumed.resume(load_checkpoint(out / "cut" / "last.pt"))
        first = resumed.epoch + 1
        fit(resumed, out / "cut", lambda result: None)
        report = {
            "whole_draws": whole_draws,
            "resumed_draws": torch.rand(4).tolist(),
            "whole_weights": weights_digest(whole.eval_net.state_dict()),
            "resumed_weights": weights_digest(resumed.eval_net.state_dict()),
            "stopped_in_epoch": cut.epoch + 1,
            "epochs_after_resume": list(range(first, resumed.epoch + 1)),
        }
        (out / f"rank{context.rank}.json").write_text(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

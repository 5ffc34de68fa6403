"""``float`` that stands still before a step of its training, to be killed there: for test_resume."""

import sys
import time
from pathlib import Path

from torch import Tensor

from carkp.stages.float import main
from carkp.training.evaluate import Batch
from carkp.training.fit import Trainer


def stall(step: int, marker: Path) -> None:
    """Leave ``marker`` once ``step`` steps are done and do no other."""
    own_step = Trainer.step

    def step_or_stall(trainer: Trainer, batch: Batch) -> Tensor:
        if trainer.num_steps_done == step:
            marker.touch()
            time.sleep(600)
        return own_step(trainer, batch)

    Trainer.step = step_or_stall  # type: ignore[method-assign]


if __name__ == "__main__":
    stall(int(sys.argv[1]), Path(sys.argv[2]))
    sys.exit(main(sys.argv[3:]))

"""``float`` that takes at least so many seconds an epoch: for test_outage."""

import sys
import time
from typing import Any

from carkp.stages.float import main
from carkp.training.fit import Trainer


def pace(seconds: float) -> None:
    own_epoch = Trainer.run_epoch

    def paced(trainer: Trainer, *arguments: Any, **settings: Any) -> Any:
        end = time.monotonic() + seconds
        result = own_epoch(trainer, *arguments, **settings)
        time.sleep(max(0.0, end - time.monotonic()))
        return result

    Trainer.run_epoch = paced  # type: ignore[method-assign]


if __name__ == "__main__":
    pace(float(sys.argv[1]))
    sys.exit(main(sys.argv[2:]))

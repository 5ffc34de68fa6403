"""Which heatmap sigma, learning rate and calibration percentile give the best int8 model?

Command:  python experiments/tune.py   (--help shows what can be set; `mlflow run . -e tune` is the same)
Expect:   twelve short trainings within 40 minutes on two CPU cores; their best configuration as a YAML file; and, with
          new seeds, whether it is better than the default. After an interruption, the same command continues.
"""

import sys

from carkp.stages import tune

if __name__ == "__main__":
    sys.exit(tune.main(prog="python experiments/tune.py"))

"""What makes a model of generated cars good on real ones, ingredient by ingredient?

Command:  python experiments/transfer.py <folder of real cars>[,<folder>…] --set rendered.meshes=<folder of meshes>
          … --steps default,augmentation --seeds 0,1          (about ten minutes a training on two cores)
Asks:     PCK@0.1 and @0.05 on real cars, with 95 % intervals of a bootstrap over photographs, and the share of cars
          turned front to back, after trainings that differ in one thing each; and each step's difference to the step
          that it builds on, paired over the cars. No epoch and no setting is chosen by the real cars.
Expect:   a difference counts where its interval leaves out 0 for every seed; most single ingredients stay within it.
          Every training that is finished is kept in the YAML file: the same command goes on with those that are missing.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rich.console import Console
from rich.table import Table

from carkp import disk
from carkp.config.loading import ConfigError, apply_overrides
from carkp.config.schema import ExperimentConfig
from carkp.keypoints.paired import paired_difference
from carkp.keypoints.predictions import Predictions
from carkp.tracking.tracker import Tracker

STUDY = "transfer"

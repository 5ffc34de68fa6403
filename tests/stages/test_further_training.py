"""A training that starts from a trained network: its moving average includes the first weights."""

from pathlib import Path

import torch
from mlflow.entities import Run

from carkp.training.checkpoint import load_checkpoint
from tests.stages.conftest import Project


def test_a_slow_average_stays_at_the_trained_network_that_it_started_from(trained: Project) -> None:
    start = best_of(trained, trained.training())
    changes = ("train.epochs=1", "train.ema_decay=0.999999", f"model.pretrained={start}", "name=further")
    done = trained.stage("float", *(word for change in changes for word in ("--set", change)))
    assert done.returncode == 0, done.stderr
    before, after = (load_checkpoint(path).weights for path in (start, best_of(trained, trained.finished("float")[0])))
    floating = [name for name, value in before.items() if value.is_floating_point()]
    assert all(torch.allclose(after[name], before[name], rtol=1e-3, atol=1e-4) for name in floating)


def best_of(project: Project, run: Run) -> Path:
    return project.artifact(run, "checkpoints/best.pt")

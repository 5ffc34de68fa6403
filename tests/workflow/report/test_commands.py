"""Commands that a reader on another machine can give."""

import shlex
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from carkp.config.loading import flatten, load_config, split_overrides
from carkp.tracking.runs import FoundRun
from carkp.workflow.report import commands
from carkp.workflow.report.commands import Call, command_of, masked_paths, parse_command, portable

RUN_ID = "b361bde9a7f340d19ea5431a55a25200"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with two configuration files, the second on top of the first."""
    (tmp_path / "MLproject").write_text("name: carkp\n")
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "synthetic.yaml").write_text("name: synthetic\ntrain:\n  epochs: 4\n")
    (tmp_path / "configs" / "tiny.yaml").write_text("base: synthetic.yaml\nname: tiny\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def resolved(project: Path, config: str = "configs/synthetic.yaml", *overrides: str) -> dict:
    return load_config(project / config, overrides).model_dump(mode="json")


def found_run(**tags: str) -> FoundRun:
    named = {f"carkp.{name}": value for name, value in tags.items()}
    return FoundRun(RUN_ID, "name", named, {}, {}, "1", "FINISHED", datetime.now(UTC))


def made_by(command: str, project: Path) -> dict:
    """The configuration that a command of `mlflow run` gives, worked out from its words."""
    words = shlex.split(command)
    given = dict(word.split("=", 1) for place, word in enumerate(words) if words[place - 1] == "-P")
    config = given.get("config", "configs/synthetic.yaml")
    return resolved(project, config, *split_overrides(given.get("overrides", "")))


@pytest.mark.parametrize(
    ("logged", "expected"),
    [
        (f"python -m carkp.stages.float --config configs/synthetic.yaml --data runs:/{RUN_ID}",
         "mlflow run . -e float"),
        ("python -m carkp.stages.pipeline", "mlflow run ."),
        ("python -m carkp.stages.float --config configs/tiny.yaml --overrides '' --data latest --nproc '' --resume ''",
         "mlflow run . -e float -P config=configs/tiny.yaml"),
        (f"python -m carkp.stages.calibration --target=bpu --model runs:/{RUN_ID}/checkpoints/best.pt",
         "mlflow run . -e calibration -P target=bpu"),
        ("python -m carkp.stages.float --resume latest --nproc 2", "mlflow run . -e float -P nproc=2"),
        ("/home/me/.venv/bin/python -m torch.distributed.run --nproc 2 -m carkp.stages.float --nproc 2",
         "mlflow run . -e float -P nproc=2"),
        ("python -m carkp.stages.calibration --model /home/me/best.pt",
         "mlflow run . -e calibration -P model=/path/to/best.pt"),
        ("python /home/me/carkp/experiments/tune.py --trials 3 --storage sqlite:////home/me/o.db",
         "python experiments/tune.py --trials 3 --storage sqlite:////path/to/o.db"),
    ],
)  # fmt: skip
def test_a_logged_command_becomes_a_call_of_the_entry_point(project: Path, logged: str, expected: str) -> None:
    assert command_of(found_run(stage="float", command=logged), {}) == expected


def test_overrides_make_the_configuration_that_the_run_logged(project: Path) -> None:
    logged = ("python -m carkp.stages.float --config configs/tiny.yaml --set train.lr=5.0e-4 "
              "--overrides 'seed=3 quant.sweep=[99.0, 99.5]'")  # fmt: skip
    logged = logged.replace("[99.0, 99.5]", '"[99.0, 99.5]"')
    wanted = resolved(project, "configs/tiny.yaml", "seed=3", "train.lr=5.0e-4", "quant.sweep=[99.0, 99.5]")
    command = command_of(found_run(stage="float", command=logged), wanted)
    assert command.startswith("mlflow run . -e float -P config=configs/tiny.yaml -P overrides=")
    assert made_by(command, project) == wanted


def test_a_configuration_file_of_one_s_own_becomes_overrides(
    project: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Another machine has no such file."""
    own = tmp_path_factory.mktemp("own") / "mine.yaml"
    own.write_text("name: mine\ntrain:\n  lr: 1.0e-5\nquant:\n  rules: [{tensors: head/*, observer: mse}]\n")
    wanted = load_config(own).model_dump(mode="json")
    command = command_of(found_run(stage="float", command=f"python -m carkp.stages.float --config {own}"), wanted)
    assert str(own.parent) not in command
    assert "config=" not in command
    assert made_by(command, project) == wanted


def test_a_file_that_changed_since_is_made_up_for(project: Path) -> None:
    wanted = resolved(project)
    (project / "configs" / "synthetic.yaml").write_text("name: synthetic\ntrain:\n  epochs: 9\n")
    command = command_of(found_run(stage="float", command="python -m carkp.stages.float"), wanted)
    assert command == "mlflow run . -e float -P overrides=train.epochs=4"


def test_paths_of_this_machine_are_places_to_fill_in(project: Path) -> None:
    logged = "python -m carkp.stages.float --set data.source=/mnt/disk7/carfusion --set data.root=~/prepared"
    wanted = resolved(project, "configs/synthetic.yaml", "data.source=/mnt/disk7/carfusion", "data.root=~/prepared")
    command = command_of(found_run(stage="float", command=logged), wanted)
    assert "disk7" not in command
    assert "data.source=/path/to/carfusion" in command
    assert "data.root=/path/to/prepared" in command
    text = yaml.safe_dump(wanted)
    masked = yaml.safe_load(masked_paths(text))
    changed = {name for name, value in flatten(wanted, "c").items() if flatten(masked, "c")[name] != value}
    assert changed == {"c.data.source", "c.data.root"}


def test_without_a_logged_command_the_tags_and_parameters_tell(project: Path) -> None:
    assert command_of(found_run(stage="calibration", target="bpu"), {}) == "mlflow run . -e calibration -P target=bpu"
    evaluated = found_run(stage="evaluate", model="int_infer", target="bpu")
    assert command_of(evaluated, {}) == "mlflow run . -e evaluate -P target=bpu -P stage=int_infer"
    assert command_of(found_run(stage="float"), {}) == f"# float {RUN_ID}: its command was not logged"
    assert command_of(found_run(stage="float"), resolved(project, "configs/synthetic.yaml", "seed=3")) == (
        "mlflow run . -e float -P overrides=seed=3"
    )
    assert command_of(found_run(), {}) == ""


def test_commands_of_something_else_and_those_that_were_cut_off_are_none() -> None:
    assert parse_command("python -m pytest tests") is None
    assert parse_command("python -m carkp.stages.float --overrides 'seed=1 na") is None
    assert parse_command("") is None


def test_a_file_that_git_does_not_know_is_on_this_machine_alone(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "_may_be_tracked", lambda root, path: path.name != "tiny.yaml")
    wanted = resolved(project, "configs/tiny.yaml")
    command = portable(Call("float", config="configs/tiny.yaml"), wanted)
    assert command == "mlflow run . -e float -P overrides=name=tiny"


def test_an_adapted_model_is_never_the_latest_one_and_the_reader_fills_it_in(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = {"a1": "adapt", "f1": "float"}
    monkeypatch.setattr(
        commands,
        "find_run_or_none",
        lambda run_id: found_run(stage=stages[run_id]) if run_id in stages else None,
    )
    made = {
        run_id: command_of(
            found_run(stage="calibration", command=f"python -m carkp.stages.calibration --model runs:/{run_id}"), {}
        )
        for run_id in ("a1", "f1", "c1")
    }
    assert made == {
        "a1": "mlflow run . -e calibration -P model=runs:/RUN_OF_ADAPT",
        "f1": "mlflow run . -e calibration",
        "c1": "mlflow run . -e calibration",
    }

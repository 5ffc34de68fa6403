"""The command: it says at once what there is, and calls the stages with what it is given."""

import importlib
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result

from carkp.command import stage
from carkp.command.main import HELPERS, STAGES, group
from carkp.config.loading import load_config
from carkp.entry_points import ENTRY_POINTS
from tests.stages.conftest import ROOT
from tests.test_light_runtime import run_without

HEAVY = {
    *("torch", "torchvision", "timm", "mlflow", "lmdb", "onnx", "onnxruntime", "cv2", "numpy", "pandas", "optuna"),
    *("matplotlib", "scipy", "sklearn", "numba", "rich", "PIL", "psutil", "tqdm"),
}
CONFIGURATION = {"pydantic", "yaml"}


def command(*words: str) -> Result:
    return CliRunner().invoke(group, words, prog_name="carkp")


def modules_after(code: str) -> set[str]:
    """Top-level packages that a process of its own has imported."""
    words = [
        sys.executable,
        "-c",
        f"{code}\nimport sys; print(' '.join({{name.partition('.')[0] for name in sys.modules}}))",
    ]
    return set(subprocess.run(words, capture_output=True, text=True, check=True).stdout.split("\n")[-2].split())


def group_call(words: Sequence[str]) -> str:
    """Code that runs a command to its end, whatever its exit status."""
    return f"""
from carkp.command.main import group
try:
    group({list(words)}, prog_name="carkp", standalone_mode=False)
except SystemExit:
    pass"""


def test_help_imports_nothing_heavy() -> None:
    """Of every command in one process: what one of them imports is in the sum."""
    calls = [["--help"], ["--version"], *([name, "--help"] for name in (*STAGES, *HELPERS))]
    assert not modules_after("".join(map(group_call, calls))) & (HEAVY | CONFIGURATION)


def test_settings_are_shown_and_explained_with_pydantic_alone() -> None:
    calls = [["config", "show", "train"], ["config", "explain"], ["float", "--dry-run"]]
    found = modules_after("".join(map(group_call, calls)))
    assert found >= CONFIGURATION
    assert not found & HEAVY


def test_models_are_listed_without_mlflow_where_there_are_no_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "MLproject").write_text("name: carkp\n")
    call = f"import os; os.chdir({str(tmp_path)!r}){group_call(['models'])}"
    assert not modules_after(call) & HEAVY
    assert not (tmp_path / "mlflow.db").exists()


def test_every_stage_and_helper_is_listed() -> None:
    shown = command("--help").output
    for name in (*STAGES, *HELPERS):
        assert re.search(rf"^  {name} ", shown, re.MULTILINE), name


@pytest.mark.parametrize("name", sorted(STAGES))
def test_help_has_every_parameter(name: str) -> None:
    shown = command(name, "--help").output
    for parameter in STAGES[name].parameters:
        assert f"--{parameter.name.replace('_', '-')}" in shown


def test_a_stage_gets_what_the_command_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(stage, "_call", lambda point, words: calls.append((point.module, words)) or 0)
    done = command("calibration", "--model", "runs:/1", "--set", "quant.num_images=8", "--set", "seed=1")
    assert done.exit_code == 0, done.output
    ((module, words),) = calls
    assert module == "calibration"
    assert importlib.import_module(f"carkp.stages.{module}")
    pairs = list(zip(words[::2], words[1::2], strict=True))
    assert ("--model", "runs:/1") in pairs
    assert [value for name, value in pairs if name == "--set"] == ["quant.num_images=8", "seed=1"]
    assert dict(pairs)["--data"] == "latest"


def test_a_picture_is_a_word_of_infer(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(stage, "_call", lambda point, words: calls.append(words) or 0)
    assert command("infer", "--track", "photo.jpg").exit_code == 0
    assert calls[0][calls[0].index("--image") + 1] == "photo.jpg"
    assert "given twice" in command("infer", "photo.jpg", "--image", "other.jpg").output


def test_a_picture_is_inferred_without_torch_and_mlflow(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "car.png"), np.full((200, 300, 3), 90, np.uint8))
    (tmp_path / "boxes.csv").write_text("image,x,y,w,h\ncar.png,10,10,250,150\n")
    paths = [str(tmp_path / name) for name in ("car.png", "boxes.csv", "out")]
    words = ["infer", paths[0], "--boxes", paths[1], "--output", paths[2]]
    done = run_without(f"from carkp.command.main import group\ngroup({words}, prog_name='carkp')")
    assert done.returncode == 0, done.stderr
    (car,) = json.loads((tmp_path / "out" / "keypoints.json").read_text())["images"]["car.png"]["cars"]
    assert car["box"] == [10, 10, 250, 150]
    assert len(car["points"]) == 12
    assert (tmp_path / "out" / "car.jpg").is_file()


@pytest.mark.parametrize("words", [["float"], ["status"], ["run"], ["infer", "a.jpg", "--model", "latest"]])
def test_an_installation_without_training_says_what_is_missing(words: list[str]) -> None:
    done = run_without(f"from carkp.command.main import group\ngroup({words}, prog_name='carkp')")
    assert done.returncode == 1
    assert re.fullmatch(r'error: this needs \w+, which is not installed: pip install "carkp\[train\]"\n', done.stderr)


def test_a_damaged_checkpoint_is_an_error_with_a_message(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "car.png"), np.full((200, 300, 3), 90, np.uint8))
    (tmp_path / "bad.pt").write_bytes(b"PK\x03\x04 and no more")
    done = command(
        "infer", str(tmp_path / "car.png"), "--model", str(tmp_path / "bad.pt"), "--output", str(tmp_path / "o")
    )
    assert done.exit_code == 1
    assert done.output.startswith("error: ")
    assert "bad.pt" in done.output


def test_verbose_shows_the_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CARKP_VERBOSE", "")
    quiet, verbose = (command(*words, "infer", str(tmp_path / "none.jpg")) for words in ([], ["-v"]))
    assert "Traceback" not in quiet.output
    assert "Traceback (most recent call last)" in verbose.output


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    done = command("infer", str(tmp_path / "none.jpg"))
    assert done.exit_code == 1
    assert done.output.startswith("error: ")
    assert "none.jpg" in done.output


def test_a_dry_run_says_the_command_and_what_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    done = command("float", "--dry-run", "--set", "train.lr=3e-3")
    assert done.exit_code == 0, done.output
    assert "would run: python -m carkp.stages.float" in done.output
    assert "train.lr = 0.003" in done.output


def test_settings_of_a_section(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    shown = command("config", "show", "train", "--set", "train.epochs=7").output
    assert "  epochs: 7\n" in shown
    assert "quant:" not in shown
    assert load_config(ROOT / "configs" / "synthetic.yaml").train.epochs != 7


def test_an_unknown_section_and_a_bad_setting_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    done = command("config", "show", "tree")
    assert done.exit_code == 1
    assert "there is no section 'tree'; the sections are: name, seed, data" in done.output
    done = command("float", "--dry-run", "--set", "train.epoch=7")
    assert done.exit_code == 1
    assert done.output.startswith("error: ")


def test_settings_are_explained() -> None:
    shown = command("config", "explain", "train.lr").output
    assert shown.startswith("train.lr  (")
    assert "learning rate" in shown.lower()
    every = command("config", "explain").output
    assert "data.sources[].share" in every
    done = command("config", "explain", "train.learning_rate")
    assert done.exit_code == 1
    assert done.output.startswith("error: ")


def test_status_takes_settings_with_spaces() -> None:
    done = command(
        "status", "--config", "configs/tiny.yaml", "--set", "synthetic.image_size=[96, 161]", "--set", "seed=x"
    )
    assert "image_size" not in done.output
    assert "seed" in done.output


def draw(folder: Path, *words: str) -> Result:
    counts = ["synthetic.num_train_cars=1", "synthetic.num_val_cars=1", "synthetic.num_test_cars=1"]
    sizes = ["train.batch_size=1", "synthetic.image_size=[96, 160]", f"data.root={folder}", "data.num_workers=1"]
    settings = [word for setting in (*counts, *sizes) for word in ("--set", setting)]
    return command("generate", "--config", "configs/tiny.yaml", *settings, *words)


def test_shards_are_drawn_and_merged(tmp_path: Path) -> None:
    for shard in ("1/2", "2/2"):
        done = draw(tmp_path, "--shard", shard)
        assert done.exit_code == 0, done.output
    assert Path(done.stdout.splitlines()[-1]).name == "raw.shard-2-of-2"
    done = draw(tmp_path, "--merge", "2")
    assert done.exit_code == 0, done.output
    raw = Path(done.stdout.splitlines()[-1])
    assert len(list(raw.glob("*/*/images_jpg/*.jpg"))) == 3
    assert draw(tmp_path).stdout.splitlines()[-1] == str(raw)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--shard", "3"], "K/N, such as 2/4"),
        (["--shard", "3/2"], "K from 1 to N"),
        (["--shard", "1/2", "--merge", "2"], "not both"),
        (["--merge", "2"], "shard-1-of-2 is missing"),
        (["--set", "data.source=coco.json"], "only synthetic and rendered data can be generated"),
    ],
)
def test_shards_that_cannot_be_are_an_error(words: list[str], message: str, tmp_path: Path) -> None:
    done = draw(tmp_path, *words)
    assert done.exit_code == 1
    assert message in done.output


def test_doctor_names_what_is_missing_and_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    doctor = importlib.import_module("carkp.command.doctor")
    monkeypatch.setattr(doctor, "EXTRAS", {"no-such-package": ("tests", "pip install it")})
    monkeypatch.setattr(doctor, "CHECKS", (doctor._python, doctor._packages, doctor._cpu, doctor._disk))
    monkeypatch.setattr(doctor, "MIN_FREE_GIB", 0.0)  # whatever disk the tests run on
    done = command("doctor")
    assert done.exit_code == 0, done.output
    assert re.search(r"^--  no-such-package +tests: pip install it$", done.output, re.MULTILINE)
    monkeypatch.setattr(doctor, "MIN_FREE_GIB", 1e9)
    done = command("doctor")
    assert done.exit_code == 1
    assert re.search(r"^!!  disk ", done.output, re.MULTILINE)


def test_the_shipped_model_is_listed() -> None:
    models = importlib.import_module("carkp.command.models")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models.importlib.util, "find_spec", lambda name: None)
        shown = command("models").output
    assert "carkp-car12: comes with carkp" in shown
    assert 'pip install "carkp[train]"' in shown


def test_commands_are_those_of_mlproject() -> None:
    assert len(STAGES) == len(ENTRY_POINTS)


def test_the_extra_for_training_is_what_mlflow_installs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if line and line[0] != "#"]
    assert project["optional-dependencies"]["train"] == listed

"""Every setting explains itself, and the page of all settings is up to date."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, Field

from carkp.config.explain import REQUIRED, Setting, explain, sections
from carkp.config.loading import ConfigError, flatten
from carkp.config.schema import ExperimentConfig, ObserverRule, SourceConfig
from carkp.config.settings_page import PAGE, main, settings_page

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "timm", "mlflow", "cv2", "onnxruntime", "optuna")


@pytest.mark.parametrize("setting", explain(), ids=lambda setting: setting.name)
def test_a_description_is_a_sentence_that_says_more_than_the_name(setting: Setting) -> None:
    text = setting.description
    # a letter, or a value, begins it
    assert re.match(r"[A-Z0-9\"'\[]", text)
    assert text.endswith(".")
    assert not re.search(r"\s\s|\s$|\.\.$", text)
    own_words = set(setting.name.rpartition(".")[2].split("_"))
    assert len(set(re.findall(r"[a-z0-9]+", text.lower())) - own_words) >= 4


def test_every_setting_has_a_row() -> None:
    leaves = set(flatten(ExperimentConfig().model_dump()))
    leaves |= {f"data.sources[].{name}" for name in SourceConfig.model_fields}
    leaves |= {f"quant.rules[].{name}" for name in ObserverRule.model_fields}
    names = [setting.name for setting in explain()]
    assert len(set(names)) == len(names)
    assert set(names) == leaves
    assert [setting.name for section in sections() for setting in section.settings] == names


@pytest.mark.parametrize(
    ("name", "type_", "default"),
    [
        ("augment.flip_probability", "number from 0 to 1", "0.5"),
        ("train.lr", "number above 0", "0.001"),
        ("train.epochs", "whole number from 1 upwards", "30"),
        ("train.ema_decay", "number from 0 to below 1", "0.0"),
        ("adapt.ema_decay", "number above 0 and below 1", "0.99"),
        ("adapt.augment.min_scale", "number from 0.01 to 1", "0.75"),
        ("seed", "whole number from 0 to 4294967295", "0"),
        ("train.compile", "true or false", "false"),
        ("train.teacher", "text", '""'),
        ("data.root", "text, not empty", "data"),
        ("data.boxes", "files or hull", "files"),
        ("data.val_scenes", "list of texts", "[car_craig2]"),
        ("model.input_size", "2 whole numbers from 1 to 8192", "[128, 128]"),
        ("heatmap.window", "auto, or whole number from 1 upwards", "auto"),
        ("quant.percentile", "number above 50, up to 100", "99.975"),
        ("data.sources[].share", "number above 0, up to 1", REQUIRED),
        ("data.sources[].val_scenes", "list of texts, or null", "null"),
        ("quant.rules[].observer", "percentile, minmax, mse or entropy", REQUIRED),
    ],
)
def test_types_and_defaults_read_as_a_person_would_say_them(name: str, type_: str, default: str) -> None:
    (setting,) = explain(name)
    assert (setting.type, setting.default) == (type_, default)


@pytest.mark.parametrize(
    ("name", "first", "num"),
    [
        ("eval", "eval.alpha", 2),
        ("adapt.augment", "adapt.augment.flip_probability", 17),
        ("data.sources", "data.sources", 5),
        ("data.sources.0", "data.sources", 5),
        ("data.sources[]", "data.sources", 5),
        ("data.sources.1.share", "data.sources[].share", 1),
        ("quant.rules[0].tensors", "quant.rules[].tensors", 1),
        (" name ", "name", 1),
    ],
)
def test_a_name_gives_its_settings(name: str, first: str, num: int) -> None:
    found = explain(name)
    assert (found[0].name, len(found)) == (first, num)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("trian", r"did you mean train\?"),
        ("lr", r"did you mean train\.lr or qat\.lr or adapt\.lr\?"),
        ("Train.LR", r"did you mean train\.lr\?"),
        ("augment.flip_prob", r"did you mean augment\.flip_probability\?"),
        ("data.sources.0.shar", r"did you mean data\.sources\[\]\.share\?"),
        ("train.foo", r"train has epochs, batch_size, "),
        ("zzzzz", r"there are name, seed, data, "),
    ],
)
def test_an_unknown_name_is_told_its_nearest(name: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{re.escape(name)}: no such section or setting; .*{hint}"):
        explain(name)


def test_other_models_are_read_too() -> None:
    class Inner(BaseModel):
        """What is inside. Of two sentences.

        And a further paragraph.
        """

        below: Annotated[float, Field(lt=2)]
        most: Annotated[int, Field(le=3)] = 2
        any_number: float = 1.5

    class Outer(BaseModel):
        inner: Inner
        kinds: tuple[Literal["a", "b"], ...] = Field(default_factory=tuple)

    rows = {setting.name: (setting.type, setting.default) for setting in explain(model=Outer)}
    assert rows == {
        "kinds": ("list of values from a, b", "[]"),
        "inner.below": ("number below 2", REQUIRED),
        "inner.most": ("whole number up to 3", "2"),
        "inner.any_number": ("number", "1.5"),
    }
    assert sections(Outer)[1].summary == "What is inside. Of two sentences."


def test_explaining_imports_nothing_heavy() -> None:
    code = f"import sys, carkp.config.explain; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_the_page_of_settings_is_up_to_date() -> None:
    assert (ROOT / PAGE).read_text(encoding="utf-8") == settings_page(), "run python -m carkp.config.settings_page"


def test_the_page_is_written_where_it_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "settings.md"
    assert main([str(path)]) == 0
    assert path.read_text(encoding="utf-8") == settings_page()
    assert str(path) in capsys.readouterr().out


def test_an_unknown_option_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(["--check"])
    assert not any(tmp_path.iterdir())


def test_no_cell_of_the_page_breaks_its_table() -> None:
    rows = [line for line in settings_page().splitlines() if line.startswith("|")]
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 5 for row in rows)

"""What decides a stage's result: every setting, input, module and version that matters, and nothing else."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from carkp.config.loading import load_config
from carkp.config.schema import ExperimentConfig
from carkp.data.issues import DataError
from carkp.model import pretrained
from carkp.quant.target import Target
from carkp.workflow import reuse
from carkp.workflow.quantising import build_target
from carkp.workflow.reuse import (
    DECIDING,
    GENERATOR_CODE,
    IGNORED,
    Inputs,
    differences,
    stage_inputs,
    stage_settings,
    target_digest,
)
from carkp.workflow.source_code import SourceCode, source_code
from tests.stages.conftest import ROOT, TINY


def tiny(*overrides: str) -> ExperimentConfig:
    return load_config(ROOT / TINY, overrides)


def inputs_of(stage: str, config: ExperimentConfig, **changes: str) -> Inputs:
    given = dict.fromkeys(DECIDING[stage].given, "1") | changes
    return stage_inputs(stage, config, given)


@pytest.mark.parametrize(
    ("override", "stages"),
    [
        ("seed=7", {"float", "calibration", "qat", "adapt"}),
        ("train.lr=0.1", {"float", "qat", "adapt"}),
        ("train.epochs=9", {"float", "qat", "adapt"}),
        ("augment.color_jitter=0.9", {"float", "qat"}),
        ("model.head_channels=32", {"float"}),
        ("heatmap.sigma=2.5", {"float", "calibration", "qat", "adapt", "export", "align"}),
        ("eval.alpha=0.2", {"float", "calibration", "qat", "adapt", "export", "align"}),
        ("quant.percentile=99.5", {"calibration"}),
        ("quant.rules=[{tensors: head/*, observer: mse}]", {"calibration"}),
        ("qat.lr=0.5", {"qat"}),
        ("align.moved_px=0.7", {"align"}),
        ("adapt.lr=0.5", {"adapt"}),
        ("adapt.augment.max_rotation_deg=30", {"adapt"}),
        ("data.jpeg_quality=90", {"data"}),
        ("data.val_scenes=[car_butler1]", {"data"}),
        ("synthetic.seed=4", {"data"}),
        ("rendered.seed=4", set()),
        ("name=another", set()),
        ("train.teacher_weight=0.5", set()),  # of nobody
        ("train.num_workers=5", set()),
        ("train.num_threads=3", set()),
        ("eval.batch_size=5", set()),
        ("data.num_workers=3", set()),
        ("data.root=elsewhere", set()),
        ("tracking.num_kept_crops=3", set()),
        ("tracking.system_metrics_interval_s=3.0", set()),
    ],
)
def test_digest_changes_with_settings_that_change_a_result_and_with_no_other(override: str, stages: set[str]) -> None:
    before, after = tiny(), tiny(override)
    changed = {name for name in DECIDING if inputs_of(name, before).digest != inputs_of(name, after).digest}
    assert changed == stages


def test_the_weight_of_a_teacher_counts_where_there_is_one() -> None:
    before, after = tiny("train.teacher=a.pt"), tiny("train.teacher=a.pt", "train.teacher_weight=0.5")
    changed = {name for name in DECIDING if inputs_of(name, before).digest != inputs_of(name, after).digest}
    assert changed == {"float"}


@pytest.mark.parametrize(("stage", "name"), [(stage, name) for stage in DECIDING for name in DECIDING[stage].given])
def test_digest_changes_with_everything_given(stage: str, name: str) -> None:
    assert inputs_of(stage, tiny()).digest != inputs_of(stage, tiny(), **{name: "2"}).digest


def test_stages_of_the_same_inputs_differ() -> None:
    assert len({inputs_of(stage, tiny()).digest for stage in DECIDING}) == len(DECIDING)


def test_what_is_given_must_be_what_is_declared() -> None:
    with pytest.raises(ValueError, match="declared to depend on"):
        stage_inputs("export", tiny(), {"model": "m"})
    with pytest.raises(ValueError, match="declared to depend on"):
        stage_inputs("export", tiny(), {"model": "m", "target": "t", "data": "d"})


def test_ignored_settings_exist() -> None:
    names = {
        f"{section}.{name}" for section, tree in tiny().model_dump().items() if isinstance(tree, dict) for name in tree
    }
    assert names >= IGNORED


def test_weights_count_by_their_content(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("a.pt", "b.pt", "c.pt")]
    for path, content in zip(files, (b"1", b"1", b"2"), strict=True):
        path.write_bytes(content)
    first, same, other = (stage_settings("float", tiny(f"model.pretrained={path}")) for path in files)
    assert first == same != other


def test_a_file_that_is_called_like_a_source_does_not_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "none").write_bytes(b"1")
    found = [
        stage_settings("float", tiny(f"model.pretrained={name}"))["model.pretrained"] for name in ("none", "./none")
    ]
    assert found[0] == "none"
    assert found[1].startswith("file ")


def test_automatic_weights_count_by_what_is_reachable(monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny("model.pretrained=auto", "model.backbone=tf_efficientnet_lite0")
    found = []
    for is_reachable in (True, False):
        monkeypatch.setattr(pretrained, "hub_is_reachable", lambda is_reachable=is_reachable: is_reachable)
        found.append(inputs_of("float", config))
    assert differences(*found) == ["model.pretrained timm -> package"]


def test_automatic_precision_counts_by_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    on_cpu = inputs_of("float", tiny("train.precision=auto"))
    assert on_cpu.digest == inputs_of("float", tiny("train.precision=float32")).digest
    monkeypatch.setattr(reuse, "training_device", lambda: torch.device("cuda", 0))
    on_cuda = inputs_of("float", tiny("train.precision=auto"))
    assert differences(on_cpu, on_cuda) == ["train.precision float32 on cpu -> bfloat16 on cuda"]


def test_targets_count_by_their_arithmetic() -> None:
    target = build_target(tiny(), "")
    assert target_digest(target) == target_digest(target.model_copy(update={"description": "in other words"}))
    changes: Sequence[dict[str, object]] = ({"name": "other"}, {"accumulator_bits": 24}, {"requantisation": "float32"})
    digests = {target_digest(Target.model_validate(target.model_dump() | change)) for change in changes}
    assert len(digests - {target_digest(target)}) == len(changes)


def test_a_real_source_counts_by_its_place_and_no_generator(tmp_path: Path) -> None:
    real = inputs_of("data", tiny(f"data.source={tmp_path}"))
    assert not [name for name in (*real.settings, *real.code.modules) if "synthetic" in name]
    assert real.settings["data.source"] == str(tmp_path)
    assert [name for name in inputs_of("data", tiny()).code.modules if "synthetic" in name]


MIXED = "data.sources=[{source: synthetic, share: 0.5}, {source: %s, share: 0.5, name: own}]"
SHARES = "data.sources=[{source: synthetic, share: 0.75}, {source: %s, share: 0.25, name: own}]"
RENAMED = "data.sources=[{source: synthetic, share: 0.5, name: drawn}, {source: %s, share: 0.5, name: own}]"


@pytest.mark.parametrize(
    ("overrides", "stages"),
    [
        ([SHARES % "here"], {"float", "qat", "adapt"}),
        ([MIXED % "there"], {"data"}),
        ([MIXED % "here", "synthetic.seed=4"], {"data"}),
        ([MIXED % "here", "rendered.seed=4"], set()),
        ([MIXED % "here", "data.jpeg_quality=90"], {"data"}),
        ([RENAMED % "here"], {"data", "float", "calibration", "qat", "align", "adapt"}),
    ],
)
def test_of_several_sources_what_each_decides_counts(overrides: list[str], stages: set[str]) -> None:
    before, after = tiny(MIXED % "here"), tiny(*overrides)
    changed = {name for name in DECIDING if inputs_of(name, before).digest != inputs_of(name, after).digest}
    assert changed == stages


def test_a_difference_names_the_source_that_it_is_of() -> None:
    before = inputs_of("data", tiny(MIXED % "here"))
    assert differences(before, inputs_of("data", tiny(MIXED % "here", "synthetic.seed=4"))) == [
        "synthetic.seed of synthetic 0 -> 4"
    ]
    assert differences(inputs_of("float", tiny(MIXED % "here")), inputs_of("float", tiny(SHARES % "here"))) == [
        "share of own 0.5 -> 0.25",
        "share of synthetic 0.5 -> 0.75",
    ]


def test_meshes_count_by_their_content_wherever_they_lie(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("a", "b", "c")]
    for folder, content in zip(folders, ("1", "1", "2"), strict=True):
        folder.mkdir()
        (folder / "car.glb").write_text(content)
    (folders[1] / "README.md").write_text("where they are from")
    first, same, other = (inputs_of("data", tiny("data.source=rendered", f"rendered.meshes={f}")) for f in folders)
    assert first.digest == same.digest
    assert differences(first, other)[0].startswith("rendered.meshes ")
    assert "carkp.rendered.generate" in first.code.modules
    assert "synthetic.num_train_cars" not in first.settings
    (folders[1] / "meshes.json").write_text("{}")
    edited = inputs_of("data", tiny("data.source=rendered", f"rendered.meshes={folders[1]}"))
    assert edited.digest != first.digest


def test_meshes_that_are_not_there_are_named() -> None:
    with pytest.raises(DataError, match=r"rendered\.meshes=nowhere: no such folder"):
        stage_settings("data", tiny("data.source=rendered", "rendered.meshes=nowhere"))


@pytest.mark.parametrize(
    ("module", "running", "others"),
    [
        ("carkp.training.fit", {"float", "qat"}, {"data"}),
        ("carkp.quant.fake_quant", {"calibration", "qat", "export", "align"}, {"data"}),
        ("carkp.quant.sqnr", {"calibration"}, {"data", "float", "qat", "export", "align", "check", "compile"}),
        ("carkp.deploy.graph_audit", {"export", "compile"}, {"data", "float", "calibration", "qat", "align"}),
        ("carkp.quant.simulate", {"align"}, {"data", "float", "calibration", "qat", "export", "check"}),
        ("carkp.deploy.check", {"check", "compile"}, {"data", "float", "calibration", "qat", "export", "align"}),
        ("carkp.deploy.perf", {"compile"}, {"data", "float", "calibration", "qat", "export", "align", "check"}),
        ("carkp.report.figures", {"report"}, DECIDING.keys() - {"report"}),
        ("carkp/report/templates/page.html", {"report"}, DECIDING.keys() - {"report"}),
        ("carkp.data.prepare", {"data"}, DECIDING.keys() - {"data"}),
        ("carkp.synthetic.lighting", {"data"}, DECIDING.keys() - {"data"}),
        ("carkp.tracking.tracker", set(), DECIDING.keys()),
        ("carkp.workflow.cli", set(), DECIDING.keys()),
        ("carkp.workflow.recording", set(), DECIDING.keys()),
        ("carkp.measurements.record", set(), DECIDING.keys()),
    ],
)
def test_code_counts_for_the_stages_that_run_it(module: str, running: set[str], others: set[str]) -> None:
    found = {stage for stage in DECIDING if module in inputs_of(stage, tiny()).code.modules}
    assert running <= found
    assert not found & others


def test_differences_are_named() -> None:
    before = Inputs(
        "float",
        {"train.lr": 0.1, "seed": 0, "heatmap.window": "auto"},
        {"data": "a", "nproc": "1"},
        SourceCode({"carkp.a": "1", "carkp.b": "2"}, {"torch": "2.14"}),
    )
    now = replace(
        before,
        settings={"train.lr": 0.2, "seed": 0, "heatmap.window": "auto"},
        given={"data": "b", "nproc": "2"},
        code=SourceCode({"carkp.a": "1", "carkp.b": "3", "carkp.c": "4"}, {"torch": "2.15"}),
    )
    assert differences(before, now) == [
        "train.lr 0.1 -> 0.2",
        "another data",
        "nproc 1 -> 2",
        "torch 2.14 -> 2.15",
        "code of carkp.b, carkp.c",
    ]
    assert differences(before, Inputs.from_json(before.to_json())) == []
    assert Inputs.from_json(before.to_json()).digest == before.digest


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"stage": "float"}'])
def test_other_files_are_no_record(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        Inputs.from_json(text)


@pytest.mark.parametrize("stage", [stage for stage in DECIDING if stage != "data"])
def test_the_code_of_every_section_of_settings_counts(stage: str) -> None:
    sections = {field.annotation.__module__ for field in ExperimentConfig.model_fields.values() if field.annotation}
    counted = reuse.stage_code(stage, ExperimentConfig()).modules
    assert {name for name in sections if name.startswith("carkp")} | {ExperimentConfig.__module__} <= set(counted)


def test_what_settings_say_of_themselves_moves_no_data() -> None:
    # where prepared data lie, and whether they are fresh, hangs on the code that makes them alone
    code = [*source_code(list(GENERATOR_CODE.values())).modules, *reuse.stage_code("data", ExperimentConfig()).modules]
    assert {name for name in code if name.startswith("carkp.config.")} == {"carkp.config.paths"}

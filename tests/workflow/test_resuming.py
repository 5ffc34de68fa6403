"""Which configurations a checkpoint may be gone on with."""

import shlex
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from carkp.config.loading import load_config
from carkp.config.schema import ExperimentConfig
from carkp.training.checkpoint import Checkpoint, CheckpointError, save_checkpoint
from carkp.workflow.resuming import (
    DATA_DIGEST,
    NUM_PROCESSES,
    PRECISION,
    PRETRAINED,
    TEACHER_DIGEST,
    choose_resumable,
    require_same_training,
    training_differences,
)
from carkp.workflow.reuse import stage_settings

ROOT = Path(__file__).parents[2]
DECIDED = {DATA_DIGEST: "aa", NUM_PROCESSES: "1", PRECISION: "float32", PRETRAINED: "none"}


def configured(*overrides: str) -> ExperimentConfig:
    return load_config(ROOT / "configs" / "tiny.yaml", list(overrides))


def checkpoint_of(config: ExperimentConfig, decided: Mapping[str, str] | None = None, epoch: int = 1) -> Checkpoint:
    """A ``last.pt`` as far as it is compared; without ``decided`` as an earlier version wrote it."""
    state = {"history": []} if decided is None else {"decided": dict(decided), "best_weights": {}}
    return Checkpoint({}, {}, config.model_dump(mode="json"), epoch, state)


def named(checkpoint: Checkpoint, config: ExperimentConfig, decided: Mapping[str, str]) -> list[str]:
    return [str(difference) for difference in training_differences(checkpoint, config, decided)]


CHANGES = [
    ("seed=3", "seed: 0 -> 3"),
    ("model.head_channels=32", "model.head_channels: 16 -> 32"),
    ("model.drop_path_rate=0.1", "model.drop_path_rate: 0.0 -> 0.1"),
    ("model.input_size=[64,96]", "model.input_size: [64, 64] -> [64, 96]"),
    ("heatmap.sigma=2", "heatmap.sigma: 1.5 -> 2.0"),
    ("heatmap.decoder=averaged", "heatmap.decoder: dark -> averaged"),
    ("augment.color_jitter=0.1", "augment.color_jitter: 0.3 -> 0.1"),
    ("train.lr=0.1", "train.lr: 0.0015 -> 0.1"),
    ("train.weight_decay=0", "train.weight_decay: 0.05 -> 0.0"),
    ("train.warmup_epochs=1", "train.warmup_epochs: 0.25 -> 1.0"),
    ("train.epochs=12", "train.epochs: 2 -> 12"),
    ("train.batch_size=4", "train.batch_size: 8 -> 4"),
    ("train.num_samples=16", "train.num_samples: 0 -> 16"),
    ("train.grad_clip=1", "train.grad_clip: 0.0 -> 1.0"),
    ("train.ema_decay=0.9", "train.ema_decay: 0.0 -> 0.9"),
    ("eval.alpha=0.2", "eval.alpha: 0.1 -> 0.2"),
]


@pytest.mark.parametrize("decided", [DECIDED, None], ids=["now", "earlier version"])
@pytest.mark.parametrize(("override", "text"), CHANGES)
def test_what_decides_the_result_is_compared(override: str, text: str, decided: Mapping[str, str] | None) -> None:
    assert named(checkpoint_of(configured(), decided), configured(override), DECIDED) == [text]


@pytest.mark.parametrize(
    "override",
    ["name=other", "train.num_workers=0", "train.num_threads=1", "eval.batch_size=3", "quant.percentile=99", "qat.lr=1",
     "tracking.num_kept_crops=3", "align.moved_px=1", "data.num_workers=1", "data.root=elsewhere"],
)  # fmt: skip
@pytest.mark.parametrize("decided", [DECIDED, None], ids=["now", "earlier version"])
def test_what_changes_no_result_is_free(override: str, decided: Mapping[str, str] | None) -> None:
    assert named(checkpoint_of(configured(), decided), configured(override), DECIDED) == []


@pytest.mark.parametrize("name", list(DECIDED))
def test_what_was_decided_is_compared(name: str) -> None:
    found = named(checkpoint_of(configured(), DECIDED), configured(), {**DECIDED, name: "other"})
    assert found == [f"{name}: {DECIDED[name]} -> other"]


def test_what_was_decided_counts_and_not_how() -> None:
    """``auto`` that came out as the setting says now is the same training."""
    before = checkpoint_of(configured("train.precision=auto", "model.pretrained=auto"), DECIDED)
    now = configured("train.precision=float32", "model.pretrained=none")
    assert named(before, now, DECIDED) == []


def test_what_is_not_known_yet_is_not_compared() -> None:
    assert named(checkpoint_of(configured(), DECIDED), configured(), {DATA_DIGEST: "aa"}) == []


def test_data_are_told_by_their_content_wherever_they_lie() -> None:
    before = checkpoint_of(configured("data.source=/mnt/a", "data.jpeg_quality=90"), DECIDED)
    assert named(before, configured("data.source=/mnt/b"), DECIDED) == []
    assert named(before, configured(), {DATA_DIGEST: "bb"}) == [f"{DATA_DIGEST}: aa -> bb"]


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("data.source=/mnt/b", "data.source: synthetic -> /mnt/b"),
        ("data.val_scenes=[car_a]", "data.val_scenes: ['car_craig2'] -> ['car_a']"),
        ("synthetic.seed=4", "synthetic.seed: 0 -> 4"),
    ],
)
def test_without_a_digest_the_settings_of_the_data_tell(override: str, text: str) -> None:
    assert named(checkpoint_of(configured()), configured(override), DECIDED) == [text]


def test_a_setting_that_the_version_did_not_have_counts_as_its_default() -> None:
    before = checkpoint_of(configured(), DECIDED)
    del before.config["augment"]["erase_probability"]
    assert named(before, configured(), DECIDED) == []
    assert named(before, configured("augment.erase_probability=0.5"), DECIDED) == [
        "augment.erase_probability: 0.0 -> 0.5"
    ]


def test_a_setting_of_another_version_is_named() -> None:
    before = checkpoint_of(configured(), DECIDED)
    before.config["train"]["momentum"] = 0.9
    before.config["tracking"]["colour"] = "red"
    assert named(before, configured(), DECIDED) == ["train.momentum: 0.9 -> not known to this version"]


def test_the_message_names_file_settings_and_remedy() -> None:
    config = configured("seed=1", "model.input_size=[64,96]", "train.epochs=3", "heatmap.decoder=averaged")
    with pytest.raises(CheckpointError) as caught:
        require_same_training(checkpoint_of(configured(), DECIDED), Path("runs/a/last.pt"), config, {DATA_DIGEST: "bb"})
    text = str(caught.value)
    assert text.startswith("runs/a/last.pt: the checkpoint is from another training")
    for line in ("seed: 0 -> 1", "train.epochs: 2 -> 3", f"{DATA_DIGEST}: aa -> bb"):
        assert f"\n  {line}\n" in text
    assert "the cosine spans all epochs" in text
    assert "give those with data=" in text
    words = text[text.index("(overrides: ") + 12 : text.rindex("), or train again")]
    again = load_config(ROOT / "configs" / "tiny.yaml", shlex.split(words))
    assert (again.seed, again.train.epochs, again.model.input_size) == (0, 2, (64, 64))
    assert again.heatmap.decoder == "dark"


def test_the_remedy_can_be_given_as_it_stands(tmp_path: Path) -> None:
    weights = tmp_path / "weights.pt"
    torch.save({}, weights)
    before = stage_settings("float", configured(f"model.pretrained={weights}"))[PRETRAINED]
    checkpoint = checkpoint_of(configured(), {**DECIDED, PRETRAINED: before})
    with pytest.raises(CheckpointError) as caught:
        require_same_training(checkpoint, Path("last.pt"), configured(), DECIDED)
    assert "overrides" not in str(caught.value)  # no setting gives back a file by its content
    moved = tmp_path / "moved.pt"
    weights.rename(moved)
    assert stage_settings("float", configured(f"model.pretrained={moved}"))[PRETRAINED] == before


def test_latest_takes_the_newest_that_fits_and_else_the_newest(tmp_path: Path) -> None:
    paths = [tmp_path / name / "last.pt" for name in ("half", "other", "same", "same_older")]
    for path, seed in zip(paths, (0, 1, 0, 0), strict=True):
        save_checkpoint(checkpoint_of(configured(f"seed={seed}"), DECIDED), path)
    paths[0].write_bytes(paths[0].read_bytes()[:100])
    assert choose_resumable(paths, configured(), DECIDED) == paths[2]
    assert choose_resumable(paths, configured("seed=9"), DECIDED) == paths[1]
    assert choose_resumable(paths[:1], configured(), DECIDED) == paths[0]
    assert choose_resumable([], configured(), DECIDED) is None


def test_another_teacher_is_another_training() -> None:
    """By its content, whatever its reference; a checkpoint of before there were teachers had none."""
    taught, digest = configured("train.teacher=runs:/0a"), {TEACHER_DIGEST: "aa"}
    same = checkpoint_of(configured("train.teacher=teacher.pt"), digest)
    assert named(same, taught, digest) == []
    assert named(same, taught, {TEACHER_DIGEST: "bb"}) == ["train.teacher: aa -> bb"]
    assert named(checkpoint_of(configured()), taught, digest) == ["train.teacher:  -> runs:/0a"]
    with pytest.raises(
        CheckpointError, match=r"another teacher, or none: set train\.teacher as in that training\.\nOr train again"
    ):
        require_same_training(same, Path("last.pt"), taught, {TEACHER_DIGEST: "bb"})

"""Entry point ``float``: train the float model, choose by validation PCK, score the test split once."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from carkp.config.schema import ExperimentConfig
from carkp.keypoints.metrics import Scores
from carkp.model.pose_net import BuiltModel
from carkp.tracking.runs import LATEST
from carkp.tracking.tracker import Tracker
from carkp.training.checkpoint import load_net, weights_digest
from carkp.training.distributed import ProcessContext
from carkp.workflow.build import build_fit_settings, build_model, prepare_torch
from carkp.workflow.cli import Arguments, guarded, parse_stage
from carkp.workflow.preparation import PreparedData, require_samples, run_as_child
from carkp.workflow.process_group import parse_group
from carkp.workflow.references import ModelFile, find_current_data, resolve_resume
from carkp.workflow.restarts import own_checkpoint
from carkp.workflow.resuming import (
    CODE,
    DATA_DIGEST,
    NUM_PROCESSES,
    PRETRAINED,
    TEACHER_DIGEST,
    is_of_code,
    require_resumable,
)
from carkp.workflow.reuse import TEACHER, Inputs, log_inputs, stage_inputs
from carkp.workflow.scoring import build_scorer, describe_run, describe_scores, log_scored_splits, log_sheet
from carkp.workflow.teachers import NO_TEACHER, build_distillation, find_teacher, read_teacher
from carkp.workflow.training import (
    Training,
    best_checkpoint,
    log_choice,
    log_float_onnx,
    predict_all,
    run_on_ranks,
    train,
)

OTHER_CODE = (
    "warning: {path}: its epochs were trained with other code or other versions of packages; the result "
    "will mix both, and `main` will not reuse it"
)


@dataclass(frozen=True)
class FloatInputs:
    """Prepared data, the ``last.pt`` to continue from, if any, and the teacher's file, if any.

    ``is_own``: whether that ``last.pt`` belongs to this run, whose processes were restarted.
    """

    data: PreparedData
    resume: Path | None
    teacher: ModelFile | None
    is_own: bool = False


@dataclass(frozen=True)
class FloatResult:
    """Best epoch, training speed, and scores of the best epoch by split."""

    best_epoch: int
    samples_per_s: float
    scores: Mapping[str, Scores]


def run(
    config: ExperimentConfig, inputs: FloatInputs, out_dir: Path, tracker: Tracker, context: ProcessContext
) -> FloatResult:
    """Train, then log checkpoints, ONNX, predictions, pictures and metrics."""
    stores = inputs.data.open()
    require_samples(stores.train, "training")
    require_samples(stores.val, "the choice of the best epoch")
    prepare_torch(config)
    model = build_model(config)
    source = f"{model.source.kind}: {model.source.detail}"
    teacher = None if inputs.teacher is None else read_teacher(config, inputs.teacher)
    taught_by = NO_TEACHER if teacher is None else teacher.digest
    deciding = _deciding(config, inputs, model, taught_by, context)
    _log_deciding(tracker, deciding, inputs.resume, context)
    tracker.set_tags({"carkp.pretrained": source, "carkp.resumed_from": str(inputs.resume or "")})
    tracker.set_tags({"carkp.data_digest": inputs.data.digest})
    if teacher is not None:
        tracker.set_tags({"carkp.teacher": teacher.reference, "carkp.teacher_digest": teacher.digest})
    tracker.log_dataset(config.name, inputs.data.digest, config.data.title, "training")
    settings = build_fit_settings(config.train, context.device, model.source.has_head)
    decided = {PRETRAINED: deciding.settings[PRETRAINED], CODE: deciding.code_digest, TEACHER_DIGEST: taught_by}
    extra_loss = build_distillation(config, teacher, settings, context.device)
    training = Training(
        model.net,
        model.architecture,
        settings,
        inputs.resume,
        inputs.is_own,
        decided=decided,
        extra_loss=extra_loss,
    )
    scorer = build_scorer(config, context)
    fitted = train(config, training, stores, out_dir, tracker, scorer)
    best = best_checkpoint(out_dir, context)
    net = load_net(best).to(context.device)
    predictions = predict_all(scorer, stores, net)
    scores = {split: scorer.score(found, split) for split, found in predictions.items()}
    result = FloatResult(fitted.best_epoch, fitted.samples_per_s, scores)
    if not context.is_main:
        return result
    log_float_onnx(config.name, scorer, stores, net, out_dir, tracker)
    scored = {split: (getattr(stores, split), found) for split, found in predictions.items()}
    log_scored_splits(scorer, scored, tracker, out_dir, "float", step=config.train.epochs)
    log_sheet(scorer, stores.val, predictions["val"], tracker, out_dir / "val_predictions.jpg")
    log_choice(scorer, fitted, predictions["val"], tracker)
    tracker.set_tags({"carkp.model": "float", "carkp.model_digest": weights_digest(best.weights)})
    what = f"Trained `{config.model.backbone}` for {config.train.epochs} epochs; the best is epoch {result.best_epoch}."
    describe_run(tracker, what, scores)
    return result


def _deciding(
    config: ExperimentConfig, inputs: FloatInputs, model: BuiltModel, taught_by: str, context: ProcessContext
) -> Inputs:
    given = {"data": inputs.data.digest, "nproc": str(context.world_size), TEACHER: taught_by}
    # a hub that answers may still fail to deliver
    decided = {"model.pretrained": model.source.kind} if config.model.pretrained == "auto" else {}
    return stage_inputs("float", config, given, decided)


def _log_deciding(tracker: Tracker, deciding: Inputs, resume: Path | None, context: ProcessContext) -> None:
    """Log the inputs, except after a resume from a checkpoint of other code.

    Such a result belongs to no single version of the code and must not be reused.
    """
    if resume is None or is_of_code(resume, deciding.code_digest):
        log_inputs(tracker, deciding)
    elif context.is_main:
        print(OTHER_CODE.format(path=resume), file=sys.stderr, flush=True)  # noqa: T201


def main(argv: Sequence[str] | None = None) -> int:
    def work() -> int:
        arguments = parse_stage("float", argv)
        return run_on_ranks("float", arguments, _prepare_inputs, _run_and_describe)

    return guarded(work)


def _run_and_describe(
    config: ExperimentConfig, inputs: FloatInputs, out_dir: Path, tracker: Tracker, context: ProcessContext
) -> str:
    return describe(run(config, inputs, out_dir, tracker, context))


def _prepare_inputs(arguments: Arguments, tracker: Tracker) -> FloatInputs:
    """Find the data, or prepare them in a child run; find the checkpoint to continue from."""
    config, reference = arguments.config, arguments.values["resume"]
    nproc = str(parse_group(arguments.values, config.train).world_size)
    teacher = find_teacher(config)
    if teacher is not None:
        read_teacher(config, teacher)  # refuse a bad teacher before hours of preparation
    if reference != LATEST:  # what can be refused without data is refused before their preparation
        require_resumable(resolve_resume(reference, config, ""), config, {NUM_PROCESSES: nproc})
    data = find_current_data(config, arguments.values["data"])
    if data is None:
        data = run_as_child(config, tracker).prepared
    own = own_checkpoint(tracker.run_id)
    resume = own or resolve_resume(reference, config, data.digest)
    require_resumable(resume, config, {DATA_DIGEST: data.digest, NUM_PROCESSES: nproc})
    return FloatInputs(data, resume, teacher, is_own=own is not None)


def describe(result: FloatResult) -> str:
    """Describe the result in a few lines, for a person."""
    head = f"best epoch {result.best_epoch}"
    if result.samples_per_s > 0:  # a finished training that was only scored has no speed
        head += f", trained at {result.samples_per_s:.1f} samples/s"
    return f"{head}\n{describe_scores(result.scores)}"


if __name__ == "__main__":
    sys.exit(main())

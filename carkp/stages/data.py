"""Entry point ``data``: CarFusion, its COCO JSON, a directory of crops, or generated cars -> three stores."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from carkp.config.schema import ExperimentConfig
from carkp.data.issues import DataError
from carkp.data.parallel import resolve_num_workers
from carkp.data.prepare import prepare
from carkp.data.store import STORE_NAMES
from carkp.data.summary import SUMMARY_FILE, DataSummary
from carkp.stages import _data
from carkp.stages._cli import Parameter, execute, guarded, parse, run_in_folder
from carkp.stages._data import PreparedData
from carkp.stages._inputs import INPUTS_TAG, inputs_digest
from carkp.stages._sheets import data_sheet, write_jpeg
from carkp.synthetic.generate import generate, is_complete
from carkp.tracking.tracker import Tracker

RAW_DIR = "raw"
ARTIFACT_DIR = "data"


@dataclass(frozen=True)
class DataInputs:
    """``source``: ``synthetic``, or a path to one of the three kinds of CarFusion data."""

    source: str


@dataclass(frozen=True)
class DataResult:
    """The stores and what went into them."""

    prepared: PreparedData
    summary: DataSummary


def run(config: ExperimentConfig, inputs: DataInputs, out_dir: Path, tracker: Tracker) -> DataResult:
    """Prepare the data where they are not there yet; log summary, contact sheet and digest."""
    directory = _data.data_directory(config)
    raw = _raw_source(config, inputs, directory)
    summary = prepare(
        raw,
        directory,
        val_scenes=config.data.val_scenes,
        num_workers=config.data.num_workers,
        jpeg_quality=config.data.jpeg_quality,
    )
    result = DataResult(_data.open_prepared(directory), summary)
    _log(config, raw, result, out_dir, tracker)
    return result


def run_as_child(config: ExperimentConfig, parent: Tracker) -> DataResult:
    """The stage as a nested run of another one."""
    results: list[DataResult] = []
    with parent.child("data", config.name) as tracker:
        run_in_folder(
            config,
            tracker,
            lambda child, out_dir: results.append(run(config, DataInputs(config.data.source), out_dir, child)),
        )
    print(describe(results[0]))  # noqa: T201
    return results[0]


def main(argv: Sequence[str] | None = None) -> int:
    """Command line of the entry point."""

    def work() -> int:
        parameters = [Parameter("source", "", "'synthetic' or a path; empty: data.source of the configuration")]
        arguments = parse("data", "Prepare the data of an experiment.", parameters, argv)
        config = arguments.config
        source = arguments.values["source"] or config.data.source
        config = config.model_copy(update={"data": config.data.model_copy(update={"source": source})})
        inputs = DataInputs(source)
        execute("data", config, lambda tracker, out_dir: print(describe(run(config, inputs, out_dir, tracker))))  # noqa: T201
        return 0

    return guarded(work)


def describe(result: DataResult) -> str:
    """Counts, warnings, and everything skipped or repaired with the reason, for a person."""
    summary = result.summary
    lines = []
    for split in STORE_NAMES:
        total = summary.totals(split)
        labelled = total.num_visible + total.num_occluded
        share = total.num_occluded / labelled if labelled else 0.0
        lines.append(
            f"{split:>5}: {total.num_cars} cars in {total.num_frames} frames of {len(summary.scenes[split])} scenes, "
            f"{labelled} labelled keypoints, {share:.0%} of them occluded, {total.num_unlabelled_cars} cars without any"
        )
    for verb, tallies in (("skipped", summary.skipped), ("repaired", summary.corrected)):
        lines += [f"{verb}: {tally.count} x {reason} (first: {tally.first})" for reason, tally in tallies.items()]
    lines += [f"warning: {warning}" for warning in summary.warnings]
    return "\n".join([*lines, f"stores in {result.prepared.directory}, digest {result.prepared.digest[:16]}"])


def _raw_source(config: ExperimentConfig, inputs: DataInputs, directory: Path) -> Path:
    """The user's data, or generated ones below ``directory``, made where they are not there yet."""
    if inputs.source != _data.SYNTHETIC:
        source = Path(inputs.source).expanduser()
        if not source.exists():
            raise DataError(
                f"{source}: no such file or directory; set data.source (-P source=… of the data stage) to the "
                "directory that holds CarFusion's train/ and test/, to its COCO JSON, or to a directory of crops"
            )
        return source
    raw, spec = directory / RAW_DIR, _data.synthetic_spec(config)
    if not is_complete(raw, spec):
        generate(raw, spec, num_workers=resolve_num_workers(config.data.num_workers))
    return raw


def _log(config: ExperimentConfig, raw: Path, result: DataResult, out_dir: Path, tracker: Tracker) -> None:
    prepared = result.prepared
    key = _data.data_key(config)
    tracker.set_tags(
        {
            INPUTS_TAG: inputs_digest("data", config, {"key": key}),
            "carkp.data_key": key,
            "carkp.data_digest": prepared.digest,
            "carkp.data_dir": str(prepared.directory),
        }
    )
    tracker.log_dataset(config.name, prepared.digest, config.data.source, "preparation")
    tracker.log_metrics({f"data/num_{split}": result.summary.totals(split).num_cars for split in STORE_NAMES})
    summary_path = out_dir / SUMMARY_FILE
    summary_path.write_text(result.summary.to_json())
    tracker.log_file(summary_path, ARTIFACT_DIR)
    sheet_path = out_dir / "contact_sheet.jpg"
    write_jpeg(sheet_path, data_sheet(raw, prepared.open(), seed=config.seed))
    tracker.log_file(sheet_path, ARTIFACT_DIR)
    tracker.describe(f"Prepared `{config.data.source}`.\n\n```\n{describe(result)}\n```")


if __name__ == "__main__":
    sys.exit(main())

"""Prepared data: where it lies, and how a stage finds or makes it."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from carkp.config.schema import ExperimentConfig
from carkp.data.issues import DataError
from carkp.data.parallel import resolve_num_workers
from carkp.data.prepare import prepare
from carkp.data.source import fingerprint
from carkp.data.store import SCHEMA_VERSION, STORE_NAMES, Store, Stores, data_digest, open_stores
from carkp.data.summary import SUMMARY_FILE, DataSummary, read_summary
from carkp.synthetic.generate import GENERATOR_VERSION, SyntheticSpec, generate
from carkp.tracking.store import project_root
from carkp.tracking.tracker import Tracker
from carkp.workflow.cli import run_in_folder
from carkp.workflow.pictures import data_sheet, write_jpeg
from carkp.workflow.reuse import INPUTS_TAG, inputs_digest

SYNTHETIC = "synthetic"
RAW_DIR = "raw"
ARTIFACT_DIR = "data"


@dataclass(frozen=True)
class PreparedData:
    """Stores on this machine; ``digest`` is that of their content, whatever directory they lie in."""

    directory: Path
    digest: str

    def open(self) -> Stores:
        return open_stores(self.directory)


def synthetic_spec(config: ExperimentConfig) -> SyntheticSpec:
    """The generated data set that the configuration describes."""
    settings = config.synthetic
    return SyntheticSpec(
        num_train_cars=settings.num_train_cars,
        num_val_cars=settings.num_val_cars,
        num_test_cars=settings.num_test_cars,
        seed=settings.seed,
        image_size=settings.image_size,
    )


def data_key(config: ExperimentConfig) -> str:
    """Digest of everything that decides what the stores hold, short of the source's own content."""
    is_synthetic = config.data.source == SYNTHETIC
    origin = (
        {**asdict(synthetic_spec(config)), "generator_version": GENERATOR_VERSION}
        if is_synthetic
        else {"path": str(Path(config.data.source).expanduser().resolve())}
    )
    recipe = {
        "origin": origin,
        "val_scenes": config.data.val_scenes,
        "jpeg_quality": config.data.jpeg_quality,
        "schema_version": SCHEMA_VERSION,
    }
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()


def data_directory(config: ExperimentConfig) -> Path:
    """Where the prepared data of this configuration belongs."""
    stem = SYNTHETIC if config.data.source == SYNTHETIC else Path(config.data.source).expanduser().resolve().name
    return project_root() / config.data.root / f"{stem}-{data_key(config)[:10]}"


def open_prepared(directory: Path) -> PreparedData:
    """The stores in a directory.

    Raises:
        DataError: there are none that can be used.
    """
    return PreparedData(directory, data_digest(open_stores(directory)))


def is_up_to_date(config: ExperimentConfig, prepared: PreparedData) -> bool:
    """Whether the source's files are those that were prepared; the data key tells generated ones.

    A source that is gone cannot be prepared again: what was made of it still holds.
    """
    source = Path(config.data.source).expanduser()
    if config.data.source == SYNTHETIC or not source.exists():
        return True
    summary = read_summary(prepared.directory)
    return summary is not None and summary.source_fingerprint == fingerprint(source)


def require_samples(store: Store, purpose: str) -> None:
    """Refuse an empty split.

    Raises:
        DataError: the store holds no sample.
    """
    if len(store) == 0:
        raise DataError(
            f"{store.path}: the split is empty and {purpose} needs it; the summary of the data run says what was "
            "skipped, and data.val_scenes names the scenes that validation takes"
        )


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
    directory = data_directory(config)
    raw = _raw_source(config, inputs, directory)
    summary = prepare(
        raw,
        directory,
        val_scenes=config.data.val_scenes,
        num_workers=config.data.num_workers,
        jpeg_quality=config.data.jpeg_quality,
    )
    result = DataResult(open_prepared(directory), summary)
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
    if inputs.source != SYNTHETIC:
        source = Path(inputs.source).expanduser()
        if not source.exists():
            raise DataError(
                f"{source}: no such file or directory; set data.source (-P source=… of the data stage) to the "
                "directory that holds CarFusion's train/ and test/, to its COCO JSON, or to a directory of crops"
            )
        return source
    raw, spec = directory / RAW_DIR, synthetic_spec(config)
    try:
        generate(raw, spec, num_workers=resolve_num_workers(config.data.num_workers))
    except OSError as error:
        raise DataError(str(error)) from error
    return raw


def _log(config: ExperimentConfig, raw: Path, result: DataResult, out_dir: Path, tracker: Tracker) -> None:
    prepared = result.prepared
    key = data_key(config)
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

"""Prepared data: where it lies, and how a stage finds or makes it."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from carkp.config.schema import SYNTHETIC, ExperimentConfig
from carkp.data.files import expand_path
from carkp.data.issues import DataError
from carkp.data.parallel import resolve_num_workers
from carkp.data.prepare import prepare
from carkp.data.source import fingerprint
from carkp.data.store import SCHEMA_VERSION, STORE_NAMES, Store, Stores, data_digest, open_stores
from carkp.data.summary import SUMMARY_FILE, DataSummary, check_digests, read_summary
from carkp.synthetic.generate import SyntheticSpec, generate
from carkp.tracking.store import project_root
from carkp.tracking.tracker import Tracker
from carkp.workflow.cli import run_in_folder
from carkp.workflow.pictures import data_sheet, write_jpeg
from carkp.workflow.reuse import Inputs, log_inputs, stage_inputs, stage_settings
from carkp.workflow.source_code import source_code

GENERATED = "generated"
RAW_DIR = "raw"
ARTIFACT_DIR = "data"


@dataclass(frozen=True)
class PreparedData:
    """Stores on this machine; ``digest`` is that of their content, whatever directory they lie in."""

    directory: Path
    digest: str

    def open(self) -> Stores:
        """The stores, their content held against their digest.

        Raises:
            DataError: they are damaged, or do not belong together.
        """
        check_digests(self.directory)
        stores = open_stores(self.directory)
        if data_digest(stores) != self.digest:
            raise DataError(
                f"{self.directory} was prepared anew while this run was under way: give the same command again"
            )
        stores.verify()
        return stores


def synthetic_spec(config: ExperimentConfig) -> SyntheticSpec:
    """The generated data set that the configuration describes."""
    settings = config.synthetic
    return SyntheticSpec(
        num_train_cars=settings.num_train_cars,
        num_val_cars=settings.num_val_cars,
        num_test_cars=settings.num_test_cars,
        seed=settings.seed,
        image_size=settings.image_size,
        ingredients=settings.ingredients,
    )


def data_key(config: ExperimentConfig) -> str:
    """Digest of everything that decides what the stores hold, short of the source's own content.

    Of the code that of the generator counts: other pictures have another place.
    """
    recipe: dict[str, Any] = {"settings": stage_settings("data", config), "schema_version": SCHEMA_VERSION}
    if config.data.is_generated:
        recipe["generator"] = asdict(source_code(["carkp.synthetic.generate"]))
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()


def data_directory(config: ExperimentConfig) -> Path:
    """Where the prepared data of this configuration belongs."""
    stem = SYNTHETIC if config.data.is_generated else expand_path(config.data.source).resolve().name
    return project_root() / expand_path(config.data.root) / f"{stem}-{data_key(config)[:10]}"


def open_prepared(directory: Path) -> PreparedData:
    """The stores in a directory.

    Raises:
        DataError: there are none that can be used.
    """
    return PreparedData(directory, data_digest(open_stores(directory)))


def stale_reason(config: ExperimentConfig, prepared: PreparedData) -> str:
    """Why the stores are not what preparing the source anew would give; "" where they are.

    A source that is gone cannot be prepared again: what was made of it still holds.
    """
    source = expand_path(config.data.source)
    if not config.data.is_generated and not source.exists():
        return ""
    summary = read_summary(prepared.directory)
    if summary is None:
        return f"{prepared.directory} has no {SUMMARY_FILE} that says what they were made of"
    if not config.data.is_generated and summary.source_fingerprint != fingerprint(source):
        return f"the files of {source} have changed since"
    if summary.made_by != data_inputs(config, summary.source_fingerprint).code_digest:
        return "the code that prepares data, or a package that it computes with, is another one since"
    return ""


def data_inputs(config: ExperimentConfig, source_fingerprint: str) -> Inputs:
    """What decides the stores, the files of the source included."""
    return stage_inputs("data", config, {"source": GENERATED if config.data.is_generated else source_fingerprint})


def source_fingerprint(config: ExperimentConfig) -> str:
    """Of the files of the source as they are; "" where it is generated or gone."""
    source = expand_path(config.data.source)
    return "" if config.data.is_generated or not source.exists() else fingerprint(source)


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
        boxes=config.data.boxes,
        made_by=data_inputs(config, "").code_digest,
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
        source = expand_path(inputs.source)
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
    log_inputs(tracker, data_inputs(config, result.summary.source_fingerprint))
    tracker.set_tags(
        {
            "carkp.data_key": data_key(config),
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
    write_jpeg(sheet_path, data_sheet(raw, prepared.open(), config.seed, config.data.boxes))
    tracker.log_file(sheet_path, ARTIFACT_DIR)
    tracker.describe(f"Prepared `{config.data.source}`.\n\n```\n{describe(result)}\n```")

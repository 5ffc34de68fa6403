"""Prepared data: where they lie, and how a stage finds or prepares them."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from carkp.config.schema import GENERATED_SOURCES, RENDERED, SYNTHETIC, ExperimentConfig
from carkp.config.sources import ALONE, by_source
from carkp.data.files import expand_path
from carkp.data.issues import DataError
from carkp.data.mixture import merge_summaries, open_data, source_directories, write_mixture
from carkp.data.parallel import resolve_num_workers
from carkp.data.prepare import prepare
from carkp.data.source import fingerprint
from carkp.data.store import SCHEMA_VERSION, STORE_NAMES, Store, Stores, data_digest
from carkp.data.summary import SUMMARY_FILE, DataSummary, check_digests, read_summary
from carkp.disk import write_atomic
from carkp.progress import is_hidden
from carkp.project import project_root
from carkp.rendered.catalog import CatalogError
from carkp.rendered.generate import RenderedSpec
from carkp.rendered.generate import picture_set as rendered_pictures
from carkp.rendered.glb import MeshError
from carkp.synthetic.blocks import PictureSet, Shard
from carkp.synthetic.generate import SyntheticSpec
from carkp.synthetic.generate import picture_set as drawn_pictures
from carkp.tracking.tracker import Tracker
from carkp.workflow.cli import run_in_folder
from carkp.workflow.picture_files import write_jpeg
from carkp.workflow.pictures import Image, data_sheet
from carkp.workflow.reuse import GENERATOR_CODE, Inputs, log_inputs, stage_inputs, stage_settings
from carkp.workflow.source_code import source_code

GENERATED = "generated"
RAW_DIR = "raw"
ARTIFACT_DIR = "data"
MIXTURE = "mixture"


@dataclass(frozen=True)
class PreparedData:
    """Stores of one or several sources on this machine; ``digest`` depends on their content, not on the folder."""

    directory: Path
    digest: str

    def open(self) -> Stores:
        """Open the stores and check their content against the digest.

        Raises:
            DataError: they are damaged, or do not belong together.
        """
        for directory in source_directories(self.directory).values() or [self.directory]:
            check_digests(directory)
        stores = open_data(self.directory)
        if data_digest(stores) != self.digest:
            raise DataError(
                f"{self.directory} was prepared again while this run was active: give the same command again"
            )
        stores.verify()
        return stores


def synthetic_spec(config: ExperimentConfig) -> SyntheticSpec:
    """Return the settings of the drawn data set."""
    settings = config.synthetic
    return SyntheticSpec(
        num_train_cars=settings.num_train_cars,
        num_val_cars=settings.num_val_cars,
        num_test_cars=settings.num_test_cars,
        seed=settings.seed,
        image_size=settings.image_size,
        ingredients=settings.ingredients,
    )


def rendered_spec(config: ExperimentConfig) -> RenderedSpec:
    """Return the settings of the rendered data set.

    Raises:
        DataError: its meshes do not exist.
    """
    settings = config.rendered
    return RenderedSpec(
        meshes=expand_path(settings.meshes),
        num_train_cars=settings.num_train_cars,
        num_val_cars=settings.num_val_cars,
        num_test_cars=settings.num_test_cars,
        seed=settings.seed,
    )


GENERATORS: Mapping[str, Callable[[ExperimentConfig], PictureSet[Any]]] = {
    SYNTHETIC: lambda config: drawn_pictures(synthetic_spec(config)),
    RENDERED: lambda config: rendered_pictures(rendered_spec(config)),
}
"""Value of ``data.source`` -> function that returns the picture set."""


def data_key(config: ExperimentConfig) -> str:
    """Return a digest of everything that decides the content of the stores, except the source's own content.

    Only the code of the generator is included: other pictures get another place. The shares of several sources are not
    included, because they only affect how training uses the stores.
    """
    if config.data.sources:
        return _digest_of([[name, data_key(part)] for name, part in by_source(config).items()])
    recipe: dict[str, Any] = {"settings": stage_settings("data", config), "schema_version": SCHEMA_VERSION}
    if config.data.is_generated:
        recipe["generator"] = asdict(source_code([GENERATOR_CODE[config.data.source]]))
    return _digest_of(recipe)


def data_directory(config: ExperimentConfig) -> Path:
    """Return the folder for the prepared data of this configuration."""
    if config.data.sources:
        stem = MIXTURE
    elif config.data.is_generated:
        stem = config.data.source
    else:
        stem = expand_path(config.data.source).resolve().name
    return project_root() / expand_path(config.data.root) / f"{stem}-{data_key(config)[:10]}"


def open_prepared(directory: Path) -> PreparedData:
    """Open the stores in a folder.

    Raises:
        DataError: the folder holds no usable stores.
    """
    return PreparedData(directory, data_digest(open_data(directory)))


def stale_reason(config: ExperimentConfig, prepared: PreparedData) -> str:
    """Return why the stores are outdated: the sources would now give other stores. "" if they are not.

    Stores of a source that no longer exists cannot be prepared again and count as up to date.
    """
    if not config.data.sources:
        return _stale_reason(config, prepared.directory)
    directories = source_directories(prepared.directory)
    reasons = {name: _stale_reason(part, directories[name]) for name, part in by_source(config).items()}
    return "; ".join(f"{name}: {reason}" for name, reason in reasons.items() if reason)


def _stale_reason(config: ExperimentConfig, directory: Path) -> str:
    """``config`` must have only one source."""
    source = expand_path(config.data.source)
    if not config.data.is_generated and not source.exists():
        return ""
    summary = read_summary(directory)
    if summary is None:
        return f"{directory} has no {SUMMARY_FILE} that describes their source"
    if not config.data.is_generated and summary.source_fingerprint != fingerprint(source):
        return f"the files of {source} have changed since"
    if summary.made_by != data_inputs(config, "").code_digest:
        return "the code that prepares data, or a package that it uses, has changed since"
    return ""


def data_inputs(config: ExperimentConfig, source: str) -> Inputs:
    """Return the inputs that decide the stores; ``source`` is the identity of the source's files."""
    return stage_inputs("data", config, {"source": source})


def source_identity(config: ExperimentConfig) -> str:
    """Return the identity of the sources' files as they are now; "" for a source that no longer exists."""
    return _identity({name: _source_identity(part) for name, part in by_source(config).items()})


def _source_identity(config: ExperimentConfig) -> str:
    if config.data.is_generated:
        return GENERATED
    source = expand_path(config.data.source)
    return fingerprint(source) if source.exists() else ""


def _identity(by_name: Mapping[str, str]) -> str:
    return by_name[ALONE] if ALONE in by_name else json.dumps(by_name)


def require_samples(store: Store, purpose: str) -> None:
    """Refuse an empty split.

    Raises:
        DataError: the store holds no sample.
    """
    if len(store) == 0:
        raise DataError(
            f"{store.path}: the split is empty, but {purpose} needs it; the summary of the data run lists what "
            "was skipped, and data.val_scenes sets the scenes for validation"
        )


@dataclass(frozen=True)
class PreparedSource:
    """A source: its original frames or crops, the folder of its stores, and the summary of their content."""

    raw: Path
    directory: Path
    summary: DataSummary


@dataclass(frozen=True)
class DataResult:
    """The stores, the summary of their content, and each source by name (``ALONE`` for a single source)."""

    prepared: PreparedData
    summary: DataSummary
    sources: Mapping[str, PreparedSource]


def run(config: ExperimentConfig, out_dir: Path, tracker: Tracker) -> DataResult:
    """Prepare each source that is not prepared yet; log summaries, contact sheets and digest."""
    parts = by_source(config)
    for part in parts.values():
        _require_source(part)  # check all sources before drawing the first one, which takes minutes
    sources = {name: _prepare_source(part, name) for name, part in parts.items()}
    directory = data_directory(config)
    if config.data.sources:
        write_mixture(directory, {name: source.directory for name, source in sources.items()})
        summary = merge_summaries(directory, {name: source.summary for name, source in sources.items()})
    else:
        summary = sources[ALONE].summary
    result = DataResult(open_prepared(directory), summary, sources)
    _log(config, result, out_dir, tracker)
    return result


def run_as_child(config: ExperimentConfig, parent: Tracker) -> DataResult:
    """Run the stage as a nested run of another one."""
    results: list[DataResult] = []
    with parent.child("data", config.name) as tracker:
        run_in_folder(config, tracker, lambda child, out_dir: results.append(run(config, out_dir, child)))
    print(describe(results[0]))  # noqa: T201
    return results[0]


def describe(result: DataResult) -> str:
    """Describe counts, warnings, and everything skipped or repaired with the reason, for a person."""
    summary = result.summary
    lines = _counts(summary)
    for name, source in result.sources.items():
        if name != ALONE:
            lines += [f"{name} in {source.directory}:", *(f"  {line}" for line in _counts(source.summary))]
    for verb, tallies in (("skipped", summary.skipped), ("repaired", summary.corrected)):
        lines += [f"{verb}: {tally.count} x {reason} (first: {tally.first})" for reason, tally in tallies.items()]
    lines += [f"warning: {warning}" for warning in summary.warnings]
    return "\n".join([*lines, f"stores in {result.prepared.directory}, digest {result.prepared.digest[:16]}"])


def _counts(summary: DataSummary) -> list[str]:
    """Return one line per split."""
    lines = []
    for split in STORE_NAMES:
        total = summary.totals(split)
        labelled = total.num_visible + total.num_occluded
        share = total.num_occluded / labelled if labelled else 0.0
        lines.append(
            f"{split:>5}: {total.num_cars} cars in {total.num_frames} frames of {len(summary.scenes[split])} scenes, "
            f"{labelled} labelled keypoints, {share:.0%} of them occluded, {total.num_unlabelled_cars} cars without any"
        )
    return lines


def _prepare_source(config: ExperimentConfig, name: str) -> PreparedSource:
    """``config`` must be the configuration of this source alone."""
    if name != ALONE:
        print(f"data: {name} ({config.data.source})", flush=True)  # noqa: T201
    directory = data_directory(config)
    raw = _raw_source(config)
    summary = prepare(
        raw,
        directory,
        val_scenes=config.data.val_scenes,
        num_workers=config.data.num_workers,
        jpeg_quality=config.data.jpeg_quality,
        boxes=config.data.boxes,
        made_by=data_inputs(config, "").code_digest,
        box_jitter=config.data.box_jitter,
    )
    return PreparedSource(raw, directory, summary)


def _require_source(config: ExperimentConfig) -> None:
    source = expand_path(config.data.source)
    if not config.data.is_generated and not source.exists():
        raise DataError(
            f"{source}: no such file or directory; set data.source (-P source=… of the data stage, or the source "
            f"of data.sources) to {' or '.join(GENERATED_SOURCES)}, to the directory that holds CarFusion's train/ "
            "and test/, to its COCO JSON, or to a directory of crops"
        )


def _raw_source(config: ExperimentConfig) -> Path:
    """Return the path of the user's data, or of generated data, which are generated if missing."""
    if not config.data.is_generated:
        return expand_path(config.data.source)
    (raw,) = draw_sources(config, not is_hidden())
    return raw


def draw_sources(config: ExperimentConfig, show_progress: bool) -> list[Path]:
    """Draw the pictures of every generated source if they are missing; return their folders.

    Raises:
        DataError: no source is generated, or the pictures cannot be drawn or written.
    """
    return _each_generated(config, lambda part, pictures, raw: pictures.generate(raw, _workers(part), show_progress))


def draw_shards(config: ExperimentConfig, shard: Shard, show_progress: bool) -> list[Path]:
    """Draw the same shard of every generated source; return their folders.

    Raises:
        DataError: as ``draw_sources``.
    """
    return _each_generated(
        config, lambda part, pictures, raw: pictures.generate_shard(raw, shard, _workers(part), show_progress)
    )


def merge_shards(config: ExperimentConfig, num_shards: int) -> list[Path]:
    """Merge the shards of every generated source; return their folders.

    Raises:
        DataError: no source is generated, a shard is missing or has other settings, or the set cannot be written.
    """
    return _each_generated(config, lambda part, pictures, raw: pictures.merge_shards(raw, num_shards))


def _each_generated(
    config: ExperimentConfig, work: Callable[[ExperimentConfig, PictureSet[Any], Path], Path]
) -> list[Path]:
    parts = [part for part in by_source(config).values() if part.data.is_generated]
    if not parts:
        raise DataError(
            f"data.source is {config.data.title}: only {' and '.join(GENERATED_SOURCES)} data can be generated"
        )
    try:
        return [work(part, GENERATORS[part.data.source](part), data_directory(part) / RAW_DIR) for part in parts]
    except (OSError, CatalogError, MeshError) as error:
        raise DataError(str(error)) from error


def _workers(config: ExperimentConfig) -> int:
    return resolve_num_workers(config.data.num_workers)


def _log(config: ExperimentConfig, result: DataResult, out_dir: Path, tracker: Tracker) -> None:
    prepared, parts = result.prepared, by_source(config)
    whole = prepared.open()
    identities = {
        name: GENERATED if parts[name].data.is_generated else source.summary.source_fingerprint
        for name, source in result.sources.items()
    }
    log_inputs(tracker, data_inputs(config, _identity(identities)))
    tracker.set_tags(
        {
            "carkp.data_key": data_key(config),
            "carkp.data_digest": prepared.digest,
            "carkp.data_dir": str(prepared.directory),
        }
    )
    tracker.log_dataset(config.name, prepared.digest, config.data.title, "preparation")
    tracker.log_metrics({f"data/num_{split}": result.summary.totals(split).num_cars for split in STORE_NAMES})
    for name, source in result.sources.items():
        raw, stores, boxes = source.raw, open_data(source.directory), parts[name].data.boxes
        folder = "/".join([ARTIFACT_DIR, *([name] if name != ALONE else [])])
        _log_summary(source.summary, data_sheet(raw, stores, config.seed, boxes), folder, out_dir / name, tracker)
    if config.data.sources:
        sheet = data_sheet(None, whole, config.seed)
        _log_summary(result.summary, sheet, ARTIFACT_DIR, out_dir, tracker)
        _log_counts(result.sources, tracker)
    tracker.describe(f"Prepared `{config.data.title}`.\n\n```\n{describe(result)}\n```")


def _log_summary(summary: DataSummary, sheet: Image, folder: str, out_dir: Path, tracker: Tracker) -> None:
    out_dir.mkdir(parents=True, exist_ok=True)
    summary_path = out_dir / SUMMARY_FILE
    write_atomic(summary_path, summary.to_json().encode())
    tracker.log_file(summary_path, folder)
    sheet_path = out_dir / "contact_sheet.jpg"
    write_jpeg(sheet_path, sheet)
    tracker.log_file(sheet_path, folder)


def _log_counts(sources: Mapping[str, PreparedSource], tracker: Tracker) -> None:
    tracker.log_metrics(
        {
            f"data/num_{split}/{name}": source.summary.totals(split).num_cars
            for name, source in sources.items()
            for split in STORE_NAMES
        }
    )


def _digest_of(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

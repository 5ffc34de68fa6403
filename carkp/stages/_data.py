"""Prepared data: where it lies, and how a stage finds or makes it."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from carkp.config.schema import ExperimentConfig
from carkp.data.issues import DataError
from carkp.data.source import fingerprint
from carkp.data.store import SCHEMA_VERSION, Store, Stores, data_digest, open_stores
from carkp.data.summary import read_summary
from carkp.synthetic.generate import GENERATOR_VERSION, SyntheticSpec
from carkp.tracking.runs import LATEST, find_latest_run, find_run, run_id_of
from carkp.tracking.store import project_root

SYNTHETIC = "synthetic"


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


def find_data(config: ExperimentConfig, reference: str) -> PreparedData | None:
    """The prepared data that ``reference`` names; None where ``latest`` has not been made yet.

    Raises:
        DataError: the reference names something that is not there or cannot be used.
    """
    if reference != LATEST:
        return _find_named(reference)
    run = find_latest_run("data", {"carkp.data_key": data_key(config)})
    if run is None:
        return None
    directory = Path(run.tags["carkp.data_dir"])
    try:
        prepared = open_prepared(directory)
    except DataError:
        return None
    return prepared if prepared.digest == run.tags["carkp.data_digest"] else None


def is_up_to_date(config: ExperimentConfig, prepared: PreparedData) -> bool:
    """Whether the source's files are those that were prepared; the data key tells generated ones.

    A source that is gone cannot be prepared again: what was made of it still holds.
    """
    source = Path(config.data.source).expanduser()
    if config.data.source == SYNTHETIC or not source.exists():
        return True
    summary = read_summary(prepared.directory)
    return summary is not None and summary.source_fingerprint == fingerprint(source)


def require_data(config: ExperimentConfig, reference: str) -> PreparedData:
    """``find_data``, with an error that names the command to run where there is nothing."""
    prepared = find_data(config, reference)
    if prepared is None:
        raise DataError(f"no prepared data for the experiment {config.name!r}: run `mlflow run . -e data` first")
    return prepared


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


def _find_named(reference: str) -> PreparedData:
    run_id = run_id_of(reference)
    if run_id is None:
        return open_prepared(Path(reference).expanduser())
    run = find_run(run_id)
    if "carkp.data_dir" not in run.tags:
        raise DataError(f"{reference}: the run {run.name!r} prepared no data")
    return open_prepared(Path(run.tags["carkp.data_dir"]))

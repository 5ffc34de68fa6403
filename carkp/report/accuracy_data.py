"""The content of an accuracy report, which a stage reads from runs: plain data, no tracking."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from carkp.keypoints.predictions import Predictions
from carkp.report.runtime_data import RuntimeContent

FLOAT, CALIBRATED, QAT = "float", "calibrated", "QAT"
SIMULATED, ONNXRUNTIME = "simulated int8", "ONNX Runtime int8"


@dataclass(frozen=True)
class Latency:
    """Milliseconds for one image, and their origin: the machine of a measurement, or the target of a prediction."""

    milliseconds: float
    origin: str


@dataclass(frozen=True)
class ModelRow:
    """One model, executed in one way.

    Attributes:
        stage: one of the names above, or the name of a single run.
        source: origin of the predictions, ``runs:/<id>``.
        predictions: predictions on the scored split.
        size_bytes: size of the file that would be shipped; None if there is none.
        latency: latency; None if not measured.
        detail: words that distinguish it from other rows of its stage, for example ``of QAT``.
    """

    stage: str
    source: str
    predictions: Predictions
    size_bytes: int | None = None
    latency: Latency | None = None
    detail: str = ""


@dataclass(frozen=True)
class LayerNoise:
    """One row of the SQNR table, in decibels; ``weights_db`` is NaN if the layer has no weights."""

    name: str
    kind: str
    activations_db: float
    weights_db: float
    total_db: float


@dataclass(frozen=True)
class Sweep:
    """Validation PCK by calibration percentile, PCK of the float model, and the percentile that was used, if any.

    Both PCKs are of the same ``num_crops`` crops. ``float_pck`` None and ``num_crops`` 0 mean unknown.
    """

    pck: Mapping[float, float]
    float_pck: float | None
    chosen: float | None = None
    num_crops: int = 0


@dataclass(frozen=True)
class SceneRow:
    """One scene of one split, with counts as in the data summary."""

    split: str
    scene: str
    num_frames: int
    num_cars: int
    num_visible: int
    num_occluded: int
    num_missing: int


@dataclass(frozen=True)
class DataCard:
    """The data set: digest, kind of source, scenes, remarks on skipped or corrected data, a sheet of samples (JPEG)."""

    digest: str
    kind: str
    scenes: Sequence[SceneRow]
    remarks: Sequence[str] = ()
    sheet: bytes | None = None


@dataclass(frozen=True)
class RunCard:
    """A run from which numbers come.

    Attributes:
        facts: name -> value, for example commit, data digest, machine.
        versions: package -> version.
        command: command that repeats the run.
        config: flat names -> values of the resolved configuration.
    """

    stage: str
    run_id: str
    name: str
    facts: Mapping[str, str]
    versions: Mapping[str, str]
    command: str
    config: Mapping[str, str]


@dataclass(frozen=True)
class Family:
    """A float model and the models made from it for one target.

    Attributes:
        name: name that distinguishes it from the other families of a report.
        target: target of quantisation; "" for a single run.
        rows: rows in the order of the headline table; float is first, if known.
        missing: part (a stage, ``sqnr``, ``sweep``, ``data``) -> sentence that it was not run, with the command for it.
        noise: SQNR by layer, starting with the input.
        sweep: percentile sweep; None if there is none.
        data: data set; None if no run of the data is found.
        runs: runs from which the numbers come.
        crops: ``crop_key`` -> JPEG of the network's input, for the worst and median samples.
        config_yaml: resolved configuration of the last run of the family.
        remarks: sentences about the numbers of this family.
        runtimes: the float model in other programs; None if not measured.
    """

    name: str
    target: str
    rows: Sequence[ModelRow]
    missing: Mapping[str, str] = field(default_factory=dict)
    noise: Sequence[LayerNoise] = ()
    sweep: Sweep | None = None
    data: DataCard | None = None
    runs: Sequence[RunCard] = ()
    crops: Mapping[str, bytes] = field(default_factory=dict)
    config_yaml: str = ""
    remarks: Sequence[str] = ()
    runtimes: RuntimeContent | None = None

    @property
    def reference(self) -> ModelRow | None:
        """The float row."""
        return next((row for row in self.rows if row.stage == FLOAT), None)

    @property
    def judged(self) -> ModelRow:
        """The row that represents int8: the simulated one, else the last one."""
        return next((row for row in self.rows if row.stage == SIMULATED), self.rows[-1])


def crop_key(sample_id: str) -> str:
    """Return a sample's name in archives of crops."""
    return sample_id.replace("/", "__")


@dataclass(frozen=True)
class ReportContent:
    """A report on one or several families.

    Attributes:
        title: title of the page.
        families: families in the order of the request.
        split: scored split, ``test`` or ``val``.
        alpha: threshold of PCK.
        command: command that makes this report from runs that the commands before it have repeated.
        server_command: command that makes it again from the same runs, if their tracking server is there; "" for none.
        made_on: date and commit of the report itself.
    """

    title: str
    families: Sequence[Family]
    split: str
    alpha: float
    command: str
    made_on: str
    server_command: str = ""

    def label(self, family: Family, row: ModelRow) -> str:
        """Return the label of a row, with the target, and with the family's name if there are several families."""
        is_named = len(self.families) > 1
        words = [row.stage, row.detail]
        if row.stage != FLOAT and family.target and not (is_named and family.target == family.name):
            words.append(f"({family.target})")
        label = " ".join(word for word in words if word)
        return f"{family.name}: {label}" if is_named else label

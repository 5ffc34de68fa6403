"""What an accuracy report is made of, read out of runs by a stage: plain data, no tracking."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from carkp.keypoints.predictions import Predictions
from carkp.report.runtime_data import RuntimeContent

FLOAT, CALIBRATED, QAT = "float", "calibrated", "QAT"
SIMULATED, ONNXRUNTIME = "simulated int8", "ONNX Runtime int8"


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one image, and their source: measured where, or predicted for what."""

    milliseconds: float
    origin: str


@dataclass(frozen=True)
class ModelRow:
    """One model, executed one way.

    Attributes:
        stage: one of the names above, or that of a run that stands alone.
        source: what its predictions were read from, ``runs:/<id>``.
        predictions: on the scored split.
        size_bytes: of the file that would be shipped; None where there is none.
        latency: None where it was not measured.
        detail: words that set it apart from others of its stage, such as ``of QAT``.
    """

    stage: str
    source: str
    predictions: Predictions
    size_bytes: int | None = None
    latency: Latency | None = None
    detail: str = ""


@dataclass(frozen=True)
class LayerNoise:
    """One row of the SQNR table, in decibels; NaN for weights where a layer has none."""

    name: str
    kind: str
    activations_db: float
    weights_db: float
    total_db: float


@dataclass(frozen=True)
class Sweep:
    """Validation PCK by calibration percentile, the float model's, and the percentile that was used (if it was one).

    Both are of the same ``num_crops`` crops. ``float_pck`` None and ``num_crops`` 0 mean that they are not known.
    """

    pck: Mapping[float, float]
    float_pck: float | None
    chosen: float | None = None
    num_crops: int = 0


@dataclass(frozen=True)
class SceneRow:
    """One scene of one split, counts as in the data summary."""

    split: str
    scene: str
    num_frames: int
    num_cars: int
    num_visible: int
    num_occluded: int
    num_missing: int


@dataclass(frozen=True)
class DataCard:
    """The data set: digest, kind of source, scenes, what was left out or repaired, and a sheet of samples (JPEG)."""

    digest: str
    kind: str
    scenes: Sequence[SceneRow]
    remarks: Sequence[str] = ()
    sheet: bytes | None = None


@dataclass(frozen=True)
class RunCard:
    """Where one number comes from.

    Attributes:
        facts: name -> value, such as commit, data digest, machine.
        versions: package -> version.
        command: that makes the run again.
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
    """A float model and what was made of it for one target.

    Attributes:
        name: tells it from the other families of a report.
        target: of quantisation; "" for a run that stands alone.
        rows: in the order of the headline table, float first where it is known.
        missing: part (a stage, ``sqnr``, ``sweep``, ``data``) -> sentence: it was not run, and the command that would.
        noise: SQNR by layer, the input first.
        sweep: None where there is none.
        data: None where no run of the data is found.
        runs: those that the numbers are from.
        crops: ``crop_key`` -> JPEG of the network's input, for the worst and median samples.
        config_yaml: the resolved configuration of the last run of the family.
        remarks: sentences on what the numbers of this family are.
        runtimes: the float model in other programs; None where that was not measured.
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
        """The row that stands for int8: the simulated one, else the last one."""
        return next((row for row in self.rows if row.stage == SIMULATED), self.rows[-1])


def crop_key(sample_id: str) -> str:
    """A sample's name in archives of crops."""
    return sample_id.replace("/", "__")


@dataclass(frozen=True)
class ReportContent:
    """A report on one family or several.

    Attributes:
        title: of the page.
        families: in the order in which they were asked for.
        split: what was scored, ``test`` or ``val``.
        alpha: of PCK.
        command: that makes this report of runs made anew by the commands before it.
        server_command: that makes it again of these very runs, where their tracking server is; "" for none.
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
        """What a row is called: with the target, and with the family's name where there are several."""
        is_named = len(self.families) > 1
        words = [row.stage, row.detail]
        if row.stage != FLOAT and family.target and not (is_named and family.target == family.name):
            words.append(f"({family.target})")
        label = " ".join(word for word in words if word)
        return f"{family.name}: {label}" if is_named else label

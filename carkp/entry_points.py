"""Names, summaries and parameters of all entry points. Imports nothing of carkp, so that help appears at once."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

DEFAULT_CONFIG = "configs/synthetic.yaml"
STUDIED_CONFIG = "configs/from_imagenet.yaml"
"""Default configuration of a study. It calibrates by percentile, and its first weights do not depend on sigma."""

INSTALL_TRAIN = 'pip install "carkp[train]"'
VERBOSE_VARIABLE = "CARKP_VERBOSE"
"""Environment variable: 1 shows tracebacks of errors that have a message for the user."""

SCORED_STAGES = ("float", "calibration", "qat", "int_infer", "onnxruntime")


@dataclass(frozen=True)
class Parameter:
    """One string parameter of an entry point."""

    name: str
    default: str
    help: str


@dataclass(frozen=True)
class EntryPoint:
    """An entry point of MLproject and a command of ``carkp``.

    Attributes:
        command: name of the command after ``carkp``.
        name: name of the entry point in MLproject.
        module: module below ``carkp.stages``.
        summary: one sentence about what it does.
        parameters: parameters beside ``config`` and ``overrides``, which all entry points have.
        flags: name -> help of switches that only ``python -m`` has.
        default_config: YAML file of the experiment if the user names none.
        argument: name of the parameter that the command takes as a positional argument; "": none.
    """

    command: str
    name: str
    module: str
    summary: str
    parameters: tuple[Parameter, ...]
    flags: Mapping[str, str] = field(default_factory=dict)
    default_config: str = DEFAULT_CONFIG
    argument: str = ""


DATA = Parameter("data", "latest", "prepared data: latest, a directory, or runs:/<id of a data run>")
MODEL = Parameter("model", "latest", "model: latest, carkp-car12, a local file, runs:/<id>/<path>, or models:/…")
RECORD = {"record": "write the measurements to reports/measurements, for the pages that show them"}
"""Switch of programs that measure."""

TARGET = Parameter("target", "", "a file in configs/targets without .yaml, or a path; empty: as in the configuration")
NPROC = Parameter("nproc", "", "training processes on this machine; empty: train.nproc of the configuration")
RANKS = (
    NPROC,
    Parameter("nnodes", "", "machines that train together; each starts the same command; empty: train.nnodes"),
    Parameter("rdzv_endpoint", "", "host:port at which the machines find each other; empty: train.rdzv_endpoint"),
    Parameter("rdzv_id", "", "name of this training at that endpoint; empty: train.rdzv_id"),
)
"""Parameters of stages that train in several processes."""

ANY_MODEL = Parameter(
    "model",
    "latest",
    "latest (the target's newest export), an int8 ONNX or a checkpoint (file, runs:/<id>/<path>), or config: the "
    "network of the configuration with random weights",
)
STARTED_MODEL = Parameter(
    "model",
    "latest",
    "float model to start from: latest (of float), a checkpoint, runs:/<id> of float or adapt, models:/…",
)
PREDICTING_MODEL = Parameter(
    "model",
    "carkp-car12",
    "model: carkp-car12 (comes with carkp), latest (the newest export of the experiment), a local file, "
    "runs:/<id>/<path>, or models:/…",
)
ORIENTATION = Parameter(
    "orientation",
    "ignore",
    "rotation that a photograph or video states: ignore (use the stored pixels, as CarFusion's labels do) or "
    "apply (turn it upright as viewers do: for boxes that were drawn in a viewer)",
)
BOXES = Parameter(
    "boxes",
    "",
    "boxes of the cars: auto (torchvision's detector finds them), or a file or folder of .json, .csv, YOLO, COCO, "
    "KITTI, Pascal VOC, MOT or CarFusion bb, see docs/boxes.md; empty: the whole picture is one car",
)

_ALL = (
    EntryPoint(
        "run",
        "main",
        "pipeline",
        "Run all steps from the data to the report; finished steps are not repeated.",
        (
            Parameter("force", "", "true: repeat every step; empty: reuse finished runs with the same inputs"),
            Parameter("dry_run", "", "true: show which steps would run or be reused, and why; then stop"),
        ),
    ),
    EntryPoint(
        "data",
        "data",
        "data",
        "Prepare the data of an experiment.",
        (
            Parameter(
                "source",
                "",
                "'synthetic', 'rendered' or a path; empty: data.source or data.sources of the configuration",
            ),
        ),
    ),
    EntryPoint(
        "float",
        "float",
        "float",
        "Train the float model; prepares the data if that is not done yet.",
        (
            DATA,
            *RANKS,
            Parameter("resume", "", "latest (the newest float run that did not finish), a run id, or a last.pt"),
        ),
    ),
    EntryPoint(
        "calibration", "calibration", "calibration", "Calibrate the float model for int8.", (DATA, MODEL, TARGET)
    ),
    EntryPoint(
        "precision",
        "precision",
        "precision",
        "Calibrate with the fewest 16-bit tensors that keep the loss at quant.loss_alpha under quant.max_loss.",
        (DATA, MODEL, TARGET),
    ),
    EntryPoint("qat", "qat", "qat", "Fine-tune the calibrated model for int8.", (DATA, MODEL, TARGET, *RANKS)),
    EntryPoint(
        "adapt",
        "adapt",
        "adapt",
        "Adapt a float model to your own pictures, with or without labels.",
        (
            Parameter("images", "", "pictures and videos without labels: a file, or a folder of them"),
            BOXES,
            Parameter("labels", "", "cars with labels: COCO keypoints JSON, CarFusion's layout, or a folder of crops"),
            STARTED_MODEL,
            DATA,
            ORIENTATION,
        ),
    ),
    EntryPoint(
        "export",
        "export",
        "export",
        "Write the int8 ONNX of a calibrated model.",
        (
            MODEL,
            TARGET,
            Parameter("stage", "calibration", "whose model: calibration or qat"),
            Parameter(
                "alias",
                "",
                "register the model as carkp under this alias, for example champion; empty: do not register it",
            ),
        ),
    ),
    EntryPoint(
        "evaluate",
        "evaluate",
        "evaluate",
        "Score a model on validation and test.",
        (Parameter("stage", "float", f"what to score: {', '.join(SCORED_STAGES)}"), MODEL, DATA, TARGET),
    ),
    EntryPoint("align", "align", "align", "Compare all executions of an exported int8 model.", (DATA, MODEL, TARGET)),
    EntryPoint(
        "benchmark",
        "benchmark",
        "benchmark",
        "Compare accuracy, size and latency of the network in every installed runtime.",
        (DATA, MODEL),
        flags=RECORD,
    ),
    EntryPoint(
        "check",
        "check",
        "check",
        "Compare a model with the operators and limits of a target's hardware.",
        (ANY_MODEL, TARGET),
    ),
    EntryPoint(
        "compile", "compile", "compile", "Write the file for a target and predict its speed there.", (MODEL, TARGET)
    ),
    EntryPoint(
        "report",
        "report",
        "report",
        "Write the accuracy report of one run or several.",
        (
            Parameter(
                "runs",
                "latest",
                "latest, or run ids separated by commas: runs of any stage, each stands for its float model",
            ),
            Parameter("name", "", "folder in reports/; empty: the experiment and the target"),
        ),
    ),
    EntryPoint("calops", "calops", "calops", "Count parameters and FLOPs of the network.", ()),
    EntryPoint(
        "infer",
        "infer",
        "infer",
        "Find the keypoints of cars in your own pictures and videos; draws them and writes JSON.",
        (
            Parameter("image", "", "a picture, a video, or a folder of them"),
            BOXES,
            PREDICTING_MODEL,
            Parameter("output", "runs/infer", "folder for the drawn pictures and keypoints.json"),
            ORIENTATION,
        ),
        flags={"no-track": "do not create an MLflow run"},
        argument="image",
    ),
    EntryPoint(
        "tune",
        "tune",
        "tune",
        "Search heatmap sigma, learning rate and calibration percentile; continues a stopped search.",
        (
            DATA,
            TARGET,
            Parameter("search", "configs/search/default.yaml", "YAML file with the space and the budget of the study"),
            Parameter(
                "trials",
                "",
                "number of trainings in the study; empty: as in the search file; a higher number continues the study",
            ),
            Parameter("workers", "", "processes, or jobs of the launcher, that train at the same time; empty: 1"),
            Parameter("launcher", "", "who starts the workers: slurm (jobs of a cluster); empty: this machine"),
            Parameter(
                "backend", "configs/backend/slurm.yaml", "YAML file with the resources that a job requests from Slurm"
            ),
            Parameter(
                "storage",
                "",
                "database of studies, such as postgresql://user:password@host/name for many machines; empty: optuna.db "
                "here",
            ),
        ),
        default_config=STUDIED_CONFIG,
    ),
)

ENTRY_POINTS: Mapping[str, EntryPoint] = MappingProxyType({point.name: point for point in _ALL})
"""Name in MLproject -> entry point, in the order of the pipeline."""

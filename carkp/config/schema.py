"""The typed configuration of an experiment. Every default lives here, once.

Lengths of time are epochs, sizes are (height, width), everything else names its unit.
"""

import math
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from carkp.config.paths import expand

STRIDE = 32
"""Input pixels a cell of a backbone's last map."""

HEATMAP_STRIDE = 4
"""Input pixels a heatmap cell."""

MIN_SIGMA = 0.25
"""In heatmap cells: a Gaussian that ends three sigmas from its centre can fall between the cells below 0.236."""

MIN_FRAME_PX = 96
"""Shortest edge of a generated frame."""

SYNTHETIC = "synthetic"
"""What ``data.source`` says for generated cars."""

MAX_SEED = 2**32 - 1
"""What every generator of random numbers takes."""

MAX_PROCESSES = 1024
"""Of one kind on a machine: more is a slip of the pen, and starting them would take the machine down."""

MAX_EXTENT_PX = 8192
"""Of an image that is made or read: more does not fit into memory in batches."""


def _odd(value: Any) -> Any:
    if isinstance(value, int) and value % 2 == 0:
        raise ValueError(f"must be odd, so that it has a middle cell; {value - 1} and {value + 1} are")
    return value


def _no_bool(value: Any) -> Any:
    """YAML reads yes, no, on and off as true and false, and pydantic those as 1 and 0."""
    if isinstance(value, bool):
        raise ValueError("must be a number, not true or false")
    return value


def _multiple_of_stride(size: tuple[int, int]) -> tuple[int, int]:
    if any(extent % STRIDE for extent in size):
        raise ValueError(f"must be multiples of {STRIDE}, (height, width)")
    return size


def _large_enough_frame(size: tuple[int, int]) -> tuple[int, int]:
    if min(size) < MIN_FRAME_PX:
        raise ValueError(f"must be at least {MIN_FRAME_PX} pixels each way, (height, width)")
    return size


def _all_different(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) < len(names):
        raise ValueError("names a scene twice")
    return names


def _require_warmup_within(warmup_epochs: float, epochs: int) -> None:
    if warmup_epochs > epochs:
        raise ValueError(f"warmup_epochs={warmup_epochs:g} must not be more than epochs={epochs}")


Int = Annotated[int, BeforeValidator(_no_bool)]
Float = Annotated[float, BeforeValidator(_no_bool)]
PositiveInt = Annotated[Int, Field(gt=0)]
NonNegativeInt = Annotated[Int, Field(ge=0)]
PositiveFloat = Annotated[Float, Field(gt=0)]
NonNegativeFloat = Annotated[Float, Field(ge=0)]
Probability = Annotated[Float, Field(ge=0, le=1)]
Percentile = Annotated[Float, Field(gt=50, le=100)]
Sigma = Annotated[Float, Field(ge=MIN_SIGMA)]
Seed = Annotated[Int, Field(ge=0, le=MAX_SEED)]
ObserverKind = Literal["percentile", "minmax", "mse", "entropy"]
Ingredient = Literal["vehicles", "faces", "close_ups", "occluders", "light", "sensor", "cameras"]
Extent = Annotated[Int, Field(gt=0, le=MAX_EXTENT_PX)]
Size = tuple[Extent, Extent]
NumProcesses = Annotated[Int, Field(ge=0, le=MAX_PROCESSES)]
BatchSize = Annotated[Int, Field(gt=0, le=65536)]
Text = Annotated[str, Field(min_length=1), AfterValidator(expand)]
"""A path or a name: ``~`` and ``$NAME`` in it are filled in when the configuration is read."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class SyntheticConfig(_Section):
    """The generated data set; read only where ``data.source`` is ``synthetic``."""

    num_train_cars: PositiveInt = 8000
    num_val_cars: PositiveInt = 800
    num_test_cars: PositiveInt = 800
    image_size: Annotated[Size, AfterValidator(_large_enough_frame)] = (720, 1280)
    seed: Seed = 0
    ingredients: Annotated[
        tuple[Ingredient, ...],
        Field(description="what pictures hold beyond plain cars by daylight"),
    ] = get_args(Ingredient)


class DataConfig(_Section):
    """Where samples come from and how they are stored."""

    source: Annotated[Text, Field(description="'synthetic' or the path of CarFusion data")] = SYNTHETIC
    root: Annotated[Text, Field(description="directory of prepared data")] = "data"
    val_scenes: Annotated[
        tuple[Annotated[str, Field(min_length=1)], ...],
        Field(description="training scenes that validation takes; none where the source has a validation split"),
        AfterValidator(_all_different),
    ] = ("car_craig2",)
    boxes: Annotated[
        Literal["files", "hull"], Field(description="of cars: from the bb files, or around the keypoints")
    ] = "files"
    jpeg_quality: Annotated[Int, Field(ge=1, le=100)] = 95
    num_workers: Annotated[NumProcesses, Field(description="processes that prepare data; 0: one a core")] = 0

    @property
    def is_generated(self) -> bool:
        """Whether the cars are drawn, and not the user's."""
        return self.source == SYNTHETIC


class ModelConfig(_Section):
    """The network."""

    backbone: Annotated[str, Field(min_length=1)] = "tf_efficientnet_lite0"
    pretrained: Annotated[Text, Field(description="auto, timm, package, none, or a file")] = "auto"
    activation: Literal["default", "relu6", "relu"] = "default"
    input_size: Annotated[Size, AfterValidator(_multiple_of_stride)] = (128, 128)
    head_channels: Annotated[Int, Field(gt=0, le=8192)] = 128
    drop_path_rate: Annotated[Float, Field(ge=0, lt=1)] = 0.0


class HeatmapConfig(_Section):
    """Targets, loss weights and decoder."""

    sigma: Annotated[Sigma, Field(description="in heatmap cells")] = 1.0
    decoder: Literal["averaged", "dark"] = "averaged"
    window: Annotated[
        Literal["auto"] | Annotated[PositiveInt, AfterValidator(_odd)],
        Field(description="cells, odd; auto ties it to sigma"),
    ] = "auto"
    background_weight: Annotated[Float, Field(ge=0, le=1000, description="of cells without a target, in the loss")] = (
        0.1
    )


class AugmentConfig(_Section):
    """Training augmentation. The defaults are the reference's; the others are off."""

    flip_probability: Probability = 0.5
    random_padding: bool = True
    noise_probability: Probability = 0.2
    noise_sigma: Annotated[Float, Field(ge=0, le=255, description="in grey levels")] = 2.0
    min_scale: Annotated[Float, Field(ge=0.01, le=1, description="smallest random down-scaling")] = 1.0
    max_scale: Annotated[Float, Field(ge=1, le=100, description="largest random zoom")] = 1.0
    max_translation: Annotated[Float, Field(ge=0, lt=1, description="share of the input extent")] = 0.0
    max_rotation_deg: Annotated[Float, Field(ge=0, le=180)] = 0.0
    color_jitter: Annotated[Float, Field(ge=0, le=1, description="strength of all colour changes")] = 0.0
    grayscale_probability: Probability = 0.0
    blur_probability: Probability = 0.0
    erase_probability: Probability = 0.0


class TrainConfig(_Section):
    """Float training."""

    epochs: PositiveInt = 30
    batch_size: Annotated[BatchSize, Field(description="samples a process and step")] = 32
    num_samples: Annotated[
        NonNegativeInt, Field(description="of the training split, a random choice by the seed; 0: all")
    ] = 0
    lr: PositiveFloat = 1.0e-3
    weight_decay: NonNegativeFloat = 5.0e-2
    warmup_epochs: NonNegativeFloat = 0.0
    grad_clip: Annotated[Float, Field(ge=0, description="gradient norm; 0: no clipping")] = 0.0
    ema_decay: Annotated[Float, Field(ge=0, lt=1, description="0: no moving average of the weights")] = 0.0
    channels_last: bool = True
    compile: Annotated[
        bool, Field(description="torch.compile: needs a C++ compiler, pays from some 30,000 samples on")
    ] = False
    precision: Annotated[
        Literal["auto", "float32", "bfloat16"], Field(description="auto: bfloat16 on CUDA, float32 elsewhere")
    ] = "auto"
    nproc: Annotated[Int, Field(gt=0, le=MAX_PROCESSES, description="training processes under torchrun")] = 1
    num_workers: Annotated[NumProcesses, Field(description="loader processes a training process")] = 2
    num_threads: Annotated[NumProcesses, Field(description="torch threads a process; 0: torch's choice")] = 0

    @model_validator(mode="after")
    def _settings_agree(self) -> Self:
        _require_warmup_within(self.warmup_epochs, self.epochs)
        wanted = self.batch_size * self.nproc
        if 0 < self.num_samples < wanted:
            raise ValueError(
                f"num_samples={self.num_samples} make no batch of batch_size={self.batch_size} in each of "
                f"nproc={self.nproc} processes: {wanted} are needed at least"
            )
        return self


class EvalConfig(_Section):
    """Scoring."""

    alpha: Annotated[Float, Field(gt=0, le=10, description="PCK threshold as a share of the reference length")] = 0.1
    batch_size: BatchSize = 64


class ObserverRule(_Section):
    """Another observer for some tensors: those whose name matches ``tensors``, a shell pattern. The last rule wins."""

    tensors: Annotated[str, Field(min_length=1, description="shell pattern, such as head/* or backbone/blocks/5/*")]
    observer: ObserverKind
    percentile: Percentile | None = None

    @model_validator(mode="after")
    def _percentile_is_used(self) -> Self:
        if self.percentile is not None and self.observer != "percentile":
            raise ValueError(f"the observer {self.observer} uses no percentile: leave it out, or take percentile")
        return self


class QuantConfig(_Section):
    """Calibration. The defaults are the reference's arithmetic."""

    target: Annotated[Text, Field(description="file of configs/targets without .yaml, or a path")] = "bpu"
    observer: ObserverKind = "percentile"
    percentile: Annotated[Percentile, Field(description="of |x|, where the observer is percentile")] = 99.975
    rules: tuple[ObserverRule, ...] = ()
    weights: Annotated[
        Literal["target", "per_channel", "per_tensor"], Field(description="granularity of weight scales")
    ] = "target"
    bias_correction: bool = False
    num_images: Annotated[PositiveInt, Field(description="training crops under validation transforms")] = 512
    batch_size: BatchSize = 32
    num_sqnr_images: PositiveInt = 64
    sweep: Annotated[
        tuple[Percentile, ...], Field(description="percentiles whose validation PCK is tabled; empty: no sweep")
    ] = (99.0, 99.9, 99.95, 99.975, 99.99, 99.999, 100.0)


class QatConfig(_Section):
    """Quantisation-aware training: as float training, but for these."""

    epochs: PositiveInt = 1
    lr: PositiveFloat = 1.0e-4
    weight_decay: NonNegativeFloat = 0.0
    warmup_epochs: NonNegativeFloat = 0.1
    grad_clip: Annotated[Float, Field(ge=0, description="gradient norm; 0: no clipping")] = 0.0

    @model_validator(mode="after")
    def _warms_up_in_time(self) -> Self:
        _require_warmup_within(self.warmup_epochs, self.epochs)
        return self


class AlignConfig(_Section):
    """What the executions of an int8 program may differ by before ``align`` fails.

    Between the simulator with ONNX Runtime's requantisation and ONNX Runtime no difference at all is allowed; these
    are for the target's own requantisation against it.
    """

    max_moved_share: Annotated[
        Probability, Field(description="share of keypoints that the target's arithmetic moves by more than moved_px")
    ] = 0.02
    moved_px: Annotated[PositiveFloat, Field(description="in input pixels")] = 0.5
    max_pck_difference: Annotated[
        Probability, Field(description="largest |PCK| difference: simulated - ONNX Runtime, and fake-quant - simulated")
    ] = 0.005
    max_heatmap_lsb: Annotated[
        PositiveInt, Field(description="largest difference of an output element, simulated - ONNX Runtime")
    ] = 16
    max_fake_quant_lsb: Annotated[
        PositiveInt, Field(description="the same of fake-quant - simulated: 8 measured on the default model")
    ] = 16


class TrackingConfig(_Section):
    """What a run keeps."""

    system_metrics_interval_s: Annotated[Float, Field(ge=0.1)] = 10.0
    num_kept_crops: Annotated[PositiveInt, Field(description="worst and median crops each in crops.zip")] = 64


class ExperimentConfig(_Section):
    """Everything that decides a result."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=200)] = "carkp"
    seed: Seed = 0
    data: DataConfig = DataConfig()
    synthetic: SyntheticConfig = SyntheticConfig()
    model: ModelConfig = ModelConfig()
    heatmap: HeatmapConfig = HeatmapConfig()
    augment: AugmentConfig = AugmentConfig()
    train: TrainConfig = TrainConfig()
    eval: EvalConfig = EvalConfig()
    quant: QuantConfig = QuantConfig()
    qat: QatConfig = QatConfig()
    align: AlignConfig = AlignConfig()
    tracking: TrackingConfig = TrackingConfig()

    @model_validator(mode="after")
    def _sections_agree(self) -> Self:
        problems = [*_heatmap_problems(self.heatmap, self.model), *_batch_problems(self)]
        if problems:
            raise ValueError("; ".join(problems))
        return self


def _heatmap_problems(heatmap: HeatmapConfig, model: ModelConfig) -> list[str]:
    """What does not fit on the map."""
    cells = max(model.input_size) // HEATMAP_STRIDE
    found = []
    if heatmap.sigma > cells:
        found.append(f"heatmap.sigma={heatmap.sigma:g} is more than the map's {cells} cells (model.input_size / 4)")
    if isinstance(heatmap.window, int) and heatmap.window > 2 * cells - 1:
        found.append(f"heatmap.window={heatmap.window} reaches beyond the map: {2 * cells - 1} covers it from any cell")
    return found


def _batch_problems(config: ExperimentConfig) -> list[str]:
    """What batch norm and the sampler would refuse when training starts."""
    train = config.train
    found = []
    if train.batch_size == 1 and math.prod(config.model.input_size) == STRIDE**2:
        found.append(
            "train.batch_size=1 gives batch norm a single value where model.input_size is [32, 32]: take 2 at least"
        )
    wanted, generated = train.batch_size * train.nproc, config.synthetic.num_train_cars
    if config.data.is_generated and generated < wanted:
        found.append(
            f"synthetic.num_train_cars={generated} make no batch of train.batch_size={train.batch_size} in each of "
            f"train.nproc={train.nproc} processes: {wanted} are needed at least"
        )
    return found

"""The typed configuration of an experiment. Every default lives here, once.

Lengths of time are epochs, sizes are (height, width), everything else names its unit.
"""

import math
import os
import re
from collections import Counter
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
"""What ``data.source`` says for drawn cars."""

RENDERED = "rendered"
"""What it says for cars rendered from meshes."""

GENERATED_SOURCES = (SYNTHETIC, RENDERED)
"""Words for sources that this program makes itself; any other source is a path."""

SHARE_TOLERANCE = 0.01
"""What shares may miss 1 by: three times 0.333 are meant as thirds."""

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

OptionalText = Annotated[str, AfterValidator(expand)]
Scenes = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], AfterValidator(_all_different)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class SyntheticConfig(_Section):
    """The drawn data set; read only where a source is ``synthetic``."""

    num_train_cars: PositiveInt = 8000
    num_val_cars: PositiveInt = 800
    num_test_cars: PositiveInt = 800
    image_size: Annotated[Size, AfterValidator(_large_enough_frame)] = (720, 1280)
    seed: Seed = 0
    ingredients: Annotated[
        tuple[Ingredient, ...],
        Field(description="what pictures hold beyond plain cars by daylight"),
    ] = get_args(Ingredient)


class RenderedConfig(_Section):
    """The set rendered from car meshes; read only where a source is ``rendered``."""

    meshes: Annotated[OptionalText, Field(description="folder of GLB files and their meshes.json")] = ""
    num_train_cars: PositiveInt = 8000
    num_val_cars: PositiveInt = 400
    num_test_cars: PositiveInt = 400
    seed: Seed = 0


class SourceConfig(_Section):
    """One of several sources that a training draws from."""

    source: Annotated[
        Text, Field(description="'synthetic', 'rendered', or the path of CarFusion data or of a COCO file")
    ]
    share: Annotated[
        Float, Field(gt=0, le=1, description="of the samples of an epoch and of every batch; all shares add up to 1")
    ]
    name: Annotated[
        str,
        Field(
            pattern=r"^([A-Za-z0-9][A-Za-z0-9_.-]{0,63})?$",
            description="in metrics and sample ids; empty: the word, or the last part of the path",
        ),
    ] = ""
    val_scenes: Annotated[
        Scenes | None, Field(description="training scenes that validation takes; left out: those of data.val_scenes")
    ] = None

    @property
    def label(self) -> str:
        """What the source is called: its name, else the word or the last part of its path."""
        stem = os.path.splitext(os.path.basename(os.path.normpath(self.source)))[0]  # noqa: PTH119, PTH122
        return self.name or re.sub(r"[^A-Za-z0-9_.-]+", "-", stem).strip("-._")[:64]

    @property
    def is_generated(self) -> bool:
        """Whether the cars are drawn or rendered, and not the user's."""
        return self.source in GENERATED_SOURCES


class DataConfig(_Section):
    """Where samples come from and how they are stored."""

    source: Annotated[
        Text, Field(description="'synthetic', 'rendered', or the path of CarFusion data or of a COCO file")
    ] = SYNTHETIC
    sources: Annotated[
        tuple[SourceConfig, ...],
        Field(
            description="several sources in place of data.source, each with its share of every training batch; "
            "the best epoch is chosen by the validation cars of generated sources alone, where there are any, and "
            "val/pck is the PCK of these; val/pck/<name> is logged for every source"
        ),
    ] = ()
    root: Annotated[Text, Field(description="directory of prepared data")] = "data"
    val_scenes: Annotated[
        Scenes,
        Field(description="training scenes that validation takes; none where the source has a validation split"),
    ] = ("car_craig2",)
    boxes: Annotated[
        Literal["files", "hull"], Field(description="of cars: from the bb files, or around the keypoints")
    ] = "files"
    jpeg_quality: Annotated[Int, Field(ge=1, le=100)] = 95
    num_workers: Annotated[NumProcesses, Field(description="processes that prepare data; 0: one a core")] = 0

    @model_validator(mode="after")
    def _sources_agree(self) -> Self:
        if self.sources and (problems := _source_problems(self)):
            raise ValueError("; ".join(problems))
        return self

    @property
    def is_generated(self) -> bool:
        """Whether the cars of the only source are drawn or rendered, and not the user's."""
        return not self.sources and self.source in GENERATED_SOURCES

    @property
    def title(self) -> str:
        """Where the samples come from, for a person: the source, or the names of several."""
        return " + ".join(item.label for item in self.sources) or self.source


class ModelConfig(_Section):
    """The network."""

    backbone: Annotated[str, Field(min_length=1)] = "tf_efficientnet_lite0"
    pretrained: Annotated[
        Text, Field(description="auto, timm, package, none, carkp-car12 (the model that comes with carkp), or a file")
    ] = "auto"
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
    gamma: Annotated[
        Float, Field(ge=0, le=2, description="largest exponent change: the tone curve's power lies in e^±gamma")
    ] = 0.0
    shade_probability: Annotated[
        Probability, Field(description="of a shadow with a straight edge over part of the crop")
    ] = 0.0
    blur_probability: Probability = 0.0
    resolution_probability: Annotated[
        Probability, Field(description="of reducing the picture and enlarging it again")
    ] = 0.0
    jpeg_probability: Annotated[Probability, Field(description="of compressing the picture hard")] = 0.0
    erase_probability: Annotated[
        Probability, Field(description="of hiding a rectangle, under one colour or under another part of the crop")
    ] = 0.0


class TrainConfig(_Section):
    """Float training."""

    epochs: PositiveInt = 30
    batch_size: Annotated[BatchSize, Field(description="samples a process and step")] = 32
    num_samples: Annotated[
        NonNegativeInt,
        Field(
            description="of the training split, a random choice by the seed; 0: all. With data.sources: samples of an "
            "epoch, drawn by the shares; 0: as many as the sources hold together"
        ),
    ] = 0
    lr: PositiveFloat = 1.0e-3
    backbone_lr_scale: Annotated[
        Float, Field(ge=0, le=1, description="of lr, for the backbone; below 1 its pretrained weights change less")
    ] = 1.0
    freeze_batch_norm: Annotated[
        bool,
        Field(
            description="the backbone's batch norms keep what its first weights learnt, so that generated "
            "pictures do not replace the statistics of real ones"
        ),
    ] = False
    weight_decay: NonNegativeFloat = 5.0e-2
    reduced_epochs: Annotated[
        NonNegativeInt, Field(description="from the first on, on inputs reduced to reduced_size: coarse, but faster")
    ] = 0
    reduced_size: Annotated[Size, AfterValidator(_multiple_of_stride)] = (96, 96)
    warmup_epochs: NonNegativeFloat = 0.0
    grad_clip: Annotated[Float, Field(ge=0, description="gradient norm; 0: no clipping")] = 0.0
    ema_decay: Annotated[Float, Field(ge=0, lt=1, description="0: no moving average of the weights")] = 0.0
    teacher: Annotated[
        str,
        Field(
            description="trained float model whose heatmaps are a further target: a checkpoint, runs:/<id>, or "
            "latest:<experiment>; empty: none"
        ),
        AfterValidator(expand),
    ] = ""
    teacher_weight: Annotated[
        PositiveFloat, Field(description="of the teacher's term in the loss; that of the labels has 1")
    ] = 1.0
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
    equalise: Annotated[
        bool, Field(description="give the channels between two convolutions ranges of like size, before all else")
    ] = False
    rounding: Annotated[
        Literal["nearest", "sums", "second_moments"],
        Field(
            description="of weights: to the nearest; so that depthwise filters keep their sums; so that every layer's "
            "output changes least, by the second moments of its inputs"
        ),
    ] = "nearest"
    num_rounding_images: Annotated[
        PositiveInt, Field(description="calibration images that second moments are taken from")
    ] = 64
    bias_correction: bool = False
    int16: Annotated[
        tuple[Text, ...],
        Field(
            description="tensors that get 16 bits, by the names of calibration's scales.json or patterns of them, for "
            "targets that take them; the stage precision finds the fewest that are needed"
        ),
    ] = ()
    max_loss: Annotated[
        Probability,
        Field(description="what precision allows calibration to cost, in validation PCK at loss_alpha"),
    ] = 0.001
    loss_alpha: Annotated[PositiveFloat, Field(description="threshold of that PCK, as eval.alpha")] = 0.02
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


class StrongAugmentConfig(AugmentConfig):
    """As ``augment``, and strong: what a model learns from its own labels, and is held to."""

    min_scale: Annotated[Float, Field(ge=0.01, le=1, description="smallest random down-scaling")] = 0.75
    max_scale: Annotated[Float, Field(ge=1, le=100, description="largest random zoom")] = 1.3
    max_translation: Annotated[Float, Field(ge=0, lt=1, description="share of the input extent")] = 0.08
    max_rotation_deg: Annotated[Float, Field(ge=0, le=180)] = 8.0
    color_jitter: Annotated[Float, Field(ge=0, le=1, description="strength of all colour changes")] = 0.4
    grayscale_probability: Probability = 0.1
    blur_probability: Probability = 0.2
    erase_probability: Probability = 0.2


class AdaptConfig(_Section):
    """Adaptation to a user's own pictures: as float training, but for these."""

    epochs: Annotated[PositiveInt, Field(description="the last one is shipped")] = 5
    steps_per_epoch: Annotated[PositiveInt, Field(description="batches, however many cars there are")] = 100
    lr: PositiveFloat = 2.0e-4
    warmup_epochs: NonNegativeFloat = 0.5
    target_share: Annotated[
        Float,
        Field(
            gt=0, lt=1, description="of every batch that is the user's cars; the others are the configuration's data"
        ),
    ] = 0.5
    ema_decay: Annotated[
        Float, Field(gt=0, lt=1, description="of the moving average that labels the unlabelled cars and is shipped")
    ] = 0.99
    min_confidence: Annotated[
        Probability, Field(description="height of a heatmap's peak below which a keypoint of one's own is not learnt")
    ] = 0.5
    unlabelled_weight: Annotated[
        NonNegativeFloat, Field(description="of one's own labels in the loss; those that were given have 1")
    ] = 1.0
    holdout_share: Annotated[
        Float, Field(ge=0, lt=1, description="of the user's cars, whole pictures, that measure and are not learnt from")
    ] = 0.2
    num_holdout_views: Annotated[
        PositiveInt, Field(description="strong views of each car that was held out, for the consistency")
    ] = 4
    max_loss_on_generated: Annotated[
        Probability,
        Field(description="largest fall of the validation PCK on the configuration's data: more is refused"),
    ] = 0.01
    augment: StrongAugmentConfig = StrongAugmentConfig()

    @model_validator(mode="after")
    def _warms_up_in_time(self) -> Self:
        _require_warmup_within(self.warmup_epochs, self.epochs)
        return self


class AlignConfig(_Section):
    """What the executions of an int8 program may differ by before ``align`` fails.

    Between the simulator with ONNX Runtime's requantisation and ONNX Runtime no difference at all is allowed; these
    are for the target's own requantisation against it, and for fake quantisation, which calibration looks at, against
    the simulator.
    """

    max_moved_share: Annotated[
        Probability, Field(description="share of keypoints that the target's arithmetic moves by more than moved_px")
    ] = 0.05
    moved_px: Annotated[PositiveFloat, Field(description="in input pixels")] = 0.5
    max_pck_difference: Annotated[
        Probability, Field(description="largest |PCK| difference: simulated - ONNX Runtime")
    ] = 0.005
    max_loss_difference: Annotated[
        Probability,
        Field(description="of the expected losses at eval.alpha and loss_alpha, fake-quant against simulated"),
    ] = 0.0005
    loss_alpha: Annotated[PositiveFloat, Field(description="second threshold of PCK, as eval.alpha")] = 0.02
    max_shift_steps: Annotated[
        PositiveFloat,
        Field(
            description="largest difference of the mean shifts from float, fake-quant against simulated, in units of "
            "what one step of the heatmap's grid moves keypoints by"
        ),
    ] = 1.0
    max_heatmap_lsb: Annotated[
        PositiveInt, Field(description="largest difference of an output element, simulated - ONNX Runtime")
    ] = 16
    num_kernel_crops: Annotated[
        PositiveInt,
        Field(description="first test crops that each kind of LiteRT's kernels is held against the simulator on"),
    ] = 16
    max_fake_quant_lsb: Annotated[
        PositiveInt, Field(description="the same of fake-quant - simulated: 20 measured on the default model")
    ] = 32


class BenchmarkConfig(_Section):
    """How long ``benchmark`` times the runtimes in each of its settings: until either is reached."""

    num_rounds: Annotated[Int, Field(ge=2, description="in a round every runtime runs once")] = 200
    max_seconds: PositiveFloat = 20.0


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
    rendered: RenderedConfig = RenderedConfig()
    model: ModelConfig = ModelConfig()
    heatmap: HeatmapConfig = HeatmapConfig()
    augment: AugmentConfig = AugmentConfig()
    train: TrainConfig = TrainConfig()
    eval: EvalConfig = EvalConfig()
    quant: QuantConfig = QuantConfig()
    qat: QatConfig = QatConfig()
    adapt: AdaptConfig = AdaptConfig()
    align: AlignConfig = AlignConfig()
    benchmark: BenchmarkConfig = BenchmarkConfig()
    tracking: TrackingConfig = TrackingConfig()

    @model_validator(mode="after")
    def _sections_agree(self) -> Self:
        problems = [
            *_heatmap_problems(self.heatmap, self.model),
            *_batch_problems(self),
            *_reduction_problems(self.train, self.model),
            *_batch_norm_problems(self.train, self.model),
            *_rendered_problems(self.data, self.rendered),
        ]
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
    wanted = train.batch_size * train.nproc
    sections: dict[str, SyntheticConfig | RenderedConfig] = {SYNTHETIC: config.synthetic, RENDERED: config.rendered}
    section = sections.get(config.data.source) if config.data.is_generated else None
    if section is not None and section.num_train_cars < wanted:
        found.append(
            f"{config.data.source}.num_train_cars={section.num_train_cars} make no batch of "
            f"train.batch_size={train.batch_size} in each of train.nproc={train.nproc} processes: {wanted} are needed "
            "at least"
        )
    return found


def _reduction_problems(train: TrainConfig, model: ModelConfig) -> list[str]:
    """Reduced inputs must be smaller ones, and an epoch must be left for whole ones."""
    if train.reduced_epochs == 0:
        return []
    found = []
    if any(small > whole for small, whole in zip(train.reduced_size, model.input_size, strict=True)):
        found.append(
            f"train.reduced_size={list(train.reduced_size)} must not be larger than "
            f"model.input_size={list(model.input_size)}"
        )
    if train.reduced_epochs >= train.epochs:
        found.append(
            f"train.reduced_epochs={train.reduced_epochs} must be less than train.epochs={train.epochs}: the last "
            "epochs must see inputs as they will be"
        )
    return found


def _batch_norm_problems(train: TrainConfig, model: ModelConfig) -> list[str]:
    """Statistics that are kept must have been learnt."""
    if train.freeze_batch_norm and model.pretrained == "none":
        return ["train.freeze_batch_norm keeps what the first weights learnt, and model.pretrained=none learnt nothing"]
    return []


def _rendered_problems(data: DataConfig, rendered: RenderedConfig) -> list[str]:
    """Meshes that are to be rendered must be somewhere."""
    is_used = RENDERED in (item.source for item in data.sources) or (not data.sources and data.source == RENDERED)
    if is_used and not rendered.meshes:
        return [f"a source is {RENDERED!r}: rendered.meshes must name the folder of its GLB files"]
    return []


def _source_problems(data: DataConfig) -> list[str]:
    """What keeps several sources from being told apart, or their shares from being kept."""
    found = []
    if data.source != SYNTHETIC:
        found.append(
            f"source={data.source} and sources are given: leave source at {SYNTHETIC!r}, its default, or move it into "
            "sources"
        )
    total = math.fsum(item.share for item in data.sources)
    if abs(total - 1) > SHARE_TOLERANCE:
        found.append(f"the shares of sources add up to {total:g}, and must add up to 1")
    paths = Counter(os.path.normpath(item.source) for item in data.sources)
    found += [f"sources name {path} twice: give it once, with both shares" for path, num in paths.items() if num > 1]
    labels = Counter(item.label for item in data.sources)
    found += [f"two sources are called {label!r}: give them a name each" for label, num in labels.items() if num > 1]
    found += [f"source {item.source}: give it a name" for item in data.sources if not item.label]
    return found

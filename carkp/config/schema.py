"""The typed configuration of an experiment. Every default lives here, once.

Lengths of time are epochs, sizes are (height, width), everything else names its unit.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

PositiveInt = Annotated[int, Field(gt=0)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]
Probability = Annotated[float, Field(ge=0, le=1)]
Percentile = Annotated[float, Field(gt=50, le=100)]
ObserverKind = Literal["percentile", "minmax", "mse", "entropy"]
Size = tuple[PositiveInt, PositiveInt]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SyntheticConfig(_Section):
    """The generated data set; read only where ``data.source`` is ``synthetic``."""

    num_train_cars: PositiveInt = 8000
    num_val_cars: PositiveInt = 800
    num_test_cars: PositiveInt = 800
    image_size: Size = (720, 1280)
    seed: NonNegativeInt = 0


class DataConfig(_Section):
    """Where samples come from and how they are stored."""

    source: Annotated[str, Field(min_length=1, description="'synthetic' or the path of CarFusion data")] = "synthetic"
    root: Annotated[str, Field(min_length=1, description="directory of prepared data")] = "data"
    val_scenes: tuple[str, ...] = ("car_craig2",)
    jpeg_quality: Annotated[int, Field(ge=1, le=100)] = 95
    num_workers: Annotated[int, Field(ge=0, description="processes that prepare data; 0: one a core")] = 0


class ModelConfig(_Section):
    """The network."""

    backbone: str = "tf_efficientnet_lite0"
    pretrained: Annotated[str, Field(description="auto, timm, package, none, or a file")] = "auto"
    activation: Literal["default", "relu6", "relu"] = "default"
    input_size: Size = (128, 128)
    head_channels: PositiveInt = 128
    drop_path_rate: Probability = 0.0

    @model_validator(mode="after")
    def _input_fits_the_strides(self) -> "ModelConfig":
        if any(extent % 32 for extent in self.input_size):
            raise ValueError(f"input_size must be multiples of 32, got {self.input_size}")
        return self


class HeatmapConfig(_Section):
    """Targets, loss weights and decoder."""

    sigma: Annotated[PositiveFloat, Field(description="in heatmap cells")] = 1.0
    decoder: Literal["averaged", "dark"] = "averaged"
    window: Annotated[Literal["auto"] | PositiveInt, Field(description="cells; auto ties it to sigma")] = "auto"
    background_weight: NonNegativeFloat = 0.1


class AugmentConfig(_Section):
    """Training augmentation. The defaults are the reference's; the others are off."""

    flip_probability: Probability = 0.5
    random_padding: bool = True
    noise_probability: Probability = 0.2
    noise_sigma: NonNegativeFloat = 2.0
    min_scale: Annotated[float, Field(gt=0, le=1, description="smallest random down-scaling")] = 1.0
    max_scale: Annotated[float, Field(ge=1, description="largest random zoom")] = 1.0
    max_translation: Annotated[float, Field(ge=0, lt=1, description="share of the input extent")] = 0.0
    max_rotation_deg: Annotated[float, Field(ge=0, le=180)] = 0.0
    color_jitter: Annotated[float, Field(ge=0, le=1, description="strength of all colour changes")] = 0.0
    grayscale_probability: Probability = 0.0
    blur_probability: Probability = 0.0
    erase_probability: Probability = 0.0


class TrainConfig(_Section):
    """Float training."""

    epochs: PositiveInt = 30
    batch_size: Annotated[PositiveInt, Field(description="samples a process and step")] = 32
    num_samples: Annotated[
        NonNegativeInt, Field(description="of the training split, a random choice by the seed; 0: all")
    ] = 0
    lr: PositiveFloat = 1.0e-3
    weight_decay: NonNegativeFloat = 5.0e-2
    warmup_epochs: NonNegativeFloat = 0.0
    grad_clip: Annotated[float, Field(ge=0, description="gradient norm; 0: no clipping")] = 0.0
    ema_decay: Annotated[float, Field(ge=0, lt=1, description="0: no moving average of the weights")] = 0.0
    channels_last: bool = True
    compile: Annotated[
        bool, Field(description="torch.compile: needs a C++ compiler, pays from some 30,000 samples on")
    ] = False
    precision: Annotated[
        Literal["auto", "float32", "bfloat16"], Field(description="auto: bfloat16 on CUDA, float32 elsewhere")
    ] = "auto"
    nproc: Annotated[PositiveInt, Field(description="training processes under torchrun")] = 1
    num_workers: Annotated[NonNegativeInt, Field(description="loader processes a training process")] = 2
    num_threads: Annotated[NonNegativeInt, Field(description="torch threads a process; 0: torch's choice")] = 0


class EvalConfig(_Section):
    """Scoring."""

    alpha: Annotated[PositiveFloat, Field(description="PCK threshold as a share of the reference length")] = 0.1
    batch_size: PositiveInt = 64


class ObserverRule(_Section):
    """Another observer for some tensors: those whose name matches ``tensors``, a shell pattern. The last rule wins."""

    tensors: Annotated[str, Field(min_length=1, description="shell pattern, such as head/* or backbone/blocks/5/*")]
    observer: ObserverKind
    percentile: Percentile | None = None


class QuantConfig(_Section):
    """Calibration. The defaults are the reference's arithmetic."""

    target: Annotated[str, Field(description="file of configs/targets without .yaml, or a path")] = "bpu"
    observer: ObserverKind = "percentile"
    percentile: Annotated[Percentile, Field(description="of |x|, where the observer is percentile")] = 99.975
    rules: tuple[ObserverRule, ...] = ()
    weights: Annotated[
        Literal["target", "per_channel", "per_tensor"], Field(description="granularity of weight scales")
    ] = "target"
    bias_correction: bool = False
    num_images: Annotated[PositiveInt, Field(description="training crops under validation transforms")] = 512
    batch_size: PositiveInt = 32
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
    grad_clip: Annotated[float, Field(ge=0, description="gradient norm; 0: no clipping")] = 0.0


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

    system_metrics_interval_s: PositiveFloat = 10.0
    num_kept_crops: Annotated[PositiveInt, Field(description="worst and median crops each in crops.zip")] = 64


class ExperimentConfig(_Section):
    """Everything that decides a result."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")] = "carkp"
    seed: NonNegativeInt = 0
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

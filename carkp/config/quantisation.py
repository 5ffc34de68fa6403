"""Settings of calibration and of quantisation-aware training."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from carkp.config.training import GradClip, LearningRate, NumEpochs, WarmupEpochs, WeightDecay
from carkp.config.values import (
    BatchSize,
    NonNegativeInt,
    Percentile,
    PositiveFloat,
    PositiveInt,
    Probability,
    Section,
    Text,
    require_warmup_within,
)

ObserverKind = Literal["percentile", "minmax", "mse", "entropy"]


class ObserverRule(Section):
    """Another observer for some tensors: those whose name matches ``tensors``, a shell pattern. The last rule wins."""

    tensors: Annotated[
        str, Field(min_length=1, description="Shell pattern of tensor names, such as head/* or backbone/blocks/5/*.")
    ]
    observer: Annotated[
        ObserverKind,
        Field(description="Method that chooses the clipping threshold of these tensors, instead of quant.observer."),
    ]
    percentile: Annotated[
        Percentile | None,
        Field(
            description="Percentile of |x| for these tensors, if their observer is percentile. Not given: "
            "quant.percentile."
        ),
    ] = None

    @model_validator(mode="after")
    def _percentile_is_used(self) -> Self:
        if self.percentile is not None and self.observer != "percentile":
            raise ValueError(
                f"the observer {self.observer} uses no percentile: remove it, or use the observer percentile"
            )
        return self


class QuantConfig(Section):
    """Calibration. The defaults are the reference's arithmetic."""

    target: Annotated[
        Text,
        Field(
            description="Hardware whose arithmetic is used: a file in configs/targets without .yaml, or the path of a "
            "YAML file."
        ),
    ] = "bpu"
    observer: Annotated[
        ObserverKind,
        Field(
            description="Method that chooses the clipping threshold of a tensor. percentile: a percentile of |x|; "
            "minmax: the largest |x|; mse: the least squared error; entropy: the least change of the distribution."
        ),
    ] = "percentile"
    percentile: Annotated[
        Percentile, Field(description="Percentile of |x| at which the observer percentile clips. 100: the largest |x|.")
    ] = 99.975
    rules: Annotated[
        tuple[ObserverRule, ...],
        Field(
            description="Other observers for tensors by name. The last rule that matches a tensor counts; empty: "
            "quant.observer for all."
        ),
    ] = ()
    weights: Annotated[
        Literal["target", "per_channel", "per_tensor"],
        Field(
            description="Whether weights have a scale for every output channel or one for the whole tensor. target: "
            "as the target's file says."
        ),
    ] = "target"
    equalise: Annotated[
        bool,
        Field(
            description="Whether the channels between two convolutions get ranges of similar size, before all other "
            "steps."
        ),
    ] = False
    rounding: Annotated[
        Literal["nearest", "sums", "second_moments"],
        Field(
            description="How weights are rounded. nearest: to the nearest value; sums: so that depthwise filters keep "
            "their sums; second_moments: so that every layer's output changes least."
        ),
    ] = "nearest"
    num_rounding_images: Annotated[
        PositiveInt, Field(description="Number of training crops that the rounding second_moments uses.")
    ] = 64
    bias_correction: Annotated[bool, Field(description="Whether biases correct the mean error of rounded weights.")] = (
        False
    )
    int16: Annotated[
        tuple[Text, ...],
        Field(
            description="Tensors that get 16 bits on targets that support it: names in scales.json, or patterns of "
            "names. Empty: none. The stage precision finds the fewest that are needed."
        ),
    ] = ()
    max_loss: Annotated[
        Probability,
        Field(
            description="Largest expected loss of validation PCK, compared with float, that the stage precision "
            "accepts, at quant.loss_alpha. 0.01: one point."
        ),
    ] = 0.001
    loss_alpha: Annotated[
        PositiveFloat,
        Field(description="Threshold of PCK for quant.max_loss. A share of the reference length, like eval.alpha."),
    ] = 0.02
    num_images: Annotated[
        PositiveInt,
        Field(
            description="Number of training crops for calibration. The seed chooses them at random. They are not "
            "augmented."
        ),
    ] = 512
    batch_size: Annotated[BatchSize, Field(description="Crops in one batch of calibration.")] = 32
    num_sqnr_images: Annotated[
        PositiveInt,
        Field(
            description="Number of training crops on which the noise of each layer is measured and the stage precision "
            "ranks tensors."
        ),
    ] = 64
    sweep: Annotated[
        tuple[Percentile, ...],
        Field(
            description="Percentiles that calibration tries; a table lists the validation PCK of each. Empty: none "
            "are tried."
        ),
    ] = (99.0, 99.9, 99.95, 99.975, 99.99, 99.999, 100.0)
    num_sweep_images: Annotated[
        NonNegativeInt,
        Field(description="Validation crops that each percentile of the sweep is scored on. 0: all of them."),
    ] = 256


class QatConfig(Section):
    """Quantisation-aware training: as float training, but for these."""

    epochs: NumEpochs = 1
    lr: LearningRate = 1.0e-4
    weight_decay: WeightDecay = 0.0
    warmup_epochs: WarmupEpochs = 0.1
    grad_clip: GradClip = 0.0

    @model_validator(mode="after")
    def _warms_up_in_time(self) -> Self:
        require_warmup_within(self.warmup_epochs, self.epochs)
        return self

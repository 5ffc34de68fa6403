"""Settings of calibration and of quantisation-aware training."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from carkp.config.values import (
    BatchSize,
    Float,
    NonNegativeFloat,
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

    tensors: Annotated[str, Field(min_length=1, description="shell pattern, such as head/* or backbone/blocks/5/*")]
    observer: ObserverKind
    percentile: Percentile | None = None

    @model_validator(mode="after")
    def _percentile_is_used(self) -> Self:
        if self.percentile is not None and self.observer != "percentile":
            raise ValueError(f"the observer {self.observer} uses no percentile: leave it out, or take percentile")
        return self


class QuantConfig(Section):
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


class QatConfig(Section):
    """Quantisation-aware training: as float training, but for these."""

    epochs: PositiveInt = 1
    lr: PositiveFloat = 1.0e-4
    weight_decay: NonNegativeFloat = 0.0
    warmup_epochs: NonNegativeFloat = 0.1
    grad_clip: Annotated[Float, Field(ge=0, description="gradient norm; 0: no clipping")] = 0.0

    @model_validator(mode="after")
    def _warms_up_in_time(self) -> Self:
        require_warmup_within(self.warmup_epochs, self.epochs)
        return self

"""Settings of the adaptation of a model to a user's own pictures."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from carkp.config.training import AugmentConfig
from carkp.config.values import (
    Float,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    Probability,
    Section,
    require_warmup_within,
)


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


class AdaptConfig(Section):
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
        require_warmup_within(self.warmup_epochs, self.epochs)
        return self

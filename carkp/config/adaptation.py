"""Settings of the adaptation of a model to a user's own pictures."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from carkp.config.training import (
    AugmentConfig,
    BlurProbability,
    ColorJitter,
    EraseProbability,
    GrayscaleProbability,
    LearningRate,
    MaxRotationDeg,
    MaxScale,
    MaxTranslation,
    MinScale,
    WarmupEpochs,
)
from carkp.config.values import (
    Float,
    NonNegativeFloat,
    PositiveInt,
    Probability,
    Section,
    require_warmup_within,
)


class StrongAugmentConfig(AugmentConfig):
    """As ``augment``, and strong: what a model learns from its own labels, and is held to."""

    min_scale: MinScale = 0.75
    max_scale: MaxScale = 1.3
    max_translation: MaxTranslation = 0.08
    max_rotation_deg: MaxRotationDeg = 8.0
    color_jitter: ColorJitter = 0.4
    grayscale_probability: GrayscaleProbability = 0.1
    blur_probability: BlurProbability = 0.2
    erase_probability: EraseProbability = 0.2


class AdaptConfig(Section):
    """Adaptation to a user's own pictures: as float training, but for these."""

    epochs: Annotated[PositiveInt, Field(description="Number of epochs. The model after the last epoch is kept.")] = 5
    steps_per_epoch: Annotated[
        PositiveInt, Field(description="Batches per epoch. The number of cars does not change it.")
    ] = 100
    lr: LearningRate = 2.0e-4
    warmup_epochs: WarmupEpochs = 0.5
    target_share: Annotated[
        Float,
        Field(
            gt=0,
            lt=1,
            description="Share of the user's cars in every batch. The rest comes from the configuration's data.",
        ),
    ] = 0.5
    ema_decay: Annotated[
        Float,
        Field(
            gt=0,
            lt=1,
            description="Decay per step of the moving average of the weights. This average labels the unlabelled cars "
            "and is the result.",
        ),
    ] = 0.99
    min_confidence: Annotated[
        Probability,
        Field(
            description="Height of a heatmap's peak. A keypoint that the model itself labels is not used in training "
            "if its peak is lower."
        ),
    ] = 0.5
    unlabelled_weight: Annotated[
        NonNegativeFloat,
        Field(description="Weight in the loss of labels that the model makes itself. Given labels have weight 1."),
    ] = 1.0
    holdout_share: Annotated[
        Float,
        Field(
            ge=0,
            lt=1,
            description="Share of the user's cars that are held out of training to measure the result, in whole "
            "pictures. 0: none.",
        ),
    ] = 0.2
    num_holdout_views: Annotated[
        PositiveInt,
        Field(
            description="Number of strongly augmented views of each held-out car. The model must find the same "
            "keypoints in them."
        ),
    ] = 4
    max_loss_on_generated: Annotated[
        Probability,
        Field(
            description="Largest allowed drop of validation PCK on the configuration's data. A model that drops more "
            "is refused; 0.01 is one point."
        ),
    ] = 0.01
    augment: StrongAugmentConfig = StrongAugmentConfig()

    @model_validator(mode="after")
    def _warms_up_in_time(self) -> Self:
        require_warmup_within(self.warmup_epochs, self.epochs)
        return self

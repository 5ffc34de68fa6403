"""Settings of the network and of its heatmaps."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from carkp.config.values import Float, Int, PositiveInt, Section, Sigma, StrideSize, Text


def _odd(value: Any) -> Any:
    if isinstance(value, int) and value % 2 == 0:
        raise ValueError(f"must be odd, so that it has a middle cell; {value - 1} and {value + 1} are")
    return value


OddInt = Annotated[PositiveInt, AfterValidator(_odd)]


class ModelConfig(Section):
    """The network."""

    backbone: Annotated[
        str,
        Field(
            min_length=1,
            description="Name of a network of timm, or efficientnet_b0_nose_relu: EfficientNet-B0 without "
            "squeeze-and-excitation, with ReLU.",
        ),
    ] = "tf_efficientnet_lite0"
    pretrained: Annotated[
        Text,
        Field(
            description="Initial weights. timm: from its hub; package: from a Python package; auto: from the hub if it "
            "answers, else from a package; carkp-car12: from the model that comes with carkp; none: random weights; or "
            "the path of a file."
        ),
    ] = "auto"
    activation: Annotated[
        Literal["default", "relu6", "relu"],
        Field(description="Activation function of the backbone. default: the one of the backbone's design."),
    ] = "default"
    input_size: Annotated[
        StrideSize, Field(description="Height and width of the network's input in pixels, both multiples of 32.")
    ] = (128, 128)
    head_channels: Annotated[
        Int, Field(gt=0, le=8192, description="Output channels of each transposed convolution of the head.")
    ] = 128
    drop_path_rate: Annotated[
        Float,
        Field(
            ge=0,
            lt=1,
            description="Probability that training skips the last residual block; earlier blocks are skipped less "
            "often. 0: none is skipped.",
        ),
    ] = 0.0


class HeatmapConfig(Section):
    """Targets, loss weights and decoder."""

    sigma: Annotated[
        Sigma, Field(description="Standard deviation of a target's Gaussian, in heatmap cells of 4 input pixels.")
    ] = 1.0
    decoder: Annotated[
        Literal["averaged", "dark"],
        Field(
            description="How a peak is decoded to a point. averaged: the centre of mass around the peak; dark: a "
            "Taylor step on the logarithm of the smoothed map."
        ),
    ] = "averaged"
    window: Annotated[
        Literal["auto"] | OddInt,
        Field(
            description="Edge of the square that the decoder averaged uses, in heatmap cells. An odd number; "
            "auto: two sigmas to each side."
        ),
    ] = "auto"
    background_weight: Annotated[
        Float,
        Field(
            ge=0,
            le=1000,
            description="Weight in the loss of heatmap cells farther than three sigmas from the keypoint. Nearer cells "
            "have weight 1.",
        ),
    ] = 0.1

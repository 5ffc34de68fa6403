"""Settings of the network, and of the heatmaps that it gives."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from carkp.config.values import Float, Int, PositiveInt, Section, Sigma, StrideSize, Text


def _odd(value: Any) -> Any:
    if isinstance(value, int) and value % 2 == 0:
        raise ValueError(f"must be odd, so that it has a middle cell; {value - 1} and {value + 1} are")
    return value


class ModelConfig(Section):
    """The network."""

    backbone: Annotated[str, Field(min_length=1)] = "tf_efficientnet_lite0"
    pretrained: Annotated[
        Text, Field(description="auto, timm, package, none, carkp-car12 (the model that comes with carkp), or a file")
    ] = "auto"
    activation: Literal["default", "relu6", "relu"] = "default"
    input_size: StrideSize = (128, 128)
    head_channels: Annotated[Int, Field(gt=0, le=8192)] = 128
    drop_path_rate: Annotated[Float, Field(ge=0, lt=1)] = 0.0


class HeatmapConfig(Section):
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

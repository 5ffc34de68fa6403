"""Settings of what is measured: scores, alignment, benchmarks, and what a run keeps of them."""

from typing import Annotated

from pydantic import Field

from carkp.config.values import BatchSize, Float, Int, PositiveFloat, PositiveInt, Probability, Section


class EvalConfig(Section):
    """Scoring."""

    alpha: Annotated[Float, Field(gt=0, le=10, description="PCK threshold as a share of the reference length")] = 0.1
    batch_size: BatchSize = 64


class AlignConfig(Section):
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


class BenchmarkConfig(Section):
    """How long ``benchmark`` times the runtimes in each of its settings: until either is reached."""

    num_rounds: Annotated[Int, Field(ge=2, description="in a round every runtime runs once")] = 200
    max_seconds: PositiveFloat = 20.0


class TrackingConfig(Section):
    """What a run keeps."""

    system_metrics_interval_s: Annotated[Float, Field(ge=0.1)] = 10.0
    num_kept_crops: Annotated[PositiveInt, Field(description="worst and median crops each in crops.zip")] = 64

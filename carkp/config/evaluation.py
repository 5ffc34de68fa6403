"""Settings of measurements: scores, alignment, benchmarks, and what a run keeps of them."""

from typing import Annotated

from pydantic import Field

from carkp.config.values import BatchSize, Float, Int, PositiveFloat, PositiveInt, Probability, Section


class EvalConfig(Section):
    """Scoring."""

    alpha: Annotated[
        Float,
        Field(
            gt=0,
            le=10,
            description="Threshold of PCK, as a share of the car's reference length. A keypoint nearer than that "
            "counts as found.",
        ),
    ] = 0.1
    batch_size: Annotated[BatchSize, Field(description="Crops that a process scores at once.")] = 64


class AlignConfig(Section):
    """What the executions of an int8 program may differ by before ``align`` fails.

    The simulator with ONNX Runtime's requantisation must equal ONNX Runtime exactly. These limits are for two other
    comparisons: the target's own requantisation against ONNX Runtime, and fake quantisation, which calibration uses,
    against the simulator.
    """

    max_moved_share: Annotated[
        Probability,
        Field(
            description="Largest share of keypoints that may lie further apart than align.moved_px between the "
            "simulator and ONNX Runtime."
        ),
    ] = 0.05
    moved_px: Annotated[
        PositiveFloat, Field(description="Distance in input pixels. A keypoint that lies further off counts as moved.")
    ] = 0.5
    max_pck_difference: Annotated[
        Probability,
        Field(
            description="Largest difference of PCK between the simulator and ONNX Runtime, in either direction. 0.01: "
            "one point."
        ),
    ] = 0.005
    max_loss_difference: Annotated[
        Probability,
        Field(
            description="Largest difference of the expected loss of PCK between fake quantisation and the simulator, "
            "at eval.alpha and at align.loss_alpha. 0.01: one point."
        ),
    ] = 0.0005
    loss_alpha: Annotated[
        PositiveFloat,
        Field(
            description="Second threshold of PCK at which align and benchmark compare losses. A share of the "
            "reference length, as eval.alpha."
        ),
    ] = 0.02
    max_shift_steps: Annotated[
        PositiveFloat,
        Field(
            description="Largest difference between how far fake quantisation and the simulator move keypoints from "
            "float in the mean. The unit is what one step of the heatmap's grid moves them by."
        ),
    ] = 1.0
    max_heatmap_lsb: Annotated[
        PositiveInt,
        Field(
            description="Largest difference of a heatmap element between the simulator and ONNX Runtime, in steps of "
            "an 8-bit grid."
        ),
    ] = 16
    num_kernel_crops: Annotated[
        PositiveInt,
        Field(
            description="Number of test crops, from the first on, on which LiteRT's kernels are held against the "
            "simulator."
        ),
    ] = 16
    max_fake_quant_lsb: Annotated[
        PositiveInt,
        Field(
            description="Largest difference of a heatmap element between fake quantisation and the simulator, in "
            "steps of an 8-bit grid."
        ),
    ] = 32


class BenchmarkConfig(Section):
    """How long ``benchmark`` times the runtimes in each of its settings: until either is reached."""

    num_rounds: Annotated[
        Int,
        Field(
            ge=2, description="Most rounds in each setting of batch and threads. In a round every runtime runs once."
        ),
    ] = 200
    max_seconds: Annotated[
        PositiveFloat,
        Field(
            description="Time in seconds after which a setting begins no new round. Two rounds are made in any case."
        ),
    ] = 20.0


class TrackingConfig(Section):
    """What a run keeps."""

    system_metrics_interval_s: Annotated[
        Float,
        Field(ge=0.1, description="Seconds between two records of what processor, memory and disk do during a run."),
    ] = 10.0
    wait_s: Annotated[
        Float,
        Field(
            ge=1,
            description="Seconds that the start of a stage waits for a tracking server that does not answer, before it "
            "fails; the end of a stage waits as long to send what an outage has held back.",
        ),
    ] = 30.0
    num_kept_crops: Annotated[
        PositiveInt,
        Field(description="Crops that a run keeps as pictures: so many of the worst, and so many around the median."),
    ] = 64

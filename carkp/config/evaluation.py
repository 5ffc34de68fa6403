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
            description="Threshold of PCK, as a share of the car's reference length. A keypoint with a smaller error "
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
            description="Largest allowed share of keypoints that differ by more than align.moved_px between the "
            "simulator and ONNX Runtime."
        ),
    ] = 0.05
    moved_px: Annotated[
        PositiveFloat, Field(description="Distance in input pixels. A keypoint that differs by more counts as moved.")
    ] = 0.5
    max_pck_difference: Annotated[
        Probability,
        Field(
            description="Largest allowed difference of PCK between the simulator and ONNX Runtime, in either "
            "direction. 0.01: one point."
        ),
    ] = 0.005
    max_loss_difference: Annotated[
        Probability,
        Field(
            description="Largest allowed difference of the expected loss of PCK between fake quantisation and the "
            "simulator, at eval.alpha and at align.loss_alpha. 0.01: one point."
        ),
    ] = 0.0005
    loss_alpha: Annotated[
        PositiveFloat,
        Field(
            description="Second threshold of PCK at which align and benchmark compare losses. A share of the "
            "reference length, like eval.alpha."
        ),
    ] = 0.02
    max_shift_steps: Annotated[
        PositiveFloat,
        Field(
            description="Largest allowed difference between the mean distances by which fake quantisation and the "
            "simulator move keypoints from float; each distance counts as one cell of the heatmap at most. The unit is "
            "the distance by which one step of the heatmap's grid moves them."
        ),
    ] = 1.0
    max_heatmap_lsb: Annotated[
        PositiveInt,
        Field(
            description="Largest allowed difference of a heatmap element between the simulator and ONNX Runtime, in "
            "steps of an 8-bit grid."
        ),
    ] = 32
    num_kernel_crops: Annotated[
        PositiveInt,
        Field(
            description="Number of test crops, from the first on, on which LiteRT's kernels are compared with the "
            "simulator."
        ),
    ] = 16
    max_fake_quant_lsb: Annotated[
        PositiveInt,
        Field(
            description="Largest allowed difference of a heatmap element between fake quantisation and the simulator, "
            "in steps of an 8-bit grid."
        ),
    ] = 32


class BenchmarkConfig(Section):
    """How long ``benchmark`` times the runtimes in each of its settings: until either is reached."""

    num_rounds: Annotated[
        Int,
        Field(
            ge=2,
            description="Maximum number of rounds for each setting of batch and threads. In a round every runtime runs "
            "once.",
        ),
    ] = 200
    max_seconds: Annotated[
        PositiveFloat,
        Field(
            description="Time in seconds after which a setting starts no new round. It always does at least two rounds."
        ),
    ] = 20.0


class TrackingConfig(Section):
    """What a run keeps."""

    system_metrics_interval_s: Annotated[
        Float,
        Field(ge=0.1, description="Seconds between two records of processor, memory and disk use during a run."),
    ] = 10.0
    wait_s: Annotated[
        Float,
        Field(
            ge=1,
            description="Seconds that the start of a stage waits for a tracking server that does not answer, before it "
            "fails. At its end, a stage waits equally long to send reports that were kept during an outage.",
        ),
    ] = 30.0
    num_kept_crops: Annotated[
        PositiveInt,
        Field(
            description="Number of crops that a run keeps as pictures: this many of the worst, and this many around "
            "the median."
        ),
    ] = 64

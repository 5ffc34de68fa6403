"""Settings of float training and its augmentation."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from carkp.config.values import (
    MAX_PROCESSES,
    BatchSize,
    Float,
    Int,
    NonNegativeFloat,
    NonNegativeInt,
    NumProcesses,
    OptionalText,
    PositiveFloat,
    PositiveInt,
    Probability,
    Section,
    StrideSize,
    Text,
    require_warmup_within,
)

# Settings that several sections share, with a default in each section.
MinScale = Annotated[
    Float,
    Field(
        ge=0.01,
        le=1,
        description="Smallest random factor on the size at which a crop just fits the input. 1: no crop is made "
        "smaller.",
    ),
]
MaxScale = Annotated[
    Float,
    Field(
        ge=1,
        le=100,
        description="Largest random factor on the size at which a crop just fits the input; parts outside the input "
        "are cut off. 1: no crop is made larger.",
    ),
]
MaxTranslation = Annotated[
    Float,
    Field(ge=0, lt=1, description="Largest random shift, as a share of the input's height and width. 0: no shift."),
]
MaxRotationDeg = Annotated[
    Float, Field(ge=0, le=180, description="Largest random rotation to either side, in degrees. 0: no rotation.")
]
ColorJitter = Annotated[
    Float,
    Field(
        ge=0,
        le=1,
        description="Strength of random changes of brightness, contrast, saturation, hue and white balance. 0: no "
        "change.",
    ),
]
GrayscaleProbability = Annotated[Probability, Field(description="Probability of removing all colour.")]
BlurProbability = Annotated[Probability, Field(description="Probability of blurring the picture by a random width.")]
EraseProbability = Annotated[
    Probability,
    Field(
        description="Probability of covering a rectangle with one colour or another part of the crop. Keypoints "
        "under it stay labelled."
    ),
]
NumEpochs = Annotated[PositiveInt, Field(description="Number of epochs; the learning rate schedule spans all of them.")]
LearningRate = Annotated[
    PositiveFloat,
    Field(description="Highest learning rate of AdamW, at the end of the warm-up. It then falls to 0 along a cosine."),
]
WeightDecay = Annotated[NonNegativeFloat, Field(description="Decoupled weight decay of AdamW. 0: no decay.")]
WarmupEpochs = Annotated[
    NonNegativeFloat,
    Field(
        description="Warm-up in epochs, also fractions, in which the learning rate rises to its highest value. 0: it "
        "starts there."
    ),
]
GradClip = Annotated[
    Float, Field(ge=0, description="Largest norm of the gradient; a larger one is scaled down. 0: no limit.")
]


class AugmentConfig(Section):
    """Training augmentation. The defaults are the reference's; the others are off."""

    flip_probability: Annotated[Probability, Field(description="Probability of mirroring a crop left to right.")] = 0.5
    random_padding: Annotated[
        bool, Field(description="Whether a crop lies at a random place in the input. false: top left.")
    ] = True
    noise_probability: Annotated[
        Probability, Field(description="Probability of adding Gaussian noise to the picture.")
    ] = 0.2
    noise_sigma: Annotated[
        Float, Field(ge=0, le=255, description="Standard deviation of the noise, in grey levels from 0 to 255.")
    ] = 2.0
    eval_placement_probability: Annotated[
        Probability,
        Field(
            description="Probability of placing a crop as in evaluation: it fits the input exactly and lies top left, "
            "without random padding, scale, shift and rotation."
        ),
    ] = 0.0
    min_scale: MinScale = 1.0
    max_scale: MaxScale = 1.0
    max_translation: MaxTranslation = 0.0
    max_rotation_deg: MaxRotationDeg = 0.0
    color_jitter: ColorJitter = 0.0
    grayscale_probability: GrayscaleProbability = 0.0
    gamma: Annotated[
        Float,
        Field(
            ge=0,
            le=2,
            description="Largest random change of the tone curve: its exponent lies from e^-gamma to e^gamma. 0: no "
            "change.",
        ),
    ] = 0.0
    shade_probability: Annotated[
        Probability, Field(description="Probability of a shadow with a straight edge over part of the crop.")
    ] = 0.0
    blur_probability: BlurProbability = 0.0
    resolution_probability: Annotated[
        Probability, Field(description="Probability of scaling the picture down and up again.")
    ] = 0.0
    jpeg_probability: Annotated[
        Probability, Field(description="Probability of compressing the picture strongly, as JPEG.")
    ] = 0.0
    erase_probability: EraseProbability = 0.0


class TrainConfig(Section):
    """Float training."""

    epochs: NumEpochs = 30
    batch_size: Annotated[BatchSize, Field(description="Samples per step in each process.")] = 32
    num_samples: Annotated[
        NonNegativeInt,
        Field(
            description="Number of training samples, which the seed chooses at random; with data.sources: samples "
            "per epoch. 0: as many as there are."
        ),
    ] = 0
    lr: LearningRate = 1.0e-3
    backbone_lr_scale: Annotated[
        Float,
        Field(ge=0, le=1, description="Factor on train.lr for the backbone. Below 1, its initial weights change less."),
    ] = 1.0
    freeze_batch_norm: Annotated[
        bool,
        Field(
            description="Whether the backbone's batch norms keep the statistics of the initial weights, so that those "
            "of generated pictures do not replace them."
        ),
    ] = False
    weight_decay: WeightDecay = 5.0e-2
    reduced_epochs: Annotated[
        NonNegativeInt,
        Field(
            description="Number of first epochs that train on inputs of train.reduced_size, which is coarser but "
            "faster. 0: none."
        ),
    ] = 0
    reduced_size: Annotated[
        StrideSize,
        Field(
            description="Height and width of reduced inputs in pixels, both multiples of 32. Used only if "
            "train.reduced_epochs is not 0."
        ),
    ] = (96, 96)
    warmup_epochs: WarmupEpochs = 0.0
    grad_clip: GradClip = 0.0
    ema_decay: Annotated[
        Float,
        Field(
            ge=0,
            lt=1,
            description="Decay per step of a moving average of the weights. The average is scored and kept. A training "
            "that starts from a trained network includes its weights in the average; any other soon forgets the first "
            "weights. 0: no average.",
        ),
    ] = 0.0
    teacher: Annotated[
        OptionalText,
        Field(
            description="Trained float model whose heatmaps are an additional target: a checkpoint, runs:/<id>, "
            "models:/…, or latest:<experiment>. Empty: no teacher."
        ),
    ] = ""
    teacher_weight: Annotated[
        PositiveFloat,
        Field(description="Weight of the teacher's term in the loss. The term of the labels has weight 1."),
    ] = 1.0
    channels_last: Annotated[
        bool,
        Field(
            description="Whether images and weights use the channels-last memory format, which is faster. false: "
            "PyTorch's usual format."
        ),
    ] = True
    compile: Annotated[
        bool,
        Field(
            description="Whether torch.compile compiles the network first. It needs a C++ compiler, and saves time "
            "from about 30,000 samples on."
        ),
    ] = False
    precision: Annotated[
        Literal["auto", "float32", "bfloat16"],
        Field(description="Number format in which training computes. auto: bfloat16 on CUDA, float32 elsewhere."),
    ] = "auto"
    nproc: Annotated[
        Int, Field(gt=0, le=MAX_PROCESSES, description="Processes that train together on this machine, under torchrun.")
    ] = 1
    nnodes: Annotated[
        Int,
        Field(
            gt=0,
            le=MAX_PROCESSES,
            description="Machines that train together, with train.nproc processes each. All start the same command.",
        ),
    ] = 1
    rdzv_endpoint: Annotated[
        OptionalText,
        Field(
            description="Address host:port on one of the machines, where they find each other. Needed if "
            "train.nnodes is above 1."
        ),
    ] = ""
    rdzv_id: Annotated[
        Text, Field(description="Name of this training among those with the same train.rdzv_endpoint.")
    ] = "carkp"
    max_restarts: Annotated[
        Int,
        Field(
            ge=0,
            le=1000,
            description="How often all processes are restarted after one has died. Float training continues from its "
            "last epoch.",
        ),
    ] = 0
    process_timeout_s: Annotated[
        PositiveFloat,
        Field(
            description="Seconds that a process waits for another one in training before all end with an "
            "error. It must be longer than the longest step or checkpoint."
        ),
    ] = 1800.0
    num_workers: Annotated[
        NumProcesses,
        Field(
            description="Processes that load samples for each process that trains or scores. 0: it loads them itself."
        ),
    ] = 2
    num_threads: Annotated[
        NumProcesses, Field(description="Threads that torch and NumPy use in a process. 0: as many as they choose.")
    ] = 0

    @model_validator(mode="after")
    def _settings_agree(self) -> Self:
        require_warmup_within(self.warmup_epochs, self.epochs)
        wanted = self.batch_size * self.nproc * self.nnodes
        if 0 < self.num_samples < wanted:
            raise ValueError(
                f"num_samples={self.num_samples} is too small for one batch of batch_size={self.batch_size} in each of "
                f"nproc={self.nproc * self.nnodes} processes: at least {wanted} are needed"
            )
        return self

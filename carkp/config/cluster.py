"""Jobs of a cluster's scheduler: configs/backend/*.yaml."""

from typing import Annotated

from pydantic import Field

from carkp.config.values import NonNegativeFloat, NonNegativeInt, OptionalText, PositiveFloat, PositiveInt, Section


class SlurmConfig(Section):
    """What Slurm is asked for, for every job."""

    partition: Annotated[OptionalText, Field(description="Queue of the cluster. Empty: its default.")] = ""
    account: Annotated[OptionalText, Field(description="Account that is charged. Empty: your default account.")] = ""
    qos: Annotated[OptionalText, Field(description="Quality of service. Empty: the default.")] = ""
    constraint: Annotated[OptionalText, Field(description="Features that a node must have. Empty: none.")] = ""
    time_min: Annotated[PositiveInt, Field(description="Time limit of a job in minutes.")] = 60
    cpus: Annotated[PositiveInt, Field(description="Cores of a job.")] = 4
    memory_gb: Annotated[NonNegativeFloat, Field(description="Memory of a job. 0: the partition's default.")] = 0.0
    gpus: Annotated[NonNegativeInt, Field(description="GPUs of a job.")] = 0
    setup: Annotated[
        tuple[str, ...], Field(description="Shell commands at the beginning of a job, such as `module load cuda`.")
    ] = ()
    options: Annotated[
        dict[str, str | int | bool],
        Field(description="More options of sbatch, without the dashes; true is an option without a value."),
    ] = Field(default_factory=dict)
    poll_s: Annotated[PositiveFloat, Field(description="Seconds between two checks of the jobs and their output.")] = (
        5.0
    )
    patience_min: Annotated[
        PositiveFloat,
        Field(description="Minutes without an answer from Slurm's controller before carkp gives up."),
    ] = 30.0

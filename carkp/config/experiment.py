"""The whole configuration of an experiment, and the checks across its sections."""

import math
from typing import Annotated, Self

from pydantic import Field, model_validator

from carkp.config.adaptation import AdaptConfig
from carkp.config.data import RENDERED, SYNTHETIC, DataConfig, RenderedConfig, SyntheticConfig
from carkp.config.evaluation import AlignConfig, BenchmarkConfig, EvalConfig, TrackingConfig
from carkp.config.model import HeatmapConfig, ModelConfig
from carkp.config.quantisation import QatConfig, QuantConfig
from carkp.config.training import AugmentConfig, TrainConfig
from carkp.config.values import HEATMAP_STRIDE, STRIDE, Section, Seed


class ExperimentConfig(Section):
    """Everything that decides a result."""

    name: Annotated[
        str,
        Field(
            pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$",
            max_length=200,
            description="Experiment that runs belong to; latest searches in runs of this experiment. Letters, digits, "
            "dots, hyphens and underscores.",
        ),
    ] = "carkp"
    seed: Annotated[
        Seed,
        Field(
            description="Seed of all random numbers except those of generated pictures. On one machine the same seed "
            "gives the same numbers on a CPU."
        ),
    ] = 0
    data: DataConfig = DataConfig()
    synthetic: SyntheticConfig = SyntheticConfig()
    rendered: RenderedConfig = RenderedConfig()
    model: ModelConfig = ModelConfig()
    heatmap: HeatmapConfig = HeatmapConfig()
    augment: AugmentConfig = AugmentConfig()
    train: TrainConfig = TrainConfig()
    eval: EvalConfig = EvalConfig()
    quant: QuantConfig = QuantConfig()
    qat: QatConfig = QatConfig()
    adapt: AdaptConfig = AdaptConfig()
    align: AlignConfig = AlignConfig()
    benchmark: BenchmarkConfig = BenchmarkConfig()
    tracking: TrackingConfig = TrackingConfig()

    @model_validator(mode="after")
    def _sections_agree(self) -> Self:
        problems = [
            *_heatmap_problems(self.heatmap, self.model),
            *_batch_problems(self),
            *_reduction_problems(self.train, self.model),
            *_batch_norm_problems(self.train, self.model),
            *_rendered_problems(self.data, self.rendered),
        ]
        if problems:
            raise ValueError("; ".join(problems))
        return self


def _heatmap_problems(heatmap: HeatmapConfig, model: ModelConfig) -> list[str]:
    """List settings that do not fit the size of the heatmap."""
    cells = max(model.input_size) // HEATMAP_STRIDE
    found = []
    if heatmap.sigma > cells:
        found.append(f"heatmap.sigma={heatmap.sigma:g} is more than the heatmap's {cells} cells (model.input_size / 4)")
    if isinstance(heatmap.window, int) and heatmap.window > 2 * cells - 1:
        found.append(
            f"heatmap.window={heatmap.window} reaches beyond the heatmap: {2 * cells - 1} covers it from any cell"
        )
    return found


def _batch_problems(config: ExperimentConfig) -> list[str]:
    """List what batch norm and the sampler would refuse when training starts."""
    train = config.train
    found = []
    if train.batch_size == 1 and math.prod(config.model.input_size) == STRIDE**2:
        found.append(
            "train.batch_size=1 gives batch norm a single value if model.input_size is [32, 32]: set at least 2"
        )
    num_processes = train.nproc * train.nnodes
    wanted = train.batch_size * num_processes
    sections: dict[str, SyntheticConfig | RenderedConfig] = {SYNTHETIC: config.synthetic, RENDERED: config.rendered}
    section = sections.get(config.data.source) if config.data.is_generated else None
    if section is not None and section.num_train_cars < wanted:
        found.append(
            f"{config.data.source}.num_train_cars={section.num_train_cars} is too small for one "
            f"batch of train.batch_size={train.batch_size} in each of train.nproc={num_processes} processes: at least "
            f"{wanted} are needed"
        )
    return found


def _reduction_problems(train: TrainConfig, model: ModelConfig) -> list[str]:
    """List problems of reduced inputs: they must be smaller, and an epoch with whole inputs must follow."""
    if train.reduced_epochs == 0:
        return []
    found = []
    if any(small > whole for small, whole in zip(train.reduced_size, model.input_size, strict=True)):
        found.append(
            f"train.reduced_size={list(train.reduced_size)} must not be larger than "
            f"model.input_size={list(model.input_size)}"
        )
    if train.reduced_epochs >= train.epochs:
        found.append(
            f"train.reduced_epochs={train.reduced_epochs} must be less than train.epochs={train.epochs}: the last "
            "epochs must train on inputs of full size"
        )
    return found


def _batch_norm_problems(train: TrainConfig, model: ModelConfig) -> list[str]:
    """List problems of frozen batch norm: statistics that are kept must have been learnt."""
    if train.freeze_batch_norm and model.pretrained == "none":
        return [
            "train.freeze_batch_norm keeps the statistics of the initial weights, but model.pretrained=none has none "
            "to keep"
        ]
    return []


def _rendered_problems(data: DataConfig, rendered: RenderedConfig) -> list[str]:
    """List problems of rendered sources: the folder of their meshes must be given."""
    is_used = RENDERED in (item.source for item in data.sources) or (not data.sources and data.source == RENDERED)
    if is_used and not rendered.meshes:
        return [f"a source is {RENDERED!r}: rendered.meshes must name the folder of its GLB files"]
    return []

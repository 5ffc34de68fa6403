"""Several sources of data in one configuration: what each is alone, which share it has, which choose the epoch."""

from carkp.config.schema import DataConfig, ExperimentConfig

ALONE = ""
"""What the only source is called."""


def by_source(config: ExperimentConfig) -> dict[str, ExperimentConfig]:
    """Name of each source -> the configuration of it alone; ``ALONE`` -> ``config`` itself where there is only one.

    A source alone is prepared with the same settings, so that its stores serve both configurations.
    """
    if not config.data.sources:
        return {ALONE: config}
    return {
        item.label: config.model_copy(
            update={
                "data": config.data.model_copy(
                    update={
                        "source": item.source,
                        "sources": (),
                        "val_scenes": config.data.val_scenes if item.val_scenes is None else item.val_scenes,
                    }
                )
            }
        )
        for item in config.data.sources
    }


def shares(data: DataConfig) -> dict[str, float]:
    """Name of each source -> its share of every training batch, adding up to 1; empty where there is only one."""
    total = sum(item.share for item in data.sources)
    return {item.label: item.share / total for item in data.sources}


def choosing(data: DataConfig) -> tuple[str, ...]:
    """Names of the sources whose validation cars choose the epoch: the generated ones, where there is one, else all.

    Real cars in the training measure what transfers: a choice by them would make their score too good. Empty where
    there is only one source.
    """
    generated = tuple(item.label for item in data.sources if item.is_generated)
    return generated or tuple(item.label for item in data.sources)

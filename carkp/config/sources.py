"""Several data sources in one configuration: the configuration and share of each, and which choose the epoch."""

from carkp.config.schema import DataConfig, ExperimentConfig

ALONE = ""
"""Name of the source if it is the only one."""


def by_source(config: ExperimentConfig) -> dict[str, ExperimentConfig]:
    """Return name of each source -> configuration of it alone. If there is only one source: ``ALONE`` -> ``config``.

    Each source is prepared with the same settings, so that both configurations can use its stores.
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
    """Return name of each source -> its share of every training batch; the sum is 1. Empty if there is only one."""
    total = sum(item.share for item in data.sources)
    return {item.label: item.share / total for item in data.sources}


def choosing(data: DataConfig) -> tuple[str, ...]:
    """Return the sources whose validation cars choose the best epoch: the generated ones if there are any, else all.

    Real cars of a training measure how well it transfers. Choosing the epoch by them would make that score too good.
    Empty if there is only one source.
    """
    generated = tuple(item.label for item in data.sources if item.is_generated)
    return generated or tuple(item.label for item in data.sources)

"""Ids of samples of several sources: ``<source>@<id>``. The id of a sample of the only source is left as it is."""

_SEPARATOR = "@"


def id_in(source: str, sample_id: str) -> str:
    """The id of a sample in a mixture. ``source`` holds no ``@`` and no ``/``."""
    return f"{source}{_SEPARATOR}{sample_id}"


def source_of(sample_id: str) -> str:
    """Name of the source that the sample of a mixture is of; "" for one of the only source."""
    source, separator, _ = sample_id.partition("/")[0].partition(_SEPARATOR)
    return source if separator else ""

"""Ids of samples from several sources: ``<source>@<id>``. If there is only one source, the id is not changed."""

_SEPARATOR = "@"


def id_in(source: str, sample_id: str) -> str:
    """Return the id of a sample in a mixture. ``source`` must not contain ``@`` or ``/``."""
    return f"{source}{_SEPARATOR}{sample_id}"


def source_of(sample_id: str) -> str:
    """Return the name of the source of a sample in a mixture; "" if there is only one source."""
    source, separator, _ = sample_id.partition("/")[0].partition(_SEPARATOR)
    return source if separator else ""

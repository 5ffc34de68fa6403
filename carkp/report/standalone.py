"""The page of a stage that needs no contents: the names that ``compile`` uses, see :mod:`carkp.report.page`."""

from collections.abc import Sequence

from carkp.report.page import Heading as Heading
from carkp.report.page import PageTable as PageTable
from carkp.report.page import Paragraph as Paragraph
from carkp.report.page import Part as Part
from carkp.report.page import html_page


def standalone_page(title: str, parts: Sequence[Part]) -> str:
    """The page as HTML; all text is escaped."""
    return html_page(title, parts)

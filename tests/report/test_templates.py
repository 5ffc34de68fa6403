"""The templates lie in the package, escape what they are given, and come with a wheel."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from carkp.report.markdown import markdown_page, markdown_table
from carkp.report.page import HTML_TEMPLATE, html_page
from carkp.report.parts import Code, Gallery, Heading, PageTable, Paragraph, Picture
from carkp.shipped import FILES

ROOT = Path(__file__).parents[2]
EVIL = "<script>alert('1')</script> & \"q\""


def test_every_text_of_a_page_is_escaped() -> None:
    picture = Picture(b"jpeg", "name", EVIL, EVIL)
    parts = [
        Heading(EVIL),
        Paragraph(EVIL, "note"),
        PageTable([EVIL], [[f"{EVIL}\n{EVIL}"]], frozenset({0}), EVIL),
        picture,
        Gallery([picture]),
        Code(EVIL, "sh", EVIL),
    ]
    page = html_page(EVIL, parts, has_contents=True)
    assert "<script" not in page
    assert "'" not in page.partition("</style>")[2]  # no attribute can be left by a quotation mark
    assert page.count("&lt;script&gt;") == 15  # title, h1, link, h2, p, 3 cells, 3 captions, 2 alts, summary, code


def test_markdown_is_not_escaped_as_html() -> None:
    text = markdown_page("A & B", [Paragraph('x > y & `a<b>` "q" it\'s')]).text
    assert text == '# A & B\n\nx > y & `a<b>` "q" it\'s\n'


def test_a_table_alone_is_as_on_its_page() -> None:
    table = PageTable(["a", "b"], [["1", "2\n1 to 3"]], frozenset({1}), "How to read it.")
    assert markdown_table(table) == "| a | b |\n|---|---:|\n| 1 | 2<br>1 to 3 |\n\nHow to read it."
    assert markdown_page("T", [table]).text == f"# T\n\n{markdown_table(table)}\n"
    assert markdown_table(PageTable(["a"], [["1"]])) == "| a |\n|---|\n| 1 |"


def test_a_gallery_breaks_its_rows_after_four() -> None:
    pictures = [Picture(b"", f"p{index}", f"c{index}", "alt") for index in range(6)]
    assert markdown_page("T", [Gallery(pictures)]).text.splitlines()[2:] == [
        "| | | | |",
        "|---|---|---|---|",
        "| " + " | ".join(f"![alt](pictures/p{index}.jpg)<br>c{index}" for index in range(4)) + " |",
        "| " + " | ".join(f"![alt](pictures/p{index}.jpg)<br>c{index}" for index in (4, 5)) + " |",
    ]


def test_a_wheel_holds_the_templates_and_the_shipped_models(tmp_path: Path) -> None:
    """Build one as pip does, of a copy: a build leaves folders behind."""
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "requirements.txt"):
        shutil.copy(ROOT / name, source / name)
    shutil.copytree(ROOT / "carkp", source / "carkp", ignore=shutil.ignore_patterns("__pycache__", "models"))
    for file in FILES:
        (source / "carkp" / "models" / "car12").mkdir(parents=True, exist_ok=True)
        (source / "carkp" / "models" / "car12" / file).write_bytes(b"1")
    (source / "carkp" / "models" / ".car12.lock").write_bytes(b"")
    code = f"from setuptools import build_meta; build_meta.build_wheel({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=source, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    lying = {path.name for path in (ROOT / "carkp" / "report" / "templates").iterdir()}
    assert {f"carkp/report/templates/{name}" for name in lying} <= names
    assert HTML_TEMPLATE in lying
    assert {name for name in names if "/models/" in name} == {f"carkp/models/car12/{file}" for file in FILES}

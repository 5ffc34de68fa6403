"""Hooks of mkdocs.yml: pages of the site link to files of the repository that lie outside of docs/.

Links are written for a reader of the repository: ``../configs/tiny.yaml``. In the site

- a Markdown file of :data:`PAGES` is a page, and a link to it leads there;
- pictures and HTML files that a page shows or links to are copied into the site, at their path in the repository;
- any other file is linked at ``repo_url``; where mkdocs.yml has none, its path stands there as code.

A link to what the repository does not hold is a warning, which ``mkdocs build --strict`` ends with.
"""

import logging
import posixpath
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent

PAGES = {
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "carkp/models/car12/card.md": "card.md",
}
"""Path in the repository -> page of the site, for pages that lie outside of docs/."""

COPIED = {".jpg", ".png", ".html"}

FENCE = re.compile(r"^\s*(```|~~~)")
LINK = re.compile(r"`[^`]*`|(?P<mark>!?)\[(?P<text>(?:[^\[\]]|\[[^\[\]]*\])*)\]\((?P<target>[^()\s]+)\)")

log = logging.getLogger("mkdocs.hooks.site_links")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages and the files that lie outside of docs/."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    copied = {path for file in files.documentation_pages() for path in _copied_files(file)}
    for path in sorted(copied):
        files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn the links of a page from those of the repository to those of the site."""
    return site_markdown(markdown, page.file.src_uri, config.repo_url or "")


def site_markdown(markdown: str, page: str, repo_url: str) -> str:
    """``markdown`` with the site's links; ``page``: where it stands in the site; ``repo_url``: "" for none."""
    return _outside_fences(markdown, lambda line: LINK.sub(lambda link: _site_link(link, page, repo_url), line))


def _site_link(link: re.Match[str], page: str, repo_url: str) -> str:
    if link["target"] is None:  # code
        return link[0]
    path, anchor = _repository_path(link["target"], page)
    if path is None or (_is_docs_page(path) and page not in PAGES.values()):
        return link[0]
    if not (ROOT / path).exists():
        log.warning("%s: the repository has no file %s", page, path)
    inside = _path_in_site(path)
    if inside:
        return f"{link['mark']}[{link['text']}]({posixpath.relpath(inside, posixpath.dirname(page) or '.')}{anchor})"
    if repo_url:
        return f"[{link['text']}]({repo_url.rstrip('/')}/blob/HEAD/{path}{anchor})"
    is_path = link["text"].strip("`") in (path, posixpath.basename(path))
    return f"`{path}`" if is_path else f"{link['text']} (`{path}`)"


def _path_in_site(path: str) -> str:
    """Of a file of the repository; "" where the site does not have it."""
    if path in PAGES:
        return PAGES[path]
    if _is_docs_page(path):
        return path.removeprefix("docs/")
    return path if Path(path).suffix in COPIED else ""


def _is_docs_page(path: str) -> bool:
    return path.startswith("docs/") and (ROOT / path).is_file()


def _copied_files(file: File) -> Iterator[str]:
    for link in LINK.finditer(file.content_string):
        path, _ = _repository_path(link["target"] or "", file.src_uri)
        if (
            path is not None
            and not path.startswith("docs/")
            and Path(path).suffix in COPIED
            and (ROOT / path).is_file()
        ):
            yield path


def _repository_path(target: str, page: str) -> tuple[str | None, str]:
    """Path in the repository that a link of ``page`` means, and its anchor; None for addresses and mere anchors."""
    target, hash_mark, anchor = target.partition("#")
    if not target or re.match(r"[a-z]+:", target):
        return None, ""
    source = next((source for source, name in PAGES.items() if name == page), f"docs/{page}")
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), target)), hash_mark + anchor


def _outside_fences(markdown: str, change: Callable[[str], str]) -> str:
    lines, is_code = [], False
    for line in markdown.split("\n"):
        if FENCE.match(line):
            is_code = not is_code
        lines.append(line if is_code else change(line))
    return "\n".join(lines)

"""Links of the repository become links of the site."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    pytest.importorskip("mkdocs", reason="mkdocs is not installed: pip install -e '.[docs]'")
    spec = importlib.util.spec_from_file_location("site_links", ROOT / ".ci" / "site_links.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("link", "page", "with_address", "without"),
    [
        ("[Boxes](boxes.md#yolo)", "view.md", "[Boxes](boxes.md#yolo)", None),
        ("[how](../CONTRIBUTING.md#a-target)", "targets.md", "[how](contributing.md#a-target)", None),
        ("[boxes](docs/boxes.md#yolo)", "contributing.md", "[boxes](boxes.md#yolo)", None),
        ("[below](#a-target)", "contributing.md", "[below](#a-target)", None),
        ("![it](../reports/pictures/view.jpg)", "view.md", "![it](reports/pictures/view.jpg)", None),
        (
            "[configs/tiny.yaml](../configs/tiny.yaml)",
            "command.md",
            "[configs/tiny.yaml](https://host.example/carkp/blob/HEAD/configs/tiny.yaml)",
            "`configs/tiny.yaml`",
        ),
        (
            "[the small one](../configs/tiny.yaml)",
            "command.md",
            "[the small one](https://host.example/carkp/blob/HEAD/configs/tiny.yaml)",
            "the small one (`configs/tiny.yaml`)",
        ),
        ("[paper](https://arxiv.org/abs/1712.05877)", "report.md", "[paper](https://arxiv.org/abs/1712.05877)", None),
    ],
)
def test_a_link_leads_to_the_page_the_copy_or_the_repository(
    hooks: ModuleType, link: str, page: str, with_address: str, without: str | None
) -> None:
    assert hooks.site_markdown(link, page, "https://host.example/carkp/") == with_address
    assert hooks.site_markdown(link, page, "") == (with_address if without is None else without)


@pytest.mark.parametrize(
    "code", ["```python\nx = [a](../configs/tiny.yaml)\n```", "as `[a](../configs/tiny.yaml)` says"]
)
def test_code_is_left_alone(hooks: ModuleType, code: str) -> None:
    assert hooks.site_markdown(code, "command.md", "") == code


def test_a_link_to_nothing_is_a_warning(hooks: ModuleType, caplog: pytest.LogCaptureFixture) -> None:
    hooks.site_markdown("[x](../configs/gone.yaml)", "command.md", "")
    assert "command.md: the repository has no file configs/gone.yaml" in caplog.text

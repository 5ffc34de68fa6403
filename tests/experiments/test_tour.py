"""The notebook that shows the whole of carkp: its cells run, its commands exist, and what it shows is small."""

from pathlib import Path
from typing import Any

import pytest

from tests.docs.blocks import ROOT, parse_page
from tests.docs.commands import check_page

nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed: pip install -e '.[dev]'")
nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed: pip install -e '.[dev]'")

TOUR = ROOT / "experiments" / "tour.ipynb"
MAX_BYTES = 1_000_000
CELL_TIMEOUT_S = 600
TINY = 'CONFIG = "configs/tiny.yaml"\nSETTINGS = ["quant.num_images=16"]\nTARGET = "onnxruntime_cpu"\n'


def read_tour() -> Any:
    return nbformat.read(TOUR, as_version=4)


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code" and not is_comment(cell.source)]


def is_comment(source: str) -> bool:
    return all(line.startswith("#") for line in source.splitlines())


def execute(notebook: Any, folder: Path, patch: pytest.MonkeyPatch) -> str:
    """Run all cells in order, with temporary files in ``folder``; what they printed. A cell that raises is an error."""
    for name in ("JUPYTER_RUNTIME_DIR", "IPYTHONDIR", "TMPDIR", "MPLCONFIGDIR"):
        (folder / name).mkdir()
        patch.setenv(name, str(folder / name))
    patch.setenv("PYTHONPATH", str(ROOT))
    patch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    resources = {"metadata": {"path": str(TOUR.parent)}}
    nbclient.NotebookClient(notebook, timeout=CELL_TIMEOUT_S, kernel_name="python3", resources=resources).execute()
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    return "".join(output.get("text", "") for output in outputs if output.output_type == "stream")


def test_the_committed_outputs_are_those_of_one_run() -> None:
    cells = code_cells(read_tour())
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 5
    text = TOUR.read_text(encoding="utf-8")
    assert len(text.encode()) < MAX_BYTES
    assert "/tmp/" not in text
    assert "\n0 of " in "\n".join(output.get("text", "") for output in outputs)


def test_its_commands_exist() -> None:
    texts = [cell.source for cell in read_tour().cells if cell.cell_type == "markdown"]
    found = check_page(parse_page("experiments/tour.ipynb", "\n\n".join(texts)))
    assert not found, "\n".join(map(str, found))


def test_it_runs_on_the_tiny_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = read_tour()
    (parameters,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ()))
    parameters.source = TINY
    before = {path: path.stat().st_mtime for path in ROOT.glob("mlflow.db*")}
    printed = execute(notebook, tmp_path, monkeypatch)
    assert "0 of " in printed
    assert {path: path.stat().st_mtime for path in ROOT.glob("mlflow.db*")} == before
    assert list((tmp_path / "TMPDIR").glob("carkp-tour-*/mlflow.db"))


@pytest.mark.slow
def test_it_runs_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "0 of " in execute(read_tour(), tmp_path, monkeypatch)


def test_a_cell_that_raises_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = [nbformat.v4.new_code_cell("import carkp"), nbformat.v4.new_code_cell("carkp.no_such_name")]
    with pytest.raises(nbclient.exceptions.CellExecutionError, match="no_such_name"):
        execute(nbformat.v4.new_notebook(cells=cells), tmp_path, monkeypatch)

"""Start of processes."""

import tempfile
from pathlib import Path

import pytest

from carkp.workflow.process import run_under_torchrun


@pytest.mark.parametrize(("module", "status"), [("this", 0), ("no_such_module", 1)])
def test_torchrun_leaves_no_folder(
    module: str, status: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert run_under_torchrun(module, [], nproc=1) == status
    assert list(tmp_path.iterdir()) == []
    shown = capfd.readouterr()
    assert ("The Zen of Python" in shown.out, "no_such_module" in shown.err) == (status == 0, status == 1)

"""A full disk and the like: one message, no traceback; mistakes of the program keep theirs."""

import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException

from carkp.training.distributed import ProcessError
from carkp.workflow.cli import guarded


def raising(error: BaseException) -> int:
    def main() -> int:
        raise error

    return guarded(main)


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "MiB are free"),
        (errno.EDQUOT, "quotas"),
        (errno.EACCES, "permissions"),
        (errno.EROFS, "read-only"),
        (errno.EMFILE, "ulimit -n"),
        (errno.EIO, "dmesg"),
        (errno.ENAMETOOLONG, "shorter name"),
        (errno.ENOTDIR, "part of this path is a file"),
    ],
)
def test_what_where_and_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], number: int, remedy: str
) -> None:
    assert raising(OSError(number, os.strerror(number), str(tmp_path / "a/b.bin"))) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: {tmp_path}/a/b.bin: {os.strerror(number)}. ")
    assert remedy in said
    assert said.count("\n") == 1


def test_an_error_that_names_no_file_says_where_work_is_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "MLproject").write_text("name: carkp\n")
    monkeypatch.chdir(tmp_path)
    assert raising(OSError(errno.ENOSPC, "No space left on device")) == 1
    assert f"error: working in {tmp_path}: No space left on device. " in capsys.readouterr().err


def test_a_name_that_is_no_text_can_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert raising(PermissionError(errno.EACCES, "Permission denied", b"/data/caf\xe9.jpg")) == 1
    assert "/data/caf" in capsys.readouterr().err


@pytest.mark.parametrize("error", [FileNotFoundError(errno.ENOENT, "No such file", "a"), OSError("odd"), KeyError("a")])
def test_mistakes_of_the_program_keep_their_traceback(error: Exception) -> None:
    with pytest.raises(type(error)):
        raising(error)


def test_a_server_that_goes_away_in_the_middle(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking:5000")
    reason = (
        "HTTPConnectionPool(host='tracking', port=5000): Max retries exceeded (Caused by X('a: Connection refused'))"
    )
    assert raising(MlflowException(f"API request to http://tracking:5000/api failed with exception {reason}")) == 1
    said = capsys.readouterr().err
    assert "the tracking server does not answer: Connection refused. Check that it runs" in said


def test_a_group_of_processes_that_nobody_makes(capsys: pytest.CaptureFixture[str]) -> None:
    assert raising(ProcessError("start it with torchrun")) == 1
    assert capsys.readouterr().err == "error: start it with torchrun\n"


def test_what_a_terminal_cannot_show_does_not_end_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    assert guarded(lambda: print("caf\udce9 … done", flush=True) or 0) == 0
    assert written.getvalue() == b"caf\\udce9 \\u2026 done\n"


def test_a_reader_that_goes_away_ends_a_stage_without_a_traceback() -> None:
    code = "from carkp.workflow.cli import guarded; guarded(lambda: [print('x' * 999) for _ in range(9999)] and 0)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""

"""Stages that are forked from a process which has imported them."""

import json
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import psutil
import pytest

STAGE = """
import os, signal, sys, time
print("imported by", os.getpid(), flush=True)

def main(argv):
    match argv[0]:
        case "status": return int(argv[1])
        case "raise": raise ValueError("broken")
        case "exit": sys.exit(3)
        case "crash": os.kill(os.getpid(), signal.SIGSEGV)
        case "environment": print("seen", os.environ.get("ASKED"), sys.orig_argv[-1], os.getpid(), flush=True); return 0
        case "sleep":
            from carkp.workflow.process import orderly_interrupts
            with orderly_interrupts():  # as every stage has it: the SIGTERM behind a Ctrl-C does not end the closing
                try: print("under way", os.getpid(), flush=True); time.sleep(60)
                finally: print("closed", flush=True)
"""

CALLER = """
import json, os, sys
from carkp.workflow.stage_server import StageServer, ServerGoneError

def command(*words):
    return [sys.executable, "-m", "fake_stage", *words]

def call(server, *words, environment=os.environ):
    pids = []
    return server.launch(command(*words), environment, pids.append), pids[0]

with StageServer(["fake_stage"]) as server:
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "fake_stage.py").write_text(STAGE)
    return tmp_path


def start(folder: Path, body: str) -> "subprocess.Popen[str]":
    """A program that has a server, in a session of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", CALLER + textwrap.indent(textwrap.dedent(body), "    ")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        start_new_session=True,
    )


def run(folder: Path, body: str) -> tuple[list[str], str]:
    """Lines of standard output, and what went to standard error."""
    with start(folder, body) as program:
        out, error = program.communicate(timeout=60)
    assert program.returncode == 0, error
    return out.splitlines(), error


def test_every_stage_is_a_process_of_its_own_that_imports_nothing_anew(folder: Path) -> None:
    lines, _ = run(
        folder,
        """
        found = [call(server, "status", text) for text in ("0", "7", "0")]
        print(json.dumps([os.getpid(), found]))
        """,
    )
    assert sum(line.startswith("imported by") for line in lines) == 1
    own, found = json.loads(lines[-1])
    assert [status for status, _ in found] == [0, 7, 0]
    assert len({own, *(pid for _, pid in found)}) == 4


@pytest.mark.parametrize(("how", "status"), [("raise", 1), ("exit", 3), ("crash", -signal.SIGSEGV)])
def test_a_failure_is_that_of_one_stage(folder: Path, how: str, status: int) -> None:
    lines, error = run(folder, f'print(json.dumps([call(server, "{how}")[0], call(server, "status", "0")[0]]))')
    assert json.loads(lines[-1]) == [status, 0]
    assert ("ValueError: broken" in error) == (how == "raise")


def test_a_stage_has_the_environment_and_the_command_that_it_is_given(folder: Path) -> None:
    lines, _ = run(folder, 'call(server, "environment", "last", environment={"ASKED": "for"})')
    assert lines[-1].startswith("seen for last ")


def interrupted(folder: Path, number: signal.Signals, sends: Any) -> tuple[list[str], bool]:
    """What a stage printed that was under way, and whether it is gone."""
    with start(
        folder,
        """
        from carkp.workflow.process import orderly_interrupts
        try:
            with orderly_interrupts():
                call(server, "sleep")
        except KeyboardInterrupt:
            pass
        """,
    ) as program:
        assert program.stdout is not None
        lines = [program.stdout.readline() for _ in range(2)]
        stage = psutil.Process(int(lines[1].split()[-1]))
        sends(program, number)
        out, _ = program.communicate(timeout=30)
    return out.splitlines(), not stage.is_running()


def to_group(program: "subprocess.Popen[str]", number: signal.Signals) -> None:
    """As a terminal sends a Ctrl-C."""
    for process in [*psutil.Process(program.pid).children(recursive=True), psutil.Process(program.pid)]:
        process.send_signal(number)


def test_a_ctrl_c_ends_the_stage_in_order(folder: Path) -> None:
    lines, is_gone = interrupted(folder, signal.SIGINT, to_group)
    assert "closed" in lines
    assert is_gone


def test_a_terminated_program_ends_its_stage(folder: Path) -> None:
    _, is_gone = interrupted(folder, signal.SIGTERM, lambda program, number: program.send_signal(number))
    assert is_gone


def test_edited_code_and_other_commands_are_not_taken(folder: Path) -> None:
    lines, _ = run(
        folder,
        """
        from carkp.workflow import stage_server
        found = [server.takes(command("status", "0")), server.takes([sys.executable, "-c", "pass"])]
        stage_server._code_state = lambda: {"carkp/edited.py": (1, 1)}
        print(json.dumps([*found, server.takes(command("status", "0"))]))
        """,
    )
    (found,) = (line for line in lines if line.startswith("["))  # the server may say later that it has imported
    assert json.loads(found) == [True, False, False]


def test_a_server_that_is_gone_is_told(folder: Path) -> None:
    lines, _ = run(
        folder,
        """
        call(server, "status", "0")
        server._process.kill(); server._process.join()
        print(server.takes(command("status", "0")))
        try:
            call(server, "status", "0")
        except ServerGoneError as error:
            print("gone:", error)
        """,
    )
    assert lines[-2] == "False"
    assert lines[-1].startswith("gone: the process that starts stages has ended")

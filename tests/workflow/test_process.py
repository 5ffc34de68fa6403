"""Processes are told apart, and end in good order."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from carkp.processes import is_alive, process_name
from carkp.workflow.process import Terminated, orderly_interrupts, run_under_torchrun

STAGE = """
import time
from carkp.workflow.process import orderly_interrupts
try:
    with orderly_interrupts():
        try:
            print("under way", flush=True)
            time.sleep(60)
        finally:
            time.sleep(1)
            print("closed", flush=True)
except KeyboardInterrupt:
    pass
"""
PIPELINE = """
import sys
from carkp.workflow.process import launch, orderly_interrupts
with orderly_interrupts():
    launch([sys.executable, "-c", sys.argv[1]], "run", lambda pid: None)
"""
ORPHAN = """
import multiprocessing, os, time
from carkp.workflow.process import end_with_parent, orderly_interrupts

def work():
    try:
        with orderly_interrupts():
            end_with_parent()
            print(os.getpid(), flush=True)
            time.sleep(60)
    except KeyboardInterrupt:
        print("closed", flush=True)

if __name__ == "__main__":
    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    child.join()
"""


def start(*arguments: str) -> "subprocess.Popen[str]":
    """A program in a session of its own, as from a terminal: a background job would ignore SIGINT."""
    return subprocess.Popen(
        [sys.executable, "-c", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def test_processes_are_told_apart() -> None:
    own = process_name(os.getpid())
    assert is_alive(own)
    host, pid, start = own.split()
    assert not is_alive(f"{host} {pid} {float(start) - 100:.0f}")
    assert is_alive(f"elsewhere {pid} 0")
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        name = process_name(child.pid)
        assert is_alive(name)
        child.kill()
    assert not is_alive(name)


@pytest.mark.parametrize(
    ("send", "number"), [(os.kill, signal.SIGTERM), (os.killpg, signal.SIGTERM), (os.killpg, signal.SIGINT)]
)
def test_an_interrupted_pipeline_lets_its_stage_close(send: Callable[[int, int], None], number: signal.Signals) -> None:
    with start(PIPELINE, STAGE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "under way\n"
        send(process.pid, number)
        assert process.stdout.read() == "closed\n"
        assert process.wait(timeout=30) != 0


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
def test_a_second_sigterm_does_not_end_the_closing(first: signal.Signals) -> None:
    with start(STAGE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "under way\n"
        process.send_signal(first)
        time.sleep(0.3)
        process.terminate()
        assert process.stdout.read() == "closed\n"
        assert process.wait(timeout=30) == 0


LOADER_ENDS = """
import os, signal
from carkp.workflow.process import Terminated, orderly_interrupts

def complain(number, frame):
    raise RuntimeError("a loader process was killed")

try:
    with orderly_interrupts():
        signal.signal(signal.SIGCHLD, complain)  # as torch does
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGCHLD})
        for number in (signal.SIGTERM, signal.SIGCHLD):
            os.kill(os.getpid(), number)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGCHLD})
except Terminated:
    os.kill(os.getpid(), signal.SIGCHLD)  # of a loader that is destroyed only now
    print("terminated", flush=True)
"""


def test_a_loader_process_that_ends_with_this_one_does_not_hide_the_interruption() -> None:
    done = subprocess.run([sys.executable, "-c", LOADER_ENDS], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("terminated\n", "")


DROPPED = """
import os, signal, sys, time
from carkp.workflow.process import orderly_interrupts

class Loader:
    def __del__(self):
        os.kill(os.getpid(), int(sys.argv[1]))
        for _ in range(1000):  # the handler runs here
            pass

signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
try:
    with orderly_interrupts():
        for _ in range(int(sys.argv[2])):
            loader = Loader()
            del loader
        time.sleep(60)
except KeyboardInterrupt as error:
    print(type(error).__name__, flush=True)
"""


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize(
    ("number", "name"), [(signal.SIGTERM, "Terminated"), (signal.SIGINT, "KeyboardInterrupt")], ids=str
)
def test_an_interruption_in_a_destructor_is_not_lost(number: signal.Signals, name: str, times: int) -> None:
    command = [sys.executable, "-c", DROPPED, str(number.value), str(times)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (done.stdout, done.stderr) == (f"{name}\n", "")


def test_other_errors_in_a_destructor_are_shown_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def __del__(self) -> None:
            raise RuntimeError("broken")

    seen: list[BaseException | None] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda dropped: seen.append(dropped.exc_value))
    with orderly_interrupts():
        Broken()
    assert [str(error) for error in seen] == ["broken"]


def test_a_worker_ends_with_the_process_that_started_it() -> None:
    with start(ORPHAN) as process:
        assert process.stdout is not None
        worker = psutil.Process(int(process.stdout.readline()))
        process.kill()
        assert process.stdout.read() == "closed\n"
        worker.wait(timeout=30)


def test_sigterm_interrupts_and_the_handler_is_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Terminated), orderly_interrupts():
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == before


def test_sigterm_ends_forked_processes_at_once(tmp_path: Path) -> None:
    cleaned = tmp_path / "cleaned"
    reader, writer = os.pipe()
    with orderly_interrupts():
        child = os.fork()
        if child == 0:
            try:
                os.write(writer, b"ready")
                signal.pause()
            finally:
                cleaned.touch()
                os._exit(0)
        os.read(reader, 5)
        os.kill(child, signal.SIGTERM)
        _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGTERM
    assert not cleaned.exists()


def test_other_threads_keep_the_handler() -> None:
    seen = []

    def work() -> None:
        with orderly_interrupts():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGTERM)]


def test_what_other_launchers_left_does_not_reach_torchrun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PET_NNODES=2, of a Kubeflow trainer, would wait for a second machine for ever."""
    left_over = {
        "WORLD_SIZE": "4",
        "RANK": "3",
        "LOCAL_RANK": "2",
        "MASTER_ADDR": "10.255.255.1",
        "MASTER_PORT": "1",
        "PET_NNODES": "2",
        "PET_NPROC_PER_NODE": "5",
        "PET_NODE_RANK": "1",
        "OMP_NUM_THREADS": "abc",
    }
    for name, value in left_over.items():
        monkeypatch.setenv(name, value)
    names = "RANK", "LOCAL_RANK", "WORLD_SIZE", "PET_NNODES", "OMP_NUM_THREADS"
    (tmp_path / "told.py").write_text(
        "import os, pathlib, sys\n"
        f"told = [os.environ.get(name, '') for name in {names}]\n"
        "pathlib.Path(sys.argv[1], told[0]).write_text(' '.join(told))\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    assert run_under_torchrun("told", [str(tmp_path)], 2) == 0
    threads = str(max(1, len(os.sched_getaffinity(0)) // 2))
    for rank in ("0", "1"):
        assert (tmp_path / rank).read_text().split() == [rank, rank, "2", threads]


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

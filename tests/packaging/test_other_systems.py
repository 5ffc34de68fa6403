"""carkp on systems that lack what Linux has: macOS and Windows, as far as Linux can stand for them."""

import ast
import multiprocessing
import os
import pickle
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from carkp import disk
from carkp.cores import num_usable_cores
from carkp.data import dataset, views
from carkp.model.cpu_memory import keep_freed_memory
from carkp.workflow import process
from carkp.workflow.stage_server import StageServer

ROOT = Path(__file__).parents[2]

POSIX_MODULES = {"fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"}
POSIX_NAMES = {
    "os": {
        *("chown", "fchmod", "fork", "forkpty", "getgid", "geteuid", "getloadavg", "getpgid", "getuid", "initgroups"),
        *(
            "killpg",
            "lchown",
            "mkfifo",
            "nice",
            "O_DIRECTORY",
            "pipe2",
            "posix_fadvise",
            "posix_spawn",
            "pread",
            "pwrite",
        ),
        *(
            "sched_getaffinity",
            "sched_setaffinity",
            "sched_yield",
            "sendfile",
            "setpgid",
            "setsid",
            "setuid",
            "statvfs",
        ),
        *("sync", "sysconf", "uname", "wait", "wait4", "WNOHANG"),
    },
    "signal": {"alarm", "pause", "pthread_kill", "setitimer", "sigwait", "SIGALRM", "SIGCHLD", "SIGHUP", "SIGKILL"},
    "socket": {"AF_UNIX", "send_fds", "recv_fds"},
}
"""What Windows' Python lacks."""

GUARDED = {("carkp/cores.py", "os.sched_getaffinity")}
"""Used where ``hasattr`` has looked first; a test below takes it away."""

ASCII_ALONE = {"carkp/synthetic/generate.py", "carkp/rendered/generate.py"}
"""Write digits and escaped JSON: UTF-8 in every encoding. Their code is part of what names the data they make."""

TEXT_FILES = {"open", "read_text", "write_text"}
MODE = re.compile(r"[rwaxbt+]+")


@cache
def sources() -> dict[str, ast.Module]:
    paths = sorted((ROOT / "carkp").rglob("*.py"))
    return {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8")) for path in paths}


def name_of(node: ast.expr) -> str:
    """``c`` of ``c`` and of ``a.b.c``."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def posix_uses(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (item.name for item in node.names if item.name in POSIX_MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = POSIX_NAMES.get(node.module, set())
            yield from (f"{node.module}.{item.name}" for item in node.names if item.name in names)
            if node.module in POSIX_MODULES:
                yield node.module
        elif isinstance(node, ast.Attribute) and (base := name_of(node.value)) in POSIX_NAMES:
            yield from {f"{base}.{node.attr}"} & {f"{base}.{name}" for name in POSIX_NAMES[base]}


def is_signal_zero(node: ast.AST) -> bool:
    """``os.kill(pid, 0)``: a question on POSIX, Ctrl-C for that process on Windows."""
    return isinstance(node, ast.Call) and name_of(node.func) == "kill" and ast.unparse(node).endswith(", 0)")


def lacks_encoding(node: ast.AST) -> bool:
    """A text file is opened in the system's own encoding, on Windows often cp1252."""
    if not isinstance(node, ast.Call) or any(keyword.arg == "encoding" for keyword in node.keywords):
        return False
    name = name_of(node.func)
    if name == "open":
        texts = [item.value for item in node.args if isinstance(item, ast.Constant) and isinstance(item.value, str)]
        modes = [text for text in texts if MODE.fullmatch(text)]
        return bool(modes) and not any("b" in mode for mode in modes)
    return name in TEXT_FILES


def test_what_only_posix_has_is_not_used() -> None:
    found = {(path, use) for path, tree in sources().items() for use in posix_uses(tree)}
    assert found == GUARDED
    signals = [path for path, tree in sources().items() if any(map(is_signal_zero, ast.walk(tree)))]
    assert not signals


def test_text_files_are_utf_8_wherever_they_are_read() -> None:
    found = {path for path, tree in sources().items() if any(map(lacks_encoding, ast.walk(tree)))}
    assert found <= ASCII_ALONE


@pytest.mark.parametrize(
    ("code", "is_found"),
    [
        ("path.read_text()", True),
        ("path.write_text(text, encoding='utf-8')", False),
        ("path.open('w', newline='')", True),
        ("path.open('rb')", False),
        ("open(path, 'r')", True),
        ("store.open()", False),
        ("os.kill(pid, 0)", True),
        ("os.kill(pid, signal.SIGTERM)", False),
        ("os.fork()", True),
        ("import fcntl", True),
        ("from os import fork", True),
    ],
)
def test_the_search_finds_what_it_looks_for(code: str, is_found: bool) -> None:
    tree = ast.parse(code)
    found = any(lacks_encoding(node) or is_signal_zero(node) for node in ast.walk(tree))
    assert (found or any(posix_uses(tree))) == is_found


def test_cores_are_counted_where_the_system_tells_of_no_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert num_usable_cores() == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert num_usable_cores() == 1


@pytest.mark.parametrize("system", ["darwin", "win32"])
def test_stages_are_started_anew_where_processes_should_not_be_forked(
    system: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.delattr(os, "fork", raising=False)
    assert StageServer.if_possible(["carkp.stages.data"]) is None
    with process.stages_served(["carkp.stages.data"]):
        assert process.launch([sys.executable, "-c", "raise SystemExit(3)"], "run", lambda pid: None) == 3


def test_interrupts_are_orderly_without_the_signals_of_posix(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in POSIX_NAMES["signal"]:
        monkeypatch.delattr(signal, name, raising=False)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(process.Terminated), process.orderly_interrupts():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == before


def test_processes_are_looked_for_without_a_signal() -> None:
    """Of this process, one that has ended, and an impossible one."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert disk.is_running(os.getpid())
    assert not disk.is_running(ended.pid)
    assert not disk.is_running(2**70)


def test_memory_is_left_alone_where_the_c_library_is_not_glibc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    assert not keep_freed_memory()


def test_a_spawned_worker_can_be_given_what_a_loader_runs_there() -> None:
    """macOS and Windows start DataLoader's workers anew and hand them pickles; datasets have tests of their own."""
    for function in (dataset.start_worker, views.start_worker, views.collate_views):
        assert pickle.loads(pickle.dumps(function)) is function
    assert "spawn" in multiprocessing.get_all_start_methods()

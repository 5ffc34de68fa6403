"""Programs that look after a child, or do not."""

import subprocess
import sys
import time

import pytest

from carkp.workflow.agent_watch import watch_agent

CHILD = "import subprocess, sys, time; child = subprocess.Popen([sys.executable, '-c', '']); "


def start(what: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-c", CHILD + what])


def test_one_that_does_not_notice_the_end_of_its_child_is_killed(capfd: pytest.CaptureFixture[str]) -> None:
    with start("time.sleep(60)") as agent:
        begin = time.monotonic()
        watch_agent(agent.pid, patience_s=0.3, poll_s=0.05)
        assert agent.wait(20) == -9
    assert time.monotonic() - begin < 20
    assert "torchrun has not noticed for 0 s that a process has ended" in capfd.readouterr().err


def test_one_that_does_is_left_alone(capfd: pytest.CaptureFixture[str]) -> None:
    with start("child.wait(); time.sleep(1)") as agent:
        watch_agent(agent.pid, patience_s=0.3, poll_s=0.05)
        assert agent.wait(20) == 0
    assert capfd.readouterr().err == ""

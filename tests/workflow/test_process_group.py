"""What torchrun is told of one machine or several."""

import socket

import psutil
import pytest

from carkp.config.loading import ConfigError
from carkp.config.training import TrainConfig
from carkp.workflow.process_group import Group, local_address, parse_group
from carkp.workflow.restarts import may_be_restarted

EMPTY = {"nproc": "", "nnodes": "", "rdzv_endpoint": "", "rdzv_id": ""}


def test_what_parameters_leave_empty_is_configured() -> None:
    config = TrainConfig(nproc=2, nnodes=3, rdzv_endpoint="node0:29400", rdzv_id="mine", max_restarts=4)
    assert parse_group(EMPTY, config) == Group(2, 3, "node0", 29400, "mine", 4)
    given = {"nproc": "1", "nnodes": "2", "rdzv_endpoint": "node1:1", "rdzv_id": "other"}
    assert parse_group(given, config) == Group(1, 2, "node1", 1, "other", 4)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"nproc": "two"}, "nproc='two': expected a number of processes"),
        ({"nnodes": "0"}, "nnodes='0': expected a number of machines"),
        ({"nnodes": "2"}, "nnodes=2 and rdzv_endpoint='': expected host:port"),
        ({"nnodes": "2", "rdzv_endpoint": "node0"}, "rdzv_endpoint='node0': expected host:port"),
        ({"nnodes": "2", "rdzv_endpoint": "node0:http"}, "expected host:port"),
    ],
)
def test_mistakes_are_named(given: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_group({**EMPTY, **given}, TrainConfig())


def test_one_process_needs_torchrun_to_be_started_again() -> None:
    assert not Group(1).needs_torchrun
    assert Group(1, max_restarts=1).needs_torchrun
    assert Group(2).options() == ["--standalone", "--nnodes=1", "--max-restarts=0"]


def test_the_way_to_the_endpoint_is_told() -> None:
    group = Group(1, 2, "127.0.0.1", 29400, "mine")
    assert {"--local-addr=127.0.0.1", "--rdzv-endpoint=127.0.0.1:29400", "--rdzv-id=mine"} <= set(group.options())
    assert group.variables()["GLOO_SOCKET_IFNAME"] in {name for _, name in socket.if_nameindex()}


def test_the_machine_at_the_endpoint_is_known_by_any_of_its_addresses() -> None:
    addresses = [address for found in psutil.net_if_addrs().values() for address in found]
    outer = [a.address for a in addresses if a.family == socket.AF_INET and not a.address.startswith("127.")]
    if not outer:
        pytest.skip("this machine has no address but the loopback's")
    own = outer[0]
    with socket.create_server((own, 0)) as other:
        port = other.getsockname()[1]
        assert "--rdzv-conf=is_host=true" not in Group(1, 2, own, port, "mine").options()  # another launch is
    assert "--rdzv-conf=is_host=true" in Group(1, 2, own, port, "mine").options()
    assert "--rdzv-conf=is_host=true" not in Group(1, 2, "127.0.0.1", port, "mine").options()  # torchrun sees it


def test_a_place_that_nobody_knows_is_named() -> None:
    with pytest.raises(ConfigError, match=r"rdzv_endpoint=nowhere\.invalid:1: this machine cannot reach it"):
        local_address("nowhere.invalid", 1)


@pytest.mark.parametrize(("count", "expected"), [("0", False), ("1", True), ("10", True)])
def test_a_job_that_slurm_queued_again_is_known(monkeypatch: pytest.MonkeyPatch, count: str, expected: bool) -> None:
    monkeypatch.setenv("SLURM_RESTART_COUNT", count)
    assert may_be_restarted() == expected

"""The group of processes for a training, on one or several machines, as options of torchrun."""

import ipaddress
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

import psutil

from carkp.config.loading import ConfigError
from carkp.config.training import TrainConfig

_INTERFACE_VARIABLES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")

_CONNECT_TIMEOUT_S = 5

_FRESH_STORE = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
"""Gives restarted processes a new store. In the store of the dead ones they might find the addresses of those."""


@dataclass(frozen=True)
class Group:
    """Processes that train together.

    Attributes:
        nproc: number of processes on each machine.
        nnodes: number of machines.
        host, port: where the machines meet; unused on one machine.
        name: name of the training at that place.
        max_restarts: how often all processes are started again.
    """

    nproc: int
    nnodes: int = 1
    host: str = ""
    port: int = 0
    name: str = ""
    max_restarts: int = 0

    @property
    def world_size(self) -> int:
        return self.nproc * self.nnodes

    @property
    def needs_torchrun(self) -> bool:
        return self.world_size > 1 or self.max_restarts > 0

    def options(self) -> list[str]:
        """Return the options of torchrun, except the number of processes on this machine."""
        common = [f"--nnodes={self.nnodes}", f"--max-restarts={self.max_restarts}"]
        if self.nnodes == 1:
            return ["--standalone", *common]
        own = local_address(self.host, self.port)
        # torchrun recognises a machine only by its host name: for an address, it takes no machine as the host
        is_host = _is_own(self.host) and not _is_known_to_torchrun(self.host) and not _is_served(self.host, self.port)
        return [
            *common,
            *(["--rdzv-conf=is_host=true"] if is_host else []),
            "--rdzv-backend=c10d",
            f"--rdzv-endpoint={self.host}:{self.port}",
            f"--rdzv-id={self.name}",
            f"--local-addr={own}",  # others may be unable to resolve the host name
        ]

    def variables(self) -> dict[str, str]:
        """Return variables for torchrun.

        They name the network interface to other machines; by default gloo may use loopback.
        """
        if self.nnodes == 1:
            return _FRESH_STORE
        own = local_address(self.host, self.port)
        interface = next((name for name, addresses in _addresses().items() if own in addresses), None)
        found = {} if interface is None else dict.fromkeys(_INTERFACE_VARIABLES, interface)
        return {**_FRESH_STORE, **found}


def parse_group(values: Mapping[str, str], config: TrainConfig) -> Group:
    """Return the group that a stage's parameters ask for; empty parameters are taken from the configuration.

    Raises:
        ConfigError: a value is not a number, or several machines have no place to meet.
    """
    nproc = _parse_count("nproc", "processes", values["nproc"], config.nproc)
    nnodes = _parse_count("nnodes", "machines", values["nnodes"], config.nnodes)
    endpoint = values["rdzv_endpoint"] or config.rdzv_endpoint
    name = values["rdzv_id"] or config.rdzv_id
    host, _, port = endpoint.rpartition(":")
    if nnodes > 1 and not (host and port.isdecimal()):
        raise ConfigError(
            f"nnodes={nnodes} and rdzv_endpoint={endpoint!r}: expected host:port of one of the machines, where they "
            "find each other, such as node0:29400"
        )
    return Group(nproc, nnodes, host, int(port) if port.isdecimal() else 0, name, config.max_restarts)


def local_address(host: str, port: int) -> str:
    """Return the address of this machine on its route to ``host``; nothing is sent.

    Raises:
        ConfigError: there is no route to it.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(address)
            return str(probe.getsockname()[0])
    except OSError as error:
        raise ConfigError(f"rdzv_endpoint={host}:{port}: this machine cannot reach it: {error.strerror}") from error


def _is_own(host: str) -> bool:
    """Return whether the host is this machine."""
    own = {address for addresses in _addresses().values() for address in addresses}
    with suppress(OSError):
        return any(str(found[4][0]) in own for found in socket.getaddrinfo(host, None))
    return False


def _is_known_to_torchrun(host: str) -> bool:
    """Return whether torchrun itself takes this machine as the host; of several launches here, one is the host."""
    with suppress(OSError):
        return host == socket.gethostname() or any(
            ipaddress.ip_address(found[4][0]).is_loopback for found in socket.getaddrinfo(host, None)
        )
    return False


def _is_served(host: str, port: int) -> bool:
    """Return whether another launch on this machine, such as another node of a scheduler, has opened the port."""
    with suppress(OSError), socket.create_connection((host, port), _CONNECT_TIMEOUT_S):
        return True
    return False


def _addresses() -> dict[str, list[str]]:
    """Return network interface -> its addresses."""
    return {name: [item.address for item in items] for name, items in psutil.net_if_addrs().items()}


def _parse_count(name: str, what: str, text: str, default: int) -> int:
    if not text:
        return default
    if not text.isdecimal() or int(text) < 1:
        raise ConfigError(f"{name}={text!r}: expected a number of {what}, 1 or more")
    return int(text)

"""Two hosts as network namespaces, with a cable between them."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

PREFIX = "carkp"
SUBNET = "10.213.77"


@dataclass(frozen=True)
class Host:
    """A network namespace with one interface beside its loopback."""

    name: str
    interface: str
    address: str

    def command(self, *words: str) -> list[str]:
        """A command on that host."""
        return ["ip", "netns", "exec", self.name, *words]

    def cut_off(self) -> None:
        _ip("-n", self.name, "link", "set", self.interface, "down")


def can_make_hosts() -> bool:
    """Whether this process may make namespaces and interfaces."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    name = f"{PREFIX}-try-{os.getpid()}"
    try:
        _ip("netns", "add", name)
        _ip("netns", "delete", name)
    except subprocess.CalledProcessError:
        return False
    return True


@contextmanager
def two_hosts() -> Iterator[list[Host]]:
    """Two namespaces that reach each other and nothing else."""
    pid = os.getpid()
    hosts = [Host(f"{PREFIX}-{pid}-{place}", f"ck{pid % 10**7}v{place}", f"{SUBNET}.{place + 1}") for place in range(2)]
    try:
        for host in hosts:
            _ip("netns", "add", host.name)
        first, second = hosts
        _ip("link", "add", first.interface, "netns", first.name, "type", "veth",
            "peer", "name", second.interface, "netns", second.name)  # fmt: skip
        for host in hosts:
            _ip("-n", host.name, "address", "add", f"{host.address}/24", "dev", host.interface)
            for interface in ("lo", host.interface):
                _ip("-n", host.name, "link", "set", interface, "up")
        yield hosts
    finally:
        for host in hosts:
            with suppress(subprocess.CalledProcessError):
                _ip("netns", "delete", host.name)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=30)

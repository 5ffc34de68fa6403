"""A Slurm cluster of two nodes on this machine: a slurmctld, two slurmd, munge; all in a folder of its own, as root."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch")
NODES = ("east", "west")
CPUS = 4
TIMEOUT_S = 60

CONFIGURATION = """
ClusterName=carkp
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
ReturnToService=2
SlurmdTimeout=10
KillWait=10
SlurmdParameters=config_overrides
NodeName={first} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[0]} CPUs={cpus}
NodeName={second} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs={cpus}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing_programs() -> list[str]:
    return [name for name in PROGRAMS if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") is None]


@dataclass
class SlurmCluster:
    """A running cluster."""

    folder: Path
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        return {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def call(self, *command: str) -> str:
        done = subprocess.run(
            command, env={**os.environ, **self.environment}, capture_output=True, text=True, timeout=60, check=True
        )
        return done.stdout

    def jobs(self, node: str = "") -> dict[str, str]:
        """Job id -> state, of a node or of all."""
        options = [f"--nodelist={node}"] if node else []
        lines = self.call("squeue", "--noheader", "--array", "--states=all", "--format=%i %T", *options).splitlines()
        return dict(line.split() for line in lines)

    def start(self, name: str, *command: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                command, stdout=log, stderr=log, env={**os.environ, **self.environment}, start_new_session=True
            )

    def start_node(self, node: str) -> None:
        self.start(node, "slurmd", "-D", "-N", node)

    def kill_node(self, node: str) -> None:
        """SIGKILL to the node's slurmd and to everything that runs on it: as if its plug was pulled."""
        for process in [psutil.Process(self.processes[node].pid), *self._processes_on(node)]:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
        self.processes[node].wait()

    def _processes_on(self, node: str) -> list[psutil.Process]:
        """Steps of jobs on the node, and the slurmstepd that look after them."""
        found: dict[int, psutil.Process] = {}
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                environment = process.environ()
                is_ours = environment.get("SLURM_CONF") == self.environment["SLURM_CONF"]
                if is_ours and environment.get("SLURMD_NODENAME") == node:
                    guards = [parent for parent in process.parents() if "slurmstepd" in parent.name()]
                    found |= {item.pid: item for item in (*guards, process)}
        return list(found.values())

    def stop(self) -> None:
        with suppress(subprocess.SubprocessError):
            self.call("scancel", "--user=root", "--full")
            wait_until(lambda: not self.call("squeue", "--noheader").strip(), 30)
        for process in reversed(self.processes.values()):
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def slurm_cluster(folder: Path) -> Iterator[SlurmCluster]:
    """A cluster whose nodes are idle."""
    cluster = SlurmCluster(folder)
    first, second, controller = free_ports(3)
    (folder / "state").mkdir()
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    (folder / "slurm.conf").write_text(
        CONFIGURATION.format(
            host=socket.gethostname().partition(".")[0],
            folder=folder,
            controller=controller,
            ports=(first, second),
            first=NODES[0],
            second=NODES[1],
            cpus=CPUS,
        )
    )
    try:
        files = {"key-file": key, "socket": folder / "munge.socket", "seed-file": folder / "munge.seed"}
        options = [f"--{name}={path}" for name, path in files.items()]
        others = [f"--{name}={folder / f'munge.{name}'}" for name in ("pid-file", "log-file")]
        cluster.start("munged", "munged", "--foreground", "--force", *options, *others)
        wait_until((folder / "munge.socket").exists, TIMEOUT_S)
        cluster.start("slurmctld", "slurmctld", "-D", "-c")
        for node in NODES:
            cluster.start_node(node)
        wait_until(lambda: cluster_states(cluster) == ["idle"] * len(NODES), TIMEOUT_S)
        yield cluster
    finally:
        cluster.stop()


def cluster_states(cluster: SlurmCluster) -> Sequence[str]:
    with suppress(subprocess.CalledProcessError):
        return cluster.call("sinfo", "--noheader", "--Node", "--format=%t").split()
    return []


def free_ports(num: int) -> list[int]:
    sockets = [socket.socket() for _ in range(num)]
    try:
        for item in sockets:
            item.bind(("127.0.0.1", 0))
        return [item.getsockname()[1] for item in sockets]
    finally:
        for item in sockets:
            item.close()


def wait_until(is_so: Callable[[], bool], timeout_s: float, step_s: float = 0.5) -> None:
    end = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < end, f"not so after {timeout_s} s"
        time.sleep(step_s)

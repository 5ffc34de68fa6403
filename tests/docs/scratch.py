"""A project of its own in which the blocks of a page are executed, one after the other, as its reader would.

The text of a block stays as it is, but for :data:`SUBSTITUTIONS`. What makes it quick enough for a test is done to the
copy: :data:`SMALL` settings in every configuration, small studies, and the programs of :mod:`tests.docs.stand_ins`.
"""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.docs import stand_ins
from tests.docs.blocks import ROOT, Block, Page
from tests.docs.commands import OTHER_PROGRAMS
from tests.docs.inputs import Shelf, write_inputs
from tests.docs.shell_words import Words, commands, without_assignments

SMALL: Mapping[str, Any] = {
    "synthetic": {"num_train_cars": 28, "num_val_cars": 6, "num_test_cars": 8, "image_size": [270, 480]},
    "rendered": {"num_train_cars": 8, "num_val_cars": 2, "num_test_cars": 2},
    "train": {"epochs": 1, "batch_size": 8, "num_samples": 32},
    "quant": {
        "num_images": 16,
        "num_rounding_images": 8,
        "num_sqnr_images": 8,
        "batch_size": 8,
        "max_loss": 0.05,  # six crops cannot show a smaller loss
    },
    "adapt": {"epochs": 1, "steps_per_epoch": 2, "num_holdout_views": 2, "max_loss_on_generated": 1.0},
    "align": {  # a network that has learnt little has no peaks to hold on to
        "max_moved_share": 0.9,
        "max_pck_difference": 0.5,
        "max_loss_difference": 0.5,
        "max_shift_steps": 20,
        "num_kernel_crops": 4,
    },
    "benchmark": {"num_rounds": 3, "max_seconds": 1.0},
}
"""Settings of every configuration in the copy: few cars, one epoch. The network stays the real one."""

UNCHANGED = ("tiny.yaml",)

SUBSTITUTIONS: Mapping[str, str] = {
    "/path/to/carfusion": "{carfusion}",
    "data.source=PATH": "data.source={carfusion}",
    "/path/to/meshes": "{meshes}",
    "<id>,<id>": "$(newest-run float),$(newest-run calibration)",
    "<id of the adapt run>": "$(newest-run adapt)",
    "<id of that calibration run>": "$(newest-run calibration)",
    "runs:/<id>": "runs:/$(newest-run float)",
    "runs:/<its run>": "runs:/$(newest-run precision)",
    "runs:/<that export>": "runs:/$(newest-run export)",
    "postgresql://user@host/studies": "sqlite:///studies.db",
    "--trials 30": "--trials 3",
    "127.0.0.1:5000": "127.0.0.1:{port}",
    "-p 5000": "-p {port}",
}
"""What a page writes -> what is executed: what readers fill in, a database that no test has, a port that may be taken.
``{carfusion}``, ``{meshes}`` and ``{port}`` are those of the test."""

PYTHON_PRELUDE = textwrap.dedent(
    """\
    import cv2 as _cv2
    image = _cv2.cvtColor(_cv2.imread("photo.jpg"), _cv2.COLOR_BGR2RGB)
    """
)
"""In front of the Python of a page: ``image`` is a photograph, uint8 (H, W, 3) RGB."""

QUICK_COMMANDS = ("config", "doctor", "infer", "models", "status", "--help")
"""Of carkp: those of a few seconds, where no run has to be looked for."""

QUICK_PROGRAMS = ("pip", "pytest", *OTHER_PROGRAMS)
SECONDS_A_BLOCK = 1800.0

_FAILURES = (
    "trap 's=$?; ((s == 0)) || exit $s; __command=$BASH_COMMAND; __line=$LINENO' DEBUG; "
    "trap 's=$?; ((s == 0)) || echo \"[exit status $s, line $((__line + {offset})): $__command]\" >&2' EXIT; "
    "set -o pipefail\n"
)
"""In front of a script: it ends at the first command that fails, also inside ``a && b``, and names it."""


@dataclass(frozen=True)
class Outcome:
    """Exit status (-1: it ran out of time) and what was printed."""

    status: int
    output: str


@dataclass(frozen=True)
class Failure:
    """A block that did not run."""

    block: Block
    outcome: Outcome

    def __str__(self) -> str:
        status = "ran out of time" if self.outcome.status == -1 else f"ended with status {self.outcome.status}"
        shown = "\n".join(self.outcome.output.splitlines()[-40:])
        return (
            f"{self.block.page}:{self.block.line}: this block {status}\n"
            f"{textwrap.indent(self.block.text, '    ')}  and printed\n{textwrap.indent(shown, '    ')}"
        )


@dataclass(frozen=True)
class Scratch:
    """A project at a place of its own; ``bin`` holds the stand-ins."""

    path: Path
    bin: Path
    shelf: Shelf
    port: int

    def write(self, block: Block) -> None:
        """The file that a page tells its reader to write."""
        path = self.path / block.marks.file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.text, encoding="utf-8")

    def run(self, block: Block, earlier_python: str = "", seconds: float = SECONDS_A_BLOCK) -> Outcome:
        """Execute a block of a shell or of Python; what it has started is stopped at its end."""
        if block.is_shell:
            offset = block.line - 2
            text = _FAILURES.replace("{offset}", str(offset)) + self.substituted(block.script)
            return self.execute(["bash", "-c", f"{text}\n:\n"], seconds)  # bash becomes its last command, without traps
        script = self.path / "block.py"
        script.write_text(PYTHON_PRELUDE + earlier_python + self.substituted(block.text), encoding="utf-8")
        return self.execute(["python", script.name], seconds)

    def substituted(self, text: str) -> str:
        """Raises ValueError where something is left for a reader to fill in."""
        for shown, meant in SUBSTITUTIONS.items():
            values = {"{carfusion}": self.shelf.carfusion, "{meshes}": self.shelf.meshes, "{port}": self.port}
            for name, value in values.items():
                meant = meant.replace(name, str(value))
            text = text.replace(shown, meant)
        left = re.findall(r"<[^<>\n=]+>|…", re.sub(r"#.*", "", text))
        if left:
            raise ValueError(f"tests/docs/scratch.py: SUBSTITUTIONS must say what {left[0]} stands for")
        return text

    def execute(self, command: Sequence[str], seconds: float = SECONDS_A_BLOCK) -> Outcome:
        log = self.path.parent / "output.txt"
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                cwd=self.path,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                status = process.wait(seconds)
            except subprocess.TimeoutExpired:
                status = -1
            _stop_group(process.pid)
        return Outcome(status, log.read_text(encoding="utf-8", errors="replace"))

    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "CARKP_"))}
        programs = Path(sys.executable).parent
        return {
            **kept,
            "PATH": os.pathsep.join([str(self.bin), str(programs), kept["PATH"]]),
            "PYTHONPATH": str(ROOT),
            stand_ins.REAL_PROGRAMS: str(programs),
        }


def _stop_group(group: int) -> None:
    """End what is left of a session: servers that a block has put into the background."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(group, number)
        except ProcessLookupError:
            return
        subprocess.run(["sleep", "1"], check=False)


def make_scratch(folder: Path, shelf: Shelf, port: int) -> Scratch:
    """A small copy of the checkout, with the files that the documentation takes as its reader's.

    The code is not copied: it runs from the checkout, where its compiled kernels are kept.
    """
    scratch = Scratch(folder / "carkp", folder / "bin", shelf, port)
    _copy_checkout(scratch.path)
    shrink(scratch.path / "configs")
    write_inputs(scratch.path, shelf)
    _write_stand_ins(scratch.bin)
    return scratch


def _copy_checkout(project: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if not name.startswith(("carkp/", "tests/")) and (ROOT / name).is_file():
            (project / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, project / name)


def shrink(configs: Path) -> None:
    """Write :data:`SMALL` into every experiment, and the small study in the place of the large one."""
    for path in configs.glob("*.yaml"):
        if path.name not in UNCHANGED:
            tree = yaml.safe_load(path.read_text(encoding="utf-8"))
            for section, settings in SMALL.items():
                tree[section] = {**(tree.get(section) or {}), **settings}
            path.write_text(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True), encoding="utf-8")
    shutil.copy(configs / "search" / "tiny.yaml", configs / "search" / "default.yaml")


def _write_stand_ins(folder: Path) -> None:
    folder.mkdir()
    for name in stand_ins.NAMES:
        program = folder / name
        program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -S {stand_ins.__file__} {name} "$@"\n')
        program.chmod(0o755)


def run_page(
    page: Page, scratch: Scratch, is_wanted: Callable[[Block], bool] = lambda _: True, seconds: float = SECONDS_A_BLOCK
) -> list[Failure]:
    """Execute the blocks of a page in order, and go on after one that fails."""
    failures: list[Failure] = []
    earlier_python = ""
    for block in page.blocks:
        if block.marks.file:
            scratch.write(block)
        if not is_executed(block) or not is_wanted(block):
            continue
        try:
            outcome = scratch.run(block, earlier_python, seconds)
        except ValueError as error:
            outcome = Outcome(2, str(error))
        if outcome.status != 0:
            failures.append(Failure(block, outcome))
        if block.language == "python":
            earlier_python += block.text
    return failures


def is_executed(block: Block) -> bool:
    """Of a shell or of Python, and not marked as left out."""
    marks = block.marks
    return (block.is_shell or block.language == "python") and not (marks.not_run or marks.not_checked or marks.file)


def quick_blocks(page: Page) -> tuple[Block, ...]:
    """The first blocks of a page that are executed, up to the one that takes longer than seconds."""
    executed = [block for block in page.blocks if is_executed(block)]
    slow = next((number for number, block in enumerate(executed) if not is_quick(block)), len(executed))
    return tuple(executed[:slow])


def is_quick(block: Block) -> bool:
    return block.language == "python" or all(_is_quick(words) for words in commands(block.script))


def _is_quick(words: Words) -> bool:
    rest = without_assignments(words)
    if not rest or rest[0] in QUICK_PROGRAMS:
        return True
    if rest[0] in ("python", "python3"):
        return rest[1:2] == ["-m"] and rest[2] in ("venv", "pip")
    looks_for_runs = any("latest" in word or word.startswith(("runs:", "models:")) for word in rest)
    names = [word for word in rest[1:] if not word.startswith("-") or word == "--help"]
    return rest[0] == "carkp" and not looks_for_runs and names[:1] != [] and names[0] in QUICK_COMMANDS

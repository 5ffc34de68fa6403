"""Code that all entry points share: parameters, the run, and errors that a user can act on."""

import argparse
import io
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from carkp.cluster.slurm import ClusterError
from carkp.config.loading import ConfigError, dump_yaml, flatten, load_config, split_overrides
from carkp.config.schema import ExperimentConfig
from carkp.data.issues import DataError
from carkp.deploy.compiled import CompiledMismatchError
from carkp.deploy.cpu import cpu_features
from carkp.deploy.float_onnx import ExportMismatchError
from carkp.deploy.graph_audit import FloatKernelError
from carkp.deploy.int8_onnx import Int8OnnxError
from carkp.deploy.runtime import OnnxRunError
from carkp.entry_points import DATA, DEFAULT_CONFIG, ENTRY_POINTS, MODEL, VERBOSE_VARIABLE, Parameter
from carkp.keypoints.predictions import PredictionsError
from carkp.measurements.record import RecordError
from carkp.predictor import ModelError
from carkp.project import find_config, project_root
from carkp.quant.program import ProgramError
from carkp.quant.simulate import AccumulatorOverflowError
from carkp.tracking.store import SERVER_ERRORS, TrackingError, explain_server_error
from carkp.tracking.tracker import NullTracker, Tracker, tracked_run
from carkp.training.checkpoint import CheckpointError
from carkp.training.distributed import ProcessError
from carkp.tuning.errors import StorageError
from carkp.workflow import system_errors
from carkp.workflow.early import refuse_early
from carkp.workflow.killed import end_killed_runs
from carkp.workflow.process import Terminated, orderly_interrupts
from carkp.workflow.reuse import keep_code
from carkp.workflow.run_log import kept_output


class AlignmentError(Exception):
    """Executions of one model differ by more than the tolerances."""


class AdaptationError(Exception):
    """An adapted model is worse than before on the data that it was first trained on."""


class UnsupportedModelError(Exception):
    """A model has layers that the target cannot run."""


class PipelineError(Exception):
    """A step failed, or an earlier pipeline still works on it."""


__all__ = [
    "DATA",
    "DEFAULT_CONFIG",
    "MODEL",
    "USER_ERRORS",
    "AdaptationError",
    "AlignmentError",
    "Arguments",
    "Parameter",
    "PipelineError",
    "UnsupportedModelError",
    "execute",
    "guarded",
    "log_config",
    "parse",
    "parse_stage",
    "run_in_folder",
]

USER_ERRORS = (
    ConfigError,
    DataError,
    CheckpointError,
    TrackingError,
    FloatingPointError,
    Int8OnnxError,
    FloatKernelError,
    ExportMismatchError,
    ProgramError,
    AccumulatorOverflowError,
    AlignmentError,
    AdaptationError,
    CompiledMismatchError,
    UnsupportedModelError,
    PipelineError,
    ProcessError,
    ClusterError,
    ModelError,
    StorageError,
    RecordError,
    PredictionsError,
    OnnxRunError,
)
"""Errors whose message tells a user what went wrong, where, and what to do. They are shown without a traceback."""


@dataclass(frozen=True)
class Arguments:
    """A parsed command line: the resolved configuration, the stage's parameters and flags, and the raw words.

    ``config_words`` give another stage the same configuration; ``lists`` hold arguments that may be repeated.
    """

    config: ExperimentConfig
    values: Mapping[str, str]
    raw: Sequence[str]
    flags: frozenset[str] = frozenset()
    config_words: Sequence[str] = ()
    lists: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def parse(
    stage: str,
    summary: str,
    parameters: Sequence[Parameter],
    argv: Sequence[str] | None,
    prog: str = "",
    flags: Mapping[str, str] = MappingProxyType({}),
    lists: Mapping[str, str] = MappingProxyType({}),
    default_config: str = DEFAULT_CONFIG,
) -> Arguments:
    """Parse the command line of ``stage``; ``prog`` is the program's name in help, if it is not a stage.

    ``flags``: name -> help of switches that only the command line has, not the entry point. ``lists``: name -> help of
    arguments that may be repeated; a name that begins with ``--`` is an option, any other is positional.

    Raises:
        ConfigError: the configuration cannot be used.
    """
    parser = argparse.ArgumentParser(
        prog=prog or f"python -m carkp.stages.{stage}",
        description=summary,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--config", default=default_config, help="YAML file of the experiment")
    parser.add_argument("--overrides", default="", help="space-separated a.b=c settings, shell quoting allowed")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="one setting; may be repeated")
    for parameter in parameters:
        parser.add_argument(f"--{parameter.name}", default=parameter.default, help=parameter.help)
    for name, text in flags.items():
        parser.add_argument(f"--{name}", dest=name, action="store_true", help=text)
    for name, text in lists.items():
        if name.startswith("--"):
            parser.add_argument(name, action="append", default=[], help=text)
        else:
            parser.add_argument(name, nargs="*", default=[], help=text)
    raw = list(sys.argv[1:] if argv is None else argv)
    values = vars(parser.parse_args(raw))
    overrides = [*split_overrides(values["overrides"]), *values["set"]]
    config = load_config(find_config(values["config"]), overrides)
    chosen = {parameter.name: values[parameter.name] for parameter in parameters}
    config_words = ["--config", values["config"], *(word for text in overrides for word in ("--set", text))]
    given = {name: tuple(values[name.removeprefix("--")]) for name in lists}
    return Arguments(config, chosen, raw, frozenset(name for name in flags if values[name]), config_words, given)


def parse_stage(name: str, argv: Sequence[str] | None, prog: str = "") -> Arguments:
    """Parse the command line of an entry point of MLproject; ``prog`` is the name in help, if it is not a module.

    Raises:
        ConfigError: the configuration cannot be used.
    """
    point = ENTRY_POINTS[name]
    return parse(
        name,
        point.summary,
        point.parameters,
        argv,
        prog or f"python -m carkp.stages.{point.module}",
        point.flags,
        default_config=point.default_config,
    )


def guarded(main: Callable[[], int]) -> int:
    """Run ``main``; errors that a user can act on become one message and exit status 1."""
    try:
        with orderly_interrupts():
            _print_anything()
            return main()
    except USER_ERRORS as error:
        return _fail(str(error))
    except SERVER_ERRORS as error:
        return _fail(explain_server_error(error))
    except BrokenPipeError:  # as with `| head`; Python would write the rest again at exit, and fail again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if not system_errors.is_of_surroundings(error):
            raise
        return _fail(system_errors.describe(error, project_root()))
    except KeyboardInterrupt as reason:
        print("interrupted", file=sys.stderr)  # noqa: T201
        return 128 + (signal.SIGTERM if isinstance(reason, Terminated) else signal.SIGINT)


def _print_anything() -> None:
    """Let file names that are not text, and terminals without Unicode, not end a run that prints."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _fail(message: str) -> int:
    if os.environ.get(VERBOSE_VARIABLE):
        traceback.print_exc()
    print(f"error: {message}", file=sys.stderr)  # noqa: T201
    return 1


def execute(stage: str, config: ExperimentConfig, work: Callable[[Tracker, Path], None], is_main: bool = True) -> None:
    """Run ``work`` in a tracked run with its own directory, unless its settings are refused at once.

    The directory ``runs/<run id>`` is removed at the end, because the run holds what is worth keeping; after a failure
    it stays. Printed output goes into the run as ``log.txt``. Processes other than the main one report nothing.
    """
    if not is_main:
        work(NullTracker(), project_root() / "runs" / "other-ranks")
        return
    refuse_early(stage, config)
    keep_code(stage, config)
    logs = project_root() / "runs" / "logs"
    with (
        tracked_run(stage, config.name, config.tracking.system_metrics_interval_s, config.tracking.wait_s) as tracker,
        kept_output(tracker, logs / tracker.run_id),
    ):
        end_killed_runs(stage, tracker.run_id)
        run_in_folder(config, tracker, work)


def run_in_folder(config: ExperimentConfig, tracker: Tracker, work: Callable[[Tracker, Path], None]) -> None:
    """Log the resolved configuration, then run ``work`` in ``runs/<run id>``."""
    log_config(config, tracker)
    out_dir = project_root() / "runs" / tracker.run_id
    out_dir.mkdir(parents=True, exist_ok=True)
    work(tracker, out_dir)
    shutil.rmtree(out_dir, ignore_errors=True)


def log_config(config: ExperimentConfig, tracker: Tracker) -> None:
    """Log the resolved configuration as parameters ``config.*`` and as config.yaml, and the CPU as tags."""
    cpu = cpu_features()
    tracker.set_tags({"carkp.cpu": cpu.model, "carkp.cpu_int8": " ".join(cpu.int8_flags)})
    tracker.log_params(flatten(config.model_dump(mode="json"), "config"))
    tracker.log_text(dump_yaml(config), "config.yaml")

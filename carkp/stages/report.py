"""Entry point ``report``: is the int8 model as good as float? A page made of logged artifacts alone."""

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from carkp.config.loading import ConfigError
from carkp.config.schema import ExperimentConfig
from carkp.disk import copy_atomic, remove, write_atomic
from carkp.project import project_root
from carkp.report.accuracy import accuracy_parts, headline
from carkp.report.accuracy_data import ReportContent
from carkp.report.assess import assess, verdicts
from carkp.report.markdown import PICTURES_DIR, markdown_page, markdown_table
from carkp.report.page import html_page
from carkp.report.wording import interval_warnings
from carkp.tracking.tracker import Tracker, command_line, git_state
from carkp.workflow.cli import Arguments, execute, guarded, parse_stage
from carkp.workflow.report.commands import Call, parse_command, portable
from carkp.workflow.report.content import common_split, read_family
from carkp.workflow.report.sources import FamilyRuns, find_families

REPORTS_DIR, ARTIFACT_DIR = "reports", "report"
HTML_NAME, MARKDOWN_NAME = "index.html", "report.md"


@dataclass(frozen=True)
class ReportInputs:
    """The families to report on, and the report's name and folder, which is replaced."""

    families: Sequence[FamilyRuns]
    name: str
    folder: Path


@dataclass(frozen=True)
class ReportResult:
    """The content of the page, and its two files."""

    content: ReportContent
    html: Path
    markdown: Path


def run(config: ExperimentConfig, inputs: ReportInputs, out_dir: Path, tracker: Tracker) -> ReportResult:
    """Read the runs, write ``index.html``, ``report.md`` and its pictures, and log the same folder.

    Raises:
        TrackingError: a family has no predictions.
    """
    content = read_content(config, inputs)
    parts = accuracy_parts(content)
    written = out_dir / ARTIFACT_DIR
    write_atomic(written / HTML_NAME, html_page(content.title, parts, has_contents=True).encode())
    page = markdown_page(content.title, parts)
    write_atomic(written / MARKDOWN_NAME, page.text.encode())
    for name, picture in page.pictures.items():
        write_atomic(written / PICTURES_DIR / name, picture)
    _publish(written, inputs.folder, tracker)
    tracker.set_tags(_tags(inputs))
    experiment = _experiment(inputs.families[0])
    words = [*verdicts(content), markdown_table(headline(content)), *interval_warnings(assess(content))]
    tracker.describe("\n\n".join(words), inputs.name.removeprefix(f"{experiment}-"))
    return ReportResult(content, inputs.folder / HTML_NAME, inputs.folder / MARKDOWN_NAME)


def read_content(config: ExperimentConfig, inputs: ReportInputs) -> ReportContent:
    """Read all numbers and pictures of the families."""
    split = common_split(inputs.families)
    named = zip(inputs.families, family_names(inputs.families), strict=True)
    commit, is_dirty = git_state()
    return ReportContent(
        title=f"Accuracy report: {inputs.name}",
        families=[read_family(family, name, split) for family, name in named],
        split=split,
        alpha=config.eval.alpha,
        command=report_command(config, inputs),
        server_command=report_command(config, inputs, is_on_server=True),
        made_on=f"Report made {datetime.now(UTC):%Y-%m-%d %H:%M} UTC at commit {commit[:10]}{'+' if is_dirty else ''}",
    )


def report_command(config: ExperimentConfig, inputs: ReportInputs, is_on_server: bool = False) -> str:
    """Return the command that makes the report, of the newest runs or of the runs on this tracking server.

    Several families cannot all be the newest: the command has placeholders for their runs.
    """
    call = parse_command(command_line())
    call = call if call is not None and call.stage == "report" else Call("report")
    resolved = config.model_dump(mode="json")
    command = portable(replace(call, parameters={"name": inputs.name}), resolved)
    if is_on_server:
        return f"{command} -P runs={','.join(family.anchor.run_id for family in inputs.families)}"
    if len(inputs.families) == 1:
        return command
    names = [re.sub(r"\W+", "_", name).upper() for name in family_names(inputs.families)]
    return f"{command} -P runs={','.join(f'RUN_OF_{name}' for name in names)}"


def family_names(families: Sequence[FamilyRuns]) -> list[str]:
    """Return short, different names of the families: by target, by experiment, by both, or with the run's id."""
    rules: tuple[Callable[[FamilyRuns], str], ...] = (
        lambda family: family.target,
        _experiment,
        lambda family: f"{_experiment(family)} {family.target}".strip(),
        lambda family: f"{_experiment(family)} {family.anchor.run_id[:8]}",
    )
    for rule in rules[1:] if len(families) == 1 else rules:
        names = [rule(family) for family in families]
        if all(names) and len(set(names)) == len(names):
            return names
    return [family.anchor.run_id for family in families]


def main(argv: Sequence[str] | None = None) -> int:
    def work() -> int:
        _execute(parse_stage("report", argv))
        return 0

    return guarded(work)


def _execute(arguments: Arguments) -> None:
    config = arguments.config
    references = [word.strip() for word in arguments.values["runs"].split(",") if word.strip()]
    if not references:
        raise ConfigError("runs is empty: give latest or run ids separated by commas")
    families = find_families(config, references, Path(config.quant.target).stem)
    name = arguments.values["name"] or default_name(families)
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name):
        raise ConfigError(f"name={name!r}: expected letters, digits, . - and _ (a folder of {REPORTS_DIR}/)")
    inputs = ReportInputs(families, name, project_root() / REPORTS_DIR / name)

    def work(tracker: Tracker, out_dir: Path) -> None:
        print(describe(run(config, inputs, out_dir, tracker)))  # noqa: T201

    execute("report", config, work)


def default_name(families: Sequence[FamilyRuns]) -> str:
    """Return the default name: the experiment with the target or, for several families, with "comparison"."""
    words = [_experiment(families[0]), families[0].target if len(families) == 1 else "comparison"]
    return re.sub(r"[^\w.-]+", "-", "-".join(word for word in words if word))


def describe(result: ReportResult) -> str:
    """Return the main table and the paths of the report, for a person."""
    table = headline(result.content)
    lines = [" | ".join(cell.replace("\n", " (") + (")" if "\n" in cell else "") for cell in row) for row in table.rows]
    root = project_root()
    paths = [path.relative_to(root) if path.is_relative_to(root) else path for path in (result.html, result.markdown)]
    notes = [table.caption, *interval_warnings(assess(result.content))]
    return "\n".join([" | ".join(table.headings), *lines, *notes, f"written: {paths[0]}, {paths[1]}"])


def _publish(written: Path, folder: Path, tracker: Tracker) -> None:
    """Log the report and copy it to its folder, in place of an earlier report."""
    for path in sorted(written.rglob("*")):
        if path.is_file():
            parent = path.parent.relative_to(written)
            tracker.log_file(path, (Path(ARTIFACT_DIR) / parent).as_posix())
    pictures = [f"{PICTURES_DIR}/{path.name}" for path in sorted((written / PICTURES_DIR).glob("*"))]
    for name in (*pictures, HTML_NAME, MARKDOWN_NAME):  # pictures first, then the pages that show them
        copy_atomic(written / name, folder / name)
    for path in (folder / PICTURES_DIR).glob("*"):
        if f"{PICTURES_DIR}/{path.name}" not in pictures:
            remove(path)


def _tags(inputs: ReportInputs) -> Mapping[str, str]:
    first = inputs.families[0]
    tags = {
        "carkp.report": inputs.name,
        "carkp.reported_runs": ",".join(family.anchor.run_id for family in inputs.families),
        "carkp.data_digest": first.data_digest,
        "carkp.target": first.target,
    }
    return {name: value for name, value in tags.items() if value}


def _experiment(family: FamilyRuns) -> str:
    return family.anchor.tags.get("carkp.experiment", "")


if __name__ == "__main__":
    sys.exit(main())

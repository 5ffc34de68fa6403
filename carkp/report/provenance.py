"""The origin of a report's numbers, and the commands that produce them again."""

from carkp.report import tables
from carkp.report.accuracy_data import ReportContent, RunCard
from carkp.report.parts import Code, Heading, Paragraph, Part


def provenance_section(content: ReportContent) -> list[Part]:
    """Return the section with runs, versions, differences of configuration, commands, and the configuration."""
    runs = unique_runs(content)
    parts: list[Part] = [Heading("Provenance"), Paragraph(_reading(content, runs))]
    if len(content.families) > 1:
        parts.append(tables.families_table(content.families))
    parts.append(tables.runs_table(runs))
    versions = tables.versions_table(runs)
    if versions is not None:
        parts += [Heading("Versions", 3), versions]
    else:
        parts.append(Paragraph("None of these runs logged its package versions.", "note"))
    differences = tables.config_differences_table(runs)
    parts.append(Heading("Settings that differ between the runs", 3))
    parts.append(differences or Paragraph(_no_differences(runs)))
    parts += [Heading("Commands", 3), *_commands(content, runs)]
    for family in content.families:
        if family.config_yaml:
            parts.append(Code(family.config_yaml, "yaml", f"Resolved configuration of {family.name}"))
    return parts


def _reading(content: ReportContent, runs: list[RunCard]) -> str:
    """Return sentences on the origin of the numbers and its limits."""
    dirty = any(_commit(run).endswith("+") for run in runs) or content.made_on.endswith("+")
    mark = " A commit with + had uncommitted changes: its code cannot be checked out exactly." if dirty else ""
    return (
        "Everything above was computed from the logs of these runs; nothing was run again. The run ids belong to the "
        "tracking server that this report was made on. "
        f"{content.made_on}.{mark}"
    )


def _no_differences(runs: list[RunCard]) -> str:
    """Return the reason why no difference is shown, which depends on the number of runs with a configuration."""
    num_known = sum(bool(run.config) for run in runs)
    if num_known < 2:
        return f"{num_known} of {len(runs)} runs logged its configuration: there is nothing to compare."
    if num_known < len(runs):
        others = len(runs) - num_known
        return f"None between the {num_known} runs that logged their configuration; {others} logged none."
    return "None: all runs had the same resolved configuration, in the settings that all of them know."


def _commands(content: ReportContent, runs: list[RunCard]) -> list[Part]:
    """Return the commands for a checkout, and the command that makes this page again from its runs."""
    listed = [*commands(runs), content.command]
    commits = dict.fromkeys(_commit(run).removesuffix("+") for run in runs)
    commits = {commit: None for commit in commits if commit.strip("–") and commit != "unknown"}
    if len(commits) == 1:
        where = f"in a checkout of {next(iter(commits))}"
    else:
        where = "each in a checkout of its run's commit" if commits else "in a checkout"
    words = [f"Run these commands in this order, {where}, to repeat the runs. Where a run used another run by "
             "its id, they use the newest one, which is the same in this order."]  # fmt: skip
    if any("/path/to/" in command for command in listed):
        words.append("Paths that begin with /path/to/ stand for files on the machine of the run.")
    if any("RUN_OF_" in command for command in listed):
        words.append("RUN_OF_… stand for the ids of your own runs.")
    unknown = [run for run in runs if not run.command]
    if unknown:
        words.append(f"The command is unknown for: {', '.join(f'{run.stage} {run.run_id}' for run in unknown)}.")
    parts: list[Part] = [Paragraph(" ".join(words)), Code("\n".join(listed))]
    if content.server_command:
        parts.append(Paragraph("With the tracking server that has these runs, this command makes the page again:"))
        parts.append(Code(content.server_command))
    return parts


def _commit(run: RunCard) -> str:
    return run.facts.get("commit", "")


def unique_runs(content: ReportContent) -> list[RunCard]:
    """Return the runs of all families, each once."""
    return list({run.run_id: run for family in content.families for run in family.runs}.values())


def commands(runs: list[RunCard]) -> list[str]:
    """Return the commands of the runs, each once."""
    return list(dict.fromkeys(run.command for run in runs if run.command))

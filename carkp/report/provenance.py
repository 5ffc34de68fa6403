"""Where the numbers of a report come from, and the commands that make them again."""

from carkp.report import tables
from carkp.report.accuracy_data import ReportContent, RunCard
from carkp.report.parts import Code, Heading, Paragraph, Part


def provenance_section(content: ReportContent) -> list[Part]:
    """Runs, versions, differences of configuration, commands, and the configuration itself."""
    runs = unique_runs(content)
    parts: list[Part] = [
        Heading("Provenance"),
        Paragraph(
            f"Everything above was computed from what these runs logged, nothing was run again. {content.made_on}. A "
            "commit with + had uncommitted changes: its code cannot be checked out exactly."
        ),
    ]
    if len(content.families) > 1:
        parts.append(tables.families_table(content.families))
    parts.append(tables.runs_table(runs))
    versions = tables.versions_table(runs)
    if versions is not None:
        parts += [Heading("Versions", 3), versions]
    else:
        parts.append(Paragraph("None of these runs logged the versions of its packages.", "note"))
    differences = tables.config_differences_table(runs)
    parts.append(Heading("Settings that differ between the runs", 3))
    parts.append(differences or Paragraph("None: all runs had the same resolved configuration."))
    parts += [Heading("Commands", 3), Paragraph("In this order, in a checkout of the commits above:")]
    parts.append(Code("\n".join([*commands(runs), content.command])))
    for family in content.families:
        if family.config_yaml:
            parts.append(Code(family.config_yaml, "yaml", f"Resolved configuration of {family.name}"))
    return parts


def unique_runs(content: ReportContent) -> list[RunCard]:
    """The runs of all families, each once."""
    return list({run.run_id: run for family in content.families for run in family.runs}.values())


def commands(runs: list[RunCard]) -> list[str]:
    """The commands of the runs, each once."""
    return list(dict.fromkeys(run.command for run in runs if run.command))

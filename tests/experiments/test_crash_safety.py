"""The study that kills stages: its counts, and a few kills in earnest."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from tests.stages.conftest import ROOT, TINY, copy_project

SCRIPT = ROOT / "experiments" / "crash_safety.py"
STUDY = runpy.run_path(str(SCRIPT), run_name="crash_safety")


def test_moments_are_the_same_for_a_seed_and_others_for_each_stage() -> None:
    moments = STUDY["moments"]
    assert moments("export", 3, 0) == moments("export", 5, 0)[:3]
    assert moments("export", 3, 0) != moments("report", 3, 0) != moments("report", 3, 1)
    assert all(0 <= moment < 1 for moment in moments("main", 100, 0))


def test_what_went_wrong_is_counted_by_kind_and_stage() -> None:
    made = STUDY["Outcome"]
    outcomes = [
        made("export", 0, 0.5, True),
        made("export", 1, 0.5, True, status=1),
        made("report", 0, 0.5, True, different=["metric a"], left=["x.partial"]),
        made("report", 1, 0.5, True, unreadable=["best.pt"], running=["report tiny"]),
    ]
    references = {name: STUDY["Reference"]({}, 2.0, []) for name in ("export", "report")}
    found = STUDY["findings"](outcomes, references)
    values = {item.name: item.value for item in found.measurements}
    assert values == {"kills": 4, "lost": 2, "half_written": 1, "left": 1, "running": 1}
    (table,) = found.tables
    assert [(row["kills"], row["lost"], row["half_written"]) for row in table.rows] == [(2, 1, 0), (2, 1, 1)]
    assert len(found.details["faults"]) == 3


@pytest.mark.slow
def test_killed_stages_end_as_if_nothing_had_happened(tmp_path: Path) -> None:
    project = copy_project(tmp_path / "carkp")
    words = ["--config", TINY, "--set", "data.num_workers=1", "--kills", "3", "--stages", "data,export,float"]

    def call() -> list[dict[str, object]]:
        done = subprocess.run(
            [sys.executable, str(SCRIPT), *words],
            cwd=project.path, env=project.environment(), capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        lines = (project.path / "runs" / "crash_safety" / "kills.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    outcomes = call()
    assert sorted(str(item["stage"]) for item in outcomes) == ["data", "export", "float"]
    for item in outcomes:
        assert [item[name] for name in ("status", "different", "unreadable", "left", "running")] == [0, [], [], [], []]
    assert call() == outcomes, "what is done is not done again"

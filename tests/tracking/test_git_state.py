import subprocess
from pathlib import Path

import pytest

from carkp.tracking.tracker import git_state


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with one commit."""
    (tmp_path / "reports").mkdir()
    for name in ("code.py", "reports/report.md"):
        (tmp_path / name).write_text("one")
    author = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["add", "."], [*author, "commit", "-qm", "first"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    return tmp_path


def test_a_report_does_not_make_a_checkout_dirty(checkout: Path) -> None:
    commit, is_dirty = git_state(checkout)
    assert len(commit) == 40
    assert not is_dirty
    (checkout / "reports/report.md").write_text("two")
    assert git_state(checkout) == (commit, False)
    (checkout / "code.py").write_text("two")
    assert git_state(checkout) == (commit, True)


def test_outside_a_checkout_nothing_is_known(tmp_path: Path) -> None:
    assert git_state(tmp_path) == ("unknown", True)


def test_the_commit_of_a_repository_around_it_is_not_its_own(checkout: Path) -> None:
    site = checkout / ".venv/site-packages"
    (site / "carkp").mkdir(parents=True)
    (site / "carkp/code.py").write_text("one")
    assert git_state(site) == ("unknown", True)
    (checkout / "carkp").mkdir()  # a copy beside the user's own files, which are tracked
    (checkout / "carkp/code.py").write_text("one")
    assert git_state(checkout) == ("unknown", True)
    subprocess.run(["git", "add", "-f", "carkp"], cwd=checkout, check=True)
    assert len(git_state(checkout)[0]) == 40


def test_variables_of_a_git_hook_change_nothing(
    checkout: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = git_state(checkout)
    monkeypatch.setenv("GIT_DIR", str(tmp_path_factory.mktemp("other") / ".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", "nowhere")
    assert git_state(checkout) == before

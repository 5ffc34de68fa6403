"""Reports on the disk: in order, whole after a kill, each once."""

import json
import os
import signal
import time
from pathlib import Path

import pytest

from carkp.tracking.spool import REPORTS, Address, Report, Spool, SpoolError, spools

ADDRESS = Address("0123", "http://127.0.0.1:5000", "float tiny")


def numbered(number: int) -> Report:
    return Report("tags", {"number": str(number)})


def numbers(spool: Spool) -> list[int]:
    """Of all that waits; it counts as sent then."""
    found = []
    while (report := spool.next()) is not None:
        found.append(int(report.content["number"]))
        spool.mark_sent()
    return found


def reopened(spool: Spool) -> Spool:
    """As after the death of the process that had it."""
    spool._lock.release()
    found = Spool.open(spool.folder)
    assert found is not None
    return found


def test_what_was_kept_comes_back_in_order_and_once(tmp_path: Path) -> None:
    spool = Spool.create(tmp_path / "spool", ADDRESS)
    for number in range(4):
        spool.append(numbered(number))
    assert spool.num_unsent() == 4
    spool.next()
    spool.mark_sent()
    again = reopened(spool)
    assert again.address == ADDRESS
    assert numbers(again) == [1, 2, 3]
    again.close()
    assert spools(tmp_path / "spool") == []
    assert not again.folder.exists()


@pytest.mark.parametrize("name", [REPORTS, "sent"])
def test_a_line_that_was_cut_off_is_none(tmp_path: Path, name: str) -> None:
    spool = Spool.create(tmp_path, ADDRESS)
    for number in range(3):
        spool.append(numbered(number))
    spool.next()
    spool.mark_sent()
    with (spool.folder / name).open("ab") as file:
        file.write(b"9")
    again = reopened(spool)
    again.append(numbered(3))
    assert numbers(again) == [1, 2, 3]


def test_after_a_kill_all_is_there_that_was_said_to_be_kept(tmp_path: Path) -> None:
    told = tmp_path / "told"
    pid = os.fork()
    if pid == 0:  # until it is killed
        try:
            spool = Spool.create(tmp_path / "spool", ADDRESS)
            with told.open("w") as file:
                for number in range(1_000_000):
                    spool.append(numbered(number))
                    file.write(f"{number}\n")
                    file.flush()
        finally:
            os._exit(1)
    end = time.monotonic() + 20
    while not told.exists() or told.read_text().count("\n") < 20:
        assert time.monotonic() < end
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    (folder,) = spools(tmp_path / "spool")
    spool = Spool.open(folder)
    assert spool is not None
    found = numbers(spool)
    assert found == list(range(len(found)))
    assert len(found) - told.read_text().count("\n") in (0, 1)  # the last one may have been kept and not yet told


def test_of_files_the_newest_waits(tmp_path: Path) -> None:
    source = tmp_path / "last.pt"
    spool = Spool.create(tmp_path / "spool", ADDRESS)
    for number in range(3):
        source.write_text(str(number))
        spool.append(Report("artifact", {"number": number}, (source,), replaces="checkpoints/last.pt"))
        spool.append(numbered(number))
    assert len(list(spool.folder.glob("files/*/last.pt"))) == 1
    source.write_text("later")
    again = reopened(spool)
    found = []
    while (report := again.next()) is not None:
        found.append((report.kind, report.files[0].read_text() if report.files else report.content["number"]))
        again.mark_sent()
    assert found == [("tags", "0"), ("tags", "1"), ("artifact", "2"), ("tags", "2")]
    assert list(again.folder.glob("files/*")) == []


def test_what_a_process_still_uses_is_left_to_it(tmp_path: Path) -> None:
    spool = Spool.create(tmp_path, ADDRESS)
    spool.append(numbered(0))
    assert Spool.open(spool.folder) is None
    assert numbers(reopened(spool)) == [0]


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool.create(tmp_path, ADDRESS)
    spool.append(numbered(0))

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="No space left"):
            spool.append(numbered(1))
    spool.append(numbered(2))
    assert numbers(reopened(spool)) == [0, 2]


def test_what_is_refused_is_kept_apart(tmp_path: Path) -> None:
    spool = Spool.create(tmp_path, ADDRESS)
    for number in range(2):
        spool.append(numbered(number))
    spool.next()
    spool.refuse("no such run")
    again = reopened(spool)
    assert numbers(again) == [1]
    again.close()
    (line,) = (spool.folder / "refused.jsonl").read_text().splitlines()
    assert json.loads(line)["reason"] == "no such run"
    assert json.loads(line)["report"]["content"] == {"number": "0"}


def test_a_damaged_spool_is_named(tmp_path: Path) -> None:
    spool = Spool.create(tmp_path, ADDRESS)
    (spool.folder / REPORTS).write_text("not a report\n")
    with pytest.raises(SpoolError, match=f"{REPORTS}: damaged at byte 0"):
        spool.next()
    spool._lock.release()
    (spool.folder / "address.json").write_text("{}")
    with pytest.raises(SpoolError, match="cannot be read as kept reports"):
        Spool.open(spool.folder)


@pytest.mark.parametrize("name", ["/etc/passwd", "../elsewhere.png", "files/../../elsewhere.png"])
@pytest.mark.parametrize("place", ["files", "folder"])
def test_names_in_a_spool_stay_in_their_folders(tmp_path: Path, name: str, place: str) -> None:
    spool = Spool.create(tmp_path, ADDRESS)
    files, folder = ([name], "figures") if place == "files" else ([], name)
    report = {"kind": "artifact", "content": {"folder": folder}, "files": files, "replaces": False}
    (spool.folder / REPORTS).write_text(json.dumps(report) + "\n")
    with pytest.raises(SpoolError, match="leads out of its folder"):
        spool.next()

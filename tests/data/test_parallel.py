"""The map over processes keeps order, errors and the main module where they belong."""

import os
import subprocess
import sys
from functools import partial
from itertools import count, islice
from pathlib import Path

import pytest

from carkp.data.issues import DataError, Issues
from carkp.data.parallel import CHUNK_SIZE, CHUNKS_AHEAD_PER_WORKER, map_ordered, resolve_num_workers

ROOT = Path(__file__).parents[2]

SCRIPT = """
import os, sys
print("main imported", flush=True)
from carkp.data.parallel import map_ordered
if __name__ == "__main__":
    assert sum(map_ordered(abs, range(-20, 0), 2)) == 210
"""


@pytest.mark.parametrize("num_workers", [1, 2])
def test_results_come_in_order(num_workers):
    assert list(map_ordered(partial(pow, 2), range(40), num_workers)) == [2**i for i in range(40)]


def test_an_endless_input_is_read_only_a_little_ahead():
    source = count(1)
    results = map_ordered(abs, source, 2)
    assert list(islice(results, 3)) == [1, 2, 3]
    assert next(source) <= (2 * CHUNKS_AHEAD_PER_WORKER + 2) * CHUNK_SIZE
    results.close()


def test_an_error_in_a_worker_arrives():
    with pytest.raises(ZeroDivisionError):
        list(map_ordered(partial(divmod, 1), [1, 0, 1], 2))


def test_a_dead_worker_is_a_clear_error():
    with pytest.raises(DataError, match="worker process died"):
        list(map_ordered(os._exit, [3], 2))


def test_zero_workers_is_one_a_core():
    assert resolve_num_workers(0) >= 1
    assert resolve_num_workers(3) == 3
    with pytest.raises(ValueError, match="num_workers must not be negative, got -1"):
        resolve_num_workers(-1)


def test_workers_do_not_import_the_main_module(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.split("\n") == ["main imported", ""]


def test_issues_of_workers_add_up():
    one, two = Issues(), Issues()
    one.skip("a", "here")
    two.skip("a", "there", 2)
    two.correct("b", "there")
    two.warn("careful")
    one.merge(two)
    one.merge(two)
    assert (one.skipped["a"].count, one.skipped["a"].first) == (5, "here")
    assert one.corrected["b"].count == 2
    assert two.skipped["a"].count == 2
    assert one.describe_skipped() == "5 x a (first: here)"

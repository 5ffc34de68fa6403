"""Every reader gives the project's own errors alone, whatever bytes it gets; ``experiments/fuzz.py`` looks longer."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.mutations import dump_json, mutate
from tests.fuzz.readers import READERS, Reader, is_foreign

NUM_VARIANTS, NUM_SLOW_VARIANTS = 25, 4

pytestmark = pytest.mark.filterwarnings("ignore")

every_reader = pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)

plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)
trees = st.recursive(plain, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner))
lines = st.lists(st.text("0123456789.,-+eE[] \t\r;:<>#é\0", max_size=40), max_size=6)


def examples(number: int) -> Any:
    """The same ones in every run."""
    checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    return settings(max_examples=number, derandomize=True, deadline=None, database=None, suppress_health_check=checks)


def check(reader: Reader, data: bytes, folder: Path) -> None:
    try:
        reader.read(data, folder)
    except Exception as error:
        if is_foreign(error, reader.errors):
            raise AssertionError(f"{reader.name}: {type(error).__name__} of {data[:300]!r}") from error


@every_reader
def test_valid_files_are_read(reader: Reader, tmp_path: Path) -> None:
    for content in reader.seeds():
        reader.read(content, tmp_path)


@every_reader
def test_damaged_files(reader: Reader, tmp_path: Path) -> None:
    seeds = list(reader.seeds())

    @examples(NUM_SLOW_VARIANTS if reader.is_slow else NUM_VARIANTS)
    @given(st.integers(0, 2**32))
    def run(number: int) -> None:
        rng = random.Random(number)
        check(reader, mutate(rng.choice(seeds), rng, reader.form, seeds), tmp_path)

    run()


@pytest.mark.parametrize("reader", [item for item in READERS if item.form == "json"], ids=lambda item: item.name)
def test_any_json(reader: Reader, tmp_path: Path) -> None:
    names = sorted({name for content in reader.seeds() for name in _names_in(json.loads(content))})

    @examples(NUM_SLOW_VARIANTS if reader.is_slow else NUM_VARIANTS)
    @given(trees | st.dictionaries(st.sampled_from(names or ["a"]), trees))
    def run(tree: Any) -> None:
        check(reader, dump_json(tree), tmp_path)

    run()


@pytest.mark.parametrize("reader", [item for item in READERS if item.form == "yaml"], ids=lambda item: item.name)
def test_any_yaml(reader: Reader, tmp_path: Path) -> None:
    names = sorted({name for content in reader.seeds() for name in _names_in(yaml.safe_load(content))})

    @examples(NUM_SLOW_VARIANTS if reader.is_slow else NUM_VARIANTS)
    @given(trees | st.dictionaries(st.sampled_from(names), trees))
    def run(tree: Any) -> None:
        check(reader, yaml.safe_dump(tree).encode(errors="surrogatepass"), tmp_path)

    run()


@pytest.mark.parametrize("reader", [item for item in READERS if item.form == "text"], ids=lambda item: item.name)
def test_any_text(reader: Reader, tmp_path: Path) -> None:
    @examples(NUM_VARIANTS)
    @given(lines)
    def run(texts: list[str]) -> None:
        check(reader, "\n".join(texts).encode(), tmp_path)

    run()


@every_reader
@pytest.mark.parametrize("data", [b"", b"\0", b"\xff" * 300, b"[" * 100_000, b"{", b"PK\x03\x04", b"a" * 100_000])
def test_what_is_nothing_of_all(reader: Reader, data: bytes, tmp_path: Path) -> None:
    check(reader, data, tmp_path)


def _names_in(tree: Any) -> set[str]:
    if isinstance(tree, dict):
        return {str(name) for name in tree} | {name for value in tree.values() for name in _names_in(value)}
    return {name for item in tree for name in _names_in(item)} if isinstance(tree, list) else set()

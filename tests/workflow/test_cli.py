import pytest

from carkp.workflow.cli import Arguments, Parameter, parse

LISTS = {"names": "words", "--model": "an option that may be repeated"}


def read(*argv: str) -> Arguments:
    parameters = [Parameter("output", "out", "a folder")]
    return parse("study", "A study.", parameters, argv, flags={"track": "track it"}, lists=LISTS)


def test_words_and_repeated_options_are_lists() -> None:
    found = read("a", "b,c", "--model", "x", "--output", "there", "--model", "y", "--track")
    assert found.lists == {"names": ("a", "b,c"), "--model": ("x", "y")}
    assert found.values == {"output": "there"}
    assert found.flags == {"track"}


def test_lists_may_be_empty() -> None:
    assert read().lists == {"names": (), "--model": ()}


def test_without_lists_a_word_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse("study", "A study.", [], ["word"])
    assert "unrecognized arguments: word" in capsys.readouterr().err

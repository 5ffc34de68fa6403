"""Every command that the documentation shows exists, with its parameters, settings and files. Nothing is executed."""

import pytest

from tests.docs.blocks import Page, PageError, page_names, parse_page, read_page
from tests.docs.commands import check_block, check_page, syntax_error
from tests.docs.shell_words import commands


def in_block(script: str, language: str = "sh", before: str = "") -> Page:
    return parse_page("made_up.md", f"# A page\n\n{before}\n```{language}\n{script}\n```\n")


@pytest.mark.parametrize("name", page_names())
def test_commands_of_a_page_exist(name: str) -> None:
    page = read_page(name)
    found = [str(problem) for problem in check_page(page)]
    found += [
        f"{name}:{block.line}: {error}"
        for block in page.blocks
        if block.is_shell and (error := syntax_error(block.script))
    ]
    assert not found, "\n".join(found)


def test_the_pages_have_commands() -> None:
    blocks = [block for name in page_names() for block in read_page(name).blocks]
    assert sum(len(commands(block.script)) for block in blocks if block.is_shell) > 40


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("carp float", "no such program"),
        ("carkp flot", "No such command 'flot'"),
        ("carkp infer photo.jpg --bxes boxes.csv", "No such option '--bxes'"),
        ("carkp view --port many", "not a valid integer"),
        ("carkp config", "name a command"),
        ("carkp -w float", "No such option"),
        ("carkp float --config configs/tinny.yaml", "no such configuration file"),
        ("carkp float --set train.rl=1.0e-3", "train.rl: no such setting"),
        ("carkp float --set train.epochs=many", "train.epochs"),
        ("carkp float --overrides 'train.rl=… seed=1'", "train.rl: no such setting"),
        ("carkp export --stage quat", "export takes calibration, qat"),
        ("carkp check --target bqu", "no such target file"),
        ("carkp tune --search configs/search/long.yaml", "no such search file"),
        ("for stage in float calibratoin; do carkp $stage; done", "No such command 'calibratoin'"),
        ("mlflow run . -e flaot", "flaot: no such entry point"),
        ("mlflow run . -e float -P resum=latest", "float has no such parameter"),
        ("mlflow run . -e float -P config=configs/no.yaml", "no such configuration file"),
        ('mlflow run . -e float -P overrides="train.rl=1"', "train.rl: no such setting"),
        ("mlflow run . -e check -P target=bqu", "no such target file"),
        ("mlflow run . --env-manger local", "No such option"),
        ("mlflow rum .", "No such command 'rum'"),
        ("python experiments/int8_exactnes.py", "no such file"),
        ("python experiments/int8_exactness.py --pictures 3", "unrecognized arguments"),
        ("python experiments/data_difficulty.py --set seed=x", "seed"),
        ("python experiments/collect_real_cars.py", "required: folder"),
        ("python -m carkp.stages.flaot --help", "no such module"),
        ("python -m carkp.stages.infer --untracked", "unrecognized arguments"),
        ('pip install -e ".[trian]"', "[trian]: no such extra"),
        ("pip install -c constrains.txt -e .", "no such file"),
        ("pytest tests/quantt", "no such file"),
        ("pytest -m slwo", "no such marker"),
        ("echo 'never closed", "never closed"),
        ("for x in a b; do echo $x", "has no done"),
    ],
)
def test_a_rotten_command_is_found(command: str, message: str) -> None:
    (problem,) = check_page(in_block(f"echo first\n{command}    # and why"))
    assert message in problem.what
    assert f"made_up.md:{problem.line}" in str(problem)


@pytest.mark.parametrize(
    "text",
    [
        "carkp flot",
        "carkp float --config … --sett …",
        "mlflow run . -e float -P resum=latest",
        "-P resum=latest",
        "-P overrides=train.rl=1.0e-3",
        "evaluate -P stge=float",
        "--bxes FILE",
        "--env-manger",
        "python experiments/int8_exactnes.py",
        "train.rl",
        "train.rl=1.0e-3",
        "seed=1 train.epochs=many",
        "train.lr=0.1 train.epochs=many",
    ],
)
def test_a_rotten_command_in_a_sentence_is_found(text: str) -> None:
    page = parse_page("made_up.md", f"Some words,\nthen `{text}` and more.\n\n| a table |\n|---|\n| `{text}` |\n")
    found = check_page(page)
    assert [problem.line for problem in found] == ([] if text.startswith("seed") else [2, 6])


@pytest.mark.parametrize(
    "text",
    [
        "mlflow run . -e adapt -P images=… -P boxes=…",
        "-P config=configs/….yaml",
        "python experiments/real_cars.py <folder> <model>…",
        "carkp -q …",
        "carkp float --config … --set …",
        "python -m carkp.stages.infer --no-track …",
        "carkp infer --boxes",
        "mlflow run",
        "-P resume=<its last.pt> -P overrides=train.precision=bfloat16",
        'pip install "psycopg[binary]"',
        "carkp/config",
        "export",
    ],
)
def test_what_a_reader_fills_in_is_taken_as_right(text: str) -> None:
    assert not check_page(parse_page("made_up.md", f"See `{text}`.\n"))


@pytest.mark.parametrize(
    ("language", "text", "before"),
    [
        ("yaml", "name: mine\ntrain:\n  rl: 1", "<!-- file: configs/mine.yaml -->"),
        ("yaml", "base: no_such.yaml\nname: mine", "<!-- file: configs/mine.yaml -->"),
        ("yaml", "name: mine\nactivation_dtype: int9", "<!-- file: configs/targets/mine.yaml -->"),
        ("yaml", "num_trails: 3", "<!-- file: configs/search/mine.yaml -->"),
        ("yaml", "a: [1", ""),
        ("json", '{"a": 1', ""),
        ("python", "predictor = (", ""),
    ],
)
def test_a_rotten_file_is_found(language: str, text: str, before: str) -> None:
    (block,) = in_block(text, language, before).blocks
    assert check_block(block)


def test_a_file_that_the_page_writes_is_there_for_its_commands() -> None:
    target = (
        "<!-- file: configs/targets/mine.yaml -->\n```yaml\n{}\n```\n",
        "```sh\ncarkp check --target mine\n```\n",
    )
    problems = check_page(parse_page("made_up.md", "\n".join(target)))
    assert [problem.command for problem in problems] == ["configs/targets/mine.yaml"]
    assert len(check_page(parse_page("made_up.md", target[1]))) == 1


def test_a_block_that_is_not_run_is_checked_all_the_same() -> None:
    assert len(check_page(in_block("carkp flot", before="<!-- not run: needs a GPU -->"))) == 1
    assert not check_page(in_block("carkp flot", before="<!-- not checked: the stage is written above -->"))


@pytest.mark.parametrize(
    "text",
    [
        "<!-- not run -->\n```sh\nls\n```\n",
        "<!-- file: -->\n```sh\nls\n```\n",
        "```sh\nls\n",
        "<!-- not run: why -->\n",
    ],
)
def test_a_page_that_cannot_be_read_says_where(text: str) -> None:
    with pytest.raises(PageError, match=r"made_up\.md"):
        parse_page("made_up.md", text)


def test_blocks_are_found_in_lists_and_consoles() -> None:
    page = parse_page("made_up.md", "1. Do\n\n   ```console\n   $ carkp models\n   carkp-car12\n   ```\n")
    (block,) = page.blocks
    assert block.line == 4
    assert commands(block.script) == [["carkp", "models"]]


def test_shell_words() -> None:
    script = (
        'A=1 carkp float \\\n  --set "name=a b" && for x in 1 2; do\n echo ${x} > file\ndone | cat  # why\n'
        "ls runs=<id>,<id>\n"
    )
    assert commands(script) == [
        ["A=1", "carkp", "float", "--set", "name=a b"],
        ["echo", "1"],
        ["echo", "2"],
        ["cat"],
        ["ls", "runs=PLACEHOLDER,PLACEHOLDER"],
    ]


def test_bad_syntax_is_told() -> None:
    assert "syntax error" in syntax_error("for x in 1; echo\n")
    assert not syntax_error("for x in 1; do echo $x; done\n")

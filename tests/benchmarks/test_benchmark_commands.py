"""``python -m benchmarks``: every suite has what the runner needs, and every command that is written anywhere is one."""

import re
import shlex
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest

from benchmarks.__main__ import SUITES, arguments_of, main, suite_of

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("Makefile", ".ci/run", "README.md", "CHANGELOG.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *(path for folder in ("benchmarks", "made_fast", "tests") for path in sorted((ROOT / folder).rglob("*.py"))),
    *sorted((ROOT / "benchmarks").rglob("*.md")),
]
COMMAND = re.compile(r"-m benchmarks((?:\.\w+)*)\b(?: +([a-z][^`#|\n]*))?")
MADE_UP = ((r"\$\(\w+\)", "1"), (r"\$\*", "newest"))  # what make puts in
WORKER = re.compile(r"\.peers\.\w+")  # what the suite ``peers`` starts in the environment of a library


def _commands() -> list[tuple[str, str, str]]:
    """Page, module after ``benchmarks``, words after it; lines that name no suite are left out."""
    found = set()
    for path in PAGES:
        text = path.read_text()
        for pattern, value in MADE_UP:
            text = re.sub(pattern, value, text)
        pairs = [pair for pair in COMMAND.findall(text) if any(pair)]
        found |= {(str(path.relative_to(ROOT)), module, words.strip()) for module, words in pairs}
    return sorted(found)


COMMANDS = _commands()


def _parsed(name: str, words: list[str]) -> Namespace:
    try:
        return arguments_of(name, words)
    except ModuleNotFoundError as error:
        pytest.skip(f"{name} cannot run here: {error}")


@pytest.mark.parametrize(("page", "module", "words"), COMMANDS, ids=lambda text: text[:40])
def test_a_command_that_is_written_somewhere_is_one(page: str, module: str, words: str) -> None:
    if module:
        assert WORKER.fullmatch(module), f"{page} names benchmarks{module}: the runner is python -m benchmarks SUITE"
        assert (ROOT / "benchmarks" / f"{module[1:].replace('.', '/')}.py").exists()
        return
    name, *options = shlex.split(words.rstrip(".,;:'\")"))
    assert name in SUITES, f"{page} names the suite {name!r}"
    if options != ["--help"]:
        _parsed(name, options)


def test_commands_were_found_where_they_are() -> None:
    pages = {page for page, _, _ in COMMANDS}
    assert {"Makefile", "README.md", "CONTRIBUTING.md", "benchmarks/README.md", "docs/seed-experiments.md"} <= pages


@pytest.mark.parametrize("name", SUITES)
def test_every_suite_has_what_the_runner_needs(name: str) -> None:
    arguments = vars(_parsed(name, ["--quick"]))
    suite = suite_of(name)
    assert suite.TEXT and "\n" not in suite.TEXT
    assert {option: arguments[option] for option in suite.QUICK} == dict(suite.QUICK)
    assert arguments["quick"]


def test_what_is_asked_for_goes_before_what_quick_would_take() -> None:
    assert arguments_of("sampling", ["--quick", "--seconds", "7"]).seconds == 7
    assert arguments_of("sampling", ["--quick"]).seconds < arguments_of("sampling", []).seconds


def test_the_suites_are_listed() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=300
    )
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [words[0] for words in lines if words and words[0] in SUITES] == list(SUITES)
    assert all(len(words) > 3 for words in lines if words)


def test_a_suite_that_is_not_there_is_refused() -> None:
    with pytest.raises(SystemExit, match=r"SUITE must be one of sampling, .* got 'nothing'"):
        main(["nothing"])

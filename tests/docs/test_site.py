"""What the site promises beyond what `mkdocs build --strict` checks: measured tables, old names, words for the search."""

import importlib
import inspect
import re
import runpy
from pathlib import Path

import pytest

from made_fast.former import FORMER

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def test_every_measured_table_stands_under_a_question() -> None:
    pages = [path for path in sorted((DOCS / "performance").glob("*.md")) if path.name not in ("index.md", "method.md")]
    text = "".join(path.read_text() for path in pages)
    results = {path.stem for path in (ROOT / "benchmarks" / "results").glob("*.md")} - {"README"}
    assert set(re.findall(r"benchmarks/results/(\w+)\.md", text)) == results
    for name in results:  # where links to the file lead to
        assert f"{{ #{name.replace('_', '-')} }}" in text, name
    index = (DOCS / "performance" / "index.md").read_text()
    for path in pages:
        questions = re.findall(r"^## (.*?)(?: \{.*)?$", path.read_text(), re.MULTILINE)
        assert questions
        for question in questions:
            assert question.endswith("?")
            assert f"- [{question}]({path.name}#" in index


def test_all_of_a_file_of_tables_is_shown() -> None:
    """A page that takes parts of a file between headings takes each of them."""
    taken: dict[str, set[str]] = {}
    for page in (DOCS / "performance").glob("*.md"):
        for name, start in re.findall(r'results/(\w+)\.md"\n   start="(.*)"', page.read_text()):
            taken.setdefault(name, set()).add(start)
    parts = re.compile(r'results/(\w+)\.md"\n   start=".*"\n   end=')
    split = {name for page in (DOCS / "performance").glob("*.md") for name in parts.findall(page.read_text())}
    assert split
    for name in split:
        headings = re.findall(r"^## .*$", (ROOT / "benchmarks" / "results" / f"{name}.md").read_text(), re.MULTILINE)
        for heading in headings:
            assert any(start in heading for start in taken[name]), (name, heading)


def test_old_names_are_those_that_are_kept() -> None:
    rows = re.findall(
        r"^\| `made_fast\.(\w+)` \| `made_fast\.([\w.]+)` \|$", (DOCS / "names.md").read_text(), re.MULTILINE
    )
    assert dict(rows) == FORMER


# Columns of the table of arguments, and what has them.
NETWORKS = {
    0: ("made_fast", "MADE"),
    1: ("made_fast.compat.nflows", "MADE"),
    2: ("zuko.nn", "MaskedMLP", "zuko.flows", "MAF", "zuko.flows", "MaskedAutoregressiveTransform"),
    3: ("pyro.nn", "AutoRegressiveNN", "pyro.nn", "ConditionalAutoRegressiveNN"),
    4: ("made_fast.compat.pytorch_made", "MADE"),
}


@pytest.mark.parametrize("column", NETWORKS)
def test_arguments_of_others_are_theirs(column: int) -> None:
    known: set[str] = set()
    for module, name in zip(NETWORKS[column][::2], NETWORKS[column][1::2], strict=True):
        pytest.importorskip(module.partition(".")[0])
        network = getattr(importlib.import_module(module), name)
        known |= {*inspect.signature(network.__init__).parameters, *dir(network)}
    text = (DOCS / "names.md").read_text()
    rows = text[text.index("## Arguments") : text.index("## Words")].split("|---|\n")[1].splitlines()
    rows = [row for row in rows if row.startswith("|")]
    told = {name for row in rows for name in re.findall(r"`(\w+)", row.split("|")[1 + column])}
    assert len(told) > 3
    assert told <= known


def test_words_of_the_search_are_for_pages_that_are_there() -> None:
    pytest.importorskip("mkdocs")
    words = runpy.run_path(str(DOCS / "hooks" / "places.py"))["WORDS"]
    assert [page for page in words if not (DOCS / page).exists()] == []
    typed = {word.strip() for line in words.values() for word in line.split(",")}
    assert {"nan", "standardize", "GPU", "inpainting", "karpathy", "normalizing flow", "slow", "fork", "serve"} <= typed
    assert "" not in typed


def test_addresses_are_made_when_the_owner_is_known(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    on_config = runpy.run_path(str(DOCS / "hooks" / "places.py"))["on_config"]
    from mkdocs.config.defaults import MkDocsConfig

    text = (ROOT / "pyproject.toml").read_text()
    for owner, expected in (("OWNER", None), ("somebody", "https://somebody.github.io/made_fast/")):
        (tmp_path / "pyproject.toml").write_text(re.sub(r"(?<=https://)[\w-]+(?=\.github\.io)", owner, text))
        config = MkDocsConfig(str(tmp_path / "mkdocs.yml"))
        config.extra = {}
        assert on_config(config).site_url == expected
        assert ("social" in config.extra) == (expected is not None)

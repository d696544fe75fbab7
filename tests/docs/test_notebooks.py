"""The notebooks of the site: kept without outputs, in the menu, with pictures and claims; `make docs` executes them."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.py"))


def test_they_are_kept_as_python_alone() -> None:
    assert {path.suffix for path in FOLDER.rglob("*") if path.is_file()} == {".py"}
    assert {"images", "table", "physics", "inference"} <= {path.stem for path in NOTEBOOKS}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_in_the_menu_and_says_what_must_hold(path: Path) -> None:
    text = path.read_text()
    assert text.startswith("# %% [markdown]\n# # ")  # the title of its page
    assert f"notebooks/{path.stem}.md" in (ROOT / "mkdocs.yml").read_text()
    tree = ast.parse(text)
    assert sum(isinstance(node, ast.Assert) for node in ast.walk(tree)) >= 2
    assert "plots." in text and not re.search(r"\bshow\(|rcParams|matplotlib\.use", text)

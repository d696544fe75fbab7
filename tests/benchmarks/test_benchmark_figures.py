"""The drawings of the documentation: they are made from what the package does, and the pages have them."""

import re
from pathlib import Path

import pytest

figures = pytest.importorskip("benchmarks.suites.figures", reason="needs matplotlib")

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", figures.FIGURES)
def test_figure_is_drawn_and_shown(name: str) -> None:
    figure = figures.FIGURES[name]()
    assert figure.axes
    assert (ROOT / "docs" / "images" / f"{name}.png").stat().st_size < 150_000
    pages = [*(ROOT / "docs" / "understand").glob("*.md"), ROOT / "docs" / "theme" / "main.html"]
    assert any(f"images/{name}.png" in page.read_text() for page in pages)


def test_the_panel_is_that_of_the_engine() -> None:
    found = re.search(r"constexpr int kPanelRows = (\d+);", (ROOT / "csrc" / "plan" / "plan.h").read_text())
    assert found is not None
    assert int(found[1]) == figures.PANEL

"""Pages of docs/ whose code is run as it stands."""

import importlib.util
import os
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from made_fast import backends

DOCS = Path(__file__).parents[1] / "docs"


def run_page(name: str) -> dict[str, Any]:
    """The names that the page's blocks of Python define, run one after the other."""
    blocks = re.findall(r"^```python\n(.*?)^```", (DOCS / name).read_text(), re.MULTILINE | re.DOTALL)
    assert blocks
    names: dict[str, Any] = {}
    for number, block in enumerate(blocks):
        exec(compile(block, f"{name}, block {number}", "exec"), names)
    return names


def test_own_outputs() -> None:
    pytest.importorskip("numba")
    torch.manual_seed(0)
    names = run_page("own-outputs.md")
    model, fast, x = names["model"], names["fast"], names["x"]
    expected = model.sample(1000, seed=0)
    torch.testing.assert_close(x, expected, rtol=1e-4, atol=2e-4)
    torch.testing.assert_close(names["log_prob"], model.log_prob(x), rtol=1e-4, atol=1e-4)
    usable = {row.name for row in backends.table() if row.usable}
    for backend in sorted(usable & {"cpp", "numba"}):
        drawn = fast.sample(1000, seed=0, backend=backend)
        torch.testing.assert_close(drawn, expected, rtol=1e-4, atol=2e-4)
    with pytest.raises(ValueError, match="native_draw"):
        model.sample(3, backend="numba")


LIBRARIES = {
    "nflows": ("x", "y"),
    "zuko": ("x", "y"),
    "normflows": ("x", "y"),
    "pyro": ("log_prob", "same"),
    "sbi": ("before", "after"),
    "your-own-module": None,
}


def test_every_library_has_a_test() -> None:
    assert {path.stem for path in (DOCS / "libraries").glob("*.md")} == set(LIBRARIES)


@pytest.mark.parametrize("name", LIBRARIES)
def test_pages_of_libraries(name: str) -> None:
    """Each page draws, or scores, before and after, from the same noise."""
    same = LIBRARIES[name]
    if same is not None:
        required = name != "sbi" and "MADE_FAST_PEERS" in os.environ
        if importlib.util.find_spec(name) is None and not required:
            pytest.skip(f"{name} is not installed")
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the libraries
        names = run_page(f"libraries/{name}.md")
    if same is None:
        assert names["y"].shape == (100, 6) and names["log_prob"].shape == (100,)
    else:
        before, after = (names[each] for each in same)
        torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)

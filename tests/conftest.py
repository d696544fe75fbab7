"""What every test file may ask for: models with every option, and every way to draw from a program.

A test that takes ``options``, ``case`` or ``engine`` runs once for every row of ``SINGLE_OPTIONS``, ``CASES`` or ``ENGINES``;
what is not in the quick part of a table is marked slow.
"""

import os
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from engines import ENGINES, Engine, marks_of
from models import CASES, QUICK_OPTIONS, SINGLE_OPTIONS, Case
from torch import Tensor

from made_fast import MADE, backends

if backends._TRITON_INTERPRETED:
    # Triton's interpreter multiplies by BLAS, which on some processors rounds a row by its place in the tile; a GPU does not.
    from triton.runtime import interpreter

    def _dot(self: Any, a: Any, b: Any, d: Any, *_: Any) -> Any:
        product = np.einsum("...ij,...jk->...ik", a.data, b.data, dtype=d.data.dtype)
        return interpreter.TensorHandle(product + d.data, d.dtype.scalar)

    interpreter.InterpreterBuilder.create_dot = _dot

# Of the slow rows of these, of the laws and of recordings, one in so many is run, chosen by its name; of kernels in Triton's
# interpreter, a thousand times slower than compiled ones, fewer. MADE_FAST_ALL_ROWS=1 runs all.
MANY_ROWS = {"laws", "test_traces.py"}
ONE_ROW_IN = 16 if backends._TRITON_INTERPRETED else 3


@pytest.fixture(autouse=True)
def sum_quads_early(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """In half of the tests, by their names, the compiled engine sums binary inputs four by four in small models too."""
    if zlib.crc32(request.node.name.encode()) % 2:
        monkeypatch.setattr("made_fast.backends.cpp.engine.LEAST_QUADS", 1)


FEATURES = 9  # 2**9 states can be enumerated; a 3 x 3 image for the image orders


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    given = str(
        [mark.args[0] for mark in metafunc.definition.iter_markers("parametrize")]
    )  # a test may have rows of its own
    for name, table in (("options", SINGLE_OPTIONS), ("case", CASES), ("engine", ENGINES)):
        if name in metafunc.fixturenames and f"'{name}'" not in given:
            metafunc.parametrize(name, [_marked(key, value) for key, value in table.items()])


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if os.environ.get("MADE_FAST_ALL_ROWS") == "1":
        return
    dropped = [
        item
        for item in items
        if not MANY_ROWS.isdisjoint(item.path.parts)
        and item.get_closest_marker("slow") is not None
        and zlib.crc32(item.name.encode()) % ONE_ROW_IN
    ]
    gone = set(dropped)
    items[:] = [item for item in items if item not in gone]
    config.hook.pytest_deselected(items=dropped)


def _marked(name: str, value: Any) -> Any:
    if isinstance(value, Engine):
        marks = marks_of(value.backend.name, value.device)
        interpreted = (
            pytest.mark.interpreter in marks
        )  # the laws of whole models draw with these kernels in the quick part
        return pytest.param(value, marks=[*marks, pytest.mark.slow] if interpreted else marks, id=name)
    quick = value.quick if isinstance(value, Case) else name in QUICK_OPTIONS
    return pytest.param(value, marks=() if quick else pytest.mark.slow, id=name)


@pytest.fixture(scope="session")
def every_option() -> dict[str, dict[str, Any]]:
    """The table of options, for tests that need a few of them."""
    return SINGLE_OPTIONS


@pytest.fixture(scope="session")
def engines() -> dict[str, Engine]:
    """All engines by name, for tests that prepare much and draw little."""
    return ENGINES


@pytest.fixture(scope="session")
def build() -> Callable[..., MADE]:
    """``build(options, dtype, features=9)``: a model with these options and weights that make the variables depend."""

    def build(options: dict[str, Any], dtype: torch.dtype = torch.float64, *, features: int = FEATURES) -> MADE:
        model = MADE(features, **options)
        generator = torch.Generator().manual_seed(zlib.crc32(repr(sorted(options.items())).encode()))
        with torch.no_grad():
            for parameter in model.parameters():
                scale = 2.0 / parameter.shape[-1] ** 0.5 if parameter.ndim > 1 else 0.5
                parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
        return model.to(dtype)

    return build


@pytest.fixture(scope="session")
def make_context() -> Callable[..., Tensor | None]:
    """``make_context(model, rows)``: (rows, C) contexts, or None for a model without."""

    def make(model: MADE, rows: int) -> Tensor | None:
        if not model.context_features:
            return None
        drawn = torch.randn(rows, model.context_features, generator=torch.Generator().manual_seed(rows))
        return drawn.to(next(model.parameters()))

    return make


@pytest.fixture(scope="session")
def all_states() -> Callable[..., Tensor]:
    """``all_states(D, dtype)``: all binary x, (2**D, D)."""

    def states(features: int, dtype: torch.dtype = torch.float64) -> Tensor:
        return ((torch.arange(2**features)[:, None] >> torch.arange(features)) & 1).to(dtype)

    return states


@pytest.fixture(autouse=True)
def _reproducible(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The same weights on every run, nothing chosen from outside, and one thread, enough for models this small."""
    for name in ("MADE_FAST_BACKEND", "RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def set_threads(_reproducible: None) -> Callable[[int], None]:
    """``torch.set_num_threads``, undone after the test."""
    return torch.set_num_threads

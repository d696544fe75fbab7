"""Pictures: what is in them is what was given, they are drawn without a display, and bad input is refused in a sentence."""

import dataclasses
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from typing import Any

import numpy as np
import pytest
import torch

from made_fast import MADE, outputs
from made_fast.outputs import OUTPUTS
from made_fast.programs import build_schedule
from made_fast.programs.dependencies import dependencies
from made_fast.training import Epoch, History

mpl: Any = pytest.importorskip("matplotlib")
mpl.use("Agg")
from matplotlib import pyplot  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

from made_fast import plots  # noqa: E402


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    """No picture changes settings; those that were made are closed."""
    before = dict(mpl.rcParams)
    yield
    for number in pyplot.get_fignums():
        pyplot.figure(number).canvas.draw()
    pyplot.close("all")
    assert dict(mpl.rcParams) == before


def axes(count: int = 1) -> Any:
    """Axes of a figure that pyplot does not know."""
    return Figure(layout="constrained").subplots(1, count, squeeze=False)[0]


def history(rates: list[float]) -> History:
    epochs = tuple(
        Epoch(
            number=number,
            train_nll=9.0 / number,
            valid_nll=10.0 / number,
            improved=True,
            learning_rate=rate,
            seconds=1.0,
        )
        for number, rate in enumerate(rates, 1)
    )
    return History(epochs, epochs[2 if len(rates) > 2 else 0], "epochs")


def test_the_curve_of_a_training() -> None:
    (axis,) = axes()
    assert plots.training_curve(history([1e-2, 1e-2, 9e-3, 3e-3, 3e-3, 9e-4]), ax=axis) is axis
    train, valid, best, *cuts = axis.get_lines()
    np.testing.assert_allclose(train.get_xydata(), [[n, 9 / n] for n in range(1, 7)])
    np.testing.assert_allclose(valid.get_xydata(), [[n, 10 / n] for n in range(1, 7)])
    assert best.get_xydata().tolist() == [[3, 10 / 3]] and "epoch 3" in best.get_label()
    assert [line.get_xdata()[0] for line in cuts] == [3.5, 5.5]  # before epochs 4 and 6
    assert len(axis.get_legend().get_texts()) == 4
    axis.figure.canvas.draw()
    assert plots.training_curve(history([1e-3])).figure is pyplot.gcf()


# --- images


@pytest.mark.parametrize("name", OUTPUTS)
def test_images_of_every_output(name: str) -> None:
    output = OUTPUTS[name].example()
    features = len(output._conditionals) if isinstance(output, outputs.Mixed) else 6
    torch.manual_seed(0)
    model = MADE(features, (8,), output=output)
    x = model.sample(5, seed=0)
    axis = plots.images(x, (1, features), output=model.output, columns=2)
    (picture,) = axis.images
    canvas = picture.get_array().filled(np.nan)
    assert canvas.shape == (3 * 2 + 1, 2 * (features + 1) + 1)
    for number, row in enumerate(x.double().numpy()):
        line, column = divmod(number, 2)
        left = 1 + column * (features + 1)
        assert np.array_equal(canvas[1 + 2 * line, left : left + features], row)
    assert np.isnan(canvas[5, features + 2 :]).all() and np.isnan(canvas[::2]).all()  # the place of a sixth, and gaps
    low, high = picture.get_clim()
    assert low <= x.min() and x.max() <= high
    if name == "spin":
        assert (low, high) == (-1, 1)
    if name == "categorical":
        assert model.conditionals[0].size == picture.cmap.N and high - low == picture.cmap.N  # a colour each


def test_images_by_condition_are_lines_and_unknown_pixels_are_gaps() -> None:
    x = torch.arange(2 * 3 * 4.0).reshape(2, 3, 4)
    x[1, 2, 3] = torch.nan
    (picture,) = plots.images(x, (2, 2)).images
    canvas = picture.get_array().filled(np.nan)
    assert canvas.shape == (7, 10)
    assert canvas[1:3, 4:6].tolist() == [[4, 5], [6, 7]]  # the second image of the first condition
    assert canvas[4, 7] == 20 and np.isnan(canvas[5, 8])
    assert picture.get_clim() == (0, 22)
    assert plots.images(torch.zeros(4), (2, 2), output="bernoulli").images[0].get_clim() == (0, 1)


# --- real against drawn


def frames(kind: str) -> tuple[Any, Any]:
    """A table of every type of cell, real and drawn."""
    columns = {
        "city": ["Rome", "Oslo", "Rome", None] * 20,
        "flag": [True, False, True, True] * 20,
        "rooms": [1, 2, 2, 5] * 20,
        "rent": [float(number) if number % 4 else None for number in range(80)],
        "day": [date(2024, 1, 1) + timedelta(number) for number in range(80)],
    }
    more = {**columns, "city": ["Rome", "Lima", "Oslo", "Oslo"] * 20}
    if kind == "polars":
        polars: Any = pytest.importorskip("polars")
        return polars.DataFrame(columns), polars.DataFrame(more)
    pandas: Any = pytest.importorskip("pandas")
    return pandas.DataFrame(columns), pandas.DataFrame(more)


@pytest.mark.parametrize("kind", ["pandas", "polars"])
def test_marginals_of_a_frame(kind: str) -> None:
    pytest.importorskip("narwhals")
    real, drawn = frames(kind)
    city, flag, rooms, rent, day = plots.marginals(real, drawn)
    heights = [bar.get_height() for bar in city.patches]
    assert heights == [0.5, 0.25, 0, 0.25, 0.25, 0.5, 0.25, 0]  # Rome, Oslo, Lima, missing; real and then drawn
    assert [each.get_text() for each in city.get_xticklabels()] == ["Rome", "Oslo", "Lima", "missing"]
    assert [bar.get_height() for bar in flag.patches][:2] == [0.75, 0.25]
    assert [each.get_text() for each in rooms.get_xticklabels()] == ["1", "2", "5"]
    shares, edges, _ = rent.patches[0].get_data()
    assert shares.sum() == pytest.approx(0.75) and rent.get_title() == "rent (missing: 25.0%, drawn 25.0%)"
    assert 0 < edges[0] < edges[-1] < 80
    shares, edges, _ = day.patches[1].get_data()
    assert shares.sum() == pytest.approx(1) and 19_722 < edges[0] < 19_724  # days since 1970


def test_marginals_of_numbers_choose_columns() -> None:
    torch.manual_seed(0)
    real, drawn = torch.randn(500, 40), torch.randn(300, 40) + 5
    first, last = plots.marginals(real, drawn, [0, "z"], names=[*map(str, range(39)), "z"], labels=("a", "b"))
    assert [each.get_text() for each in first.get_legend().get_texts()] == ["a", "b"]
    assert (first.get_title(), last.get_title()) == ("0", "z")
    shares = [patch.get_data().values for patch in last.patches]
    assert [each.sum() for each in shares] == pytest.approx([1, 1])
    places = last.patches[0].get_data().edges
    assert shares[0] @ places[1:] < 1
    assert shares[1] @ places[1:] > 4
    assert plots.marginals(real[:, :2] > 0, drawn[:, :2] > 0)[0].get_xticklabels()[0].get_text() == "0"


def test_many_categories_are_put_together() -> None:
    pytest.importorskip("narwhals")
    names = [f"c{number}" for number in range(40) for _ in range(41 - number)]
    (axis,) = plots.marginals({"c": names}, {"c": names[::-1]})
    assert len(axis.patches) == 48
    rarest = sum(41 - number for number in range(23, 40)) / len(names)
    assert axis.patches[23].get_height() == pytest.approx(rarest)


def test_names_are_no_formulas() -> None:
    pytest.importorskip("narwhals")
    table = {"a$_{$": ["$^{$", "y"], "b$\\frac$": [1.0, 2.0]}
    assert plots.marginals(table, table)[0].get_title() == "a$_{$"
    plots.pairs(table, table)  # both are drawn at the end of the test


def test_pairs_are_mirror_images_of_equal_tables() -> None:
    torch.manual_seed(0)
    x = torch.randn(400, 3)
    x[:, 1] = (x[:, 0] > 0).float()
    x[:40, 2] = torch.nan
    grid = plots.pairs(x, x)
    assert grid.shape == (3, 3)
    for row in range(3):
        for column in range(row):
            below, above = (
                np.asarray(each.collections[0].get_array()) for each in (grid[row, column], grid[column, row])
            )
            np.testing.assert_allclose(below.T.reshape(above.shape), above)
            assert below.sum() == pytest.approx(0.9 if row == 2 else 1)
            assert grid[row, column].collections[0].norm is grid[column, row].collections[0].norm
    mesh = np.asarray(grid[1, 0].collections[0].get_array())
    assert mesh.shape[0] == 2 and mesh[0, -1] == mesh[1, 0] == 0  # 1 where the first is above 0


# --- masks, levels, weights


def test_masks_and_levels_are_those_of_the_model() -> None:
    model = MADE(6, (9, 7), order="random", direct=True, output=outputs.Categorical(3), context_features=2)
    panels = plots.masks(model)
    found = [axis.images[0].get_array().astype(bool) for axis in panels]
    assert [each.shape for each in found] == [(9, 18), (7, 9), (18, 7), (18, 18)]
    assert all(np.array_equal(mask, layer.mask) for mask, layer in zip(found, model.masked_layers, strict=False))
    axis = plots.levels(model)
    picture = np.asarray(axis.images[0].get_array())
    program = model.program()
    schedule = build_schedule(program)
    assert picture.shape == (sum(len(plan.rows) for plan in schedule.affines), 6)
    assert ((picture == 2).sum(1) == 1).all()  # once each
    assert (np.argmax(picture == 2, 1) >= np.where(picture == 1, np.arange(6), -1).max(1)).all()  # after all it may see
    seen = picture[-18:] == 1
    expected = dependencies(program)[schedule.variables][:, schedule.variables].repeat(3, 0)
    assert np.array_equal(seen, expected)
    sampler = MADE(3, (4,), residual=True).sampler()
    assert np.array_equal(plots.levels(sampler).images[0].get_array()[-3:], [[2, 0, 0], [1, 2, 0], [1, 1, 2]])
    assert len(plots.masks(sampler.program)) == 2


def test_weights() -> None:
    axis = plots.weights(torch.tensor([0.0, 0.0, -torch.inf, -torch.inf]))
    line, _ = axis.get_lines()
    np.testing.assert_allclose(line.get_xydata(), [[0, 0], [0.25, 0.5], [0.5, 1], [0.75, 1], [1, 1]])
    assert axis.get_title() == "4 samples are worth 2.0"
    model = MADE(4, (8,))
    drawn = model.sample_and_log_prob(60, seed=0, given=torch.ones(7, 4), observed=torch.arange(4) == 3)
    axis = plots.weights(drawn)
    counts = np.array([bar.get_height() for bar in axis.patches])
    expected, _ = np.histogram(drawn.effective_sample_size, bins=np.linspace(0, 60, 31))
    assert counts.tolist() == expected.tolist() and counts.sum() == 7
    assert axis.get_lines()[0].get_xdata()[0] == 10


# --- refusals

X = torch.zeros(3, 4)
MODEL = MADE(4, (8,))
REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "no history": (lambda: plots.training_curve([]), "history must be a History of made_fast.training, got"),
    "empty history": (
        lambda: plots.training_curve(dataclasses.replace(history([1.0]), epochs=())),
        "history must have at least one epoch",
    ),
    "too many axes": (lambda: plots.training_curve(history([1.0]), ax=axes(2)), "ax must be one Axes, got 2"),
    "too few axes": (lambda: plots.masks(MODEL, ax=axes(1)), "ax must be 2 Axes, one for each panel, got 1"),
    "no axes": (lambda: plots.images(X, (2, 2), ax=3), "ax must be an Axes of matplotlib or several, got 3"),
    "figure": (lambda: plots.images(X, (2, 2), ax=Figure()), "ax must be an Axes of matplotlib or several, got"),
    "wrong width": (lambda: plots.images(X, (2, 3)), r"x must have shape \(..., 6\) for images 2 x 3, got \(3, 4\)"),
    "no shape": (lambda: plots.images(X, 4), "shape must be"),
    "flat shape": (lambda: plots.images(X, (4,)), r"shape must be \(height, width\)"),
    "no images": (lambda: plots.images(X[:0], (2, 2)), "x must hold 1 to 10,000 images, got 0"),
    "many images": (lambda: plots.images(torch.zeros(10_001, 1), (1, 1)), "x must hold 1 to 10,000 images, got 10,001"),
    "infinite": (lambda: plots.images(X + torch.inf, (2, 2)), "x must be finite or nan, found inf"),
    "no columns": (lambda: plots.images(X, (2, 2), columns=0), "columns must be"),
    "other values": (lambda: plots.images(X + 2, (2, 2), output="spin"), "x must be -1 or 1 for output 'spin', got 2"),
    "no output": (lambda: plots.images(X, (2, 2), output="colour"), "output must be one of"),
    "wide tables": (lambda: plots.marginals(torch.zeros(2, 25), torch.zeros(2, 25)), "columns must name 1 to 24 .* 25"),
    "many pairs": (lambda: plots.pairs(torch.zeros(2, 7), torch.zeros(2, 7)), "columns must name 2 to 6 columns .* 7"),
    "one of a pair": (lambda: plots.pairs(X, X, [0]), "columns must name 2 to 6 columns for one picture, got 1"),
    "other widths": (lambda: plots.marginals(X, X[:, :3]), "drawn must have the columns of real, got 4 and 3"),
    "other names": (lambda: plots.marginals({"a": [1]}, {"b": [1]}), "column 'a' is in one alone"),
    "other types": (lambda: plots.marginals({"a": [1]}, {"a": ["x"]}), "column 'a' must hold the same in both"),
    "no rows": (lambda: plots.marginals(X, X[:0]), "drawn must have at least one row"),
    "no table": (lambda: plots.marginals(5, X), "real cannot be read as a table: frame must be a data frame"),
    "flat table": (lambda: plots.marginals(X[0], X), r"real must be a data frame or have shape \(N, D\)"),
    "no such column": (lambda: plots.marginals(X, X, [4]), "columns must be among .* got 4"),
    "one name": (lambda: plots.marginals(X, X, "a"), "columns must be a sequence of names or numbers"),
    "one label": (lambda: plots.pairs(X, X, labels="x"), "labels must be two, of real and of drawn, got 'x'"),
    "few names": (lambda: plots.marginals(X, X, names=["a"]), "names must be 4 different ones"),
    "infinite cells": (lambda: plots.marginals(X, X + torch.inf), "drawn must be finite or nan"),
    "no model": (
        lambda: plots.masks(torch.nn.Linear(2, 2)),
        "model must be a MADE, or a Sampler or Program of one mask",
    ),
    "no such mask": (lambda: plots.levels(MODEL, mask=1), "mask must be"),
    "mask of a sampler": (lambda: plots.levels(MODEL.sampler(), mask=1), "mask must be 0 where there is one mask"),
    "deep": (lambda: plots.masks(MADE(2, (2,) * 25)), "model must have at most 24 layers"),
    "no weights": (lambda: plots.weights(torch.zeros(0)), r"drawn must have log-weights \(n,\) or \(N, n\)"),
    "nan weights": (
        lambda: plots.weights(torch.tensor([0.0, torch.nan])),
        "drawn must have log-weights below infinity",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    call, message = REFUSED[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match=message):
            call()
    assert not pyplot.get_fignums()  # no empty figure stays


def test_what_is_loaded_and_what_is_missing() -> None:
    """Without matplotlib there is a sentence; with axes of one's own pyplot is not loaded, so no backend is chosen."""
    code = """
import sys, torch
sys.modules["matplotlib"] = None
from made_fast import MADE, plots
for call in (lambda: plots.images(torch.zeros(1, 4), (2, 2)), lambda: plots.levels(MADE(3, (4,)))):
    try:
        call()
    except ModuleNotFoundError as error:
        print(error)
del sys.modules["matplotlib"]
from matplotlib.figure import Figure
plots.images(torch.zeros(1, 4), (2, 2), ax=Figure().subplots())
plots.levels(MADE(3, (4,)), ax=Figure().subplots())
print("matplotlib.pyplot" in sys.modules)
plots.images(torch.zeros(1, 4), (2, 2)).figure.canvas.draw()
print(sys.modules["matplotlib"].get_backend())
"""
    hidden = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "MPLBACKEND")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120, env=hidden
    )
    assert done.returncode == 0, done.stderr
    sentence = "pictures need matplotlib: pip install 'made_fast[plots]'"
    assert done.stdout.splitlines() == [sentence, sentence, "False", "agg"]

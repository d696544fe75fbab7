"""The laws of tables: probabilities add up, samples and imputations follow them, queries give them, on every backend."""

import copy
import itertools
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chi2
from table_cases import COLUMNS, every_row, frame, table_of

from made_fast import Between, backends
from made_fast.tables import Column, Table
from made_fast.tables.likelihood import gated, log_bin

VALUES = {
    "count": [None, 0, 1, 2, 3],
    "city": [None, "Lima", "Oslo", "Rome"],
    "flag": [None, True, False],
    "size": [1, 2, 3],
}
FALSE_ALARM = 1e-6


def finite() -> Table:
    """Columns of finitely many values, one of them with an indicator."""
    return table_of({name: values for name, values in frame().items() if name != "real"}, COLUMNS)


def law(table: Table, values: dict[str, list[Any]]) -> tuple[dict[str, Any], np.ndarray]:
    rows = every_row(values)
    return rows, table.log_prob(rows).exp().numpy()


def _absent(value: Any) -> bool:
    return value is None or (isinstance(value, float) and np.isnan(value))


def numbers_of(rows: dict[str, Any], values: dict[str, list[Any]]) -> np.ndarray:
    """The number of each row among all."""
    total = np.zeros(len(next(iter(rows.values()))), dtype=int)
    for name, known in values.items():
        places = {value: place for place, value in enumerate(known)}
        cells = [None if _absent(each) else each for each in rows[name].tolist()]
        total = total * len(known) + np.array([places[each] for each in cells])
    return total


def alarm(counts: np.ndarray, expected: np.ndarray) -> bool:
    """Whether the chi-square statistic is beyond its quantile; cells of few are put together."""
    few = expected < 5
    counts = np.append(counts[~few], counts[few].sum())
    expected = np.append(expected[~few], expected[few].sum())
    keep = expected > 0
    assert counts[~keep].sum() == 0
    return bool(
        ((counts - expected) ** 2 / np.where(keep, expected, 1))[keep].sum() > chi2.isf(FALSE_ALARM, keep.sum() - 1)
    )


def test_probabilities_of_all_rows_add_up() -> None:
    _, probability = law(finite(), VALUES)
    assert probability.sum() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("scaling", ["standard", "quantiles"])
def test_densities_integrate_in_the_units_of_the_column(scaling: str) -> None:
    """A real column with holes: the mass of absence and the integral over its values add up."""
    data = {"real": np.exp(frame()["real"] / 20), "flag": np.arange(400) % 3 == 0}
    table = table_of(data, {"real": Column("real", scaling=scaling)})
    grid, step = np.linspace(-2000, 2000, 2_000_001, retstep=True)
    for flag in (True, False):
        whole = table.log_prob({"real": grid, "flag": np.full(len(grid), flag)}).exp().sum().item() * step
        absent = table.log_prob({"real": np.array([np.nan]), "flag": np.array([flag])}).exp().item()
        mean = table.probability(f"flag = {flag}", 20_000, seed=0)
        assert whole + absent == pytest.approx(float(mean.value), abs=1e-3 + 5 * float(mean.standard_error))


def rounded() -> tuple[Table, np.ndarray]:
    """Whole numbers 0 .. 60 with holes, rounded from real ones; and the probability of each, and then of none."""
    rng = np.random.default_rng(0)
    wide = np.clip(rng.normal(30, 40, 400).round(), 0, 60)
    wide[rng.random(400) < 0.3] = np.nan
    data = {"wide": wide, "flag": rng.random(400) < 0.4}
    table = table_of(data, {"wide": Column("integer", scaling="standard", low=0, high=60)})
    assert table.schema.rounded == [1]
    every = np.append(np.arange(61.0), np.nan)
    parts = [table.log_prob({"wide": every, "flag": np.full(62, flag)}).exp().numpy() for flag in (True, False)]
    return table, parts[0] + parts[1]


def test_bins_of_rounded_numbers_add_up() -> None:
    table, probability = rounded()
    assert probability.sum() == pytest.approx(1, abs=1e-5)
    assert probability[0] > 2 * probability[1] and probability[60] > 2 * probability[59]  # the ends take the tails
    drawn = np.asarray(table.sample(40_000, seed=0)["wide"])
    counts = np.bincount(np.where(np.isnan(drawn), 61, drawn).astype(int), minlength=62)
    assert not alarm(counts, probability * 40_000)


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ("wide = 3", {3}),
        ("wide < 3", range(3)),
        ("wide <= 3", range(4)),
        ("wide > 20 and wide < 23", {21, 22}),
        ("wide between 19.5 and 22.5", range(20, 23)),
        ("wide >= 60", {60}),
        ("wide > 60", ()),
        ("wide = 2.5", ()),
        ("wide > 5 and wide < 6", ()),
        ("wide is null", {61}),
        ("wide is not null", range(61)),
        ("wide <= 1e9", range(61)),
        ({"wide": range(4, 9)}, range(4, 9)),
        ({"wide": Between(low=58)}, {58, 59, 60}),
    ],
)
def test_queries_of_rounded_numbers_are_sums_of_bins(query: Any, wanted: Any) -> None:
    """They come first, so nothing is left to chance."""
    table, probability = rounded()
    answer = float(table.probability(query, 10, seed=0).value)
    assert answer == pytest.approx(probability[list(wanted)].sum(), abs=2e-5)


def test_queries_of_real_numbers_with_holes_are_integrals() -> None:
    data = {"real": frame()["real"], "flag": np.arange(400) % 3 == 0}
    table = table_of(data)
    grid, step = np.linspace(-100, 250, 350_001, retstep=True)
    density = sum(
        table.log_prob({"real": grid, "flag": np.full(len(grid), flag)}).exp().numpy() for flag in (True, False)
    )
    for query, inside in (("real between 45 and 52.5", (grid >= 45) & (grid <= 52.5)), ("real > 50", grid > 50)):
        answer = float(table.probability(query, 10, seed=0).value)
        assert answer == pytest.approx(float(density[inside].sum() * step), abs=1e-4)


def test_the_log_of_a_bin_against_a_fine_sum() -> None:
    low = torch.tensor([-1.0, 2.0, -9.0, 30.0, 0.3, -50.0], dtype=torch.float64, requires_grad=True)
    width = torch.tensor([0.5, 1.0, 0.1, 0.01, 1e-8, 3.0], dtype=torch.float64)
    points = low.detach()[:, None] + width[:, None] * (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    expected = torch.logsumexp(-0.5 * points**2, 1) - 0.5 * np.log(2 * np.pi) + torch.log(width / 4000)
    found = log_bin(low, low + width)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    found.sum().backward()
    assert low.grad is not None and bool(low.grad.isfinite().all())


@pytest.mark.parametrize(
    "backend", [row.name for row in backends.BACKENDS if row.missing is None and "cpu" in row.devices]
)
def test_samples_follow_the_law(backend: str) -> None:
    table = finite()
    drawn = table._draws().sample(4000 if backend == "reference" else 40_000, seed=1, backend=backend)
    cells = {
        name: np.where(each.present, each.values.astype(object), None)
        for name, each in table.schema.decode(drawn).items()
    }
    _, probability = law(table, VALUES)
    counts = np.bincount(numbers_of(cells, VALUES), minlength=len(probability))
    assert not alarm(counts, probability / probability.sum() * len(drawn))


def test_absent_values_that_were_drawn_change_nothing_after_them() -> None:
    """Were they read, the chi-square test above would see it: without the gate it does."""
    table = finite()
    ungated = table.model.sample(40_000, seed=1)
    cells = {
        name: np.where(each.present, each.values.astype(object), None)
        for name, each in table.schema.decode(ungated).items()
    }
    _, probability = law(table, VALUES)
    assert alarm(np.bincount(numbers_of(cells, VALUES), minlength=len(probability)), probability * 40_000)


def test_the_gated_program_is_the_model_with_zeros() -> None:
    table = table_of(frame(), COLUMNS)
    assert len(table.schema.indicators) == 2
    x = table.model.sample(200, seed=0)
    blanked = x.clone()
    for value, bit in table.schema.indicators.items():
        nothing = 0.0 if table.model.conditionals[value].reads_itself else 1.5  # the middle of levels 0 .. 3
        blanked[:, value] = torch.where(x[:, bit] > 0, x[:, value], nothing)
    assert bool((blanked != x).any())
    found = gated(table.model.program(), table.schema.indicators).evaluate(x)
    torch.testing.assert_close(found, table.model(blanked), rtol=1e-4, atol=1e-4)


QUERIES = [
    ("count between 1 and 2 and city in ('Rome', 'Oslo')", lambda row: row[0] in (1, 2) and row[1] in ("Rome", "Oslo")),
    ("count is null", lambda row: row[0] is None),
    ("count is not null and size >= 2", lambda row: row[0] is not None and row[3] >= 2),
    ("city is null and flag = true", lambda row: row[1] is None and row[2] is True),
    ("city not in ('Rome') and count != 0", lambda row: row[1] in ("Lima", "Oslo") and row[0] in (1, 2, 3)),
    ("flag is null and size < 2.5 and count > 0", lambda row: row[2] is None and row[3] < 2.5 and row[0] in (1, 2, 3)),
    ({"city": {None, "Lima"}, "size": range(2, 4)}, lambda row: row[1] in (None, "Lima") and row[3] in (2, 3)),
    ("count = 1 or city is null", lambda row: row[0] == 1 or row[1] is None),
    (
        "(count is null or count > 1 or flag = true) and (size = 1 or city = 'Oslo')",
        lambda row: (row[0] in (None, 2, 3) or row[2] is True) and (row[3] == 1 or row[1] == "Oslo"),
    ),
    ("size = 1 or size > 1 and city = 'Rome'", lambda row: row[3] == 1 or row[1] == "Rome"),
    ("(size = 1) or size >= 1", lambda row: True),
    ("size > 3", lambda row: False),
]


def test_queries_give_the_probability_of_their_rows() -> None:
    table = finite()
    _, probability = law(table, VALUES)
    truth = [probability[[holds(row) for row in itertools.product(*VALUES.values())]].sum() for _, holds in QUERIES]
    answer = table.probability([query for query, _ in QUERIES], 20_000, seed=3)
    assert (np.abs(answer.value.numpy() - truth) <= 5 * answer.standard_error.numpy() + 1e-5).all()
    assert float(answer.value[-1]) == 0
    alone = table.probability(QUERIES[0][0], 20_000, seed=3)
    torch.testing.assert_close(alone.value, answer.value[0], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("place", [0, 2, 5, 6])
def test_rows_where_a_query_holds_follow_the_exact_conditional(place: int) -> None:
    table, (query, holds) = finite(), QUERIES[place]
    _, probability = law(table, VALUES)
    fits = np.array([holds(row) for row in itertools.product(*VALUES.values())])
    expected = np.where(fits, probability, 0) / probability[fits].sum()
    drawn = table.sample(20_000, seed=6, where=query, candidates=400)
    counts = np.bincount(numbers_of(drawn, VALUES), minlength=len(expected))
    assert counts[~fits].sum() == 0
    assert not alarm(counts, expected * 20_000)


def test_known_cells_and_a_query_hold_together_and_rows_are_numbered() -> None:
    table = finite()
    given = {"city": np.array(["Rome", None], dtype=object), "flag": np.array([None, True], dtype=object)}
    drawn = table.sample(300, seed=1, given=given, where="city in ('Rome', 'Oslo') and size > 1")
    assert set(drawn["city"][:300]) == {"Rome"} and set(drawn["city"][300:]) == {"Rome", "Oslo"}
    assert set(drawn["size"]) == {2, 3} and set(drawn["flag"][:300]) == {True, False} and drawn["flag"][300:].all()
    with pytest.raises(ValueError, match=r"where must hold for some row .* got a query of probability 0"):
        table.sample(given={"city": ["Rome", "Lima"]}, where="city = 'Rome'", seed=0)
    for options in ({}, {"where": "size > 1"}):
        whole, part = table.sample(30, seed=4, **options), table.sample(12, seed=4, first_row=10, **options)
        np.testing.assert_equal(part, {name: values[10:22] for name, values in whole.items()})
        assert len(table.sample(0, seed=4, **options)["size"]) == 0


KNOWN: list[dict[str, Any]] = [
    {"count": 2.0, "city": None},
    {"size": 3},
    {"city": "Rome", "flag": None, "size": 1},
    {"city": None, "flag": None},
    {"count": 1, "city": None, "flag": None, "size": None},
    {"count": None, "city": None, "flag": None, "size": None},
]


@pytest.mark.parametrize("known", KNOWN, ids=" ".join)
def test_imputation_follows_the_exact_conditional(known: dict[str, Any]) -> None:
    """Known cells stay; missing ones of the given columns are filled; columns that are left out are free, holes too.

    What is left of the bias of 400 candidates is not seen here; that of five raises the alarm.
    """
    table = finite()
    rows, probability = law(table, VALUES)
    fits = np.ones(len(probability), dtype=bool)
    for name, value in known.items():
        fits &= np.array([each is not None if value is None else each == value for each in rows[name]])
    expected = np.where(fits, probability, 0) / probability[fits].sum()
    given = {name: np.array([value], dtype=object) for name, value in known.items()}
    drawn = table.sample(20_000, seed=5, given=given, candidates=400)
    counts = np.bincount(numbers_of(drawn, VALUES), minlength=len(expected))
    assert counts[~fits].sum() == 0
    assert not alarm(counts, expected * 20_000)


def test_log_prob_of_a_sample_is_what_the_engine_says() -> None:
    """Of rows without absent values, whose every term counts."""
    table = finite()
    x, log_prob = table._draws().sample_and_log_prob(500, seed=2)
    whole = x[:, 0] > 0
    cells = {
        name: np.where(each.present, each.values.astype(object), None) for name, each in table.schema.decode(x).items()
    }
    torch.testing.assert_close(table.log_prob(cells)[whole].float(), log_prob[whole], rtol=1e-4, atol=1e-4)


def test_the_next_draw_is_of_changed_weights() -> None:
    table = finite()
    before = table.sample(200, seed=0)
    with torch.no_grad():
        table.model.parameters_layer.bias.add_(torch.linspace(-2, 2, len(table.model.parameters_layer.bias)))
    after = table.sample(200, seed=0)
    assert any((before[name] != after[name]).any() for name in before if name != "count")  # nan differs from itself


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda table: pickle.loads(pickle.dumps(table))], ids=["copy", "pickle"]
)
def test_copies_draw_the_same_until_their_own_weights_change(copied: Callable[[Table], Table]) -> None:
    table = finite()
    before = table.sample(200, seed=0)
    other = copied(table)
    np.testing.assert_equal(other.sample(200, seed=0), before)
    with torch.no_grad():
        other.model.parameters_layer.bias.add_(torch.linspace(-2, 2, len(other.model.parameters_layer.bias)))
    assert any((before[name] != each).any() for name, each in other.sample(200, seed=0).items() if name != "count")
    np.testing.assert_equal(table.sample(200, seed=0), before)

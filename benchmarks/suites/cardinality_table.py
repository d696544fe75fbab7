"""A generated table of orders, range queries about it, and what a database has without a model.

Everything is a function of a seed. The columns depend on one another as those of a shop do: cities lie in regions, products
belong to categories, ages and regions decide what is bought, prices follow products, and what comes late is sent back.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from made_fast.requests import Between

Table = npt.NDArray[np.int64]  # (N, D), each column numbered from 0
Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Column:
    """A column: its name, how many values it has, and whether their order means anything (numbers cut into levels)."""

    name: str
    size: int
    ordered: bool


COLUMNS = (
    Column("region", 12, False),
    Column("city", 1500, False),
    Column("segment", 4, False),
    Column("age", 80, True),
    Column("category", 30, False),
    Column("product", 2000, False),
    Column("price", 200, True),
    Column("quantity", 20, True),
    Column("channel", 3, False),
    Column("delivery", 60, True),
    Column("returned", 2, False),
)
NAMES = tuple(column.name for column in COLUMNS)


def generate(rows: int, seed: int = 0) -> Table:
    """The table of orders, (rows, 11).

    City: Zipf's law; region: the city's, but for 3 %; segment by region; age: normal around the segment's, in years; category
    by segment and age; product: Zipf's law within the category, the list turned by region; price: log-normal around the
    product's, in 200 steps of its logarithm; quantity: Poisson, fewer of what is dear; channel by age and segment;
    days of delivery: gamma, by region and channel; returned: more often if late, dear or bought online.
    """
    rng = np.random.default_rng(seed)
    size = {column.name: column.size for column in COLUMNS}
    city = _draw(np.broadcast_to(_zipf(size["city"], 5, 0.9), (rows, size["city"])), rng, shared=True)
    home = rng.choice(size["region"], size["city"], p=_zipf(size["region"], 2, 1.0))
    region = np.where(rng.random(rows) < 0.03, rng.integers(size["region"], size=rows), home[city])
    segment = _draw(_softmax(rng.normal(size=(size["region"], size["segment"])))[region], rng)
    age = _levels(rng.normal(np.array([24, 37, 51, 66])[segment], 8) - 18, size["age"])
    taste = rng.normal(size=(size["segment"], size["category"])) * 1.5
    trend = rng.normal(size=(8, size["category"]))
    category = _draw(_softmax(taste[segment] + trend[age // 10]), rng)
    price_of, product = _products(category, region, size["product"], size["category"], rng)
    price = _levels(30 * (rng.normal(price_of[product], 0.12) - 1.2), size["price"])
    dear = price / size["price"]
    quantity = _levels(rng.poisson(6 * np.exp(-4 * dear)), size["quantity"])
    online = rng.normal(size=(size["segment"], size["channel"]))
    channel = _draw(_softmax(online[segment] + np.outer(age / 20 - 2, [-1.0, 0.2, 0.8])), rng)
    days = np.linspace(2, 14, size["region"])[region] * np.array([1.0, 1.4, 0.4])[channel]
    delivery = _levels(rng.gamma(4, days / 4), size["delivery"])
    logit = -3.2 + 0.12 * delivery + 2 * dear - np.array([0.0, 0.5, 1.5])[channel]
    returned = rng.random(rows) < 1 / (1 + np.exp(-logit))
    every = (region, city, segment, age, category, product, price, quantity, channel, delivery, returned)
    return np.stack([column.astype(np.int64) for column in every], axis=1)


def _products(
    category: Table, region: Table, num_products: int, num_categories: int, rng: np.random.Generator
) -> tuple[Numbers, Table]:
    """The log price of each product, and the product of each row."""
    shares = rng.dirichlet(np.full(num_categories, 2.0))
    count = 1 + np.floor(shares * (num_products - num_categories)).astype(np.int64)
    first = np.concatenate([[0], count.cumsum()[:-1]])
    rank = np.floor(count[category] ** rng.random(len(category))).astype(np.int64) - 1  # about 1 / (rank + 1)
    product = first[category] + (rank + region % 3 * 7) % count[category]
    price_of = rng.normal(np.repeat(rng.normal(4.5, 1.2, num_categories), count), 0.7)
    return price_of, product


def _zipf(size: int, shift: float, power: float) -> Numbers:
    weights = (np.arange(size) + shift) ** -power
    return np.asarray(weights / weights.sum())


def _softmax(logits: Numbers) -> Numbers:
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return np.asarray(weights / weights.sum(-1, keepdims=True))


def _draw(probabilities: Numbers, rng: np.random.Generator, shared: bool = False) -> Table:
    """One category for each row of probabilities (N, K); ``shared`` where all rows are equal."""
    uniform = rng.random(len(probabilities))
    if shared:
        return np.minimum(np.searchsorted(probabilities[0].cumsum(), uniform), probabilities.shape[1] - 1)
    return np.minimum((probabilities.cumsum(1) < uniform[:, None]).sum(1), probabilities.shape[1] - 1)


def _levels(values: npt.ArrayLike, size: int) -> Table:
    return np.clip(np.floor(np.asarray(values)), 0, size - 1).astype(np.int64)


@dataclass(frozen=True)
class Query:
    """A conjunction of ranges: for each column that it names the least and the greatest value."""

    ranges: dict[int, tuple[int, int]]

    def allowed(self) -> dict[int, Between]:
        """As ``estimate_probability`` takes it."""
        return {column: Between(low, high) for column, (low, high) in self.ranges.items()}

    def matches(self, table: npt.NDArray[np.generic]) -> npt.NDArray[np.bool_]:
        """Which rows satisfy it, (N,)."""
        found = np.ones(len(table), dtype=bool)
        for column, (low, high) in self.ranges.items():
            found &= (table[:, column] >= low) & (table[:, column] <= high)
        return found

    def __str__(self) -> str:
        return " and ".join(_words(column, low, high) for column, (low, high) in sorted(self.ranges.items()))


def _words(column: int, low: int, high: int) -> str:
    name, last = NAMES[column], COLUMNS[column].size - 1
    if low == high:
        return f"{name} = {low}"
    return f"{name} <= {high}" if low == 0 else f"{name} >= {low}" if high == last else f"{low} <= {name} <= {high}"


def make_queries(table: Table, count: int, seed: int = 1) -> list[Query]:
    """Queries with 2 to 6 predicates, each around a row of the table, so that none is empty.

    Columns without order have ``=``; the others one of ``=``, ``<=``, ``>=`` with the row's own value, or ``between`` two
    values up to a quarter of the column's size below and above it.
    """
    rng = np.random.default_rng(seed)
    queries = []
    for _ in range(count):
        row = table[rng.integers(len(table))]
        columns = rng.choice(len(COLUMNS), rng.integers(2, 7), replace=False)
        ranges = {}
        for column in columns.tolist():
            value, last = int(row[column]), COLUMNS[column].size - 1
            below, above = rng.integers(0, COLUMNS[column].size // 4 + 1, size=2)
            kind = rng.integers(4) if COLUMNS[column].ordered else 0
            low, high = ((value, value), (0, value), (value, last), (value - below, value + above))[kind]
            ranges[column] = (max(int(low), 0), min(int(high), last))
        queries.append(Query(ranges))
    return queries


def q_errors(estimates: npt.ArrayLike, truth: npt.ArrayLike) -> Numbers:
    """How many times too large or too small: max(e / t, t / e), both at least one row (Moerkotte et al., VLDB 2009)."""
    found, true = np.maximum(estimates, 1.0), np.maximum(truth, 1.0)
    return np.asarray(np.maximum(found / true, true / found), dtype=np.float64)


def independent(table: Table, queries: Iterable[Query]) -> Numbers:
    """Estimates from exact histograms of single columns, multiplied."""
    estimates = []
    for query in queries:
        shares = (Query({column: ends}).matches(table).mean() for column, ends in query.ranges.items())
        estimates.append(len(table) * np.prod(list(shares)))
    return np.array(estimates)

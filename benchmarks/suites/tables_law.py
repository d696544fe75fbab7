"""A generated table of customers whose law is known: text, dates, numbers, flags and holes; and queries on it.

Everything is a function of a seed. Each column depends on some before it, and holes depend on what stands before them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[Any]

REGIONS = ("Bern", "Lima", "Oslo", "Quito", "Riga", "Rome", "Seoul", "Turin")
SEGMENTS, DEVICES = ("small", "medium", "large"), ("phone", "tablet", "desktop")
FIRST, DAYS = np.datetime64("2022-01-01"), 730


@dataclass
class _Law:
    """Draws columns one by one, and adds up the log-probability of every row."""

    rows: int
    rng: np.random.Generator
    log_prob: Numbers = field(init=False)

    def __post_init__(self) -> None:
        self.log_prob = np.zeros(self.rows)

    def pick(self, table: Numbers, group: Numbers) -> Numbers:
        """(N,) numbers from the distribution (K,) of each row's group, of a table (G, K) of weights."""
        table = table / table.sum(1, keepdims=True)
        found = np.zeros(self.rows, dtype=np.int64)
        for number, weights in enumerate(table):
            here = group == number
            found[here] = self.rng.choice(len(weights), int(here.sum()), p=weights)
        self.log_prob += np.log(table[group, found])
        return found

    def bit(self, logit: Numbers) -> Numbers:
        """(N,) flags, true with the probability of a logit."""
        chance = 1 / (1 + np.exp(-logit))
        found = self.rng.random(self.rows) < chance
        self.log_prob += np.log(np.where(found, chance, 1 - chance))
        return found

    def normal(self, loc: Numbers, scale: Numbers | float, counted: Numbers | None = None) -> Numbers:
        """(N,) normal numbers, which count where they are present."""
        z = self.rng.normal(size=self.rows)
        nats = -0.5 * z**2 - np.log(scale) - 0.5 * np.log(2 * np.pi)
        self.log_prob += nats if counted is None else np.where(counted, nats, 0.0)
        return np.asarray(loc + scale * z)


def generate(rows: int, seed: int = 0) -> tuple[dict[str, Numbers], Numbers]:
    """Columns by name, with None, nan and NaT for holes, and the log-probability (N,) of each row by the law itself.

    Real numbers count by their density: income and spending in their own units, last_seen in seconds.
    """
    law = _Law(rows, np.random.default_rng(seed))
    region = law.pick(np.arange(8, 0, -1.0)[None], np.zeros(rows, dtype=int))
    segment = law.pick(np.exp(np.sin(np.outer(np.arange(8), [1, 2, 3]))), region)
    member = law.bit(segment - 1.0 + 0.3 * (region % 3))
    day = law.pick(np.exp(1.5 * np.sin(np.arange(DAYS) / 116 + np.arange(8)[:, None])), region)
    years = np.arange(18, 96)
    age = years[law.pick(np.exp(-0.5 * ((years - 28 - 5 * np.arange(8)[:, None]) / 9) ** 2), region)]
    rate = 4 + 6 * np.arange(3)[:, None] + 8 * np.array([0, 1])
    counts = np.arange(61)
    logs = np.concatenate([[0.0], np.log(counts[1:]).cumsum()])
    visits = law.pick(np.exp(counts * np.log(rate.reshape(-1, 1)) - rate.reshape(-1, 1) - logs), 2 * segment + member)
    knows_income = law.bit(1.0 + 1.5 * member - 0.5 * segment)
    log_income = law.normal(9.5 + 0.4 * np.log(age / 20) + 0.1 * region, 0.5, knows_income)
    law.log_prob -= np.where(knows_income, log_income, 0.0)  # of the income, not of its logarithm
    rich = np.where(knows_income, log_income - 10.3, 0.0)
    buys = law.bit(visits / 8 - 1.5)  # one of two humps; it is not told
    law.log_prob -= _log_of(buys, visits / 8 - 1.5)
    spending = _spending(law, buys, visits, rich)
    knows_score = law.bit(0.8 - 1.0 * (segment == 2) + 0.5 * rich)
    score = law.normal(0.3 * np.sin(age / 8) + 0.02 * (spending - 40), 0.2, knows_score)
    device = law.pick(
        np.exp(np.stack([(60 - years) / 20, 0 * years, (years - 40) / 25, 0 * years - 1.0], 1)), age - years[0]
    )
    log_delay = law.normal(15.0 + 0.5 * member - 0.02 * (age - 50), 0.6)
    law.log_prob -= log_delay
    second = np.exp(log_delay)
    churn = law.bit(-1.0 - 0.05 * (spending - 40) + 1.0 * ~knows_score + 0.8 * (device == 0))
    devices = np.array([*DEVICES, None], dtype=object)[device]
    moments = (FIRST + day).astype("datetime64[us]") + np.rint(second * 1e6).astype("timedelta64[us]")
    columns = {
        "region": np.array(REGIONS, dtype=object)[region],
        "segment": np.array(SEGMENTS, dtype=object)[segment],
        "member": member,
        "signup": (FIRST + day).astype("datetime64[us]"),
        "age": age,
        "visits": visits,
        "income": np.where(knows_income, np.exp(log_income), np.nan),
        "spending": spending,
        "score": np.where(knows_score, score, np.nan),
        "device": devices,
        "last_seen": moments,
        "churn": churn,
    }
    return columns, law.log_prob


def _log_of(found: Numbers, logit: Numbers) -> Numbers:
    return np.asarray(-np.log1p(np.exp(np.where(found, -logit, logit))))


def _spending(law: _Law, buys: Numbers, visits: Numbers, rich: Numbers) -> Numbers:
    """A mixture of two normals, one for those who buy and one for those who do not."""
    locs, scales = np.stack([20.0 + 5 * rich, 50.0 + 0.5 * visits + 12 * rich]), np.array([4.0, 8.0])
    chosen = buys.astype(int)
    value = locs[chosen, np.arange(law.rows)] + scales[chosen] * law.rng.normal(size=law.rows)
    z = (value - locs) / scales[:, None]
    weights = np.stack([_log_of(np.zeros_like(buys), visits / 8 - 1.5), _log_of(np.ones_like(buys), visits / 8 - 1.5)])
    nats = weights - 0.5 * z**2 - np.log(scales)[:, None] - 0.5 * np.log(2 * np.pi)
    law.log_prob += np.logaddexp(nats[0], nats[1])
    return np.asarray(value)


@dataclass(frozen=True)
class Query:
    """A conjunction of predicates, as text, and which rows of given columns satisfy it."""

    predicates: tuple[tuple[str, str, Any], ...]

    def __str__(self) -> str:
        return " and ".join(f"{name} {sign}{_words(value)}" for name, sign, value in self.predicates)

    def matches(self, columns: dict[str, Numbers]) -> Numbers:
        """(N,) bool."""
        found = np.ones(len(columns["age"]), dtype=bool)
        for name, sign, value in self.predicates:
            cells = columns[name]
            if sign == "is null":
                found &= np.array([cell is None for cell in cells]) if cells.dtype == object else np.isnan(cells)
            elif sign == "in":
                found &= np.isin(cells, list(value)) if cells.dtype != object else _is_one_of(cells, value)
            else:
                found &= cells >= value if sign == ">=" else cells <= value
        return found


def _is_one_of(cells: Numbers, values: tuple[Any, ...]) -> Numbers:
    return np.array([cell in values for cell in cells])


def _words(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, tuple):
        return f" ({', '.join(_words(each).strip() for each in value)})"
    quoted = isinstance(value, (str, np.datetime64))
    return f" '{value}'" if quoted else f" {value}"


def make_queries(columns: dict[str, Numbers], count: int, seed: int = 1) -> list[Query]:
    """Queries of 1 to 4 columns, each around a row, so that none is empty: values, ranges, half-open ranges and holes."""
    rng = np.random.default_rng(seed)
    queries = []
    for _ in range(count):
        row = int(rng.integers(len(columns["age"])))
        predicates: list[tuple[str, str, Any]] = []
        for name in rng.choice(list(columns), rng.integers(1, 5), replace=False).tolist():
            cells, value = columns[name], columns[name][row]
            if value is None or (cells.dtype.kind == "f" and np.isnan(value)):
                predicates.append((name, "is null", None))
            elif cells.dtype.kind in "Ob":
                others = {str(value), *rng.choice(REGIONS, 2)} if name == "region" else {value}
                predicates.append(
                    (name, "in", tuple(sorted(each if isinstance(each, str) else bool(each) for each in others)))
                )
            else:
                predicates += _around(name, cells, value, rng)
        queries.append(Query(tuple(predicates)))
    return queries


def _around(name: str, cells: Numbers, value: Any, rng: np.random.Generator) -> list[tuple[str, str, Any]]:
    """``>=`` one of the column's own values below a row's, ``<=`` one above it, or both."""
    known = np.sort(cells[~np.isnan(cells)] if cells.dtype.kind == "f" else cells)
    place = int(np.searchsorted(known, value))
    low = known[max(0, place - int(rng.integers(len(known) // 4)))]
    high = known[min(len(known) - 1, place + int(rng.integers(len(known) // 4)))]
    if cells.dtype.kind == "f":
        low, high = float(f"{min(low, value):.8g}"), float(f"{max(high, value):.8g}")
    ends = [(name, ">=", low), (name, "<=", high)]
    return [ends, ends[:1], ends[1:]][int(rng.integers(3))]

"""A data frame end to end: fit, held-out nats beside the law's own, queries, samples, and what a small table shows exactly.

The large table (``tables_law.py``) has text, dates, whole and real numbers, flags and holes, and a known density. All rows of
the small one can be listed, so that samples and imputations are held against exact probabilities.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from benchmarks import WrongResult
from benchmarks.report import machine, measured_on, write
from benchmarks.report import table as markdown_table
from benchmarks.suites.cardinality_table import q_errors
from benchmarks.suites.tables_law import Numbers, Query, generate, make_queries
from made_fast.tables import Column, Table

TEXT = "a data frame with holes: fit, nats beside the law, queries, samples, imputation"
QUICK = {"rows": 3000, "held_out": 500, "queries": 10, "samples": 100, "minutes": 0.05, "drawn": 2000, "candidates": 50}
QUANTILES = (0.5, 0.9, 0.95, 0.99, 1.0)
SMALL: dict[str, list[Any]] = {
    "count": [None, 0, 1, 2, 3],
    "city": [None, "Lima", "Oslo", "Rome"],
    "flag": [True, False],
    "size": [1, 2, 3],
}
KNOWN: tuple[dict[str, Any], ...] = (
    {"count": 2.0, "city": None},
    {"size": 3},
    {"city": "Rome", "flag": None, "size": 1},
    {"count": None, "city": None, "flag": None, "size": None},
)


def large(arguments: argparse.Namespace) -> dict[str, Any]:
    """The table of customers: time, nats, q-errors, and whether a frame of samples looks like the table."""
    import pandas

    columns, _ = generate(arguments.rows, arguments.seed)
    held, law = generate(arguments.held_out, arguments.seed + 1)
    frame = pandas.DataFrame(columns)
    start = time.perf_counter()
    table = Table.fit(
        frame,
        columns={"segment": Column("ordered", values=["small", "medium", "large"])},
        max_minutes=arguments.minutes,
        seed=arguments.seed,
        on_epoch=lambda epoch: print(f"epoch {epoch.number}: {epoch.valid_nll:.4f} nats", file=sys.stderr, flush=True),
    )
    seconds = time.perf_counter() - start
    gap = law - table.log_prob(pandas.DataFrame(held)).numpy()
    start = time.perf_counter()
    drawn = table.sample(arguments.rows, seed=arguments.seed)
    sampling = time.perf_counter() - start
    if not (drawn.dtypes.equals(frame.dtypes) and list(drawn) == list(frame) and len(drawn) == len(frame)):
        raise WrongResult(f"samples must look like the table, got {dict(drawn.dtypes)}")
    assert table.history is not None
    return {
        "rows": len(frame),
        "columns": len(frame.columns),
        "parameters": sum(each.numel() for each in table.model.parameters()),
        "epochs": len(table.history.epochs),
        "stopped": table.history.stopped,
        "minutes": seconds / 60,
        "rows drawn a second": len(drawn) / sampling,
        "nats of the model": float((gap - law).mean()),
        "nats of the law": float(-law.mean()),
        "difference": float(gap.mean()),
        "its error": float(gap.std() / np.sqrt(len(gap))),
        **queries(table, columns, arguments),
    }


def queries(table: Table, columns: dict[str, Numbers], arguments: argparse.Namespace) -> dict[str, Any]:
    """How far estimates are from counts, of random queries as text."""
    asked = make_queries(columns, arguments.queries)
    truth = np.array([query.matches(columns).sum() for query in asked], dtype=np.float64)
    rows, texts = len(columns["age"]), [str(query) for query in asked]
    table.probability(texts[:2], arguments.samples, seed=0)  # weights are packed once
    start = time.perf_counter()
    answer = table.probability(texts, arguments.samples, seed=0)
    seconds = time.perf_counter() - start
    shares = [[Query((each,)).matches(columns).mean() for each in query.predicates] for query in asked]
    estimates = {
        "Table": rows * answer.value.numpy(),
        "predicates taken as independent": rows * np.array([np.prod(each) for each in shares]),
    }
    errors = []
    for name, estimate in estimates.items():
        found = np.quantile(q_errors(estimate, truth), QUANTILES).tolist()
        heads = ("max" if part == 1 else f"{100 * part:.0f} %" for part in QUANTILES)
        errors.append({"estimator": name, **dict(zip(heads, found, strict=True))})
    first = table.probability(texts[0], arguments.samples, seed=0)
    return {
        "q-errors": errors,
        "true counts": {str(part): float(np.quantile(truth, part)) for part in (0, 0.25, 0.5, 0.75, 1)},
        "queries": len(asked),
        "queries a second": len(asked) / seconds,
        "example": {"query": texts[0], "estimate": str(first), "share": truth[0] / rows},
    }


def small(arguments: argparse.Namespace) -> dict[str, Any]:
    """The table whose rows can be listed: samples against the model's exact law, imputation against its conditionals."""
    from scipy.stats import chi2

    every = list(itertools.product(*SMALL.values()))
    rng = np.random.default_rng(arguments.seed)
    law = rng.dirichlet(np.full(len(every), 0.5))
    rows = _columns([every[place] for place in rng.choice(len(every), min(arguments.rows, 20_000), p=law)])
    table = Table.fit(rows, columns={"count": Column("integer", low=0, high=3)}, epochs=15, seed=arguments.seed)
    listed = _columns(every)
    probability = table.log_prob(listed).exp().numpy()
    counts = _counted(table.sample(arguments.drawn, seed=arguments.seed))
    expected = probability / probability.sum() * arguments.drawn
    statistic = float(((counts - expected) ** 2 / expected).sum())
    imputed = []
    for known in KNOWN:
        fits = np.ones(len(every), dtype=bool)
        for name, value in known.items():
            fits &= np.array([each is not None if value is None else each == value for each in listed[name]])
        exact = np.where(fits, probability, 0) / probability[fits].sum()
        given = {name: np.array([value], dtype=object) for name, value in known.items()}
        found = _counted(
            table.sample(arguments.drawn, seed=arguments.seed + 1, given=given, candidates=arguments.candidates)
        )
        noise = float(np.sqrt(2 / np.pi * exact * (1 - exact) / arguments.drawn).sum() / 2)
        imputed.append(
            {
                "given": ", ".join(f"{name} {'missing' if value is None else value}" for name, value in known.items()),
                "total variation": float(0.5 * np.abs(found / found.sum() - exact).sum()),
                "expected of exact samples": noise,
            }
        )
    return {
        "sum of all probabilities": float(probability.sum()),
        "law to model, total variation": float(0.5 * np.abs(law - probability).sum()),
        "chi-square": statistic,
        "degrees of freedom": len(every) - 1,
        "p-value": float(chi2.sf(statistic, len(every) - 1)),
        "imputed": imputed,
    }


def _columns(rows: Sequence[tuple[Any, ...]]) -> dict[str, Numbers]:
    columns = {}
    for place, name in enumerate(SMALL):
        columns[name] = np.empty(len(rows), dtype=object)
        columns[name][:] = [row[place] for row in rows]
    return columns


def _counted(columns: dict[str, Numbers]) -> Numbers:
    """How often each row of the small table occurs."""
    number, size = np.zeros(len(columns["size"]), dtype=int), 1
    for name, known in SMALL.items():
        places = {value: place for place, value in enumerate(known)}
        cells = [None if each is None or str(each) == "nan" else each for each in columns[name].tolist()]
        number = number * len(known) + np.array([places[each] for each in cells])
        size *= len(known)
    return np.bincount(number, minlength=size)


def measure_all(arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything as data."""
    torch.manual_seed(arguments.seed)
    return {
        "machine": machine(),
        "samples": arguments.samples,
        "held out": arguments.held_out,
        "drawn": arguments.drawn,
        "candidates": arguments.candidates,
        "large": large(arguments),
        "small": small(arguments),
    }


def markdown(result: dict[str, Any]) -> str:
    """All tables."""
    large, small = result["large"], result["small"]
    counts, example = ", ".join(f"{value:,.0f}" for value in large["true counts"].values()), large["example"]
    parts = [
        measured_on(result["machine"]),
        f"{large['rows']:,} rows, {large['columns']} columns of text, dates, whole and real numbers and flags, three of them "
        f"with holes. `Table.fit` took {large['minutes']:.1f} minutes ({large['epochs']} epochs, {large['parameters']:,} "
        f"parameters). On {result['held out']:,} rows that it did not see the model has {large['nats of the model']:.3f} "
        f"nats a row, the law that made them {large['nats of the law']:.3f}: {large['difference']:.3f} ± "
        f"{large['its error']:.3f} more. A frame of as many samples, with the names and dtypes of the table, is drawn at "
        f"{large['rows drawn a second']:,.0f} rows a second.",
        f"### Q-error of {large['queries']} queries of 1 to 4 columns\n\n"
        + markdown_table(tuple(large["q-errors"][0]), large["q-errors"]),
        f"{result['samples']:,} rows drawn for a query, {large['queries a second']:,.0f} queries a second; true counts "
        f"(least, quartiles, most): {counts}. The first: `{example['query']}`, estimated {example['estimate']}, counted "
        f"{example['share']:.4f}.",
        f"### A table of {small['degrees of freedom'] + 1} possible rows\n\n"
        f"Their probabilities add up to {small['sum of all probabilities']:.6f}. {result['drawn']:,} samples: chi-square "
        f"{small['chi-square']:.0f} on {small['degrees of freedom']} degrees of freedom, p = {small['p-value']:.2f}. "
        f"Imputation of one row {result['drawn']:,} times by {result['candidates']} candidates, against the exact "
        "conditional:\n\n" + markdown_table(tuple(small["imputed"][0]), small["imputed"]),
        "The first is exact, since what is known comes first; the others are as near as so many candidates bring them.",
    ]
    return "\n\n".join(parts)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", type=int, default=200_000, help="of the table (default: %(default)s)")
    parser.add_argument("--held-out", type=int, default=20_000, help="rows that are not seen (default: %(default)s)")
    parser.add_argument("--queries", type=int, default=200, help="(default: %(default)s)")
    parser.add_argument("--samples", type=int, default=1000, help="rows drawn for a query (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=3.0, help="of training, at most (default: %(default)s)")
    parser.add_argument("--drawn", type=int, default=200_000, help="rows of the small table (default: %(default)s)")
    parser.add_argument("--candidates", type=int, default=400, help="for each imputed row (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of everything (default: %(default)s)")


def run(arguments: argparse.Namespace) -> None:
    """Fits, draws and asks; writes ``tables.md`` and ``tables.json``."""
    result = measure_all(arguments)
    write("tables", arguments.out, markdown(result), result)

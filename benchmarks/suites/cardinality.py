"""How many rows satisfy a range query, estimated by a trained model.

Trains on a generated table (``cardinality_table.py``), estimates random conjunctions by progressive sampling, and compares
with the true counts. Intervals cover the error of sampling alone: a model that learned the table badly is outside them.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import WrongResult
from benchmarks.report import machine, measured_on, write
from benchmarks.report import table as markdown_table
from benchmarks.suites.cardinality_table import (
    COLUMNS,
    Numbers,
    Query,
    Table,
    generate,
    independent,
    make_queries,
    q_errors,
)
from benchmarks.timing import measure, medians, ratio
from made_fast import MADE
from made_fast.outputs import Categorical, Mixed
from made_fast.sampling.estimates import mean_of_weights
from made_fast.testing import naive_sample
from made_fast.training import fit

TEXT = "range queries on a generated table, beside the naive sampler"
QUICK = {
    **{"rows": 4000, "queries": 10, "epochs": 2, "samples": 100, "exact": 200, "naive_queries": 2, "seconds": 0.1},
    "checkpoint": Path("out/quick-cardinality.ckpt"),
}
EMBEDDED_FROM, EMBEDDING = 50, 32  # columns with more values are read by so many learned numbers, the others one-hot
QUANTILES = (0.5, 0.9, 0.95, 0.99, 1.0)
PROGRESSIVE, PLAIN, NAIVE = "progressive sampling", "plain samples", "naive progressive sampling"


def make_model() -> MADE:
    """The network: all columns categorical, two hidden layers of 256 units, and direct connections."""
    columns = [Categorical(each.size, embedding=EMBEDDING if each.size > EMBEDDED_FROM else 0) for each in COLUMNS]
    return MADE(len(COLUMNS), (256, 256), output=Mixed(columns), direct=True, activation="silu")


def train(model: MADE, rows: Table, arguments: argparse.Namespace) -> dict[str, Any]:
    """Fits the model to the table, or takes up a run from its checkpoint; the last 20th of the rows validates."""
    data, kept = torch.from_numpy(rows), len(rows) - len(rows) // 20
    path = arguments.checkpoint
    path.parent.mkdir(parents=True, exist_ok=True)
    history = fit(
        model,
        data[:kept],
        data[kept:],
        epochs=arguments.epochs,
        batch_size=512,
        learning_rate=4e-3,
        weight_decay=0.01,
        averaging=0.998,
        max_minutes=arguments.minutes,
        checkpoint=path,
        resume=path.exists(),
        on_epoch=lambda epoch: print(
            f"epoch {epoch.number}: {epoch.train_nll:.3f} nats, validation {epoch.valid_nll:.3f}, {epoch.seconds:.1f} s",
            file=sys.stderr,
            flush=True,
        ),
    )
    return {
        "epochs": len(history.epochs),
        "stopped": history.stopped,
        "validation, nats a row": history.best.valid_nll,
        "seconds": sum(epoch.seconds for epoch in history.epochs),
        "parameters": sum(each.numel() for each in model.parameters()),
    }


def quality(name: str, estimates: Numbers, truth: Numbers, seconds: float | None) -> dict[str, Any]:
    """One row of the table of estimators: quantiles of the q-error, and the time of a query."""
    errors = np.quantile(q_errors(estimates, truth), QUANTILES)
    named = {
        ("max" if each == 1 else f"{100 * each:.0f} %"): float(error)
        for each, error in zip(QUANTILES, errors, strict=True)
    }
    return {"estimator": name, **named, "queries a second": "" if seconds is None else len(truth) / seconds}


def estimators(model: MADE, rows: Table, queries: list[Query], arguments: argparse.Namespace) -> dict[str, Any]:
    """Every estimator on all queries, and how often the intervals hold."""
    total, count, seed = len(rows), arguments.samples, arguments.seed
    truth = np.array([query.matches(rows).sum() for query in queries], dtype=np.float64)
    asked = [query.allowed() for query in queries]
    model.sampler().estimate_probability(asked[:2], count, seed=seed)  # weights are packed once
    start = time.perf_counter()
    estimate = model.sampler().estimate_probability(asked, count, seed=seed)
    progressive = time.perf_counter() - start
    start = time.perf_counter()
    plain = model.sample(count * len(queries), seed=seed).numpy()
    matching = [query.matches(plain[place * count : (place + 1) * count]).mean() for place, query in enumerate(queries)]
    counted = time.perf_counter() - start
    few = rows[np.random.default_rng(seed).choice(total, min(count, total), replace=False)]
    shares = {
        f"{PROGRESSIVE}, {count:,} rows a query": (estimate.value.numpy(), progressive),
        f"{PLAIN} that match, {count:,} rows a query": (matching, counted),
        f"{PLAIN} that match, the same {len(plain):,} rows for all": (
            [query.matches(plain).mean() for query in queries],
            None,
        ),
        f"{len(few):,} rows of the table itself": ([query.matches(few).mean() for query in queries], None),
    }
    table = [quality(name, total * np.asarray(share), truth, seconds) for name, (share, seconds) in shares.items()]
    table.append(quality("columns taken as independent", independent(rows, queries), truth, None))
    low, high = ((total * end).numpy() for end in estimate.interval(0.95))
    exact = model.sampler().estimate_probability(asked, arguments.exact, seed=seed + 1)
    error = torch.hypot(estimate.standard_error, exact.standard_error)
    table.append(
        quality(f"{PROGRESSIVE}, {arguments.exact:,} rows a query", (total * exact.value).numpy(), truth, None)
    )
    return {
        "estimators": table,
        "true counts": {str(part): float(np.quantile(truth, part)) for part in (0, 0.25, 0.5, 0.75, 1)},
        "inside the interval": float(((low <= truth) & (truth <= high)).mean()),
        "own answer inside": ((estimate.value - exact.value).abs() <= 1.96 * error).double().mean().item(),
        "exact": arguments.exact,
        "worst": [
            {"query": str(queries[place]), "true": truth[place], "estimate": total * estimate.value[place].item()}
            | {"95 % interval": f"{low[place]:.3g} to {high[place]:.3g}"}
            for place in np.argsort(-q_errors((total * estimate.value).numpy(), truth))[:5].tolist()
        ],
    }


def against_naive(model: MADE, queries: list[Query], arguments: argparse.Namespace) -> dict[str, Any]:
    """The same estimates by D passes of the whole network, for a few queries; and plain samples of as many rows."""
    asked, count, seed = [query.allowed() for query in queries], arguments.samples, arguments.seed
    ours = model.sampler().estimate_probability(asked, count, seed=seed)
    slow = mean_of_weights(naive_sample(model, count, seed=seed, allowed=asked).log_weight)
    difference = (ours.value - slow.value).abs() / slow.value.clamp(min=1e-30)
    if not bool((difference < 1e-3).all()):
        raise WrongResult(f"naive estimates differ by {float(difference.max()):.1e}")
    frozen = model.sampler()
    runs = {
        PROGRESSIVE: lambda: frozen.estimate_probability(asked, count, seed=seed),
        "one query a call": lambda: [frozen.estimate_probability(query, count, seed=seed) for query in asked],
        PLAIN: lambda: frozen.sample(count * len(asked), seed=seed),
        NAIVE: lambda: naive_sample(model, count, seed=seed, allowed=asked),
    }
    times = measure(runs, seconds=arguments.seconds, min_rounds=3)
    return {
        "queries": len(asked),
        "largest relative difference": float(difference.max()),
        "table": [
            {
                "way": name,
                "ms a query": taken / len(asked),
                "times ours": ratio(times, name, PROGRESSIVE),
            }
            for name, taken in medians(times, 1e3).items()
        ],
    }


def measure_all(arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything as data."""
    torch.manual_seed(arguments.seed)
    rows = generate(arguments.rows)
    queries = make_queries(rows, arguments.queries)
    model = make_model()
    training = train(model, rows, arguments)
    model.eval()
    return {
        "machine": machine(),
        "rows": len(rows),
        "queries": len(queries),
        "samples": arguments.samples,
        "backend": model.sampler()._choose("auto", {"allowed"}).name,
        "training": training,
        **estimators(model, rows, queries, arguments),
        "against naive": against_naive(model, queries[: arguments.naive_queries], arguments),
    }


def markdown(result: dict[str, Any]) -> str:
    """All tables."""
    training, naive = result["training"], result["against naive"]
    sizes = [each.size for each in COLUMNS]
    counts = ", ".join(f"{value:,.0f}" for value in result["true counts"].values())
    share, kept = 100 * result["inside the interval"], 100 * result["own answer inside"]
    parts = [
        measured_on(result["machine"], f"backend {result['backend']}"),
        f"{result['rows']:,} rows, {len(sizes)} columns of {min(sizes)} to {max(sizes):,} values. A model of "
        f"{training['parameters']:,} parameters, {training['epochs']} epochs in {training['seconds']:.0f} s, "
        f"{training['validation, nats a row']:.3f} nats a row on validation rows. {result['queries']} queries of 2 to 6 "
        f"predicates, {result['samples']} rows drawn for each; true counts (least, quartiles, most): {counts}.",
        "### Q-error\n\n" + markdown_table(tuple(result["estimators"][0]), result["estimators"]),
        f"{share:.1f} % of the true counts lie inside the 95 % interval, which covers the error of sampling only, not what "
        f"the model has not learned. Of the model's own answers ({result['exact']:,} rows a query) it holds {kept:.1f} %.",
        f"### Beside the naive sampler, {naive['queries']} queries at once\n\n"
        + markdown_table(("way", "ms a query", "times ours"), naive["table"]),
        f"Both give the same estimates (largest relative difference {naive['largest relative difference']:.1e}).",
        "### The worst\n\n" + markdown_table(tuple(result["worst"][0]), result["worst"]),
    ]
    return "\n\n".join(parts)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", type=int, default=200_000, help="of the table (default: %(default)s)")
    parser.add_argument("--queries", type=int, default=200, help="(default: %(default)s)")
    parser.add_argument("--samples", type=int, default=1000, help="rows drawn for a query (default: %(default)s)")
    parser.add_argument(
        "--exact", type=int, default=10_000, help="the same for the model's own answer (default: %(default)s)"
    )
    parser.add_argument("--naive-queries", type=int, default=5, help="for the naive sampler (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=30, help="at most (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=2.0, help="of training, at most (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=5.0, help="of timing (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of weights, training and sampling (default: %(default)s)")
    parser.add_argument(
        "--checkpoint",
        type=Path,
        default=Path("out/cardinality.ckpt"),
        help="taken up if it exists (default: %(default)s)",
    )


def run(arguments: argparse.Namespace) -> None:
    """Trains and estimates; writes ``cardinality.md`` and ``cardinality.json``."""
    result = measure_all(arguments)
    write("cardinality", arguments.out, markdown(result), result)

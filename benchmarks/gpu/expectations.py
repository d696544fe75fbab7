"""What is expected for cards that are not at hand, as tables: ``python -m benchmarks gpu --model``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from itertools import groupby
from typing import Any

from benchmarks.cases import Case
from benchmarks.gpu.model import ASSUMED, H100, H200, MICRO, counted, dense_seconds, expected, parts, plan_of
from benchmarks.report import Row
from made_fast.sampling import Sampler

CARDS = (H100, H200)


def tables(cases: Sequence[Case]) -> dict[str, list[Row]]:
    """What is expected for every case and precision, and what it is made of; times of a draw are an H200's."""
    tables: dict[str, list[Row]] = {"Expected": [], "Expected: what a tile takes": [], "Assumed": assumptions()}
    for _, same in groupby(cases, key=lambda case: case.shape):
        batches = list(same)
        frozen = batches[0].model().sampler()
        plan = plan_of(frozen)
        for case in batches:
            tables["Expected"] += [_expected_row(frozen, plan, case, precision) for precision in ("ieee", "tf32")]
        for precision in ("ieee", "tf32"):
            counts = counted(plan, frozen.features, batches[-1].rows, H200.processors, precision)
            times = {f"{key}, us": value / MICRO for key, value in parts(counts, H200, 10**6, precision).items()}
            row: Row = {"case": f"{batches[-1].shape_name} {precision}", "rows": counts.rows, "steps": counts.events}
            row |= {"chunk count": counts.chunks, "task count": counts.tasks, **times}
            tables["Expected: what a tile takes"].append(row)
    return tables


def _expected_row(frozen: Sampler, plan: Any, case: Case, precision: str) -> Row:
    counts = counted(plan, frozen.features, case.rows, H200.processors, precision)
    guess = expected(counts, H200, case.rows, precision)
    row: Row = {
        "case": f"{case.name} {precision}",
        "one launch, ms": 1e3 * guess.one,
        "many, ms": 1e3 * guess.many,
        "microseconds per variable": guess.seconds / MICRO / case.features,
        "bound by": guess.bound,
    }
    for card in CARDS:
        dense = dense_seconds(frozen, card, case.rows, precision)
        seconds = expected(counts, card, case.rows, precision).seconds
        row |= {f"{card.name}: dense, ms": 1e3 * dense, f"{card.name}: sample / dense": seconds / dense}
    return row


def assumptions() -> list[Row]:
    """Every assumption as a row, in microseconds where it is a time."""
    rows: list[Row] = []
    for assumption in fields(ASSUMED):
        value = getattr(ASSUMED, assumption.name)
        time = isinstance(value, float) and value < 1e-3
        rows.append(
            {"assumed": assumption.name + (", microseconds" if time else ""), "value": value / MICRO if time else value}
        )
    return rows

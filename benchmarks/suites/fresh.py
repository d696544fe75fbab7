"""Draws of a model whose weights have just changed, beside those of a sampler that is kept; first draws of ensembles.

An optimizer takes a step before each draw, of the sampler that is kept too, so that both find the same caches. What is timed
is the draw alone. It is checked first against that of a model that never drew before.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks import WrongResult
from benchmarks.report import machine, measured_on, table, write
from benchmarks.timing import Call, measure, median, medians, ratio
from made_fast import MADE

TEXT = "draws after a step of an optimizer beside those of a sampler that is kept; first draws of ensembles"
QUICK = {"seconds": 0.01, "models": ["12,2x8"], "ensembles": ["12,2x8,3"]}
MODELS = ["64,1x64", "256,1x512", "784,2x500"]
ENSEMBLES = ["784,2x500,32"]


def _sizes(text: str) -> tuple[int, tuple[int, ...], int]:
    """Of ``D,LxH`` or ``D,LxH,masks``."""
    features, layers, *masks = text.split(",")
    count, width = map(int, layers.split("x"))
    return int(features), (width,) * count, int(masks[0]) if masks else 1


def after_a_step(text: str, rows: int, seconds: float) -> dict[str, Any]:
    """One row of the table of models."""
    features, hidden, _ = _sizes(text)
    model = MADE(features, hidden)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    step: Callable[[], Any] = torch.optim.SGD(model.parameters(), lr=1e-4).step
    kept = model.sampler()
    model.sample(rows, seed=0)
    step()
    if not torch.equal(model.sample(rows, seed=0), copy.deepcopy(model).sample(rows, seed=0)):
        raise WrongResult(f"{text}: a draw after a step is not that of the weights")

    def once(run: Call, repeats: int) -> float:
        taken = 0.0
        for _ in range(repeats):
            step()
            start = time.perf_counter()
            run()
            taken += time.perf_counter() - start
        return taken / repeats

    runs: dict[str, Call] = {"step": lambda: model.sample(rows, seed=0), "kept": lambda: kept.sample(rows, seed=0)}
    times = measure(runs, seconds=seconds, once=once)
    taken = medians(times, 1e3)
    return {
        "model": text,
        "rows": rows,
        "kept sampler, ms": taken["kept"],
        "after a step, ms": taken["step"],
        "after a step / kept sampler": ratio(times, "step", "kept"),
    }


def first_draw(text: str, seconds: float) -> dict[str, Any]:
    """One row of the table of ensembles: a row for each mask, and the same again."""
    features, hidden, masks = _sizes(text)
    times: dict[str, list[float]] = {"first": [], "second": []}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times["first"]) < 3:
        model = MADE(features, hidden, num_masks=masks)
        for draws in times.values():
            start = time.perf_counter()
            for mask in range(masks):
                model.sample(1, seed=0, mask=mask)
            draws.append(time.perf_counter() - start)
    return {
        "ensemble": text,
        "first draw of a mask, ms": 1e3 * median(times["first"]) / masks,
        "second, ms": 1e3 * median(times["second"]) / masks,
    }


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--models", nargs="*", default=MODELS, metavar="D,LxH")
    parser.add_argument("--ensembles", nargs="*", default=ENSEMBLES, metavar="D,LxH,N")
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 100], metavar="B")
    parser.add_argument("--seconds", type=float, default=5.0, help="for a case")


def run(arguments: argparse.Namespace) -> None:
    """Writes ``fresh.md`` and ``fresh.json``."""
    models = [after_a_step(text, rows, arguments.seconds) for text in arguments.models for rows in arguments.rows]
    ensembles = [first_draw(text, arguments.seconds) for text in arguments.ensembles]
    facts, parts = machine(), []
    for rows in (models, ensembles):
        if rows:
            parts.append(table(tuple(rows[0]), rows))
    text = "\n\n".join([measured_on(facts), *parts])
    write("fresh", arguments.out, text, {"machine": facts, "models": models, "ensembles": ensembles})

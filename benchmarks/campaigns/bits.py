"""Digests of draws, to hold two builds against each other: a seed gives the same bits on both.

Written by ``python -m benchmarks bits --write FILE`` with one, compared by ``python -m benchmarks bits --against FILE`` with
the other, on one processor. Random models and requests (``trials.py``) and a few larger networks, each with several numbers
of rows, are drawn by each path of each instruction set, which must agree with one another's rows too.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.campaigns.trials import ACTIVATIONS, random_model, random_request
from benchmarks.campaigns.ways import PATHS, piece_of
from benchmarks.cases import Case
from made_fast import MADE, backends
from made_fast.outputs import Categorical, Normal
from made_fast.programs.schedule import build_schedule
from made_fast.requests.request import Request

TEXT = "digests of draws on every path and instruction set, to compare two builds"
QUICK = {"trials": 3, "rows": [1, 5]}
ROWS = [1, 2, 3, 4, 5, 8, 16, 33, 1000]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--trials", type=int, default=200, help="random models (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS, metavar="N")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the digests")
    parser.add_argument("--against", type=Path, metavar="FILE", help="compare with those that were written")


def larger_models() -> Iterator[tuple[str, MADE]]:
    """Networks of hundreds of units, with and without direct connections and one-hot variables."""
    for shape in ("784x512x2", "64x512x2", "784x500x1"):
        yield shape, Case.named(shape).model()
    torch.manual_seed(0)
    for activation in ACTIVATIONS:
        yield f"100, {activation}", MADE(100, (120, 90), activation=activation, direct=True, order="random")
    yield "residual", MADE(60, (128, 128, 128), residual=True, degrees="random").double()
    yield "categorical", MADE(40, (200, 100), output=Categorical(7), order="random")
    yield "normal", MADE(30, (200, 100), output=Normal(), activation="elu", context_features=2)


def requests(arguments: argparse.Namespace) -> Iterator[tuple[str, MADE, Any, Request]]:
    """Names, models, masks and requests."""
    for number in range(arguments.trials):
        rng = random.Random(f"{arguments.seed} {number}")
        model, _, _ = random_model(rng, rng.choice((torch.float32, torch.float32, torch.float64)), 2.0)
        mask = None if model.ensemble is None else next(iter(model.ensemble.evaluated))
        state = rng.getstate()
        for rows in arguments.rows:
            rng.setstate(state)
            _, context, options = random_request(rng, model, (rows,))
            request = Request.checked(model.conditionals, model.context_features, rows, context, **options)
            yield f"{number}, {rows} rows", model, mask, request
    for name, model in larger_models() if arguments.trials > 3 else ():
        for rows in arguments.rows:
            context = torch.ones(1, model.context_features) if model.context_features else None
            request = Request.checked(model.conditionals, model.context_features, rows, context, seed=7)
            yield f"{name}, {rows} rows", model.eval(), None, request


def digests(arguments: argparse.Namespace) -> tuple[dict[str, str], list[str]]:
    """The digest of each request on each path, and the requests whose paths do not agree."""
    module: Any = backends.load(next(row for row in backends.BACKENDS if row.name == "cpp"))
    found: dict[str, str] = {}
    differing, last, packed = [], None, None
    for name, model, mask, request in requests(arguments):
        if model is not last:
            program = model.program(mask=mask)
            schedule = build_schedule(program)
            last, packed = model, module.pack(program, schedule)
        for isa in module.build_config()["instruction_sets"]:
            paths = {}
            for path, rows_at_once in PATHS.items():
                x, piece = piece_of(request, model.parameters_layer.weight.dtype, schedule.variables.tolist())
                try:
                    module.draw(packed, x, piece, isa=isa, rows_at_once=rows_at_once)
                except FloatingPointError:
                    paths[path] = "nan"
                else:
                    paths[path] = _digest(x, piece.log_prob, piece.log_weight)
            found |= {f"{name}, {isa}, {path}": digest for path, digest in paths.items()}
            if len(set(paths.values())) > 1:
                differing.append(f"{name}, {isa}")
    return found, differing


def _digest(*tensors: Tensor | None) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for tensor in tensors:
        digest.update(b"" if tensor is None else tensor.numpy().tobytes())
    return digest.hexdigest()


def run(arguments: argparse.Namespace) -> int:
    """Writes or compares digests; 1 if a path differs from another one, or from what was written."""
    found, differing = digests(arguments)
    print(f"{len(found)} draws; paths differ in {len(differing)} requests {differing[:20]}", file=sys.stderr)
    if arguments.write:
        arguments.write.write_text(json.dumps(found))
    wrong = len(differing)
    if arguments.against:
        before = json.loads(arguments.against.read_text())
        changed = [name for name, digest in found.items() if before.get(name, digest) != digest]
        both = len(found.keys() & before.keys())
        print(f"{both} draws compared; changed: {len(changed)} {changed[:20]}", file=sys.stderr)
        wrong += len(changed) + (both == 0)
    return int(wrong > 0)

"""The command ``made-fast demo``: train on small digits, draw with both samplers, compare and time them."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from made_fast.cli.options import add_threads, check_output, say

if TYPE_CHECKING:
    from torch import Tensor

    from made_fast.models.made import MADE


__all__ = ["EXAMPLE", "TEXT", "add_options", "run"]

TEXT = (
    "Train on small digits, then time the cached sampler against the naive one; or learn, ask and fill a small table."
)
EXAMPLE = "made-fast demo --out samples.png\n  made-fast demo --table"
_ROWS = 1000  # drawn with both samplers
_MINUTES = 0.75  # of training, some 150 epochs
_LEAST_EPOCHS = 60  # what fewer leave draws noise


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``demo``."""
    parser.add_argument("--out", type=Path, help="picture to write (default: samples.png)")
    text = "of patients: a probability and hidden values, each compared with the truth; writes nothing"
    parser.add_argument("--table", action="store_true", help=text)
    parser.add_argument("--seed", type=int, default=0, help="of the weights, the training and the samples")
    add_threads(parser)


def run(args: argparse.Namespace) -> int:
    """Trains, draws and compares; 1 if the samplers contradict each other."""
    import torch

    from made_fast import datasets, training
    from made_fast.models.made import MADE

    if args.table:
        from made_fast.cli.demo_table import run_table

        if args.out is not None:
            raise ValueError(f"--out must be left out with --table, which writes nothing, got {args.out}")
        return run_table(args.seed)
    args.out = args.out or Path("samples.png")
    check_output(args.out, ".png")
    datasets.load_pillow()
    data = datasets.load("digits")
    torch.manual_seed(args.seed)
    model = MADE(data.features, (256, 256), direct=True)
    say(f"training a MADE on {len(data.train):,} handwritten digits of 8x8 pixels, for {60 * _MINUTES:.0f} s at most")
    start = time.monotonic()
    settings: dict[str, Any] = {"batch_size": 50, "input_dropout": 0.1, "seed": args.seed, "progress": True}
    history = training.fit(model, data.train, data.valid, **settings, max_minutes=_MINUTES)
    done = len(history.epochs)
    if done < _LEAST_EPOCHS and time.monotonic() - start >= 60 * _MINUTES:
        more = _LEAST_EPOCHS - done
        say(f"{done} epochs in that time are too few, digits would be noise: training for {more} more, however long")
        history = training.fit(model, data.train, data.valid, **settings, epochs=more)
        done += len(history.epochs)
    say(f"{done} epochs in {time.monotonic() - start:.1f} s")
    say(f"validation NLL {history.best.valid_nll:.3f} nats per image")
    say(f"drawing {_ROWS:,} rows with both samplers, five times in turns")
    agree = _compare_samplers(model, args.seed)
    real = datasets.image_grid(data.test[:100], (8, 8), columns=10, scale=5)
    drawn = model.sample(100, seed=args.seed, dtype=torch.uint8)
    picture = datasets.image_grid(drawn, (8, 8), columns=10, scale=5)
    datasets.write_png(args.out, {"real digits": real, "samples of the model": picture})
    say(f"picture: {args.out.resolve()}")
    return 0 if agree else 1


def _compare_samplers(model: MADE, seed: int) -> bool:
    """Draw the same rows naively and cached, count the equal ones and print both speeds; False if they contradict."""
    import torch

    from made_fast.testing import naive_sample, unexplained_differences

    sampler, rows = model.sampler(), _ROWS
    draws: dict[str, Callable[[], Tensor]] = {
        "naive": lambda: naive_sample(model, rows, seed=seed),
        "cached": lambda: sampler.sample(rows, seed=seed),
    }
    seconds = dict.fromkeys(draws, float("inf"))
    results: dict[str, Tensor] = {}
    for _ in range(5):  # in turns, so that a busy moment of the machine does not hit one of them alone
        for name, draw in draws.items():
            start = time.perf_counter()
            results[name] = draw()
            seconds[name] = min(seconds[name], time.perf_counter() - start)
    equal = int((results["naive"] == results["cached"]).all(1).sum())
    wrong = [unexplained_differences(model, drawn, seed=seed).any(1) for drawn in results.values()]
    contradict = int(torch.stack(wrong).any(0).sum())
    say(f"{equal:,} of {rows:,} rows are equal, drawn with the naive and the cached sampler from seed {seed}")
    if equal < rows:
        say(f"{contradict:,} rows contradict the model; in the others a uniform lies within 1e-5 of its threshold")
    for name, best in seconds.items():
        say(f"{name:>7} sampler: {rows / best:12,.0f} rows per second ({best * 1e3:.2f} ms for {rows:,})")
    threads = torch.get_num_threads()
    say(f"the cached sampler is {seconds['naive'] / seconds['cached']:.0f} times as fast (threads: {threads})")
    return contradict == 0

"""Paired timing: contenders take turns in one process, and only ratios within a round are reported."""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from made_fast import build_config

LEAST_SECONDS = 2e-3  # shorter calls are repeated within one measurement
FEWEST_ROUNDS = 3  # quartiles need so many

Call = Callable[[], object]
Times = dict[str, list[float]]


@dataclass(frozen=True)
class Ratio:
    """Median of per-round ratios with the quartiles around it."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.3g} [{self.low:.3g}, {self.high:.3g}]"


def seconds_of(run: Call, repeats: int = 1) -> float:
    """Seconds of one call on the processor, by the clock on the wall."""
    start = time.perf_counter()
    for _ in range(repeats):
        run()
    return (time.perf_counter() - start) / repeats


def measure(
    contenders: Mapping[str, Call],
    *,
    seconds: float,
    min_rounds: int = 5,
    once: Callable[[Call, int], float] = seconds_of,
    least: float = LEAST_SECONDS,
    deadline: float = math.inf,
) -> Times:
    """Times contenders in turn, in an order that shifts from round to round.

    Args:
        contenders: callables without arguments.
        seconds: spent in all, about; at least ``min_rounds`` rounds are made.
        min_rounds: rounds made in any case, unless the deadline comes.
        once: seconds of one of so many calls, by the clock that the device has.
        least: seconds that one measurement should last; shorter calls are repeated.
        deadline: on ``time.perf_counter``; when it has come, three rounds are enough.

    Returns:
        seconds per call of each contender in each round.
    """
    repeats = {}
    for name, run in contenders.items():
        run()  # warm up
        repeats[name] = max(1, int(least / max(1e-7, once(run, 1))))
    times: Times = {name: [] for name in contenders}
    names, end, rounds = list(contenders), time.perf_counter() + seconds, 0
    while (now := time.perf_counter()) < end or rounds < (min_rounds if now < deadline else FEWEST_ROUNDS):
        for name in names[rounds % len(names) :] + names[: rounds % len(names)]:
            times[name].append(once(contenders[name], repeats[name]))
        rounds += 1
    return times


def median(values: Sequence[float]) -> float:
    """The middle one, the upper of two."""
    return sorted(values)[len(values) // 2]


def medians(times: Times, scale: float = 1.0) -> dict[str, float]:
    """The median of each contender, in seconds times ``scale``."""
    return {name: scale * median(values) for name, values in times.items()}


def ratio(times: Times, numerator: str, denominator: str, scale: float = 1.0) -> Ratio:
    """The ratio of two contenders, round by round."""
    ratios = [scale * a / b for a, b in zip(times[numerator], times[denominator], strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return Ratio(middle, low, high)


def fma_peak(isa: str, threads: int) -> float:
    """Multiply-adds a second from registers on this machine, now: the best of three tries of a few milliseconds."""
    from made_fast import _core  # here, so that what needs no compiled module runs without one

    return max(_core.fma_rate(isa, False, threads, 2_000_000) for _ in range(3))


def share_of_peak(macs: float, seconds: float, isa: Any = None) -> float:
    """Useful multiply-adds a second over the peak of all threads; nan where nothing was compiled."""
    import torch

    config = build_config()
    if not config["compiled"]:
        return math.nan
    return macs / seconds / fma_peak(str(isa or config["instruction_set"]), torch.get_num_threads())


class ForeignLoad:
    """Share of the machine's processor time that other processes took while the block ran (Linux; nan elsewhere)."""

    share = float("nan")

    def __enter__(self) -> ForeignLoad:
        self._busy, self._own, self._start = _busy_seconds(), _own_seconds(), time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        elapsed = (time.perf_counter() - self._start) * (os.cpu_count() or 1)
        self.share = max(0.0, (_busy_seconds() - self._busy) - (_own_seconds() - self._own)) / elapsed


def _busy_seconds() -> float:
    stat = Path("/proc/stat")
    if not stat.exists():
        return float("nan")
    fields = [int(field) for field in stat.read_text().splitlines()[0].split()[1:]]
    return (sum(fields[:8]) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")


def _own_seconds() -> float:
    times = os.times()
    return times.user + times.system

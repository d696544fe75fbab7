"""Paired timing: contenders take turns in one process, and only ratios within a round are reported."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from made_fast import build_config

MIN_SAMPLE_SECONDS = 2e-3  # shorter calls are repeated within one measurement


@dataclass(frozen=True)
class Ratio:
    """Median of per-round ratios with the quartiles around it."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.3g} [{self.low:.3g}, {self.high:.3g}]"


def measure(
    contenders: dict[str, Callable[[], object]], *, seconds: float, min_rounds: int = 5
) -> dict[str, list[float]]:
    """Times contenders in turn, in an order that shifts from round to round.

    Args:
        contenders: callables without arguments.
        seconds: spent in all, about; at least ``min_rounds`` rounds are made.
        min_rounds: rounds made in any case.

    Returns:
        seconds per call of each contender in each round.
    """
    repeats = {}
    for name, run in contenders.items():
        run()  # warm up
        start = time.perf_counter()
        run()
        repeats[name] = max(1, int(MIN_SAMPLE_SECONDS / max(1e-7, time.perf_counter() - start)))
    times: dict[str, list[float]] = {name: [] for name in contenders}
    names, deadline, rounds = list(contenders), time.perf_counter() + seconds, 0
    while rounds < min_rounds or time.perf_counter() < deadline:
        for name in names[rounds % len(names) :] + names[: rounds % len(names)]:
            start = time.perf_counter()
            for _ in range(repeats[name]):
                contenders[name]()
            times[name].append((time.perf_counter() - start) / repeats[name])
        rounds += 1
    return times


def ratio(times: dict[str, list[float]], numerator: str, denominator: str, scale: float = 1.0) -> Ratio:
    """The ratio of two contenders, round by round."""
    found = [scale * a / b for a, b in zip(times[numerator], times[denominator], strict=True)]
    low, median, high = statistics.quantiles(found, n=4)
    return Ratio(median, low, high)


def fma_peak(isa: str, threads: int) -> float:
    """Multiply-adds a second from registers on this machine, now: the best of three tries of a few milliseconds."""
    from made_fast import _core  # here, so that what needs no compiled module runs without one

    return max(_core.fma_rate(isa, False, threads, 2_000_000) for _ in range(3))


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


def machine() -> dict[str, object]:
    """What the figures were measured on."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
        **build_config(),
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    wanted = ("model name", "cpu family", "model\t")
    lines = info.read_text().split("\n\n")[0].splitlines() if info.exists() else []
    found = [line.split(":")[1].strip() for line in lines if line.startswith(wanted)]
    return f"{found[2]} (family {found[0]}, model {found[1]})" if len(found) == 3 else platform.processor()

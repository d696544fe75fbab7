"""Timing on a GPU (or, to try the code, on a CPU): contenders in turn, by events, within a time that is given."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

Run = Callable[[], object]
PRECISIONS = {"ieee": "highest", "tf32": "high"}  # of fp32 products, and what torch calls them


@contextmanager
def precision(name: str) -> Iterator[None]:
    """Within the block fp32 products are taken at this precision, by torch and by our kernels alike."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(PRECISIONS.get(name, "highest"))
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def median(values: Sequence[float]) -> float:
    """The middle one, the upper of two."""
    return sorted(values)[len(values) // 2]


@dataclass
class Clock:
    """Seconds of device time, and the time that is left for all measurements.

    Attributes:
        device: cuda or cpu.
        deadline: on ``time.perf_counter``; measurements are cut short near it.
        least: seconds that one measurement should last; shorter calls are repeated.
    """

    device: torch.device
    deadline: float
    least: float = 2e-3
    started: float = field(default_factory=time.perf_counter)

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.perf_counter()

    def wait(self) -> None:
        """Waits until the device has nothing to do."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def time(self, run: Run, repeats: int = 1) -> float:
        """Seconds of one call, from the first kernel's turn to the end of the last one: gaps between launches count."""
        if self.device.type != "cuda":
            start = time.perf_counter()
            for _ in range(repeats):
                run()
            return (time.perf_counter() - start) / repeats
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self.wait()
        begin.record()
        for _ in range(repeats):
            run()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) * 1e-3 / repeats

    def measure(self, runs: dict[str, Run], *, seconds: float, min_rounds: int = 5) -> dict[str, list[float]]:
        """Times contenders in turn, in an order that shifts from round to round.

        Args:
            runs: callables without arguments; each was warmed up by one call at least.
            seconds: spent in all, about.
            min_rounds: rounds made in any case, unless the deadline comes: then three.

        Returns:
            seconds per call of each contender in each round.
        """
        repeats = {}
        for name, run in runs.items():
            run()
            repeats[name] = max(1, int(self.least / max(1e-7, self.time(run))))
        times: dict[str, list[float]] = {name: [] for name in runs}
        names, end, rounds = list(runs), time.perf_counter() + seconds, 0
        while time.perf_counter() < end or rounds < (min_rounds if self.left > 0 else 3):
            for name in names[rounds % len(names) :] + names[: rounds % len(names)]:
                times[name].append(self.time(runs[name], repeats[name]))
            rounds += 1
        return times


class Rotation:
    """Hands out several things in turn, so that a cache does not hold what the next call reads."""

    def __init__(self, things: Sequence[Any]) -> None:
        self.things, self.at = things, 0

    def next(self) -> Any:
        """The next one."""
        self.at = (self.at + 1) % len(self.things)
        return self.things[self.at]


def buffers_for(bytes_each: int, device: torch.device) -> int:
    """How many buffers of a size hold three times the L2 cache, two at least and sixteen at most."""
    cache = torch.cuda.get_device_properties(device).L2_cache_size if device.type == "cuda" else 2**20
    return min(16, max(2, -(-3 * cache // max(1, bytes_each))))


def peak_extra(run: Callable[[], torch.Tensor], device: torch.device) -> float:
    """MiB that a call takes at its peak beyond what it returns; nan on a CPU."""
    if device.type != "cuda":
        return float("nan")
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    result = run()
    torch.cuda.synchronize(device)
    return (torch.cuda.max_memory_allocated(device) - before - result.untyped_storage().nbytes()) / 2**20

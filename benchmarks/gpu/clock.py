"""Timing on a GPU (or, to try the code, on a CPU): by events, within a time that is given."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import torch

from benchmarks.contenders import Run
from benchmarks.timing import LEAST_SECONDS, Call, Times, measure, seconds_of


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
    least: float = LEAST_SECONDS
    started: float = field(default_factory=time.perf_counter)

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.perf_counter()

    def wait(self) -> None:
        """Waits until the device has nothing to do."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def time(self, run: Call, repeats: int = 1) -> float:
        """Seconds of one call, from the first kernel's turn to the end of the last one: gaps between launches count."""
        if self.device.type != "cuda":
            return seconds_of(run, repeats)
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self.wait()
        begin.record()
        for _ in range(repeats):
            run()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) * 1e-3 / repeats

    def measure(self, runs: dict[str, Run], *, seconds: float) -> Times:
        """Times contenders in turn, see ``timing.measure``."""
        return measure(runs, seconds=seconds, once=self.time, least=self.least, deadline=self.deadline)


def buffers_for(bytes_each: int, device: torch.device) -> int:
    """How many buffers of a size hold three times the L2 cache, two at least and sixteen at most."""
    cache = torch.cuda.get_device_properties(device).L2_cache_size if device.type == "cuda" else 2**20
    return min(16, max(2, -(-3 * cache // max(1, bytes_each))))


def peak_extra(run: Run, device: torch.device) -> float:
    """MiB that a call takes at its peak beyond what it returns; nan on a CPU."""
    if device.type != "cuda":
        return float("nan")
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    result = run()
    torch.cuda.synchronize(device)
    return (torch.cuda.max_memory_allocated(device) - before - result.untyped_storage().nbytes()) / 2**20

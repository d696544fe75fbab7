"""Launching kernels: the one place where it is done, so that tools can record what would be launched without a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import Any

import numpy as np
import torch
import triton
from torch import Tensor

__all__ = ["Config", "Launch", "launch", "next_power_of_2", "precision", "recorded", "recording"]


@dataclass(frozen=True)
class Config:
    """Tile sizes and what the compiler is told: ``blocks`` holds the kernel's compile-time sizes by name."""

    blocks: tuple[tuple[str, int], ...]
    num_warps: int
    num_stages: int

    @classmethod
    def of(cls, num_warps: int, num_stages: int, **blocks: int) -> Config:
        """A configuration with these compile-time sizes."""
        return cls(tuple(blocks.items()), num_warps, num_stages)

    def __getitem__(self, name: str) -> int:
        return dict(self.blocks)[name]

    def __str__(self) -> str:
        sizes = " ".join(f"{name}={value}" for name, value in self.blocks)
        return f"{sizes} warps={self.num_warps} stages={self.num_stages}"


@dataclass(frozen=True)
class Launch:
    """A kernel with the arguments it would be launched with."""

    kernel: Any
    grid: tuple[int, ...]
    config: Config
    arguments: dict[str, Any]


_launches: list[Launch] | None = None
_interpreter = Lock()  # it has one state for all threads


@contextmanager
def recorded() -> Iterator[list[Launch]]:
    """Within the block nothing is launched: the launches are appended to the list that it yields."""
    global _launches  # noqa: PLW0603 - a tool's switch, never set in a program that draws
    _launches = []
    try:
        yield _launches
    finally:
        _launches = None


def recording() -> bool:
    """Whether launches are only recorded now; then there are no results to read."""
    return _launches is not None


def launch(kernel: Any, grid: tuple[int, ...], config: Config, **arguments: Any) -> None:
    """Runs a kernel on the device of its first tensor; an empty grid is no launch.

    Args:
        kernel: a ``triton.jit`` function.
        grid: number of programs along each axis.
        config: its compile-time sizes are passed beside ``arguments``.
        arguments: by name; tensors are passed as pointers.
    """
    if 0 in grid:
        return
    if _launches is not None:
        _launches.append(Launch(kernel, grid, config, arguments))
        return
    options = {"num_warps": config.num_warps, "num_stages": config.num_stages}
    device = next(value.device for value in arguments.values() if isinstance(value, Tensor))
    run = partial(kernel[grid], **arguments, **dict(config.blocks), **options)
    if device.type == "cpu":
        with _interpreter, np.errstate(all="ignore"):
            run()
    elif device.index != torch.cuda.current_device():
        with torch.cuda.device(device):
            run()
    else:
        run()


def precision(dtype: torch.dtype) -> str:
    """How ``tl.dot`` multiplies: fp32 as ``torch.set_float32_matmul_precision`` says, other dtypes as they are."""
    if dtype == torch.float32 and torch.get_float32_matmul_precision() != "highest":
        return "tf32"
    return "ieee"


def next_power_of_2(n: int) -> int:
    """The smallest power of 2 that is not below n."""
    return int(triton.next_power_of_2(n))

"""Which tile sizes a kernel is launched with: chosen from a table by shape and dtype alone, so that results repeat."""

from __future__ import annotations

import torch

from made_fast.backends.triton.launch import Config, precision

__all__ = [
    "MATMUL",
    "MATMUL_GATHERED",
    "OUTER",
    "OUTER_GATHERED",
    "OUTER_SUM_ROWS",
    "PROGRAMS",
    "batch_parts",
    "matmul_candidates",
    "matmul_config",
    "outer_candidates",
    "outer_config",
    "unit",
]

PROGRAMS = 132  # as many run at once on the largest GPUs of the day; fewer tiles leave some of it idle
MIN_PART = 256  # rows of a batch below which a part of it costs more than it brings

# By what multiplies: "ieee" is fp32 on ordinary units, where a thread holds a patch of sums and all BK factors of each;
# "tf32" and "half" are tensor cores, which want 64 rows on one side and 4 warps for them. Largest first. No thread needs
# more registers than there are (benchmarks/triton_static).
# BB rows of the batch, BN rows of the mask, BK columns of the mask.
MATMUL: dict[str, tuple[Config, ...]] = {
    "ieee": (
        Config.of(4, 3, BB=64, BN=64, BK=16),
        Config.of(4, 3, BB=32, BN=32, BK=16),
        Config.of(4, 3, BB=16, BN=32, BK=32),
    ),
    "tf32": (
        Config.of(8, 3, BB=128, BN=128, BK=32),
        Config.of(4, 3, BB=64, BN=64, BK=32),
        Config.of(4, 3, BB=32, BN=64, BK=32),
        Config.of(4, 4, BB=16, BN=64, BK=32),
    ),
    "half": (
        Config.of(8, 3, BB=128, BN=128, BK=64),
        Config.of(4, 3, BB=64, BN=64, BK=64),
        Config.of(4, 3, BB=32, BN=64, BK=64),
        Config.of(4, 4, BB=16, BN=64, BK=64),
    ),
}
# Where columns are read by a list, or rows of memory do not begin at multiples of 16 bytes, each number has an address of its
# own, and a thread cannot hold as many.
MATMUL_GATHERED: dict[str, tuple[Config, ...]] = {
    "ieee": (
        Config.of(8, 3, BB=64, BN=64, BK=16),
        Config.of(4, 3, BB=32, BN=32, BK=16),
        Config.of(4, 3, BB=16, BN=32, BK=32),
    ),
    "tf32": (
        Config.of(8, 3, max_registers=255, BB=64, BN=64, BK=32),
        Config.of(4, 3, max_registers=255, BB=32, BN=64, BK=32),
        Config.of(4, 3, BB=16, BN=64, BK=32),
    ),
    "half": (
        Config.of(8, 2, BB=64, BN=64, BK=32),
        Config.of(4, 2, BB=32, BN=64, BK=32),
        Config.of(4, 2, BB=16, BN=64, BK=32),
    ),
}

# BN rows and BK columns of the mask, BB rows of the batch at a time.
OUTER: dict[str, tuple[Config, ...]] = {
    "ieee": (Config.of(8, 3, BB=16, BN=128, BK=128), Config.of(4, 3, BB=32, BN=64, BK=64)),
    "tf32": (Config.of(8, 3, BB=32, BN=128, BK=128), Config.of(4, 3, BB=32, BN=64, BK=64)),
    "half": (Config.of(8, 3, BB=64, BN=128, BK=128), Config.of(4, 3, BB=64, BN=64, BK=64)),
}
# Where rows or columns are read by a list, or one by one.
OUTER_GATHERED: dict[str, tuple[Config, ...]] = {
    "ieee": (Config.of(8, 2, BB=16, BN=128, BK=64), Config.of(8, 2, BB=16, BN=64, BK=64)),
    "tf32": (Config.of(8, 3, BB=32, BN=128, BK=64), Config.of(4, 3, BB=32, BN=64, BK=64)),
    "half": (Config.of(8, 2, BB=32, BN=128, BK=64), Config.of(4, 2, BB=32, BN=64, BK=64)),
}

OUTER_SUM_ROWS = 8  # of a tile, by one program; 4 warps


def unit(dtype: torch.dtype) -> str:
    """The key of the tables: what multiplies values of this dtype now."""
    return "half" if dtype != torch.float32 else precision(dtype)


def matmul_candidates(dtype: torch.dtype, *, gathered: bool) -> tuple[Config, ...]:
    """The configurations of ``matmul``, largest first."""
    return (MATMUL_GATHERED if gathered else MATMUL)[unit(dtype)]


def outer_candidates(dtype: torch.dtype, *, gathered: bool) -> tuple[Config, ...]:
    """The configurations of ``outer``, largest first."""
    return (OUTER_GATHERED if gathered else OUTER)[unit(dtype)]


def matmul_config(candidates: tuple[Config, ...], batch: int, height: int) -> Config:
    """The largest tile that leaves no part of the GPU idle, nor most of itself, for (B, rows) results."""
    for config in candidates:
        programs = -(-batch // config["BB"]) * -(-height // config["BN"])
        if programs >= PROGRAMS and config["BB"] < 2 * batch:
            return config
    return candidates[-1]


def outer_config(candidates: tuple[Config, ...], batch: int, shape: tuple[int, int]) -> Config:
    """The largest tile that leaves no part of the GPU idle, once the batch is split."""
    for config in candidates:
        tiles = -(-shape[0] // config["BN"]) * -(-shape[1] // config["BK"])
        if tiles * max(1, batch // MIN_PART) >= 4 * PROGRAMS:  # half of them is masked, and two at a time run
            return config
    return candidates[-1]


def batch_parts(batch: int, tiles: int, block: int) -> tuple[int, int]:
    """Into how many parts a batch is split for ``tiles`` programs each, and the rows of a part: whole blocks."""
    wanted = min(-(-2 * PROGRAMS // max(1, tiles)), max(1, batch // MIN_PART))
    rows = -(-batch // (wanted * block)) * block
    return -(-batch // rows), rows

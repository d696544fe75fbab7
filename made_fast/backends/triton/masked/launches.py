"""The masked matmuls on a GPU: tables made once for each mask, and what is launched with them.

Results are the same bit for bit whenever shapes, dtype and mask are: nothing is added in an order that chance decides.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from made_fast.backends.known import check_function
from made_fast.backends.triton.columns import PairColumn, TileColumn
from made_fast.backends.triton.functions import KNOWN_FUNCTIONS
from made_fast.backends.triton.launch import Config, launch, precision
from made_fast.backends.triton.masked import sizes
from made_fast.backends.triton.masked.kernels import matmul, outer, outer_sum
from made_fast.backends.triton.masked.tuning import tuned
from made_fast.masks.plan import MaskPlan, MaskSide
from made_fast.programs.functions import FUNCTION_CODES

__all__ = ["masked_linear", "masked_linear_grad_input", "masked_linear_grad_weight"]

_PANEL_BYTES = 16 * 2**20  # of x, that stay in the cache while all tiles of rows go over them
# Ordinary units read factors from shared memory four at a time. Where a thread's are apart by rows of the weight, most of
# a warp's lie in the same banks; a long batch pays for a transposed copy, in which they lie side by side.
_LONG_BATCH = 512

IntArray = NDArray[np.int64]


def masked_linear(
    x: Tensor,
    weight: Tensor,
    plan: MaskPlan,
    bias: Tensor | None = None,
    activation: str = "identity",
    *,
    config: Config | None = None,
) -> Tensor:
    """See ``reference.masked_linear``; tensors contiguous, x (B, in)."""
    check_function("triton", activation, KNOWN_FUNCTIONS)
    side_by_side = plan.nested and plan.forward.rows_in_order
    turned = side_by_side and x.shape[0] >= _LONG_BATCH and sizes.unit(x.dtype) == "ieee"
    weight = weight.t().contiguous() if turned else weight
    return _matmul(plan, "forward", x, weight, turned, bias, activation, config)


def masked_linear_grad_input(grad: Tensor, weight: Tensor, plan: MaskPlan, *, config: Config | None = None) -> Tensor:
    """See ``reference.masked_linear_grad_input``; tensors contiguous, grad (B, out)."""
    return _matmul(plan, "backward", grad, weight, True, None, "identity", config)


def masked_linear_grad_weight(grad: Tensor, x: Tensor, plan: MaskPlan, *, config: Config | None = None) -> Tensor:
    """See ``reference.masked_linear_grad_weight``; tensors contiguous, grad (B, out), x (B, in)."""
    batch = x.shape[0]
    if batch == 0:
        return grad.new_zeros(plan.shape)

    def run(config: Config) -> Tensor:
        return _outer(plan, grad, x, config)

    if config is None:
        in_order = plan.forward.rows_in_order and plan.forward.columns_in_order
        gathered = not in_order or _one_by_one(*plan.shape, x)
        candidates = sizes.outer_candidates(x.dtype, gathered=gathered)
        default = sizes.outer_config(candidates, batch, plan.shape)
        config = tuned(("outer", x.dtype, batch, gathered, *_look(plan)), candidates, default, run, x.device)
    return run(config)


def _matmul(
    plan: MaskPlan,
    name: str,
    x: Tensor,
    weight: Tensor,
    columns_first: bool,
    bias: Tensor | None,
    activation: str,
    config: Config | None,
) -> Tensor:
    side: MaskSide = getattr(plan, name)
    batch, height, width = x.shape[0], len(side.rows), len(side.columns)
    out = x.new_empty(batch, height)
    if batch == 0:
        return out

    def run(config: Config) -> Tensor:
        tables, batch_tiles = _tables(plan, name, config, x.device), -(-batch // config["BB"])
        panel = min(batch_tiles, max(1, _PANEL_BYTES // (config["BB"] * width * x.element_size())))
        launch(
            matmul,
            (batch_tiles * len(tables.tiles),),
            config,
            x=x,
            weight=weight,
            bias=x if bias is None else bias,
            out=out,
            tiles=tables.tiles,
            **tables.arguments,
            batch=batch,
            height=height,
            width=width,
            tile_count=len(tables.tiles),
            batch_tiles=batch_tiles,
            panel=panel,
            FUNCTION=FUNCTION_CODES[activation],
            PRECISION=precision(x.dtype),
            HAS_BIAS=bias is not None,
            COLUMNS_FIRST=columns_first,
            ALIGN=_common(height, width),
        )
        return out

    if config is None:
        gathered = not side.columns_in_order or _one_by_one(height, width, x)
        candidates = sizes.matmul_candidates(x.dtype, gathered=gathered)
        default = sizes.matmul_config(candidates, batch, height)
        config = tuned((name, x.dtype, batch, gathered, *_look(plan)), candidates, default, run, x.device)
    return run(config)


def _outer(plan: MaskPlan, grad: Tensor, x: Tensor, config: Config) -> Tensor:
    tables, out = _tables(plan, "forward", config, x.device), grad.new_zeros(plan.shape)
    tile_count, block = len(tables.pairs), config["BN"] * config["BK"]
    part_count, part_batch = sizes.batch_parts(x.shape[0], tile_count, config["BB"])
    split = part_count > 1
    parts = x.new_empty(part_count * tile_count * block if split else 0, dtype=torch.float32)
    shared = {
        "out": out,
        "parts": parts if split else out,
        "tiles": tables.pairs,
        "height": plan.shape[0],
        "width": plan.shape[1],
        "tile_count": tile_count,
        "ALIGN": _common(*plan.shape),
        **tables.arguments,
    }
    launch(
        outer,
        (tile_count, part_count),
        config,
        grad=grad,
        x=x,
        batch=x.shape[0],
        part_batch=part_batch,
        PRECISION=precision(x.dtype),
        SPLIT=split,
        **shared,
    )
    if split:
        rows = min(sizes.OUTER_SUM_ROWS, config["BN"])
        summing = Config.of(4, 1, BN=config["BN"], BK=config["BK"], BR=rows)
        launch(outer_sum, (tile_count, config["BN"] // rows), summing, part_count=part_count, **shared)
    return out


def _common(height: int, width: int) -> int:
    """The largest power of 2, 16 at most, that divides both: rows of memory begin at multiples of it."""
    return gcd(height, width, 16)


def _one_by_one(height: int, width: int, x: Tensor) -> bool:
    """Whether rows of memory begin where no 16 bytes can be read at once."""
    return _common(height, width) * x.element_size() < 16


def _look(plan: MaskPlan) -> tuple[object, ...]:
    """What matters of a mask for the time it takes, coarsely."""
    return (plan.shape, plan.nested, round(plan.density, 1))


@dataclass(frozen=True)
class _Tables:
    """One side of a mask for one size of tiles, on a device.

    Attributes:
        tiles: (T, 5), the columns are those of ``TileColumn``; longest first.
        pairs: (P, 2), the columns are those of ``PairColumn``: every tile of rows with every chunk that it reads.
        arguments: of the kernels, the same for each product.
    """

    tiles: Tensor
    pairs: Tensor
    arguments: dict[str, Any]


def _tables(plan: MaskPlan, name: str, config: Config, device: torch.device) -> _Tables:
    key = f"triton {name} {config['BN']} {config['BK']} {device}"
    if key not in plan.made:
        plan.made[key] = _make_tables(plan, name, config["BN"], config["BK"], device)
    tables: _Tables = plan.made[key]
    return tables


def _make_tables(plan: MaskPlan, name: str, rows: int, columns: int, device: torch.device) -> _Tables:
    side: MaskSide = getattr(plan, name)

    def sent(array: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, dtype=np.int32)).to(device)

    if side.bounds is not None:
        tiles, listed = _staircase(*side.bounds, rows, columns), _padded(side.columns, columns)
    else:
        tiles, listed = _lists(side, plan.mask.numpy() if name == "forward" else plan.mask.numpy().T, rows, columns)
    first, counts = tiles[:, TileColumn.FIRST_CHUNK], tiles[:, TileColumn.END_CHUNK] - tiles[:, TileColumn.FIRST_CHUNK]
    starts, ends = side.bounds or (side.rows[:1], side.rows[:1])
    pairs = np.empty((int(counts.sum()), len(PairColumn)), dtype=np.int64)
    pairs[:, PairColumn.TILE] = np.repeat(tiles[:, TileColumn.TILE], counts)
    pairs[:, PairColumn.CHUNK] = _runs(first, counts)
    arguments = {
        "rows": sent(side.rows),
        "columns": sent(listed),
        "starts": sent(starts),
        "ends": sent(ends),
        "mask": _mask_bytes(plan, device) if side.bounds is None else sent(starts),
        "NESTED": side.bounds is not None,
        "GATHER_ROWS": not side.rows_in_order,
        "GATHER_COLUMNS": not side.columns_in_order,
    }
    return _Tables(sent(tiles[np.argsort(-counts, kind="stable")]), sent(pairs), arguments)


def _staircase(starts: IntArray, ends: IntArray, rows: int, columns: int) -> IntArray:
    """(T, 5) the tiles of a nested side, from top to bottom."""
    first = np.arange(0, len(starts), rows)
    last = np.minimum(first + rows, len(starts)) - 1
    begin, end = starts[first], np.maximum(ends[last], starts[first])
    low = begin // columns
    high = np.where(end > begin, -(-end // columns), low)
    tiles = np.empty((len(first), len(TileColumn)), dtype=np.int64)
    tiles[:, TileColumn.TILE] = np.arange(len(first))
    tiles[:, TileColumn.FIRST_CHUNK] = low
    tiles[:, TileColumn.FIRST_FULL] = np.clip(-(-starts[last] // columns), low, high)
    tiles[:, TileColumn.END_FULL] = np.clip(ends[first] // columns, tiles[:, TileColumn.FIRST_FULL], high)
    tiles[:, TileColumn.END_CHUNK] = high
    return tiles


def _lists(side: MaskSide, mask: NDArray[np.bool_], rows: int, columns: int) -> tuple[IntArray, IntArray]:
    """The tiles of any other side, as in ``_staircase``, and the columns in their chunks: those of full chunks first."""
    tiles = np.empty((-(-len(side.rows) // rows), len(TileColumn)), dtype=np.int64)
    lists, chunk = [], 0
    for number, tile in enumerate(tiles):
        part = mask[side.rows[number * rows : (number + 1) * rows]]
        full = part.all(0)
        read = _padded(np.concatenate([np.flatnonzero(full), np.flatnonzero(part.any(0) & ~full)]), columns)
        tile[TileColumn.TILE] = number
        tile[TileColumn.FIRST_CHUNK] = tile[TileColumn.FIRST_FULL] = chunk
        tile[TileColumn.END_FULL] = chunk + int(full.sum()) // columns
        chunk += len(read) // columns
        tile[TileColumn.END_CHUNK] = chunk
        lists.append(read)
    return tiles, np.concatenate(lists)


def _padded(columns: IntArray, block: int) -> IntArray:
    """A list of columns filled up to whole chunks with -1, which is none."""
    return np.pad(columns, (0, -len(columns) % block), constant_values=-1)


def _runs(first: IntArray, counts: IntArray) -> IntArray:
    """``first[i], first[i] + 1, ...``, ``counts[i]`` of them, for each i in turn."""
    ends = np.cumsum(counts)
    return np.arange(ends[-1]) + np.repeat(first - ends + counts, counts)


def _mask_bytes(plan: MaskPlan, device: torch.device) -> Tensor:
    key = f"triton mask {device}"
    if key not in plan.made:
        plan.made[key] = plan.mask.view(torch.uint8).to(device)
    mask: Tensor = plan.made[key]
    return mask

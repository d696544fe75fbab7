"""What a draw should take on a GPU, from what its plan makes it do: flops, bytes, steps that wait for one another.

``expectations.py`` makes tables of it for cards that are not at hand. Flops, bytes and numbers of steps are counted
from the plan; what one step takes is assumed (``Assumptions``) until somebody measures it. See README.md in this folder.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

import torch

from benchmarks.report import Row
from made_fast.sampling import Sampler

MICRO = 1e-6


@dataclass(frozen=True)
class Card:
    """A GPU by its data sheet: bytes and flops a second (dense, not sparse), seconds a launch.

    Attributes:
        processors: multiprocessors, of ``lanes`` fp32 lanes each.
        memory, cache: bytes a second from device memory and from the L2 cache, which holds ``cache_bytes``.
        rates: flops a second of products, by precision.
        launch, node: seconds from one kernel to the next, launched one by one and within a CUDA graph.
    """

    name: str
    memory: float
    cache_bytes: float
    processors: int = 132
    lanes: int = 128
    clock: float = 1.7e9
    cache: float = 5.5e12
    rates: tuple[tuple[str, float], ...] = (("ieee", 67e12), ("tf32", 495e12), ("bf16", 989e12))
    launch: float = 4 * MICRO
    node: float = 1.5 * MICRO

    def rate(self, precision: str) -> float:
        """Flops a second of products."""
        return dict(self.rates)[precision]


H100, H200 = Card("H100", 3.35e12, 50e6), Card("H200", 4.8e12, 60e6)


@dataclass(frozen=True)
class Assumptions:
    """What nobody has measured yet. Seconds for one tile, where nothing else bounds it.

    Attributes:
        dot: share of the data sheet's rate that ``tl.dot`` reaches on these small tiles; "dense" is cuBLAS.
        chunk: a chunk's loads and product, pipelined: latency that is left.
        task: begin and end of a task: its list, the first loads, sums from and to the scratch, a barrier.
        event: a step that waits for the one before: a sum across lanes, a function, an insertion.
        product: begin of a block's own product: the first loads.
        block: a tile of sums read, a tile of values written, a barrier.
        lane_operations: instructions for each element of the tile in an event.
        fetched: share of the values read by a block's own product that the nearest cache does not hold.
        call: a call from Python, with its request copied and its flags read back.
    """

    dot: float = 0.6
    dense: float = 0.75
    chunk: float = 0.15 * MICRO
    task: float = 1.5 * MICRO
    product: float = 0.8 * MICRO
    event: float = 0.25 * MICRO
    block: float = 1.0 * MICRO
    lane_operations: float = 6
    fetched: float = 0.3
    call: float = 40 * MICRO


ASSUMED = Assumptions()


@dataclass(frozen=True)
class Counts:
    """What a plan makes the kernels do with one tile of R rows.

    Attributes:
        rows: R; resident: programs that share a multiprocessor.
        tasks, task_chunks, longest_task: of the outer blocks; the last counts chunks.
        products, own_chunks: blocks that begin with a product of their own, and its chunks.
        blocks, outer, events: how many there are.
        units, task_units, inputs: sizes of a chunk: of a block's own product, of a task, and what both read.
        other_bytes: sums, values, thresholds and vectors.
        table_bytes: of the table that values are read from.
        weight_bytes: of all weights and vectors; row_bytes: of a result.
    """

    rows: int
    resident: int
    tasks: int
    task_chunks: int
    longest_task: int
    products: int
    own_chunks: int
    blocks: int
    outer: int
    events: int
    units: int
    task_units: int
    inputs: int
    other_bytes: int
    table_bytes: int
    weight_bytes: int
    row_bytes: int

    @property
    def chunks(self) -> int:
        """Those of tasks and those of blocks."""
        return self.task_chunks + self.own_chunks

    @property
    def flops(self) -> int:
        """Of all chunks, zeros within them included."""
        return 2 * self.rows * self.inputs * (self.task_chunks * self.task_units + self.own_chunks * self.units)

    @property
    def elements(self) -> int:
        """Of the tile in registers."""
        return self.rows * self.units

    @property
    def weight_reads(self) -> int:
        """Bytes of the weights of all chunks."""
        return 4 * self.inputs * (self.task_chunks * self.task_units + self.own_chunks * self.units)

    def value_reads(self, fetched: float) -> float:
        """Bytes of values through the L2 cache, where own products fetch this share of theirs."""
        return 4 * self.inputs * self.rows * (self.task_chunks + fetched * self.own_chunks)

    def bytes(self, fetched: float = 1.0) -> float:
        """Through the L2 cache: weights, values, sums, thresholds, vectors."""
        return self.weight_reads + self.value_reads(fetched) + self.other_bytes


def count(plan: Any, features: int, rows: int, resident: int = 2) -> Counts:
    """Counts a ``DrawPlan`` for tiles of ``rows`` rows, so many of them on a multiprocessor."""
    _, units, inputs = plan.weights.shape
    sizes = plan.tasks[:, 1] - plan.tasks[:, 0]
    products = plan.blocks[:, 3] - plan.blocks[:, 2]
    events, blocks, tile = plan.num_events, len(plan.blocks), 4 * rows * units
    other = (
        4 * rows * plan.task_weights.shape[1] * len(sizes)
        + 2 * tile * blocks
        + 8 * rows * features
        + 8 * events * units
    )
    return Counts(
        rows=rows,
        resident=resident,
        tasks=len(sizes),
        task_chunks=int(sizes.sum()),
        longest_task=int(sizes.max(initial=0)),
        products=int((products > 0).sum()),
        own_chunks=int(products.sum()),
        blocks=blocks,
        outer=len(plan.outer) - 1,
        events=events,
        units=units,
        task_units=plan.task_weights.shape[1],
        inputs=inputs,
        other_bytes=other,
        table_bytes=4 * rows * (int(plan.slots.max()) + 1),
        weight_bytes=int(plan.task_weights.nbytes + plan.weights.nbytes + plan.vectors.nbytes),
        row_bytes=4 * features,
    )


@dataclass(frozen=True)
class Expected:
    """Seconds of one draw, and what they are made of.

    Attributes:
        one, many: in one launch; with launches for each outer block.
        bound: what most of the one launch is spent on.
    """

    one: float
    many: float
    bound: str

    @property
    def seconds(self) -> float:
        """The quicker way."""
        return min(self.one, self.many)


def expected(counts: Counts, card: Card, rows: int, precision: str, assumed: Assumptions = ASSUMED) -> Expected:
    """Seconds of one draw of ``rows`` rows, from counts for tiles of ``counts.rows``."""
    tiles = ceil(rows / counts.rows)
    resident = min(counts.resident, max(1, ceil(tiles / card.processors)))
    times = parts(counts, card, tiles, precision, assumed)
    alone = {name: time for name, time in times.items() if "busy" not in name}  # every step waits for the one before
    busy = {name: time for name, time in times.items() if "busy" in name}  # tiles on one multiprocessor share its rates
    waves = ceil(tiles / (resident * card.processors))
    chain, shared = sum(alone.values()), resident * max(busy.values())
    outside = (counts.weight_bytes + rows * counts.row_bytes) / card.memory
    one = assumed.call + card.launch + max(waves * max(chain, shared), outside)
    longest = alone if chain >= shared else busy
    bound = max(longest, key=lambda name: longest[name])
    return Expected(one, _many(counts, card, tiles, times, assumed), bound)


def _many(counts: Counts, card: Card, tiles: int, times: dict[str, float], assumed: Assumptions) -> float:
    """Outer tasks on all multiprocessors, the rest tile by tile; all tiles are there at once."""
    rounds = ceil(counts.tasks / counts.outer * tiles / (card.processors * counts.resident))
    task = assumed.task + counts.longest_task / 2 * times["task chunks"] / max(
        1, counts.task_chunks
    )  # the lists grow from outer block to outer block
    rates = max(times["busy: products"], times["busy: cache"], times["busy: memory"])
    bulk = max(counts.outer * rounds * task, rates * tiles / card.processors)
    inner = times["own chunks"] + counts.products * assumed.product
    resident = min(counts.resident, ceil(tiles / card.processors))
    waves = ceil(tiles / (resident * card.processors))
    rest = waves * max(inner + times["events"] + times["blocks"], resident * times["busy: lanes"])
    return assumed.call + card.launch + 2 * counts.outer * card.node + bulk + rest


def parts(counts: Counts, card: Card, tiles: int, precision: str, assumed: Assumptions = ASSUMED) -> dict[str, float]:
    """Seconds of one tile: what waits for one another if it is alone, and what it takes of a multiprocessor's rates.

    Values come from memory as far as the tables of all tiles that are worked on at a time do not fit into the cache.
    """
    tables = counts.table_bytes * min(tiles, counts.resident * card.processors)
    outside = counts.value_reads(assumed.fetched) * max(0.0, 1 - card.cache_bytes / tables)
    rate, stream = card.rate(precision) * assumed.dot / card.processors, card.cache / card.processors

    def chunk(units: int, fetched: float) -> float:
        moved = 4 * counts.inputs * (units + fetched * counts.rows)
        return max(assumed.chunk, 2 * counts.rows * units * counts.inputs / rate, moved / stream)

    return {
        "events": counts.events * assumed.event,
        "blocks": counts.blocks * assumed.block,
        "tasks": counts.tasks * assumed.task + counts.products * assumed.product,
        "task chunks": counts.task_chunks * chunk(counts.task_units, 1.0),
        "own chunks": counts.own_chunks * chunk(counts.units, assumed.fetched),
        "busy: products": counts.flops / rate,
        "busy: cache": counts.bytes(assumed.fetched) / stream,
        "busy: memory": outside / (card.memory / card.processors),
        "busy: lanes": counts.events * counts.elements * assumed.lane_operations / (card.lanes * card.clock),
    }


def dense_seconds(frozen: Sampler, card: Card, rows: int, precision: str, assumed: Assumptions = ASSUMED) -> float:
    """One dense forward by cuBLAS: its flops, or its bytes, or its launches."""
    shapes = [tuple(term.weight.shape) for op in frozen.program.affines for term in op.terms]
    flops = 2 * rows * frozen.dense_macs / (card.rate(precision) * assumed.dense)
    moved = sum(4 * (n * m + rows * (n + m) + 2 * rows * n) for n, m in shapes) / card.memory
    return max(flops, moved, 2 * len(shapes) * card.launch)


def counted(plan: Any, features: int, rows: int, processors: int, precision: str) -> Counts:
    """Counts for a draw of ``rows`` rows, in tiles as the backend chooses them."""
    from made_fast.backends.triton.drawing.sizes import choose_tile

    tile = choose_tile(rows, processors, precision)
    return count(plan, features, tile.config["R"], tile.programs)


def plan_of(frozen: Sampler) -> Any:
    """The plan of a sampler, as the Triton backend packs it; or None without Triton."""
    if importlib.util.find_spec("triton") is None:
        return None
    from made_fast.backends.triton.drawing.plan import build_plan
    from made_fast.backends.triton.drawing.sizes import LAYOUT

    ready = frozen._packed.get("triton")
    return build_plan(frozen.program, frozen.schedule, **LAYOUT._asdict()) if ready is None else ready[1].plan


def events(frozen: Sampler) -> int:
    """Steps of one draw that wait for one another; 0 where they are not known."""
    plan = plan_of(frozen)
    return 0 if plan is None else plan.num_events


def against(
    frozen: Sampler, rows: int, precision: str, seconds: float, ceilings: dict[str, float], device: torch.device
) -> Row:
    """A measured draw against its floor on this machine and against what was expected of it.

    The floor holds the largest of three: the flops of the plan at the measured rate of products, the bytes that must come
    from and go to device memory at the measured rate of copying, and a tenth of a microsecond for each dependent step.
    """
    plan = plan_of(frozen)
    if plan is None:
        return {}
    properties = torch.cuda.get_device_properties(device) if device.type == "cuda" else None
    processors = properties.multi_processor_count if properties else 0  # as the backend counts for the interpreter
    counts = counted(plan, frozen.features, rows, processors, precision)
    tiles = ceil(rows / counts.rows)
    waves = ceil(tiles / max(1, counts.resident * processors))
    bounds = {
        "products": tiles * counts.flops / ceilings.get(precision, float("inf")),
        "memory": (counts.weight_bytes + rows * counts.row_bytes) / ceilings.get("copy", float("inf")),
        "steps": waves * counts.events * 0.1 * MICRO,
    }
    bound = max(bounds, key=lambda name: bounds[name])
    row: Row = {
        "plan GFLOP": 1e-9 * tiles * counts.flops,
        "plan / useful flops": tiles * counts.flops / (2 * rows * frozen.macs),
        "cache GB": 1e-9 * tiles * counts.bytes(ASSUMED.fetched),
        "steps": counts.events,
        "floor ms": 1e3 * bounds[bound],
        "floor": bound,
        "share of the floor": bounds[bound] / seconds,
    }
    if properties:
        card = replace(H200 if "H200" in properties.name else H100, processors=processors)
        guess = expected(counts, card, rows, precision)
        row |= {"expected ms": 1e3 * guess.seconds, "measured / expected": seconds / guess.seconds}
    return row


def product_floor(
    rows: int, out: int, width: int, kept: int, itemsize: int, ceilings: dict[str, float], precision: str
) -> float:
    """Seconds that a masked product takes at least: its flops, or each tensor read or written once."""
    moved = itemsize * (rows * (out + width) + kept)
    rate, copy = ceilings.get(precision, float("inf")), ceilings.get("copy", float("inf"))
    return max(2 * rows * kept / rate, moved / copy)


def product_counts(product: Callable[[], object], batch: int, itemsize: int) -> Row:
    """What a masked product is made to do, read off the launches that it would make: flops and bytes through the cache."""
    from made_fast.backends.triton.launch import recorded

    with recorded() as launches:
        product()
    row: Row = {"launches": len(launches)}
    for launch in launches:
        sizes = dict(launch.config.blocks)
        if launch.kernel.__name__ != "matmul" or not {"BB", "BN", "BK"} <= set(sizes):
            continue
        tiles = launch.arguments["tiles"].cpu()
        chunks = int((tiles[:, 4] - tiles[:, 1]).sum()) * ceil(batch / sizes["BB"])
        row["tile"] = str(launch.config)
        row["plan GFLOP"] = 2e-9 * chunks * sizes["BB"] * sizes["BN"] * sizes["BK"]
        row["cache GB"] = 1e-9 * chunks * itemsize * sizes["BK"] * (sizes["BB"] + sizes["BN"])
    return row

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

class Conditional:
    def __init__(
        self,
        *,
        code: int,
        encoding: int,
        num_params: int,
        num_draws: int,
        size: int,
        components: int,
        units: int,
        floor: float,
        scale: float,
        shift: float,
        native_draw: int,
    ) -> None: ...

class Affine:
    def __init__(
        self,
        *,
        first_slot: int,
        weights: list[NDArray[np.floating]],
        bias: NDArray[np.floating] | None,
        rows: NDArray[np.int64],
        columns: NDArray[np.int64],
        slots: NDArray[np.int64],
        needed: NDArray[np.int64],
        ready: NDArray[np.int64],
        mask: NDArray[np.bool_] | None,
    ) -> None: ...

class Decoding:
    def __init__(
        self, *, temperature: float = 1.0, greedy: bool = False, top_k: int = 0, top_p: float = 1.0
    ) -> None: ...

class Conditions:
    def __init__(
        self,
        *,
        given: int = 0,
        observed: int = 0,
        support: int = 0,
        bounds: int = 0,
        constrained: int = 0,
        support_size: int = 0,
        sum_pattern: int = 0,
        sum_lacking: int = 0,
        sum_reaches: int = 0,
        sum_bits: int = 0,
        num_sums: int = 0,
    ) -> None: ...

class _Sampler:
    def __init__(
        self,
        *,
        features: int,
        context_features: int,
        num_slots: int,
        x_slot: int,
        context_slot: int,
        in_place: bool,
        steps: NDArray[np.int64],
        variables: NDArray[np.int64],
        conditionals: list[Conditional],
        tables: NDArray[np.floating],
        context_units: NDArray[np.int64],
        affines: list[Affine],
        bf16: bool = False,
        least_quads: int = 1,
    ) -> None: ...
    def repacked(self, addresses: list[int], num_threads: int) -> Self | None: ...
    def weights(self) -> NDArray[np.floating]: ...
    def draw(
        self,
        isa: str,
        num_rows: int,
        first_row: int,
        rows: int,
        seed: int,
        context: int,
        row_offset: int,
        rows_per_context: int,
        out: int,
        log_prob: int,
        log_weight: int,
        conditions: Conditions,
        decoding: Decoding,
        num_threads: int,
        rows_at_once: int,
    ) -> int: ...
    def scratch_bytes(self, isa: str, num_rows: int, num_threads: int, rows_at_once: int = 0) -> int: ...
    @property
    def panel_macs(self) -> int: ...
    @property
    def quads(self) -> int: ...
    @property
    def column_macs(self) -> int: ...
    @property
    def bytes(self) -> int: ...

class SamplerF32(_Sampler): ...
class SamplerF64(_Sampler): ...

class MaskSide:
    def __init__(
        self,
        *,
        rows: NDArray[np.int64],
        columns: NDArray[np.int64],
        groups: NDArray[np.int64],
        longest_first: NDArray[np.int64],
        positions: NDArray[np.int64],
        bits: NDArray[np.uint16],
        contiguous: bool,
    ) -> None: ...

def masked_matmul_f32(
    isa: str,
    side: MaskSide,
    batch: int,
    x: int,
    weight: int,
    row_stride: int,
    column_stride: int,
    bias: int,
    function: int,
    out: int,
    num_threads: int,
) -> int: ...
def masked_outer_f32(isa: str, side: MaskSide, batch: int, grad: int, x: int, out: int, num_threads: int) -> int: ...

masked_matmul_f64 = masked_matmul_f32
masked_outer_f64 = masked_outer_f32

def digest_parts(
    addresses: list[int], sizes: list[int], first: int, last: int, parts: int, num_threads: int = 1
) -> list[int]: ...
def digest(address: int, size: int) -> int: ...
def instruction_sets() -> list[str]: ...
def has_bf16() -> bool: ...
def fma_rate(isa: str, double_precision: bool, num_threads: int, repeats: int) -> float: ...
def compiler() -> tuple[str, str]: ...

openmp: bool

def tables() -> dict[str, list[str]]: ...

class Unchanged:
    def __init__(
        self,
        held: list[tuple[dict[Any, Any], Any, Any]],
        sizes: list[tuple[dict[Any, Any], int]],
        kinds: list[tuple[Any, type]],
        tensors: list[Any],
        contents: list[Any],
        versions: list[tuple[Any, int]],
    ) -> None: ...
    def same(self) -> bool: ...

class Network:
    def __init__(
        self,
        *,
        features: int,
        context_features: int,
        num_weights: int,
        ops: np.ndarray,
        terms: list[list[tuple[int, int, np.ndarray]]],
        categories: np.ndarray,
    ) -> None: ...
    @property
    def macs(self) -> int: ...

def network_sizes(networks: list[Network], rooms: int) -> tuple[int, int]: ...
def network_forward_f32(networks: list[Network], *arguments: object) -> bool: ...
def network_backward_f32(networks: list[Network], *arguments: object) -> bool: ...

network_forward_f64 = network_forward_f32
network_backward_f64 = network_backward_f32

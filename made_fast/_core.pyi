import numpy as np
from numpy.typing import NDArray

class _Sampler:
    def __init__(
        self,
        shape: tuple[int, int, int, int, int, bool],
        steps: NDArray[np.int64],
        variables: NDArray[np.int64],
        conditionals: list[tuple[object, ...]],
        tables: NDArray[np.floating],
        context_units: NDArray[np.int64],
        affines: list[tuple[object, ...]],
        bf16: bool = False,
    ) -> None: ...
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
        conditions: tuple[int, ...],
        decoding: tuple[object, ...],
        num_threads: int,
        rows_at_once: int,
    ) -> int: ...
    def scratch_bytes(self, isa: str, num_rows: int, num_threads: int, rows_at_once: int = 0) -> int: ...
    @property
    def panel_macs(self) -> int: ...
    @property
    def column_macs(self) -> int: ...
    @property
    def bytes(self) -> int: ...

class SamplerF32(_Sampler): ...
class SamplerF64(_Sampler): ...

class MaskSide:
    def __init__(
        self,
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
    /,
) -> int: ...
def masked_matmul_f64(
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
    /,
) -> int: ...
def masked_outer_f32(isa: str, side: MaskSide, batch: int, grad: int, x: int, out: int, num_threads: int, /) -> int: ...
def masked_outer_f64(isa: str, side: MaskSide, batch: int, grad: int, x: int, out: int, num_threads: int, /) -> int: ...
def digest(address: int, size: int, /) -> int: ...
def instruction_sets() -> list[str]: ...
def has_bf16() -> bool: ...
def fma_rate(isa: str, double_precision: bool, num_threads: int, repeats: int) -> float: ...
def compiler() -> tuple[str, str]: ...

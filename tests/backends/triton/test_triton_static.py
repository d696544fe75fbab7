"""Kernels compiled without a GPU: none spills, all keep their budget; and a spill or a broken budget is found."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.triton_static import budget as triton_budget
from benchmarks.triton_static import summary as triton_summary
from benchmarks.triton_static.budget import Variant

pytestmark = pytest.mark.triton
ROOT = Path(__file__).parents[3]
compiles = pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="compiles, interprets nothing")
VARIANT = Variant("product", "fp32", "BLOCK=64 warps=4 stages=3")


def _reading(**changed: Any) -> SimpleNamespace:
    """A reading of a kernel with nothing wrong."""
    fields: dict[str, Any] = {
        "registers": 100,
        "spills": 0,
        "scalar_spills": 0,
        "shared": 4096,
        "instructions": {"HMMA": 4, "LDG 16": 3, "LDG 4": 4, "BAR": 5},
        "in_loops": {"LDG 16": 3, "LDG 4": 4},
        "in_innermost_loops": {"BAR": 2},
        "conversions_in_loops": 1,
        "wants_tensor_cores": True,
    }
    return SimpleNamespace(**{**fields, **changed})


def _over(budget: dict[str, Any], **changed: Any) -> list[str]:
    return triton_budget.over_budget({VARIANT: {"sm_90": _reading(**changed)}}, budget)


def test_a_budget_that_is_kept() -> None:
    assert _over({VARIANT.name: {"sm_90": (100, 4096)}}) == []
    assert _over({VARIANT.name: {"sm_90": (92, 4096)}}) == []  # 8 registers are a compiler's whim
    assert _over({VARIANT.name: {"sm_90": (200, 8192)}}) == []
    assert _over({VARIANT.name: {"sm_90": (200, 4096)}}, registers=220) == []  # and so are 10 %


@pytest.mark.parametrize(
    ("budget", "changed", "message"),
    [
        ((91, 4096), {}, "registers must be <= 91 + 9, found 101"),
        ((40, 4096), {"registers": 49}, "registers must be <= 40 + 8, found 49"),
        ((200, 4096), {"registers": 221}, "registers must be <= 200 + 20, found 221"),
        ((101, 4095), {}, "shared memory must be <= 4095 bytes, found 4096"),
    ],
)
def test_a_budget_that_is_too_small(budget: tuple[int, int], changed: dict[str, Any], message: str) -> None:
    found = _over({VARIANT.name: {"sm_90": budget}}, **{"registers": 101, **changed})
    assert found == [f"product | fp32 | BLOCK=64 warps=4 stages=3 on sm_90: {message}"]


def test_variants_and_budget_are_the_same_set() -> None:
    (missing,) = _over({})
    assert missing.endswith("on sm_90: has no row in the budget; run with --write-budget")
    (missing,) = _over({VARIANT.name: {"sm_80": (100, 4096)}})
    assert missing.endswith("on sm_90: has no row in the budget; run with --write-budget")
    (gone,) = _over({VARIANT.name: {"sm_90": (100, 4096)}, "other | fp32 | x": {"sm_90": (1, 0)}})
    assert gone == "other | fp32 | x: is in the budget, but nothing launches it; run with --write-budget"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"spills": 8}, "must not spill, found 8 bytes or registers spilled"),
        ({"shared": 232449}, "shared memory must fit 232448 bytes, found 232449"),
        ({"instructions": {"FFMA": 9}}, "its products must use tensor cores, found none of HGMMA, HMMA, MFMA"),
    ],
)
def test_what_no_budget_allows(changed: dict[str, Any], message: str) -> None:
    assert triton_budget.broken_limits({VARIANT: {"sm_90": _reading()}}) == []
    (found,) = triton_budget.broken_limits({VARIANT: {"sm_90": _reading(**changed)}})
    assert found == f"{VARIANT.name} on sm_90: {message}"


def test_a_written_budget_is_the_one_that_is_kept(tmp_path: Path) -> None:
    readings = {VARIANT: {"sm_90": _reading(), "gfx942": _reading(registers=60)}}
    triton_budget.write(tmp_path / "budget.json", "3.7.1", triton_budget.budget_of(readings))
    version, budget = triton_budget.load(tmp_path / "budget.json")
    assert version == "3.7.1"
    assert budget == {VARIANT.name: {"sm_90": (100, 4096), "gfx942": (60, 4096)}}
    assert triton_budget.over_budget(readings, budget) == []


def test_tables_show_what_tells_variants_apart() -> None:
    first, second = Variant("f", "fp32, A=1, B=2", "R=1"), Variant("f", "fp32, A=3, B=2", "R=1")
    other = Variant("g", "bf16, A=1", "R=1")
    names, shared = triton_budget.short_names([first, other, second])
    assert names == {first: "A=1", second: "A=3", other: ""}
    assert shared == "- `f`: fp32, B=2\n- `g`: bf16, A=1"


def test_tables() -> None:
    readings = {VARIANT: {"sm_90": _reading(scalar_spills=3)}}
    table = triton_budget.resources(readings, ["sm_90"])
    assert "| product |  | BLOCK=64 warps=4 stages=3 | 100 / 0 (3) / 4 |" in table
    assert table.endswith("\n- `product`: fp32")
    account = triton_budget.account(readings, ["sm_90"], "sm_90")
    assert account.endswith("| product |  | 1 | 100 | 0 | 4 | HMMA | 75% | 1 | 2 | 1 |")


def test_the_account_has_a_row_for_each_kernel_and_precision() -> None:
    readings = {
        Variant("f", "bf16/fp32, PRECISION=ieee", "R=1"): {"sm_90": _reading(registers=7)},
        Variant("f", "bf16, PRECISION=ieee, A=1", "R=1", 3): {"sm_90": _reading(instructions={}, in_loops={})},
        Variant("f", "fp32, PRECISION=tf32", "R=1"): {"sm_90": _reading(in_loops={"LDG 16": 1})},
        Variant("f", "fp32, PRECISION=tf32", "R=2"): {"sm_90": _reading(in_innermost_loops={})},
        Variant("g", "fp32, A=1", "R=2"): {"sm_90": _reading(instructions={}, in_loops={})},
    }
    rows = triton_budget.account(readings, ["sm_90"], "sm_90").splitlines()[2:]
    assert rows == [
        "| f | bf16 | 2 | 100 | 0 | 4 | HMMA | 75% | 1 | 2 | 3 |",
        "| f | tf32 | 2 | 100 | 0 | 4 | HMMA | 75%-100% | 1 | 0-2 | 1 |",
        "| g |  | 1 | 100 | 0 | 4 | none (expected) | no load | 1 | 2 | 1 |",
    ]


def test_a_summary_has_a_line_for_each_configuration() -> None:
    small, large = (Variant("f", f"fp32, PRECISION=tf32, A={a}", "R=1", a) for a in (1, 2))
    other = Variant("f", "bf16/i32, PRECISION=ieee", "R=1")
    readings = {
        small: {"sm_90": _reading()},
        large: {"sm_90": _reading(registers=120, spills=8, shared=8192)},
        other: {"sm_90": _reading(instructions={}, in_loops={})},
    }
    lines = triton_summary.summary(readings, ["sm_90"], "sm_90").split("\n")
    assert lines[2:] == [
        "| f | half | R=1 | 1 | 100 / 0 / 4 | none | 0 % | 1 |",
        "| f | tf32 | R=1 | 2 | 100-120 / 8 / 4-8 | HMMA | 75 % | 2 |",
    ]


SASS = """
 Function f:
  REG:95 STACK:8 SHARED:1024 LOCAL:0 CONSTANT[0]:592 TEXTURE:0
        /*0000*/                   LDG.E.128 R4, desc[UR4][R2.64] ;             /* 0x0000000402047981 */
        /*0010*/              @!P0 LDG.E.U8.CONSTANT R4, desc[UR4][R2.64] ;     /* 0x0000000402047981 */
        /*0020*/                   LDGSTS.E.BYPASS.LTC128B.64 [R11], desc[UR14][R20.64], P0 ;  /* 0x0 */
        /*0030*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;                /* 0x0 */
        /*0040*/                   STL [R1], R2 ;                               /* 0x0 */
        /*0050*/              @P1  BRA 0x20 ;                                   /* 0x0 */
        /*0060*/                   HGMMA.64x64x8.F32.TF32 R24, gdesc[UR4] ;     /* 0x0 */
        /*0070*/               @P0 BRA 0x10 ;                                   /* 0x0 */
        /*0080*/                   STG.E desc[UR4][R2.64], R5 ;                 /* 0x0 */
        /*0090*/                   BRA 0x90;                                    /* 0x0 */
"""


def test_the_binary_is_read() -> None:
    compiling = pytest.importorskip("benchmarks.triton_static.compiling", reason="triton is not installed")
    reading = compiling.parse_nvidia(SASS)
    assert (reading.registers, reading.spills) == (95, 8)
    everything = {"LDG 16": 1, "LDG 1": 1, "LDGSTS 8": 1, "BAR": 1, "STL": 1, "HGMMA": 1, "STG 4": 1}
    assert reading.instructions == everything
    assert reading.in_loops == {name: 1 for name in everything if name not in {"LDG 16", "STG 4"}}
    assert reading.in_innermost_loops == {"LDGSTS 8": 1, "BAR": 1, "STL": 1}
    with pytest.raises(ValueError, match="cuobjdump must print REG, STACK and LOCAL, got 'nothing'"):
        compiling.parse_nvidia("nothing")


def test_layout_changes_are_counted_in_loops_only() -> None:
    compiling = pytest.importorskip("benchmarks.triton_static.compiling", reason="triton is not installed")
    text = """
      tt.func public @f(%x: !tt.ptr<f32> {tt.divisibility = 16 : i32}) attributes {noinline = false} {
        %0 = ttg.convert_layout %a : tensor<1xf32> -> tensor<1xf32> loc(#loc)
        %1 = scf.for %i = %c0 to %n step %c1 iter_args(%s = %c) -> (f32)  : i32 {
          scf.if %p {
            %2 = ttg.convert_layout %b : tensor<1xf32> -> tensor<1xf32> loc(#loc)
          } else {
            %3 = ttg.convert_layout %b : tensor<1xf32> -> tensor<1xf32> loc(#loc)
          } loc(#loc)
        } {tt.num_stages = 2 : i32} loc(#loc)
        scf.while : () -> () {
        } do {
          %4 = ttg.convert_layout %b : tensor<1xf32> -> tensor<1xf32> loc(#loc)
        }
        %5 = ttg.convert_layout %b : tensor<1xf32> -> tensor<1xf32> loc(#loc)
      }
    """
    assert compiling.conversions_in_loops(text) == 3


def _run(tmp_path: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {
        "TRITON_CACHE_DIR": str(tmp_path / "cache"),
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)]),
    }
    return subprocess.run(
        [sys.executable, *command],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=1800,
    )


@pytest.mark.slow
@compiles
def test_no_kernel_spills_and_all_keep_their_budget(tmp_path: Path) -> None:
    """Every third variant, for every target: ``python -m benchmarks triton_static`` compiles them all."""
    pytest.importorskip("triton", reason="triton is not installed")
    done = _run(tmp_path, "-m", "benchmarks", "triton_static", "--every", "3")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "no spill" in done.stdout.splitlines()[-1]


SPILLING = '''
import sys
import torch, triton
import triton.language as tl
from benchmarks.__main__ import arguments_of
from benchmarks.triton_static.run import run
from made_fast.backends.triton.launch import Config, Launch

@triton.jit
def greedy(x, out, SIZE: tl.constexpr):
    """Keeps 512 values in each thread of a warp: two times what there are registers for."""
    place = tl.arange(0, SIZE)[:, None] * SIZE + tl.arange(0, SIZE)[None, :]
    values = tl.load(x + place)
    tl.debug_barrier()
    tl.store(out + place, values + tl.sum(values))

if __name__ == "__main__":
    x = torch.zeros(128, 128)
    call = [Launch(greedy, (1,), Config.of(1, 1, SIZE=128), {"x": x, "out": x})]
    sys.exit(run(arguments_of("triton_static", sys.argv[1:]), [call]))
'''


@pytest.mark.slow
@compiles
def test_a_kernel_that_spills_is_found(tmp_path: Path) -> None:
    pytest.importorskip("triton", reason="triton is not installed")
    (tmp_path / "greedy.py").write_text(SPILLING)
    done = _run(tmp_path, "greedy.py", "--targets", "sm_90", "--no-budget")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "greedy | fp32 | SIZE=128 warps=1 stages=1 on sm_90: must not spill, found " in done.stdout
    assert done.stdout.splitlines()[-1].startswith("1 variants x 1 targets: 1 failures, ")

"""Faults put into a copy of made_fast one at a time, to see whether the quick tests notice: run by hand when tests go.

``python tests/mutants.py`` tries all, ``python tests/mutants.py NAME ...`` some, ``--list`` names them. A fault of the
compiled engine needs a compiler and is none of these.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
LAW = "tests/laws/test_law_{}.py"
NAIVE, ROWS, LOG_PROB = LAW.format("03_naive"), LAW.format("04_rows"), LAW.format("05_log_prob")
CONDITIONS, DISTRIBUTION, GRADIENTS = (
    LAW.format("06_conditions"),
    LAW.format("07_distribution"),
    LAW.format("08_gradients"),
)
CHANGES, FILES = LAW.format("11_changes"), LAW.format("14_files")
SUMS = "tests/sampling/test_sums.py"
TRITON = "tests/backends/triton/test_triton_{}.py"


class Mutant(NamedTuple):
    """In ``file`` of made_fast ``old`` becomes ``new``; one of the quick tests of the files ``tests`` must fail."""

    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    only: str = ""  # words for -k, so that it is quick
    interpreted: bool = False


MUTANTS: dict[str, Mutant] = {
    "temperature of two values": Mutant(
        "outputs/binary.py", "params[..., 0] / decoding.temperature", "params[..., 0]", (NAIVE,), "decoded and cpp"
    ),
    "mass of what is allowed": Mutant(
        "outputs/rules.py",
        "torch.log(kept.sum(-1)) - torch.log(weights.sum(-1))",
        "torch.log(kept.sum(-1))",
        (NAIVE,),
        "conditions and cpp",
    ),
    "half a step": Mutant(
        "outputs/rules.py", "HALF_STEP = 2.0**-25", "HALF_STEP = 2.0**-24", (NAIVE,), "engines and cpp"
    ),
    "density of a normal": Mutant(
        "outputs/normal.py",
        "return -0.5 * ((x - loc) / scale) ** 2",
        "return -0.51 * ((x - loc) / scale) ** 2",
        (LOG_PROB,),
        "cpp",
    ),
    "second uniform of a mixture": Mutant(
        "outputs/mixtures.py",
        "normal_of(uniforms[..., 1], params.dtype)",
        "normal_of(uniforms[..., 0], params.dtype)",
        (NAIVE,),
        "cpp",
    ),
    "numba: temperature of a normal": Mutant(
        "backends/numba/conditionals.py",
        "params[0] + _scale(floor, params[1]) * math.sqrt(temperature)",
        "params[0] + _scale(floor, params[1]) * temperature",
        (NAIVE,),
        "decoded and numba",
    ),
    "numba: log-probability of a category": Mutant(
        "backends/numba/conditionals.py", "- largest - math.log(total)", "- largest", (LOG_PROB,), "engines and numba"
    ),
    "numba: a constant of gelu": Mutant(
        "backends/numba/functions.py", "0.7071067811865476", "0.70710", (LAW.format("09_rounding"),), "gelu"
    ),
    "reference: weights of conditions": Mutant(
        "backends/reference.py", "sums[1] += log_mass", "sums[1] -= log_mass", (NAIVE,), "conditions and reference"
    ),
    "reference: which condition": Mutant(
        "backends/reference.py",
        "row // piece.rows_per_condition)",
        "row % piece.rows_per_condition)",
        (NAIVE,),
        "conditions and reference",
    ),
    "schedule: what is alive": Mutant(
        "programs/schedule.py",
        "alive[source] |= masks[value - 2][index][alive[value]].any(0)",
        "alive[source] |= masks[value - 2][index].any(0)",
        ("tests/programs/test_schedule.py",),
    ),
    "schedule: fused functions": Mutant(
        "programs/schedule.py",
        "and readers[op.source] == 1",
        "and readers[op.source] >= 1",
        (NAIVE, "tests/programs/test_schedule.py"),
    ),
    "plan: where columns begin": Mutant(
        "masks/plan.py",
        'np.searchsorted(sorted_rows, sorted_columns, side="left")',
        'np.searchsorted(sorted_rows, sorted_columns, side="right")',
        ("tests/masks/test_mask_plan.py", "tests/layers/test_masked_linear.py"),
    ),
    "packing: step of the noise": Mutant(
        "backends/cpp/arrays.py",
        "VariableColumn.NOISE_STEP] = schedule.noise_steps",
        "VariableColumn.NOISE_STEP] = schedule.variables",
        (NAIVE,),
        "engines and cpp",
    ),
    "packing: the least scale": Mutant(
        "backends/cpp/arrays.py", "conditional.floor,\n", "0.0 * conditional.floor,\n", (NAIVE,), "engines and cpp"
    ),
    "noise: keys": Mutant("noise.py", "(seed >> 32) & _LOW)", "(seed >> 31) & _LOW)", ("tests/test_noise.py",)),
    "noise: rounds": Mutant("noise.py", "for _ in range(10):", "for _ in range(9):", ("tests/test_noise.py",)),
    "gradient of relu": Mutant(
        "layers/operators.py",
        "_threshold_backward(grad, y, 0)",
        "_threshold_backward(grad, y, 0.1)",
        ("tests/layers/test_masked_linear.py", "tests/layers/test_torch_gradients.py"),
    ),
    "a dense product where it does not pay": Mutant(
        "layers/operators.py",
        "return reference, whole_mask(mask, shape)",
        "return reference, whole_mask(mask, shape).logical_not()",
        (GRADIENTS,),
    ),
    "requests: the upper end": Mutant(
        "requests/checks.py",
        "(values >= low) & (values <= high)",
        "(values >= low) & (values < high)",
        (CONDITIONS, "tests/requests/test_conditions.py"),
    ),
    "requests: what is constrained": Mutant(
        "requests/checks.py",
        "int(allowed is not None)",
        "int(allowed is None)",
        (ROWS, CONDITIONS),
        "restrict or given",
    ),
    "sums: what was drawn": Mutant(
        "requests/sums.py",
        "torch.where(held, -value.long(), 0)",
        "torch.where(held, value.long(), 0)",
        (SUMS,),
        "reference",
    ),
    "sums: what comes later": Mutant(
        "requests/sums.py",
        "following = after.get(step)",
        "following = after.get((0, step[1]))",
        (SUMS,),
        "paths or long",
    ),
    "sums: what is given": Mutant(
        "requests/sum_checks.py",
        "members = np.where(observed, -1, members)",
        "members = members + 0",
        (SUMS,),
        "given and alike",
    ),
    "sums: one total": Mutant(
        "requests/sums.py",
        "found |= self.bits << (value - least)",
        "found = self.bits << (value - least)",
        (SUMS,),
        "alike",
    ),
    "kept: contents": Mutant(
        "sampling/kept.py",
        "return np.array_equal(known.numpy(), now.numpy())",
        "return known.shape == now.shape",
        (CHANGES,),
        "bernoulli",
    ),
    "ensemble: masks of rows": Mutant(
        "sampling/ensemble_sampler.py",
        "masks_of_rows(request.seed, noise_rows,",
        "masks_of_rows(request.seed + 1, noise_rows,",
        (NAIVE,),
        "samplers and both",
    ),
    "triton: the high half of a row": Mutant(
        "backends/triton/noise.py", "(row >> 32)", "(row >> 33)", (TRITON.format("noise"),), interpreted=True
    ),
    "triton: density of a normal": Mutant(
        "backends/triton/conditionals/weights.py",
        "log_prob = -0.5 * z * z",
        "log_prob = -0.51 * z * z",
        (TRITON.format("conditionals"),),
        interpreted=True,
    ),
    "triton: temperature of two values": Mutant(
        "backends/triton/conditionals/draw.py",
        "drawn = first * sharpness > logit",
        "drawn = first > logit",
        (TRITON.format("variables"),),
        "temperature",
        interpreted=True,
    ),
    "triton: a chunk too few": Mutant(
        "backends/triton/masked/kernels.py",
        "chunk + (full_to - full_from))",
        "chunk + (full_to - full_from) + 1)",
        (TRITON.format("matmul"),),
        "chunk",
        interpreted=True,
    ),
}


def survives(mutant: Mutant) -> bool:
    """Whether the tests still pass. What is wrong with the mutant itself raises."""
    text = (ROOT / "made_fast" / mutant.file).read_text()
    if text.count(mutant.old) != 1:
        raise SystemExit(f"{mutant.file} has {text.count(mutant.old)} times {mutant.old!r}: bring the table up to date")
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(
            ROOT / "made_fast", Path(folder) / "made_fast"
        )  # with what numba keeps: it looks at all of its files
        (Path(folder) / "made_fast" / mutant.file).write_text(text.replace(mutant.old, mutant.new))
        half = "not slow and interpreter" if mutant.interpreted else "not slow and not interpreter"
        command = [sys.executable, "-P", "-m", "pytest", "-x", "-q", "-m", half, "-k", mutant.only, *mutant.tests]
        command += [f"--override-ini=pythonpath={folder} tests/support", "--no-header", "--tb=line", "-W", "ignore"]
        environment = {**os.environ, "PYTHONPATH": folder}
        environment |= {"TRITON_INTERPRET": "1"} if mutant.interpreted else {}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):
        raise SystemExit(f"pytest left with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.returncode == 0


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="mutants to try; all if left out")
    parser.add_argument("--list", action="store_true", help="print their names")
    options = parser.parse_args()
    if options.list:
        print(*MUTANTS, sep="\n")
        return 0
    survivors = []
    for name in options.names or MUTANTS:
        begin = time.perf_counter()
        if survives(MUTANTS[name]):
            survivors.append(name)
        print(
            f"{name}: {'SURVIVED' if name in survivors else 'caught'} ({time.perf_counter() - begin:.0f} s)", flush=True
        )
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())

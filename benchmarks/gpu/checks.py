"""Everything there is to check on a machine with a GPU: ``make gpu``. Needs nothing but Python to start.

Installs this source tree for the machine's own Python (into ``build/gpu-site``; nothing of the machine is changed, nothing
fetched), runs the tests marked gpu, then the suite ``gpu``. Where it cannot be installed it runs from the source tree and
without the C++ engine. Tables are printed last; the exit code is 1 if a test or a benchmark failed. ``--quick`` does the same
on a CPU, with small sizes and Triton's interpreter.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

TEXT = "everything there is to check on a GPU: the tests marked gpu, then the suite gpu; make gpu"
QUICK: dict[str, Any] = {}
ROOT = Path(__file__).parents[2]
SITE = ROOT / "build" / "gpu-site"
INSTALL_SECONDS, TEST_SECONDS, MARGIN = 150, 200, 20


def call(name: str, command: list[str], environment: dict[str, str], seconds: float) -> int:
    """Runs a command with a time limit, its output going where ours goes; 124 if it ran out of time."""
    print(f"--- {name}: {' '.join(command)}", flush=True)
    start = time.perf_counter()
    try:
        code = subprocess.run(command, cwd=ROOT, env=environment, timeout=seconds, check=False).returncode
    except subprocess.TimeoutExpired:
        code = 124
    print(f"--- {name}: exit code {code} after {time.perf_counter() - start:.0f} s", flush=True)
    return code


def environment(*, quick: bool, notes: Path) -> dict[str, str]:
    """What the commands see: the installed package before the source tree, and no other switches of ours."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("MADE_FAST_")}
    paths = [str(SITE), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    variables |= {"PYTHONPATH": os.pathsep.join(paths), "PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1"}
    variables["MADE_FAST_TEST_NOTES"] = str(notes)
    if quick:
        variables |= {"TRITON_INTERPRET": "1", "MADE_FAST_TEST_DEVICE": "cpu"}
    return variables


def install(known: dict[str, str]) -> str:
    """Builds the package with the machine's own tools; returns what is in use then."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-build-isolation", "--no-deps", "--no-index"]
    pip += ["--disable-pip-version-check", "--upgrade", "--target", str(SITE), "."]
    needed = ("scikit_build_core", "pybind11", "setuptools_scm", "hatch_fancy_pypi_readme")
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        print(f"--- install: left out, {' and '.join(missing)} missing", flush=True)
    code = 1 if missing else call("install", pip, known, INSTALL_SECONDS)
    say = "import made_fast; print(made_fast.__file__, made_fast.build_config())"
    done = subprocess.run(
        [sys.executable, "-c", say], cwd=ROOT, env=known, capture_output=True, text=True, check=False, timeout=120
    )
    if done.returncode:
        return f"made_fast cannot be imported: {done.stderr.strip().splitlines()[-1]}"
    note = "" if code == 0 else "NOT INSTALLED, run from the source tree, without the C++ engine: "
    return note + done.stdout.strip()


def tests(known: dict[str, str], out: Path, *, quick: bool) -> int:
    """The tests marked gpu, in several processes if that is possible: most of their time goes into compiling kernels."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "--continue-on-collection-errors", "--tb=short"]
    command.append("--durations=5")
    command.append(f"--junitxml={out / 'gpu-tests.xml'}")
    if importlib.util.find_spec("xdist") and not quick:
        command += ["-n", str(min(8, os.cpu_count() or 1))]
    if quick:
        command += ["tests/test_gpu.py", "tests/test_gpu_training.py"]
    return call("tests", command, known, TEST_SECONDS)


def benchmarks(known: dict[str, str], out: Path, minutes: float, *, quick: bool) -> int:
    """The suite ``gpu``, which keeps to its time by itself and is stopped if it does not."""
    command = [sys.executable, "-m", "benchmarks", "gpu", "--out", str(out), "--minutes", f"{minutes:.2f}", "--quiet"]
    if quick:
        command += ["--device", "cpu", "--quick"]
    return call("benchmarks", command, known, 60 * minutes + 45)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--minutes", type=float, default=5.0, help="for the benchmarks (default: %(default)s)")
    parser.add_argument("--total", type=float, default=8.0, help="minutes for everything (default: %(default)s)")


def run(arguments: argparse.Namespace) -> int:
    """All three; returns the exit code."""
    start, out = time.perf_counter(), arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    notes, tables = out / "gpu-notes.txt", out / "gpu.md"
    for old in (notes, tables, out / "gpu.json", out / "gpu-tests.xml"):
        old.unlink(missing_ok=True)
    known = environment(quick=arguments.quick, notes=notes)
    installed = install(known)
    tested = tests(known, out, quick=arguments.quick)
    left = arguments.total - (time.perf_counter() - start + MARGIN) / 60
    timed = benchmarks(known, out, max(0.3, min(arguments.minutes, left)), quick=arguments.quick)
    summary = {
        "package": installed,
        "tests, exit code": tested,
        "benchmarks, exit code": timed,
        "minutes": round((time.perf_counter() - start) / 60, 2),
    }
    (out / "gpu-checks.json").write_text(json.dumps(summary, indent=1) + "\n")
    print("\n".join(["", *(f"{key}: {value}" for key, value in summary.items())]))
    for path in (notes, tables):
        print(path.read_text() if path.exists() else f"({path.name} was not written)")
    return 1 if tested or timed else 0

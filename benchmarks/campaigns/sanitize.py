"""The compiled module under address and undefined-behaviour sanitizers: ``make sanitize`` builds it and runs this.

Every path of the engine, masked products, packing and look-ups, conditions and shared prefixes, calls at the edges and
several threads are driven by a fuzzer that is a function of its seed. Anything that a sanitizer reports fails.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.campaigns import isolated
from benchmarks.report import machine, measured_on, table, write
from made_fast import build_config

TEXT = "the compiled module under sanitizers; make sanitize builds it"
QUICK = {"attempts": 12}
REPORT = re.compile(r"runtime error:|ERROR: (?:Address|UndefinedBehavior|Thread)Sanitizer|SUMMARY: ")
LIBRARIES = ("libasan.so", "libubsan.so", "libstdc++.so")  # these must come before all others


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--module",
        type=Path,
        default=Path("build/sanitize"),
        metavar="PATH",
        help="compiled with MADE_FAST_SANITIZE, or a folder that has it (default: %(default)s)",
    )
    parser.add_argument("--sets", action="store_true", help="print the instruction sets of this machine, for cmake")
    parser.add_argument("--attempts", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--compiler", default=os.environ.get("CXX", "g++"), help="that compiled it (default: %(default)s)"
    )


def environment(module: Path, compiler: str, log: Path) -> dict[str, str]:
    """What a process needs that loads a module with sanitizers; reports go to files that begin with ``log``."""
    found = [
        subprocess.run(
            [compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name in LIBRARIES
    ]
    options = "detect_leaks=0:allocator_may_return_null=1:max_allocation_size_mb=2000:detect_odr_violation=0"
    return {
        "LD_PRELOAD": ":".join(path for path in found if "/" in path),
        "ASAN_OPTIONS": f"{options}:log_path={log}",
        "UBSAN_OPTIONS": f"print_stacktrace=1:log_path={log}",
        "OMP_NUM_THREADS": "2",
        isolated.MODULE: str(module.resolve()),
    }


def reports(folder: Path) -> list[str]:
    """What the sanitizers wrote: for each kind of report its first lines."""
    found: dict[str, str] = {}
    for path in sorted(folder.glob("report*")):
        lines = path.read_text(errors="replace").splitlines()
        for place, line in enumerate(lines):
            if "runtime error:" in line or "ERROR: AddressSanitizer" in line:
                frames = [each.strip() for each in lines[place + 1 : place + 30] if "csrc/" in each][:4]
                where = re.sub(r"0x[0-9a-f]+|==\d+==", "", line).strip()
                found.setdefault(re.sub(r"-?\d[\d.e+]*", "N", where), " | ".join([line.strip(), *frames]))
    return list(found.values())


def run(arguments: argparse.Namespace) -> int:
    """Writes ``sanitize.md`` and ``sanitize.json``; 1 if a sanitizer reported or an attempt ended wrongly."""
    if arguments.sets:
        print(";".join(build_config().get("instruction_sets", ["baseline"])))
        return 0
    module = arguments.module
    if module.is_dir():
        module = next(iter(sorted(module.rglob("_core*.so"))), None)
    if module is None or not module.exists():
        raise SystemExit(f"sanitize found no module under {arguments.module}: make sanitize builds one")
    with tempfile.TemporaryDirectory() as folder:
        around = environment(module, arguments.compiler, Path(folder, "report"))
        rows: list[dict[str, Any]] = isolated.run(
            "sanitized", arguments.seed, arguments.attempts, environment=around, patience=300.0
        )
        said = reports(Path(folder))
    facts = machine()
    command = f"sanitize --attempts {arguments.attempts} --seed {arguments.seed}"
    notes = [*said, *(note for row in rows for note in row["notes"])]
    lines = [
        "# Sanitize",
        f"`make sanitize`, or `python -m benchmarks {command}`. {measured_on(facts)} "
        "Address and undefined-behaviour sanitizers, with conversions of floating "
        "point; "
        f"{len(said)} kinds of reports.",
        table(isolated.COLUMNS, rows),
        "Nothing was reported." if not notes else "\n".join(f"- {each}" for each in notes),
    ]
    write("sanitize", arguments.out, "\n\n".join(lines), {"machine": facts, "rows": rows, "reports": said})
    if not rows:
        print("nothing was attempted", file=sys.stderr)
    return int(bool(said) or not rows or any(row["wrong"] for row in rows))

"""Compares two commits on one machine: each is built in an environment of its own, and their samplers take turns."""

from __future__ import annotations

import json
import subprocess
import tempfile
import venv
from pathlib import Path

import torch

from benchmarks.timing import Times, ratio

# Runs in either environment, against the library's public names only, so that old commits can be measured too.
PROBE = """
import json, sys, time, torch
from made_fast import MADE
two, four, wide, direct = (512, 512), (1024, 1024), (8000,), {"direct": True}
shapes = [(64, two, 960, {}), (784, two, 960, {}), (784, four, 960, {}), (784, wide, 960, {}), (784, (500, 500), 960, direct)]
shapes += [(784, two, rows, {}) for rows in (16, 8, 4, 2, 1)] + [(784, (500,), 1, {}), (784, (500, 500), 1, direct)]
torch.manual_seed(0)
samplers = []
for features, hidden, rows, options in shapes:
    model = MADE(features, hidden, **options)
    if features == 784:  # as many ones as in binarized MNIST
        torch.nn.init.constant_(model.parameters_layer.bias, -1.9)
    samplers.append((model.sampler(), rows))
for sampler, rows in samplers:
    sampler.sample(rows, seed=1)
print(json.dumps([f"{features}x{hidden} {options or ''} B={rows}" for features, hidden, rows, options in shapes]), flush=True)
for line in sys.stdin:
    times = []
    for sampler, rows in samplers:
        repeats = 50 if rows == 1 else 1
        start = time.perf_counter()
        for _ in range(repeats):
            sampler.sample(rows, seed=1)
        times.append((time.perf_counter() - start) / repeats)
    print(json.dumps(times), flush=True)
"""


class Probe:
    """A process that times the samplers of one source tree whenever it is asked."""

    def __init__(self, tree: Path, home: Path) -> None:
        venv.create(home, with_pip=True)
        python = home / "bin" / "python"
        ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
        packages = Path(subprocess.check_output([python, "-c", ask], text=True).strip())
        # torch and the other requirements come from the environment that runs this file
        (packages / "shared.pth").write_text(f"{Path(torch.__file__).parents[1]}\n")
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", str(tree)], check=True)
        self.process = subprocess.Popen(
            [python, "-c", PROBE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=home
        )
        self.names: list[str] = self._read()

    def _read(self) -> list:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("a probe ended early; its message stands above")
        return json.loads(line)

    def measure(self) -> list[float]:
        """Seconds of one draw of each shape."""
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return self._read()

    def close(self) -> None:
        """Ends the process."""
        self.process.communicate()


def compare_commits(base: str, seconds: float) -> None:
    """Prints, shape by shape, how long a draw takes in the working tree over how long it takes at commit ``base``."""
    root = Path(subprocess.check_output(["git", "rev-parse", "--show-toplevel"], text=True).strip())
    with tempfile.TemporaryDirectory() as folder:
        old = Path(folder) / "tree"
        subprocess.run(["git", "worktree", "add", "--quiet", "--detach", str(old), base], cwd=root, check=True)
        try:
            probes = [Probe(root, Path(folder) / "new"), Probe(old, Path(folder) / "base")]
            _take_turns(probes, seconds)
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(old)], cwd=root, check=True)


def _take_turns(probes: list[Probe], seconds: float) -> None:
    times: dict[str, Times] = {name: {"new": [], "base": []} for name in probes[0].names}
    sides = list(zip(("new", "base"), probes, strict=True))
    for turn in range(max(5, round(10 * seconds))):
        for side, probe in sides if turn % 2 == 0 else reversed(sides):
            for name, taken in zip(times, probe.measure(), strict=True):
                times[name][side].append(taken)
    for name, both in times.items():
        print(f"{name}: new / base = {ratio(both, 'new', 'base')}", flush=True)
    for probe in probes:
        probe.close()

"""Making a model starts no threads, so that a process forked afterwards can compute and draw."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import os, signal, sys, torch
import numpy  # whose own threads can be forked
from made_fast import MADE, outputs
from made_fast.programs import build_schedule

def threads():
    return len(os.listdir("/proc/self/task"))

MODELS = {
    "plain": lambda: MADE(6, (8,)),
    "random": lambda: MADE(6, (8, 8), order="random", degrees="random", residual=True, direct=True),
    "ensemble": lambda: MADE(6, (8, 8), num_masks=3, mask_conditioning=True),
    "endless": lambda: MADE(6, (8,), num_masks=0),
    "one-hot": lambda: MADE(4, (8,), output=outputs.Categorical((2, 3, 4, 5))),
    "embedding": lambda: MADE(4, (8,), output=outputs.Categorical(3, embedding=2)),
    "mixed": lambda: MADE(4, (8,), output=outputs.Mixed(["bernoulli", outputs.Categorical(3), ("normal", 2)])),
    "wide": lambda: MADE(300, (256, 256), direct=True),
    "wide ensemble": lambda: MADE(300, (256, 256), num_masks=20),
}
torch.set_num_threads(2)
before = threads()
model = MODELS[sys.argv[1]]()
model.order_of(0)
build_schedule(model.program())
if "wide" not in sys.argv[1]:  # where torch itself copies large tensors by threads
    model.load_state_dict(model.state_dict())
    model.save(sys.argv[2])
    MADE.load(sys.argv[2])
assert threads() == before, (before, threads())
child = os.fork()
if child == 0:
    signal.alarm(60)  # threads of the parent, had there been any, would never come back
    x = model.sample(200, seed=0)
    (-model.log_prob(x).mean()).backward()
    (torch.ones(400, 400) @ torch.ones(400, 400)).sum()
    os._exit(0)
_, status = os.waitpid(child, 0)
assert status == 0, status
x = model.sample(200, seed=0)
assert bool(torch.isfinite(model.log_prob(x)).all())
"""
QUICK = {"plain", "wide"}
NAMES = ["plain", "random", "ensemble", "endless", "one-hot", "embedding", "mixed", "wide", "wide ensemble"]


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="threads are counted in /proc")
@pytest.mark.parametrize(
    "name", [pytest.param(each, marks=[] if each in QUICK else pytest.mark.slow) for each in NAMES]
)
def test_making_a_model_starts_no_threads(name: str, tmp_path: object) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.endswith("NUM_THREADS")}
    command = [sys.executable, "-c", PROGRAM, name, f"{tmp_path}/model"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-1000:]

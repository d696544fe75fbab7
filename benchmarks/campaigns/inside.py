"""Faults inside one process, each tried in a process of its own: threads, forks, little memory, and what grows with use."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.campaigns.commands import PATIENCE, ROOT, Row
from made_fast import MADE

GROWTH = 8.0  # MiB of resident memory, after a fifth of as many calls


def tried(name: str, fault: str, number: int, *, patience: float = PATIENCE) -> Row:
    """Runs ``NAME(number)`` of this file in a new process; it returns trials and notes of what was wrong."""
    row = Row(fault)
    code = f"from benchmarks.campaigns import inside; inside.say(inside.{name}({number}))"
    command = [sys.executable, "-c", code]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=patience, check=False)
    except subprocess.TimeoutExpired:
        row.trials = 1
        row.count("hung", f"no end within {patience:g} s")
        return row
    if done.returncode:
        row.trials = 1
        row.count("crashed", f"status {done.returncode}: {done.stderr}")
        return row
    found = json.loads(done.stdout.splitlines()[-1])
    row.trials, row.fault = found["trials"], f"{fault}{found.get('text', '')}"
    for note in found["wrong"]:
        row.count("wrong", note)
    for note in found.get("crashed", ()):
        row.count("crashed", note)
    return row


def say(found: dict[str, Any]) -> None:
    print(json.dumps(found), flush=True)


def _model(features: int = 24, **options: Any) -> MADE:
    torch.manual_seed(0)
    return MADE(features, (48, 48), **options)


def threads_while_training(calls: int) -> dict[str, Any]:
    """8 threads draw from one sampler and from the model, which another trains; afterwards nothing is stale."""
    torch.set_num_threads(1)
    wrong: list[str] = []
    model = _model()
    sampler = model.sampler()
    expected = [sampler.sample(200, seed=seed) for seed in range(8)]
    training, go_on = threading.Event(), threading.Event()
    go_on.set()

    def train() -> None:
        optimizer = torch.optim.SGD(model.parameters(), 0.05)
        x = (torch.rand(64, 24) < 0.3).float()
        while go_on.is_set():
            optimizer.zero_grad()
            (-model.log_prob(x).mean()).backward()
            optimizer.step()
            training.set()

    def draw(number: int) -> None:
        training.wait()
        for call in range(calls):
            if not torch.equal(sampler.sample(200, seed=number), expected[number]):
                wrong.append(f"thread {number}, call {call}: other rows than one thread alone")
            x = model.sample(50, seed=call)
            if not bool(((x == 0) | (x == 1)).all()):
                wrong.append(f"thread {number}, call {call}: values that are no bits")

    workers = [threading.Thread(target=draw, args=(number,)) for number in range(8)]
    trainer = threading.Thread(target=train)
    for each in (trainer, *workers):
        each.start()
    for each in workers:
        each.join()
    go_on.clear()
    trainer.join()
    fresh = _model()
    fresh.load_state_dict(model.state_dict())
    if not torch.equal(model.sample(500, seed=1), fresh.sample(500, seed=1)):
        wrong.append("the model draws from weights of before")
    return {"trials": 8 * calls, "wrong": wrong}


def _resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _watched(call: Any, count: int) -> dict[str, Any]:
    """Calls with 0 .. count - 1, after a fifth of them, and how much the resident memory grew meanwhile."""
    for number in range(max(5, count // 5)):
        call(number)
    start, wrong = _resident(), []
    for number in range(count):
        call(number)
    grown = _resident() - start
    if grown > GROWTH:
        wrong.append(f"resident memory grew by {grown:.1f} MiB")
    return {"trials": count, "wrong": wrong, "text": f", grown by {grown:.1f} MiB"}


def samples(count: int) -> dict[str, Any]:
    """Draws of few and of many rows, with conditions in turn, each from weights that have changed every hundredth time."""
    torch.set_num_threads(1)
    model, ensemble = _model(), _model(num_masks=3).eval()

    def call(number: int) -> None:
        with torch.no_grad():
            if number % 100 == 0:
                for parameter in model.parameters():
                    parameter.mul_(1.0001)
        model.sample(1 + number % 50, seed=number)
        if number % 10 == 0:
            ensemble.sample(30, seed=number)
            model.sample(20, given=torch.ones(24), observed=torch.arange(24) < number % 24, seed=number)

    return _watched(call, count)


def trainings(count: int) -> dict[str, Any]:
    """Models that are made, trained, drawn from and forgotten."""
    from made_fast import training

    torch.set_num_threads(1)
    rows = (torch.rand(100, 24, generator=torch.Generator().manual_seed(0)) < 0.3).float()

    def call(number: int) -> None:
        model = MADE(24, (32 + number % 7, 32))
        training.fit(model, rows, rows[:20], epochs=2, batch_size=50)
        model.sample(10, seed=0)

    return _watched(call, count)


def captures(count: int) -> dict[str, Any]:
    """Modules that are captured, drawn from and forgotten."""
    from torch import nn

    from made_fast import accelerate

    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
            self.register_buffer("mask", torch.ones(8, 8).tril(-1))
            self.register_buffer("more", torch.ones(8, 8).tril())

        def forward(self, x: Tensor) -> Tensor:
            hidden = torch.relu(nn.functional.linear(x, self.first.weight * self.mask, self.first.bias))
            return nn.functional.linear(hidden, self.second.weight * self.more, self.second.bias)

    torch.set_num_threads(1)

    def call(number: int) -> None:
        accelerate(Masked().eval(), features=8).sample(5, seed=number)

    return _watched(call, count)


def _drawn_in_worker(seed: int) -> list[list[float]]:
    found: list[list[float]] = _shared["sampler"].sample(40, seed=seed).tolist()
    return found


def _drawn_of(sampler: Any, seed: int) -> list[list[float]]:
    found: list[list[float]] = sampler.sample(40, seed=seed).tolist()
    return found


_shared: dict[str, Any] = {}


def forks(count: int) -> dict[str, Any]:
    """Workers that were forked after this process drew with two threads draw what it draws."""
    import multiprocessing

    torch.set_num_threads(2)
    model = _model(200)
    _shared["sampler"] = model.sampler()
    model.sample(2000, seed=0)
    expected = [_drawn_in_worker(seed) for seed in range(count)]
    with multiprocessing.get_context("fork").Pool(2) as pool:
        found = pool.map_async(_drawn_in_worker, range(count)).get(timeout=PATIENCE / 2)
    return {"trials": count, "wrong": [f"seed {s}" for s in range(count) if found[s] != expected[s]]}


def spawns(count: int) -> dict[str, Any]:
    """Workers that were started anew and were sent the sampler draw the same."""
    import multiprocessing
    from functools import partial

    sampler = _model(200).sampler()
    expected = [_drawn_of(sampler, seed) for seed in range(count)]
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        found = pool.map_async(partial(_drawn_of, sampler), range(count)).get(timeout=PATIENCE / 2)
    return {"trials": count, "wrong": [f"seed {s}" for s in range(count) if found[s] != expected[s]]}


def by_joblib(count: int) -> dict[str, Any]:
    """The same by joblib's processes and threads."""
    try:
        from joblib import Parallel, delayed
    except ModuleNotFoundError:
        return {"trials": 0, "wrong": [], "text": ", not installed"}
    sampler = _model(200).sampler()
    expected = [_drawn_of(sampler, seed) for seed in range(count)]
    wrong = []
    for how in ("loky", "threading"):
        found = Parallel(n_jobs=2, backend=how)(delayed(_drawn_of)(sampler, seed) for seed in range(count))
        wrong += [f"{how}: seed {seed}" for seed in range(count) if found[seed] != expected[seed]]
    return {"trials": 2 * count, "wrong": wrong}


def little_memory(count: int) -> dict[str, Any]:
    """Commands and draws with less and less memory to be had: they work, or say that there is none."""
    rng = random.Random(0)
    crashed = []
    for _ in range(count):
        mebibytes = rng.choice((1, 4, 16, 64, 128, 256)) * rng.uniform(0.5, 1.5)
        code = (
            "import torch; from made_fast import MADE; from benchmarks.campaigns import isolated; torch.set_num_threads(1)\n"
            f"isolated.limited({mebibytes / 1024})\n"
            "try:\n"
            "    MADE(300, (400, 400)).sample(40_000, seed=0)\n"
            "except (MemoryError, RuntimeError) as error:\n"
            "    assert isinstance(error, MemoryError) or 'memory' in str(error), error\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        if done.returncode:
            crashed.append(f"{mebibytes:.0f} MiB: status {done.returncode} {done.stderr[-200:]}")
    return {"trials": count, "wrong": [], "crashed": crashed}

"""Several processes that share a run: the curve of one, the same weights in all, and one checkpoint."""

import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from rows_of_runs import (
    BITS,
    CONTEXT,
    OPTIONS,
    REALS,
    TRAIN,
    VALID,
    WEIGHT,
    Numbered,
    bits,
    figures,
    flow,
    given_context,
)
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from made_fast import MADE, training
from made_fast.flows import MaskedAutoregressiveFlow

pytestmark = [
    pytest.mark.slow,  # three interpreters start
    pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="needs gloo"),
]

ROOT = Path(__file__).parents[2]
CONTEXTS = {"context": CONTEXT[TRAIN], "valid_context": CONTEXT[VALID]}
WEIGHTS = {"weight": WEIGHT[TRAIN], "valid_weight": WEIGHT[VALID]}


def seeded(make: Callable[..., Any], *arguments: Any, **options: Any) -> Callable[[], Any]:
    def made() -> Any:
        torch.manual_seed(0)
        return make(*arguments, **options)

    return made


# A model, rows of training and validation, options. The last minibatch has one row: fewer than there are processes.
ROWS = BITS[:61], BITS[VALID]
RUNS: dict[str, tuple[Callable[[], Any], Any, Any, dict[str, Any]]] = {
    "bits": (bits, *ROWS, {}),
    "a flow": (seeded(MaskedAutoregressiveFlow, 5, 2, (16,)), REALS[TRAIN], REALS[VALID], {}),
    "an ensemble": (seeded(MADE, 5, (16,), num_masks=3), *ROWS, {}),
    "input dropout": (bits, *ROWS, {"input_dropout": 0.2}),
    "contexts and weights": (flow, REALS[TRAIN], REALS[VALID], {**CONTEXTS, **WEIGHTS}),
    "one row to validate": (bits, BITS[:61], BITS[70:71], {}),
    "an optimizer": (
        bits,
        *ROWS,
        {"optimizer": lambda of: torch.optim.SGD(of, lr=0.3, momentum=0.9), "learning_rate": None, "decay_after": 1},
    ),
    "a data set": (bits, Numbered(ROWS[0]), Numbered(ROWS[1]), {}),
    "batches": (given_context, [(BITS[:40], CONTEXT[:40]), (BITS[40:41], CONTEXT[40:41])], [(BITS, CONTEXT)], {}),
    "a loader": (bits, DataLoader(TensorDataset(ROWS[0]), 20, shuffle=True), DataLoader(TensorDataset(ROWS[1]), 3), {}),
}


def fitted(name: str, **more: Any) -> tuple[list[tuple[float, float]], dict[str, torch.Tensor], str]:
    make, train, valid, options = RUNS[name]
    model = make()
    history = training.fit(model, train, valid, **{**OPTIONS, **options, **more})
    return figures(history), model.state_dict(), history.stopped


def run_all(rank: int) -> dict[str, Any]:
    """What each process does: all runs; then those that end otherwise."""
    found: dict[str, Any] = {name: fitted(name) for name in RUNS}
    torch.manual_seed(rank)
    others = MADE(5, (16,))  # of other weights in each process: those of the first are taken
    training.fit(others, *ROWS, **OPTIONS)
    found["weights"] = others.state_dict()
    called: list[int] = []
    stop = fitted("bits", on_epoch=lambda epoch: called.append(epoch.number) or (rank == 1 and epoch.number == 2))
    found["stopped"] = (stop[2], called)
    path = f"{rank}.ckpt"  # the first alone writes and reads
    fitted("bits", epochs=2, checkpoint=path)
    found["resumed"] = fitted("bits", epochs=3, checkpoint=path, resume=True)
    parted = TensorDataset(BITS[:60])
    loader = DataLoader(parted, batch_size=10, sampler=DistributedSampler(parted, shuffle=False))
    found["parted"] = figures(training.fit(bits(), loader, ROWS[1], **OPTIONS))
    found["alone"] = figures(training.fit(bits(), BITS[: 40 + rank], ROWS[1], distributed=False, **OPTIONS))
    found["refused"] = [
        refused(lambda: training.fit(bits(), BITS[: 40 + rank], ROWS[1], **OPTIONS)),
        refused(lambda: training.fit(bits(), *ROWS, **{**OPTIONS, "batch_size": 10 + rank})),
        refused(lambda: training.fit(bits(), [BITS[10 * rank :][:20]], ROWS[1], **OPTIONS)),
        refused(lambda: training.fit(bits(), [BITS[:20]] * (1 + rank), ROWS[1], **OPTIONS)),
        refused(lambda: fitted("bits", checkpoint="none.ckpt", resume=True)),
        refused(lambda: fitted("bits", checkpoint="no/folder.ckpt")),
        refused(lambda: training.fit(torch.nn.parallel.DistributedDataParallel(bits()), *ROWS, **OPTIONS)),
    ]
    return found


def refused(call: Callable[[], Any]) -> str:
    try:
        call()
    except (ValueError, OSError) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def _main() -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    Path(f"{rank}.found").write_bytes(pickle.dumps(run_all(rank)))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What two processes found, which torchrun started."""
    folder = tmp_path_factory.mktemp("processes")
    words = ["--standalone", "--nproc-per-node", "2", __file__]
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "support")])
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert sorted(each.name for each in folder.glob("*.ckpt")) == ["0.ckpt"]
    return [pickle.loads((folder / f"{rank}.found").read_bytes()) for rank in range(2)]


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_give_the_curve_of_one(found: list[dict[str, Any]], name: str) -> None:
    (curve, weights, stopped), other = found[0][name], found[1][name]
    assert curve == other[0], "both end each epoch with the same figures"
    for key, value in weights.items():
        assert torch.equal(value, other[1][key]), key
    expected, alone, why = fitted(name)
    assert stopped == why
    torch.testing.assert_close(torch.tensor(curve), torch.tensor(expected), atol=1e-5, rtol=1e-5)
    for key, value in weights.items():
        torch.testing.assert_close(value, alone[key], atol=1e-4, rtol=1e-3)


def test_all_begin_with_the_weights_of_the_first(found: list[dict[str, Any]]) -> None:
    torch.manual_seed(0)
    alone = MADE(5, (16,))
    training.fit(alone, *ROWS, **OPTIONS)
    for name, value in alone.state_dict().items():
        torch.testing.assert_close(found[0]["weights"][name], value, atol=1e-4, rtol=1e-3)
        assert torch.equal(found[0]["weights"][name], found[1]["weights"][name])


def test_any_process_may_stop_all(found: list[dict[str, Any]]) -> None:
    assert [each["stopped"] for each in found] == [("on_epoch", [1, 2])] * 2


def test_a_run_of_several_processes_resumes_exactly(found: list[dict[str, Any]]) -> None:
    for each in found:
        assert each["resumed"][0] == each["bits"][0]
        for name, value in each["bits"][1].items():
            assert torch.equal(each["resumed"][1][name], value)


def test_a_loader_that_parts_the_rows_is_not_parted_again(found: list[dict[str, Any]]) -> None:
    parts = [BITS[:60][rank::2].split(10) for rank in range(2)]
    whole = [torch.cat(both) for both in zip(*parts, strict=True)]
    expected = figures(training.fit(bits(), whole, ROWS[1], **OPTIONS))
    assert found[0]["parted"] == found[1]["parted"]
    torch.testing.assert_close(torch.tensor(found[0]["parted"]), torch.tensor(expected), atol=1e-5, rtol=1e-5)


def test_each_process_for_itself(found: list[dict[str, Any]]) -> None:
    for rank, each in enumerate(found):
        expected = figures(training.fit(bits(), BITS[: 40 + rank], ROWS[1], **OPTIONS))
        torch.testing.assert_close(torch.tensor(each["alone"]), torch.tensor(expected), atol=1e-6, rtol=1e-6)


def test_what_differs_is_refused_in_all_processes(found: list[dict[str, Any]]) -> None:
    begins = [
        "ValueError: fit must be called alike in all 2 processes, or with distributed=False in each for itself, got ",
        "ValueError: fit must be called alike in all 2 processes",
        "ValueError: train must give the same batches in every process, which takes its part of each, got others",
        "ValueError: train must give the same number of batches in every process",
        "FileNotFoundError: no checkpoint to resume from at none.ckpt",
        "FileNotFoundError: cannot write no/folder.ckpt",
        "ValueError: model must be the module itself, got DistributedDataParallel around it: give model.module",
    ]
    for each in found:
        for text, begin in zip(each["refused"], begins, strict=True):
            assert text.startswith(begin), text


def test_the_example_says_the_same_under_torchrun() -> None:
    """Each process prints the last line, of two numbers, for itself."""
    path, said = str(ROOT / "examples" / "distributed_training.py"), list[list[float]]()
    for launcher in ([], ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]):
        done = subprocess.run(
            [sys.executable, *launcher, path, "--quick"],
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        )
        assert done.returncode == 0, done.stderr
        said.append([float(each) for each in re.findall(r"\d+\.\d+", done.stdout)])
    assert len(said[0]) == 8
    assert said[1] == pytest.approx(said[0] + said[0][-2:], abs=2e-4)


if __name__ == "__main__":
    _main()

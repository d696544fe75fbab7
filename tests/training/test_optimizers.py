"""Optimizers of one's own, callbacks that stop, the history as columns, devices, and fits in several threads at once."""

import csv
import functools
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rows_of_runs import BITS, OPTIONS, TRAIN, VALID, bits, figures
from torch import nn

from made_fast import training

ROWS = BITS[TRAIN], BITS[VALID]
OWN = {name: value for name, value in OPTIONS.items() if name != "learning_rate"}

OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "sgd": lambda of: torch.optim.SGD(of, lr=0.3, momentum=0.9),
    "adam": functools.partial(torch.optim.Adam, lr=0.02),
    "rates of groups": lambda of: torch.optim.AdamW([{"params": of[:1], "lr": 0.1}, {"params": of[1:]}], lr=0.01),
    "some parameters": lambda of: torch.optim.RMSprop(of[:2], lr=0.01),
}


def test_adamw_of_ones_own_gives_the_numbers_of_ours() -> None:
    def made(of: list[nn.Parameter]) -> torch.optim.Optimizer:
        groups = [
            {"params": [each for each in of if each.ndim > 1], "weight_decay": 0.1},
            {"params": [each for each in of if each.ndim <= 1], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=0.01, fused=True)

    expected = training.fit(bits(), *ROWS, **OPTIONS)
    found = training.fit(bits(), *ROWS, **OWN, optimizer=made)
    for here, there in zip(figures(found), figures(expected), strict=True):
        assert here == pytest.approx(there, rel=1e-5)
    model = bits()
    again = training.fit(model, *ROWS, **OWN, optimizer=made(list(model.parameters())))
    assert figures(again) == figures(found)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_resumed_run_has_the_state_of_its_optimizer(name: str, tmp_path: Path) -> None:
    def run(epochs: int, **more: Any) -> training.History:
        options = {**OWN, "epochs": epochs, "decay_after": 1, "optimizer": OPTIMIZERS[name], **more}
        return training.fit(bits(), *ROWS, **options)

    path = tmp_path / "run.ckpt"
    whole = run(8)
    run(3, checkpoint=path)
    resumed = run(8, checkpoint=path, resume=True)
    assert figures(resumed) == figures(whole)
    assert [each.learning_rate for each in resumed.epochs] == [each.learning_rate for each in whole.epochs]


def test_rates_of_all_groups_fall_from_what_they_are() -> None:
    model = bits()
    parameters = list(model.parameters())
    optimizer = torch.optim.SGD([{"params": parameters[:1], "lr": 8.0}, {"params": parameters[1:]}], lr=4.0)
    history = training.fit(model, *ROWS, **{**OWN, "epochs": 12}, optimizer=optimizer, decay_after=1)
    falls = sum(not epoch.improved for epoch in history.epochs[:-1])
    assert falls > 1, "such rates do not improve for long"
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([8 * 0.3**falls, 4 * 0.3**falls])
    assert history.epochs[-1].learning_rate == pytest.approx(8 * 0.3**falls)


def test_a_scheduler_in_on_epoch_goes_on() -> None:
    model = bits()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    history = training.fit(
        model, *ROWS, **OWN, optimizer=optimizer, on_epoch=lambda _: scheduler.step(), decay_after=99
    )
    assert [epoch.learning_rate for epoch in history.epochs] == [1.0, 0.5, 0.25]


def test_resuming_with_another_optimizer_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.ckpt"
    training.fit(bits(), *ROWS, **OWN, optimizer=OPTIMIZERS["sgd"], checkpoint=path)
    other = functools.partial(torch.optim.SGD, lr=0.2)
    for given in ({"optimizer": other}, {"learning_rate": 0.01}):
        with pytest.raises(ValueError, match=r"must be .* as in checkpoint"):
            training.fit(bits(), *ROWS, **OWN, **given, checkpoint=path, resume=True)


def other_parameters(of: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD([*of, nn.Parameter(torch.zeros(3))], lr=0.1)


class Empty(torch.optim.SGD):
    """Has lost its parameters."""

    def __init__(self, of: list[nn.Parameter]) -> None:
        super().__init__(of, lr=0.1)
        self.param_groups = [{"params": [], "lr": 0.1}]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "other parameters": ({"optimizer": other_parameters}, "optimizer must have parameters of the model, got 1 others of 5"),
    "of another model": (
        {"optimizer": torch.optim.SGD(bits().parameters(), lr=0.1)},
        "optimizer must have parameters of the model, got 4 others of 4",
    ),
    "none": ({"optimizer": Empty}, "optimizer must have parameters of the model, got none"),
    "a name": ({"optimizer": "adam"}, "optimizer must be an optimizer or a function that makes one of parameters, got 'a"),
    "no optimizer": ({"optimizer": lambda of: None}, "optimizer must give a torch.optim.Optimizer, got None"),
    "a closure": ({"optimizer": torch.optim.LBFGS}, "optimizer must take a step without a closure, got LBFGS"),
    "two rates": (
        {"optimizer": OPTIMIZERS["sgd"], "learning_rate": 0.1},
        "learning_rate must be left out beside optimizer, which has its own, got 0.1",
    ),
    "two decays": (
        {"optimizer": OPTIMIZERS["sgd"], "weight_decay": 0.0}, "weight_decay must be left out beside optimizer"
    ),
    "distributed": ({"distributed": "yes"}, "distributed must be True or False, got 'yes'"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_optimizer_is_one_sentence(case: str) -> None:
    options, message = REFUSED[case]
    with pytest.raises(ValueError, match=re.escape(message)):
        training.fit(bits(), *ROWS, **OWN, **options)


def test_models_that_cannot_be_fitted_are_named() -> None:
    with pytest.raises(ValueError, match="model must be the module itself, got DataParallel around it"):
        training.fit(nn.DataParallel(bits()), *ROWS)
    with pytest.raises(ValueError, match="model must have parameters to be fitted, got none"):
        training.fit(nn.Identity(), *ROWS)


@pytest.mark.parametrize("answer", [True, np.True_])
def test_on_epoch_stops_by_true_alone(answer: object, tmp_path: Path) -> None:
    history = training.fit(bits(), *ROWS, **OPTIONS, on_epoch=lambda epoch: epoch.number == 2 and answer)
    assert (history.stopped, len(history.epochs)) == ("on_epoch", 2)
    history = training.fit(bits(), *ROWS, **OPTIONS, on_epoch=lambda epoch: epoch)
    assert (history.stopped, len(history.epochs)) == ("epochs", 3)


def test_a_run_that_was_stopped_goes_on_when_resumed(tmp_path: Path) -> None:
    path = tmp_path / "run.ckpt"
    training.fit(bits(), *ROWS, **OPTIONS, checkpoint=path, on_epoch=lambda _: True)
    resumed = training.fit(bits(), *ROWS, **OPTIONS, checkpoint=path, resume=True)
    assert figures(resumed) == figures(training.fit(bits(), *ROWS, **OPTIONS))


def test_a_history_in_columns_and_in_a_file(tmp_path: Path) -> None:
    history = training.fit(bits(), *ROWS, **OPTIONS)
    columns = history.columns()
    assert list(columns) == ["number", "train_nll", "valid_nll", "improved", "learning_rate", "seconds"]
    assert columns["number"] == [1, 2, 3]
    assert columns["valid_nll"] == [epoch.valid_nll for epoch in history.epochs]
    history.to_csv(tmp_path / "history.csv")
    with open(tmp_path / "history.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["train_nll"]) for row in rows] == columns["train_nll"]
    assert [row["improved"] for row in rows] == [str(each) for each in columns["improved"]]
    with pytest.raises(FileNotFoundError, match="the folder"):
        history.to_csv(tmp_path / "no" / "history.csv")
    pandas = pytest.importorskip("pandas")
    assert pandas.read_csv(tmp_path / "history.csv").train_nll.tolist() == pytest.approx(columns["train_nll"])
    assert pandas.DataFrame(columns).improved.dtype == bool


def test_a_device_is_where_the_model_goes() -> None:
    model = bits()
    history = training.fit(model, *ROWS, **OPTIONS, device="cpu")
    assert figures(history) == figures(training.fit(bits(), *ROWS, **OPTIONS, device=torch.device("cpu")))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_run_on_a_gpu_resumes_exactly(tmp_path: Path) -> None:
    options = {**OPTIONS, "device": "cuda", "input_dropout": 0.1}
    whole = training.fit(model := bits(), *ROWS, **options)
    assert next(model.parameters()).is_cuda
    training.fit(bits(), *ROWS, **{**options, "epochs": 1}, checkpoint=tmp_path / "run.ckpt")
    resumed = training.fit(bits(), *ROWS, **options, checkpoint=tmp_path / "run.ckpt", resume=True)
    assert figures(resumed) == pytest.approx(figures(whole), rel=1e-5)


def test_threads_that_fit_at_once_give_the_numbers_of_lone_runs() -> None:
    """No thread seeds or reads a generator that others use."""

    def run(seed: int) -> list[tuple[float, float]]:
        return figures(training.fit(models[seed], *ROWS, **{**OPTIONS, "epochs": 10}, input_dropout=0.2, seed=seed))

    models = [bits() for _ in range(4)]
    alone = [run(seed) for seed in range(4)]
    models = [bits() for _ in range(4)]
    state, found = torch.get_rng_state(), dict[int, Any]()
    threads = [threading.Thread(target=lambda n=n: found.update({n: run(n)})) for n in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert [found[seed] for seed in range(4)] == alone
    assert torch.equal(torch.get_rng_state(), state)


def test_dropout_inside_a_model_is_drawn_from_a_generator_that_is_given_back() -> None:
    class Drops(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network, self.drop = bits(), nn.Dropout(0.3)

        def log_prob(self, x: torch.Tensor) -> torch.Tensor:
            return self.network.log_prob(x) * self.drop(torch.ones(len(x)))

    state = torch.get_rng_state()
    first = training.fit(Drops(), *ROWS, **OPTIONS)
    torch.rand(3)
    assert figures(training.fit(Drops(), *ROWS, **OPTIONS)) == figures(first)
    torch.set_rng_state(state)


def test_tensorboard_takes_the_epochs(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(tmp_path) as writer:
        history = training.fit(
            bits(), *ROWS, **OPTIONS, on_epoch=lambda e: writer.add_scalar("valid", e.valid_nll, e.number)
        )
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [each.value for each in events.Scalars("valid")] == pytest.approx(history.columns()["valid_nll"])

"""Fitting: the same numbers again, after a resume too; stopping, averaging, checkpoints, evaluation."""

import math
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from made_fast import MADE, training
from made_fast.outputs import Categorical
from made_fast.training import run as runs

D = 12


def make_rows(num_rows: int, seed: int) -> torch.Tensor:
    """Rows in which each value tends to repeat the one before."""
    generator = torch.Generator().manual_seed(seed)
    flips = torch.rand(num_rows, D, generator=generator) < 0.2
    return (flips.cumsum(1) % 2).to(torch.uint8)


TRAIN, VALID = make_rows(205, 1), make_rows(60, 2)


def make_model(**options: object) -> MADE:
    torch.manual_seed(0)
    return MADE(D, (16, 16), direct=True, **options)


def run(model: MADE | None = None, **options):
    model = make_model() if model is None else model
    options = {"epochs": 5, "batch_size": 50, "learning_rate": 0.01, "weight_decay": 0.01, **options}
    history = training.fit(model, TRAIN, VALID, **options)
    return history, model


def figures(history: training.History) -> list[tuple[float, ...]]:
    """All of the history but the wall times."""
    return [
        (epoch.number, epoch.train_nll, epoch.valid_nll, epoch.improved, epoch.learning_rate)
        for epoch in history.epochs
    ]


def assert_same_run(left, right):
    assert figures(left[0]) == figures(right[0])
    assert left[0].stopped == right[0].stopped
    for name, value in left[1].state_dict().items():
        assert torch.equal(value, right[1].state_dict()[name]), name


def test_training_learns():
    before, _ = training.evaluate(make_model(), VALID)
    history, model = run(epochs=30)
    after, _ = training.evaluate(model, VALID)
    assert before > 8
    assert after < 7, "a fair coin for each value is 8.3 nats, the rows themselves have 6.0"
    assert after == history.best.valid_nll


def test_a_seed_gives_the_same_numbers_and_another_gives_others():
    first = run(seed=3, input_dropout=0.1)
    torch.rand(7)  # the state of the generator outside must not matter
    assert_same_run(first, run(seed=3, input_dropout=0.1))
    assert figures(first[0]) != figures(run(seed=4, input_dropout=0.1)[0])


def test_the_generator_outside_is_left_alone():
    model = make_model()
    state = torch.get_rng_state()
    run(model)
    assert torch.equal(state, torch.get_rng_state())


OPTIONS = {"seed": 5, "input_dropout": 0.2, "decay_after": 1, "epochs": 8}


def test_resume_after_an_epoch_limit_equals_an_uninterrupted_run(tmp_path):
    path = tmp_path / "run.ckpt"
    run(**{**OPTIONS, "epochs": 3}, checkpoint=path)
    resumed = run(**OPTIONS, checkpoint=path, resume=True)
    assert len(resumed[0].epochs) == 8
    assert_same_run(run(**OPTIONS), resumed)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_resume_after_a_callback_raised(tmp_path, error):
    path = tmp_path / "run.ckpt"

    def stop(epoch):
        if epoch.number == 4:
            raise error

    with pytest.raises(error):
        run(**OPTIONS, checkpoint=path, on_epoch=stop)
    assert_same_run(run(**OPTIONS), run(**OPTIONS, checkpoint=path, resume=True))


def test_resume_after_a_kill_in_the_middle_of_an_epoch(tmp_path, monkeypatch):
    path = tmp_path / "run.ckpt"
    model, calls, damaged = make_model(), [], runs.Run._damaged

    def interrupt(*arguments):
        calls.append(1)
        if len(calls) == 17:
            raise KeyboardInterrupt
        return damaged(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(runs.Run, "_damaged", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(model, **OPTIONS, checkpoint=path)
    assert [file.name for file in tmp_path.iterdir()] == ["run.ckpt"]
    resumed = run(model, **OPTIONS, checkpoint=path, resume=True)  # into a model that has been changed meanwhile
    assert_same_run(run(**OPTIONS), resumed)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="limits of one process alone are those of a fork")
def test_a_checkpoint_for_which_there_is_no_room_is_an_os_error(tmp_path):
    """In a process of its own, whose files may have ten thousand bytes; what was there stays, and no part is left."""
    path = tmp_path / "run.ckpt"
    run(**{**OPTIONS, "epochs": 1}, checkpoint=path)
    before = path.read_bytes()
    code = (
        "import resource, sys, torch; from made_fast import MADE, training; torch.set_num_threads(1)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))\n"
        "rows = torch.zeros(9, 20)\n"
        "try:\n    training.fit(MADE(20, (64,)), rows, rows, epochs=1, checkpoint=sys.argv[1])\n"
        "except OSError as error:\n    print(type(error).__name__)\n"
    )
    words = [sys.executable, "-c", code, str(path)]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "OSError"
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["run.ckpt"]


def test_a_kill_while_the_checkpoint_is_written_leaves_the_last_one(tmp_path, monkeypatch):
    path = tmp_path / "run.ckpt"
    run(**{**OPTIONS, "epochs": 2}, checkpoint=path)
    good = path.read_bytes()

    def half(path, data):
        with open(path, "wb") as file:
            file.write(good[:100])
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(KeyboardInterrupt):
        run(**OPTIONS, checkpoint=path, resume=True)
    assert path.read_bytes() == good
    assert [file.name for file in tmp_path.iterdir()] == ["run.ckpt"]


def test_resuming_a_finished_run_gives_its_end(tmp_path):
    finished = run(**OPTIONS, checkpoint=tmp_path / "run.ckpt")
    assert_same_run(finished, run(**OPTIONS, checkpoint=tmp_path / "run.ckpt", resume=True))


def test_stops_early_and_restores_the_best_weights():
    few = make_rows(20, 3)  # so few that a large rate overfits at once
    model = make_model()
    history = training.fit(
        model, few, VALID, epochs=500, batch_size=20, learning_rate=0.03, patience=4, decay_after=3, averaging=0.5
    )
    valid = [epoch.valid_nll for epoch in history.epochs]
    assert history.stopped == "patience"
    assert history.best.valid_nll == min(valid) < valid[-1]
    assert [e.improved for e in history.epochs] == [v < min(valid[:i], default=99) for i, v in enumerate(valid)]
    assert len(valid) == history.best.number + 4 < 500
    assert training.evaluate(model, VALID)[0] == history.best.valid_nll
    assert history.epochs[-1].learning_rate < history.epochs[0].learning_rate


def test_weights_follow_adamw_and_their_moving_average():
    history, model = run(epochs=3, batch_size=len(TRAIN), averaging=0.3)
    expected = make_model()
    average = {name: value.clone() for name, value in expected.named_parameters()}
    matrices = [p for p in expected.parameters() if p.ndim == 2]
    biases = [p for p in expected.parameters() if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": 0.01}, {"params": biases, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.01)
    for step in range(3):
        optimizer.zero_grad()
        loss = -expected.log_prob(TRAIN.float()).mean()
        assert history.epochs[step].train_nll == pytest.approx(loss.item(), rel=1e-5)
        loss.backward()
        optimizer.step()
        keep = [0.1, 2 / 11, 0.25][step]
        for name, value in expected.named_parameters():
            average[name] = keep * average[name] + (1 - keep) * value.detach()
    assert history.best.number == 3
    for name, value in model.named_parameters():
        torch.testing.assert_close(value.detach(), average[name], atol=1e-5, rtol=1e-4)


def test_input_dropout_hides_inputs_from_the_network_and_not_from_the_loss():
    rows, model = VALID.float(), make_model().double()
    seen: list[torch.Tensor] = []
    forward = model.forward
    model.forward = lambda x, *rest, **named: seen.append(x) or forward(x, *rest, **named)
    history = training.fit(model, rows, rows, epochs=1, batch_size=len(rows), input_dropout=1 - 1e-12, averaging=0)
    expected = -make_model().double().distribution(torch.zeros(len(rows), D).double()).log_prob(rows.double()).mean()
    assert not seen[0].any()
    assert history.epochs[0].train_nll == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize(
    ("improved", "after", "reductions"),
    [("", 2, 0), ("yyy", 1, 0), ("yn", 1, 1), ("ynn", 2, 1), ("ynyn", 2, 0), ("ynnnn", 2, 2), ("ynnynn", 2, 2)],
)
def test_learning_rate_falls_when_there_is_no_improvement(improved, after, reductions):
    assert runs._reductions([letter == "y" for letter in improved], after) == reductions


def test_time_limit_stops_after_the_first_epoch_at_the_earliest():
    history, _ = run(max_minutes=1e-9)
    assert (len(history.epochs), history.stopped) == (1, "time")


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    with pytest.raises(
        training.TrainingError, match=r"loss is (nan|inf) in epoch 1: lower the learning rate, now 1e\+25"
    ):
        run(learning_rate=1e25, checkpoint=tmp_path / "run.ckpt")
    assert not list(tmp_path.iterdir())


class Attack:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("damage", ["cut", "text", "empty", "foreign", "attack"])
def test_a_bad_checkpoint_is_a_clear_error(tmp_path, damage):
    path = tmp_path / "run.ckpt"
    run(**OPTIONS, checkpoint=path)
    content = path.read_bytes()
    if damage == "foreign":
        torch.save({"weights": torch.zeros(3)}, path)
    else:
        attack = pickle.dumps(Attack(tmp_path / "attacked"), protocol=2)
        path.write_bytes({"cut": content[:-300], "text": b"hello", "empty": b"", "attack": attack}[damage])
    with pytest.raises(ValueError, match=r"checkpoint .*run\.ckpt .*delete it, start anew"):
        run(**OPTIONS, checkpoint=path, resume=True)
    assert not (tmp_path / "attacked").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 6}, "seed must be 5 as in checkpoint"),
        ({"learning_rate": 0.5}, "learning_rate must be 0.01 as in checkpoint"),
        ({"batch_size": 10}, "batch_size must be 50 as in checkpoint"),
    ],
)
def test_resume_with_other_settings_names_them(tmp_path, change, message):
    run(**{**OPTIONS, "epochs": 1}, checkpoint=tmp_path / "run.ckpt")
    with pytest.raises(ValueError, match=message):
        run(**{**OPTIONS, **change}, checkpoint=tmp_path / "run.ckpt", resume=True)


@pytest.mark.parametrize(
    "change", [{"order": "reversed"}, {"activation": "tanh"}, {"residual": True}, {"degrees": "random"}]
)
def test_resume_with_another_model_is_refused(tmp_path, change):
    run(epochs=1, checkpoint=tmp_path / "run.ckpt")
    with pytest.raises(ValueError, match="made with another model"):
        run(make_model(**change), checkpoint=tmp_path / "run.ckpt", resume=True)


def test_resume_with_other_data_is_refused(tmp_path):
    path = tmp_path / "run.ckpt"
    run(epochs=1, checkpoint=path)
    options = {"batch_size": 50, "learning_rate": 0.01, "weight_decay": 0.01}
    with pytest.raises(ValueError, match="made with other data"):
        training.fit(make_model(), TRAIN[:-1], VALID, **options, checkpoint=path, resume=True)


def _shuffled(rows):
    flat = rows.flatten()
    return flat[torch.randperm(flat.numel(), generator=torch.Generator().manual_seed(2))].reshape(rows.shape)


def _one_bit(rows):
    other = rows.clone()
    other[-1, -1] = 1 - other[-1, -1]
    return other


@pytest.mark.parametrize("change", [_shuffled, _one_bit, lambda rows: rows.flip(0), lambda rows: rows.flip(1)])
@pytest.mark.parametrize("part", [0, 1])
def test_resume_with_the_same_sums_but_other_rows_is_refused(tmp_path, change, part):
    path = tmp_path / "run.ckpt"
    run(epochs=1, checkpoint=path)
    rows = [TRAIN, VALID]
    rows[part] = change(rows[part])
    options = {"batch_size": 50, "learning_rate": 0.01, "weight_decay": 0.01}
    with pytest.raises(ValueError, match=f"made with other data: {('train', 'valid')[part]} must be the same rows"):
        training.fit(make_model(), *rows, **options, checkpoint=path, resume=True)


def test_resume_with_the_same_rows_in_another_type(tmp_path):
    path = tmp_path / "run.ckpt"
    run(epochs=1, checkpoint=path)
    options = {"batch_size": 50, "learning_rate": 0.01, "weight_decay": 0.01}
    for rows in ((TRAIN.double(), VALID.byte()), (TRAIN.bool(), VALID.t().contiguous().t())):
        history = training.fit(make_model(), *rows, **options, epochs=1, checkpoint=path, resume=True)
        assert len(history.epochs) == 1


def test_whole_numbers_that_the_weights_cannot_hold_are_refused():
    torch.manual_seed(0)
    model = MADE(2, (4,), output=Categorical(300)).bfloat16()
    rows = torch.tensor([[257, 0]] * 10)
    with pytest.raises(ValueError, match=r"rows must be at most 256 to be exact in torch\.bfloat16, got 257"):
        training.fit(model, rows, rows)
    with pytest.raises(ValueError, match="at most 256"):
        training.evaluate(model, rows)
    assert math.isfinite(training.evaluate(model, rows.clamp(max=256))[0])


def test_nothing_to_resume_from(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint to resume from at"):
        run(checkpoint=tmp_path / "run.ckpt", resume=True)
    with pytest.raises(ValueError, match="checkpoint must name the file"):
        run(resume=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs must be an integer, 1 or more, got 0"),
        ({"batch_size": 0}, "batch_size must be an integer, 1 or more, got 0"),
        ({"patience": 0}, "patience must be an integer, 1 or more, got 0"),
        ({"decay_after": -1}, "decay_after must be an integer, 1 or more, got -1"),
        ({"learning_rate": 0.0}, "learning_rate must be a positive number, got 0.0"),
        ({"learning_rate": float("nan")}, "learning_rate must be a positive number, got nan"),
        ({"weight_decay": -0.1}, "weight_decay must be 0 or more, got -0.1"),
        ({"input_dropout": 1.0}, r"input_dropout must be in \[0, 1\), got 1.0"),
        ({"averaging": 1.0}, r"averaging must be in \[0, 1\), got 1.0"),
        ({"max_minutes": 0.0}, "max_minutes must be a positive number, got 0.0"),
        ({"epochs": True}, "epochs must be an integer, 1 or more, got True"),
        ({"batch_size": 2.5}, r"batch_size must be an integer, 1 or more, got 2\.5"),
        ({"patience": "3"}, "patience must be an integer, 1 or more, got '3'"),
        ({"learning_rate": "1"}, "learning_rate must be a positive number, got '1'"),
        ({"seed": None}, "seed must be an integer, got None"),
        ({"input_dropout": "0"}, "input_dropout must be a number, got '0'"),
    ],
)
def test_bad_arguments_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        run(**change)


def test_bad_rows_are_named():
    with pytest.raises(ValueError, match=r"train must have shape \(N, D\) with N of 1 or more, got \(0, 12\)"):
        training.fit(make_model(), TRAIN[:0], VALID)
    with pytest.raises(ValueError, match=r"valid must have 12 columns like train, got 5"):
        training.fit(make_model(), TRAIN, VALID[:, :5])
    with pytest.raises(ValueError, match=r"x must have shape"):
        training.fit(make_model(), TRAIN[:, :5], VALID[:, :5])


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_evaluate_is_the_mean_and_its_interval(batch_size):
    model = make_model().double().train()
    mean, half_width = training.evaluate(model, VALID, batch_size)
    nll = -model.log_prob(VALID.double()).detach()
    assert mean == pytest.approx(nll.mean().item(), rel=1e-12)
    variance = ((nll - nll.mean()) ** 2).sum().item() / (len(nll) - 1)
    assert half_width == pytest.approx(1.96 * (variance / len(nll)) ** 0.5, rel=1e-9)
    assert model.training, "the mode is left as it was"


def test_evaluate_one_row_has_no_interval_and_no_rows_are_an_error():
    assert training.evaluate(make_model(), VALID[:1])[1] == float("inf")
    with pytest.raises(ValueError, match="data must have shape"):
        training.evaluate(make_model(), VALID[:0])
    with pytest.raises(ValueError, match="batch_size must be an integer, 1 or more"):
        training.evaluate(make_model(), VALID, 0)

"""What rows can be: contexts, weights, data sets, loaders; they give the numbers of tensors."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from rows_of_runs import (
    BITS,
    CONTEXT,
    OPTIONS,
    REALS,
    TRAIN,
    VALID,
    WEIGHT,
    Numbered,
    Stream,
    bits,
    figures,
    flow,
    given_context,
)
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler, TensorDataset

from made_fast import training
from made_fast.training.batches import rows_of
from made_fast.training.layout import Layout
from made_fast.training.processes import Processes


def assert_alike(left: training.History, right: training.History, tolerance: float = 1e-6) -> None:
    assert len(left.epochs) == len(right.epochs)
    for here, there in zip(figures(left), figures(right), strict=True):
        assert here == pytest.approx(there, rel=tolerance)


class Named(Numbered):
    def __getitem__(self, number: int) -> Any:
        return {"x": self.parts[0][number], "weight": self.parts[1][number]}


@pytest.mark.parametrize("make", [given_context, flow])
def test_the_mean_given_a_context_is_what_is_fitted(make: Callable[[], Any]) -> None:
    rows = REALS if make is flow else BITS
    model = make()
    expected = -make().log_prob(rows[TRAIN], CONTEXT[TRAIN]).mean()
    history = training.fit(
        model,
        rows[TRAIN],
        rows[VALID],
        context=CONTEXT[TRAIN],
        valid_context=CONTEXT[VALID],
        **{**OPTIONS, "epochs": 20, "batch_size": 70},
    )
    assert history.epochs[0].train_nll == pytest.approx(expected.item(), rel=1e-5)
    assert history.best.valid_nll < history.epochs[0].valid_nll - 0.1
    mean, _ = training.evaluate(model, rows[VALID], context=CONTEXT[VALID])
    assert mean == history.best.valid_nll
    assert mean == pytest.approx(-model.log_prob(rows[VALID], CONTEXT[VALID]).mean().item(), rel=1e-5)


def test_input_dropout_with_a_context() -> None:
    contexts = {"context": CONTEXT[TRAIN], "valid_context": CONTEXT[VALID]}
    history = training.fit(given_context(), BITS[TRAIN], BITS[VALID], **contexts, input_dropout=0.3, **OPTIONS)
    assert history.best.valid_nll < history.epochs[0].train_nll


def test_weights_that_are_whole_numbers_are_rows_given_so_often() -> None:
    often = torch.randint(0, 4, (70,), generator=torch.Generator().manual_seed(1))
    again = BITS[TRAIN].repeat_interleave(often, 0)
    valid_often = torch.randint(0, 4, (20,), generator=torch.Generator().manual_seed(2))
    one = {**OPTIONS, "batch_size": 1000, "epochs": 5}
    weighted = training.fit(bits(), BITS[TRAIN], BITS[VALID], weight=often, valid_weight=valid_often, **one)
    repeated = training.fit(bits(), again, BITS[VALID].repeat_interleave(valid_often, 0), **one)
    assert_alike(weighted, repeated, 1e-5)


def test_equal_weights_are_none() -> None:
    plain = training.fit(bits(), BITS[TRAIN], BITS[VALID], **OPTIONS)
    weighted = training.fit(
        bits(), BITS[TRAIN], BITS[VALID], weight=torch.full((70,), 3), valid_weight=np.full(20, 0.2), **OPTIONS
    )
    assert_alike(plain, weighted)


def test_a_minibatch_without_weight_is_passed_over() -> None:
    weights = [torch.zeros(20), torch.ones(20), torch.zeros(20)]
    batches = [(rows, None, weight) for rows, weight in zip(BITS[:60].split(20), weights, strict=True)]
    found, other = bits(), bits()
    training.fit(found, batches, BITS[VALID], **{**OPTIONS, "averaging": 0.0, "epochs": 1})
    training.fit(other, BITS[20:40], BITS[VALID], **{**OPTIONS, "averaging": 0.0, "epochs": 1})
    for here, there in zip(found.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(here, there, atol=1e-6, rtol=1e-5)


def test_evaluate_with_weights_is_the_weighted_mean_and_its_interval() -> None:
    model = bits().double()
    mean, half_width = training.evaluate(model, BITS, 7, weight=WEIGHT)
    nll = -model.log_prob(BITS.double()).detach()
    expected = (WEIGHT.double() * nll).sum() / WEIGHT.double().sum()
    assert mean == pytest.approx(expected.item(), rel=1e-7)
    equal, equal_width = training.evaluate(model, BITS, weight=torch.full((90,), 0.5))
    assert (equal, equal_width) == pytest.approx(training.evaluate(model, BITS), rel=1e-12)
    # Of many weighted means of such rows the interval has 95 in a hundred.
    generator = torch.Generator().manual_seed(3)
    picked = torch.randint(90, (4000, 90), generator=generator)
    means = (WEIGHT.double() * nll)[picked].sum(1) / WEIGHT.double()[picked].sum(1)
    assert half_width == pytest.approx(1.96 * means.std().item(), rel=0.1)


WAYS = {
    "a tensor data set": lambda x, w: TensorDataset(x),
    "a data set": lambda x, w: Numbered(x),
    "an array": lambda x, w: x.numpy(),
    "a list of rows": lambda x, w: x.tolist(),
    "flags": lambda x, w: x.bool(),
}


@pytest.mark.parametrize("way", WAYS)
def test_numbered_rows_give_the_numbers_of_a_tensor(way: str) -> None:
    expected = training.fit(bits(), BITS[TRAIN], BITS[VALID], **OPTIONS)
    found = training.fit(bits(), WAYS[way](BITS[TRAIN], None), WAYS[way](BITS[VALID], None), **OPTIONS)
    assert figures(found) == figures(expected)


def test_data_sets_with_contexts_and_weights_give_the_numbers_of_tensors() -> None:
    contexts = {"context": CONTEXT[TRAIN], "valid_context": CONTEXT[VALID]}
    weights = {"weight": WEIGHT[TRAIN], "valid_weight": WEIGHT[VALID]}
    expected = training.fit(given_context(), BITS[TRAIN], BITS[VALID], **contexts, **weights, **OPTIONS)
    for kind in (TensorDataset, Numbered):
        train, valid = (kind(BITS[part], CONTEXT[part], WEIGHT[part]) for part in (TRAIN, VALID))
        assert figures(training.fit(given_context(), train, valid, **OPTIONS)) == figures(expected)
    expected = training.fit(bits(), BITS[TRAIN], BITS[VALID], **weights, **OPTIONS)
    train, valid = (Named(BITS[part], WEIGHT[part]) for part in (TRAIN, VALID))
    assert figures(training.fit(bits(), train, valid, **OPTIONS)) == figures(expected)


BATCHES = {
    "a loader": lambda x: DataLoader(TensorDataset(x), batch_size=20),
    "a loader of a data set": lambda x: DataLoader(Numbered(x), batch_size=20),
    "a loader of batches": lambda x: DataLoader(Stream(*x.split(20)), batch_size=None),
    "a loader of samplers": lambda x: DataLoader(
        Numbered(x), batch_sampler=BatchSampler(SequentialSampler(x), 20, drop_last=False)
    ),
    "a stream": lambda x: Stream(*x.split(20)),
    "a tuple of tensors": lambda x: x.split(20),
    "a list of arrays": lambda x: [rows.numpy() for rows in x.split(20)],
    "a list of tuples": lambda x: [(rows,) for rows in x.split(20)],
    "mappings": lambda x: [{"x": rows} for rows in x.split(20)],
}


@pytest.mark.parametrize("way", BATCHES)
def test_batches_are_taken_as_they_come(way: str) -> None:
    model, expected = bits(), []
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.0)
    for _ in range(3):
        losses = []
        for rows in BITS[TRAIN].split(20):
            optimizer.zero_grad()
            loss = -model.log_prob(rows).mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.item() * len(rows))
        expected.append((sum(losses) / 70, -model.log_prob(BITS[VALID]).mean().item()))
    options = {**OPTIONS, "averaging": 0.0, "weight_decay": 0.0}
    state = torch.get_rng_state()
    history = training.fit(bits(), BATCHES[way](BITS[TRAIN]), BATCHES[way](BITS[VALID]), **options)
    assert torch.equal(torch.get_rng_state(), state), "a loader draws a seed: from a generator that is given back"
    for here, there in zip(figures(history), expected, strict=True):
        assert here == pytest.approx(there, rel=1e-5)
    assert training.evaluate(bits(), BATCHES[way](BITS)) == training.evaluate(bits(), BITS)


def test_a_loader_that_shuffles_resumes_exactly(tmp_path: Any) -> None:
    def run(epochs: int, *, resume: bool = False) -> training.History:
        train = DataLoader(TensorDataset(BITS[TRAIN]), batch_size=20, shuffle=True)
        options = {**OPTIONS, "epochs": epochs, "checkpoint": tmp_path / "run.ckpt", "resume": resume}
        return training.fit(bits(), train, BITS[VALID], **options)

    whole = figures(run(6))
    run(2)
    torch.rand(5)
    assert figures(run(6, resume=True)) == whole
    assert len({train for train, _ in whole}) == 6


def test_epochs_are_told_to_what_wants_to_know() -> None:
    class Told(Stream):
        told: list[int] = []  # noqa: RUF012

        def set_epoch(self, epoch: int) -> None:
            self.told.append(epoch)

    training.fit(bits(), DataLoader(Told(*BITS[TRAIN].split(20)), batch_size=None), BITS[VALID], **OPTIONS)
    assert Told.told == [1, 2, 3]


def test_a_memory_mapped_array_gives_the_numbers_of_a_tensor(tmp_path: Any) -> None:
    np.save(tmp_path / "x.npy", BITS[TRAIN].numpy())
    mapped = torch.from_numpy(np.load(tmp_path / "x.npy", mmap_mode="c"))
    expected = training.fit(bits(), BITS[TRAIN], BITS[VALID], **OPTIONS)
    assert figures(training.fit(bits(), mapped, BITS[VALID], **OPTIONS)) == figures(expected)


def test_evaluate_takes_what_ends_after_one_pass() -> None:
    assert training.evaluate(bits(), iter(BITS.split(40))) == training.evaluate(bits(), BITS)


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_parts_of_processes_are_the_whole(count: int) -> None:
    """Of each minibatch, of what is validated, and of the batches of a loader; a minibatch of fewer rows all of them have."""
    numbers = torch.arange(61.0)[:, None].expand(-1, 2).contiguous()
    everyone = [Processes(rank, count, torch.device("cpu")) for rank in range(count)]
    rows = rows_of("train", numbers, Layout(bits()))
    taken = [list(rows.minibatches(10, torch.Generator().manual_seed(0), each, 1)) for each in everyone]
    seen = []
    for batches in zip(*taken, strict=True):
        together = torch.cat([each.rows.x[:, 0] for each in batches])
        assert all(each.copies == (count if len(batches) > each.number else 1) for each in batches)
        assert len(together) == batches[0].number * batches[0].copies
        seen += together[: batches[0].number].tolist()
        for each in batches:
            whole = torch.cat([other.rows.x for other in batches])[: each.number]
            assert torch.equal(whole[each.part], each.rows.x)
    assert sorted(seen) == list(range(61))
    for given in (numbers, Numbered(numbers), numbers.split(5)):
        parts = [rows_of("valid", given, Layout(bits())).in_order(10, each) for each in everyone]
        evaluated = [row for part in parts for rows in part for row in rows.x[:, 0].tolist()]
        assert sorted(evaluated) == list(range(61))

"""Mixtures: the mean of densities, which is a density, drawn from, trained, copied, saved and refused as models are."""

import copy
import math
import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor

from made_fast import MADE, training
from made_fast.models import Mixture
from made_fast.outputs import Categorical, Mixed

D = 5


def make(count: int = 3, **options: object) -> Mixture:
    torch.manual_seed(0)
    settings: dict[str, object] = {"hidden_features": (9,), "order": "random", "direct": True, **options}
    return Mixture([MADE(D, seed=k, **settings) for k in range(count)]).double().eval()  # type: ignore[arg-type]


def states() -> Tensor:
    return (torch.arange(2**D)[:, None] >> torch.arange(D) & 1).double()


def test_it_is_the_mean_of_the_densities_and_sums_to_one() -> None:
    model, x = make(), states()
    expected = torch.stack([member.log_prob(x).exp() for member in model.members]).mean(0)  # type: ignore[operator]
    torch.testing.assert_close(model.log_prob(x).exp(), expected)
    assert model.log_prob(x).exp().sum().item() == pytest.approx(1)
    torch.testing.assert_close(model.log_prob(x, masks=1), model.members[1].log_prob(x))  # type: ignore[operator]
    torch.testing.assert_close(model(x), model.log_prob(x))
    assert model.log_prob(x, masks=[0, 2]).exp().sum().item() == pytest.approx(1)


def test_what_is_rare_for_all_but_one_has_a_finite_log_probability() -> None:
    model = make(2)
    with torch.no_grad():
        for member in model.members:
            member.parameters_layer.bias.add_(4000.0)  # type: ignore[union-attr, operator]
    assert torch.isfinite(model.log_prob(states())).all()


def test_samples_follow_it_whatever_the_batch() -> None:
    model = make()
    x, log_prob = model.sample_and_log_prob(20_000, seed=1)
    torch.testing.assert_close(log_prob, model.log_prob(x))
    counts = (x.long() << torch.arange(D)).sum(1).bincount(minlength=2**D).double()
    expected = 20_000 * model.log_prob(states()).exp().detach()
    assert ((counts - expected) ** 2 / expected).sum() < 82  # chi-square, 31 degrees of freedom: once in 2 million
    assert torch.equal(model.sample(50, seed=3)[10:30], model.sample(20, seed=3, first_row=10))
    assert torch.equal(model.sample(9, seed=3, mask=1), model.members[1].sample(9, seed=3))  # type: ignore[operator]
    given = torch.tensor([1.0, 0, 0, 0, 1], dtype=torch.float64)
    held = model.sample(40, seed=2, given=given, observed=torch.tensor([True, False, False, False, True]))
    assert (held.x[:, [0, 4]] == 1).all()


def test_a_draw_is_of_the_weights_as_they_are() -> None:
    model = make(2)
    before = model.sample(200, seed=0)
    with torch.no_grad():
        model.members[1].parameters_layer.bias.sub_(50.0)  # type: ignore[union-attr, operator]
    after = model.sample(200, seed=0)
    changed = (before != after).any(1)
    assert changed.any() and not changed.all() and not after[changed].any()


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_members_learn_by_themselves_and_the_mean_is_validated(dropout: float) -> None:
    """The figures of ``fit`` are those of members trained apart on the same rows, and of the mean of their densities."""
    rows = (torch.rand(60, D, generator=torch.Generator().manual_seed(1)) < 0.3).double()
    options = {"epochs": 2, "batch_size": 20, "seed": 4, "input_dropout": dropout, "averaging": 0.5}
    model, alone = make(), make()
    history = training.fit(model.train(), rows, rows[:20], **options)  # type: ignore[arg-type]
    single = [training.fit(member.train(), rows, rows[:20], **options) for member in alone.members]  # type: ignore[arg-type]
    expected = sum(each.epochs[-1].train_nll for each in single) / 3
    assert history.epochs[-1].train_nll == pytest.approx(expected, rel=1e-6)
    mean = -alone.eval().log_prob(rows[:20]).mean().item()
    assert history.best.valid_nll == pytest.approx(mean, rel=1e-6)
    assert training.evaluate(model, rows[:20])[0] == pytest.approx(history.best.valid_nll, rel=1e-9)


def test_one_call_gives_the_gradients_of_autograd() -> None:
    model, x = make().train(), states()
    training.backward(model, x)
    found = [each.grad for each in model.parameters()]
    model.zero_grad()
    (-model.log_prob(x).mean()).backward()
    for each, parameter in zip(found, model.parameters(), strict=True):
        torch.testing.assert_close(each, parameter.grad)


def test_context_and_columns_of_several_kinds() -> None:
    torch.manual_seed(0)
    output = Mixed(["bernoulli", Categorical(4), ("normal", 1)])
    model = Mixture([MADE(3, (8,), output=output, order="random", seed=k, context_features=2) for k in range(2)]).eval()
    context = torch.randn(7, 2)
    x, log_prob = model.sample_and_log_prob(1, context, seed=0)
    torch.testing.assert_close(log_prob[:, 0], model.log_prob(x[:, 0], context).detach())


def test_files_and_copies(tmp_path: Path) -> None:
    model = make()
    model.save(tmp_path / "mixture.safetensors")
    model.sampler()  # what is kept of it is made again
    loaded = Mixture.load(tmp_path / "mixture.safetensors").eval()
    for again in (loaded, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(again.log_prob(states()), model.log_prob(states()))
        assert torch.equal(again.sample(30, seed=1), model.sample(30, seed=1))
    model.members[0].save(tmp_path / "single.safetensors")  # type: ignore[operator]
    with pytest.raises(ValueError, match="no mixture"):
        Mixture.load(tmp_path / "single.safetensors")
    with pytest.raises(ValueError, match=r"a single model, got a mixture: Mixture.load reads it"):
        MADE.load(tmp_path / "mixture.safetensors")
    damaged = bytearray((tmp_path / "mixture.safetensors").read_bytes())
    damaged[-5] ^= 1
    (tmp_path / "damaged.safetensors").write_bytes(damaged)
    with pytest.raises(ValueError, match="damaged"):
        Mixture.load(tmp_path / "damaged.safetensors")


def test_what_is_refused() -> None:
    one = MADE(D, (4,))
    for members, message in (
        ([], "at least one"),
        (one, "members must be a sequence of models, got MADE"),
        ([one, torch.nn.Linear(2, 2)], "Linear as member 1"),
        ([one, MADE(D, (4,), num_masks=2)], "num_masks=2 of member 1"),
        ([one, MADE(D + 1, (4,))], "alike"),
        ([one, MADE(D, (4,), output="spin")], "alike"),
        ([one, MADE(D, (4,)).double()], "alike"),
    ):
        with pytest.raises(ValueError, match=message):
            Mixture(members)  # type: ignore[arg-type]
    for masks in (3, -1, [], [0, 7]):
        with pytest.raises(ValueError, match=r"masks must be numbers of members, 0 \.\. 2"):
            make().log_prob(states(), masks=masks)


def test_a_mean_is_better_than_its_members() -> None:
    """Jensen: the mean of log-probabilities is never above the logarithm of the mean probability."""
    model, x = make(), states()
    each = torch.stack([member.log_prob(x) for member in model.members])  # type: ignore[operator]
    assert (model.log_prob(x) >= each.mean(0) - 1e-12).all()
    assert math.isfinite(model.train().log_prob(x).sum().item())


def test_the_members_that_help_on_some_rows_are_selected() -> None:
    model = make(4)
    rows = model.members[2].sample(600, seed=0)  # type: ignore[operator]
    with torch.no_grad():
        model.members[0].parameters_layer.bias.add_(20.0)  # type: ignore[union-attr, operator]
    chosen = model.selected(rows)
    numbers = [n for n, each in enumerate(model.members) if any(each is kept for kept in chosen.members)]
    assert 0 not in numbers and 2 in numbers and len(numbers) == len(chosen.members)
    best = chosen.log_prob(rows).mean()
    for number in range(4):
        assert best >= model.log_prob(rows, masks=number).mean()
    for number in set(range(4)) - set(numbers):
        assert best >= model.log_prob(rows, masks=[*numbers, number]).mean()
    assert not model.training and model.train().selected(rows).training
    with pytest.raises(ValueError, match="at least one row"):
        model.selected(rows[:0])

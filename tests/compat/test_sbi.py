"""Estimators for sbi with discrete and continuous columns: a law that sums to one, its samples, and an enumerable truth."""

import copy
import itertools
import math
import pickle
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import made_fast
from made_fast.compat.sbi import likelihood_made, posterior_made

pytest.importorskip("sbi")
VALUES = {0: (0.0, 1.0, 2.0), 2: (-1.0, 0.5)}  # column 1 is continuous
ROWS = 6


def data(count: int = 400) -> tuple[Tensor, Tensor]:
    """Columns (count, 3), in which all values occur, and conditions (count, 2)."""
    generator = torch.Generator().manual_seed(0)
    columns = [torch.tensor(values)[torch.arange(count) % len(values)] for values in VALUES.values()]
    numbers = 3 + 2 * torch.randn(count, 3, generator=generator)
    return torch.stack([columns[0], numbers[:, 0], columns[1]], -1), 100 * numbers[:, 1:]


def estimator(discrete: Any = None, **options: Any) -> Any:
    """An estimator of ``data`` with random weights, so that no conditional is even."""
    torch.manual_seed(0)
    build = posterior_made(
        {0: 3, 2: VALUES[2]} if discrete is None else discrete, **{"hidden_features": (16,), **options}
    )
    made = build(*data())
    for parameter in made.net.parameters():
        nn.init.normal_(parameter, std=0.5)
    return made.eval()


def grid() -> tuple[Tensor, float]:
    """All discrete values with a fine grid of the continuous one, (6, n, 3), and the width of a cell."""
    ticks = torch.linspace(-60, 60, 6001)
    rows = [
        torch.stack([torch.full_like(ticks, a), ticks, torch.full_like(ticks, b)], -1)
        for a, b in itertools.product(*VALUES.values())
    ]
    return torch.stack(rows), 120 / 6000


@pytest.mark.parametrize("order", [None, [1, 2, 0]])
def test_probabilities_sum_to_one_and_are_those_of_the_samples(order: list[int] | None) -> None:
    made, condition = estimator(order=order), torch.tensor([[50.0, 400.0]])
    points, cell = grid()
    with torch.no_grad():
        density = made.log_prob(points.reshape(-1, 1, 3), condition).reshape(len(points), -1).double().exp() * cell
    mass = density.sum(-1)
    assert float(mass.sum()) == pytest.approx(1, abs=1e-4)
    torch.manual_seed(1)
    drawn, log_prob = made.sample_and_log_prob((20_000,), condition)
    assert drawn.shape == (20_000, 1, 3)
    torch.testing.assert_close(log_prob, made.log_prob(drawn, condition), rtol=1e-4, atol=1e-4)
    counts = torch.stack([(drawn[:, 0, [0, 2]] == row[0, [0, 2]]).all(-1).sum() for row in points])
    assert int(counts.sum()) == 20_000  # of the values that were named, and no others
    expected = 20_000 * mass / mass.sum()
    assert float(((counts - expected) ** 2 / expected).sum()) < 20.5  # once in a thousand
    mean = float((density.sum(0) * points[0, :, 1]).sum())
    assert float(drawn[:, 0, 1].mean()) == pytest.approx(mean, abs=5 * float(drawn[:, 0, 1].std()) / 20_000**0.5)


def test_shapes_are_those_of_sbi() -> None:
    made, (columns, conditions) = estimator(), data(ROWS)
    assert (made.input_shape, made.condition_shape) == ((3,), (2,))
    assert made.loss(columns, conditions).shape == (ROWS,)
    assert made.log_prob(columns, conditions).shape == (1, ROWS)
    assert made.sample((), conditions).shape == (ROWS, 3)
    assert made.sample((4, 5), conditions).shape == (4, 5, ROWS, 3)
    many = columns.expand(7, ROWS, 3)
    expected = -made.loss(columns, conditions).expand(7, ROWS)
    torch.testing.assert_close(made.log_prob(many, conditions), expected)
    torch.testing.assert_close(made.log_prob(many, conditions.expand(7, ROWS, 2)), expected)
    torch.testing.assert_close(made.log_prob(many[:, :1], conditions)[:, 0], expected[:, 0])


def test_each_condition_has_its_own_samples() -> None:
    """``sample_batched`` draws them all in one call."""
    made, conditions = estimator(), data(3)[1]
    torch.manual_seed(3)
    together = made.sample((5000,), conditions)
    alone = [made.sample((5000,), each[None])[:, 0] for each in conditions]
    for row in range(3):
        error = together[:, row].std(0) * (2 / 5000) ** 0.5
        assert ((together[:, row].mean(0) - alone[row].mean(0)).abs() < 5 * error).all()


def test_samples_follow_the_seed_of_torch() -> None:
    made, condition = estimator(), data(1)[1]
    draws = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        draws.append(made.sample((20,), condition))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_values_that_were_not_named() -> None:
    made, (columns, conditions) = estimator(), data(ROWS)
    columns[1, 0], columns[2, 2], columns[3, 0] = 0.5, 0.0, math.nan
    found = made.log_prob(columns, conditions)[0]
    assert found.isinf().tolist() == [False, True, True, True, False, False]
    with pytest.raises(ValueError, match=r"theta\[:, 0\] must be one of the values of discrete\[0\], .*got 0.5"):
        made.loss(columns, conditions)
    with pytest.raises(ValueError, match=r"x\[:, 0\] must be one of .*got 2"):
        likelihood_made({0: 2})(data()[1], data()[0])


@pytest.mark.parametrize(
    ("discrete", "message"),
    [
        ([0, 2], "discrete must be a mapping"),
        ({0: 1}, r"discrete\[0\] must be"),
        ({0: "ab"}, r"discrete\[0\] must be a number of values"),
        ({0: [1.0, 1.0]}, r"discrete\[0\] must be two or more different"),
        ({0: [0.0, math.inf]}, r"discrete\[0\] must be two or more different finite"),
        ({0: [16777216, 16777217]}, r"discrete\[0\] must be two or more different finite values, as float32 has them"),
        ({-1: 2}, "discrete"),
        ({3: 2}, r"discrete must name columns of 3, 0 to 2, got \[3\]"),
    ],
)
def test_refusals(discrete: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        posterior_made(discrete)(*data())


def test_an_option_is_refused_by_its_own_name() -> None:
    with pytest.raises(ValueError, match="z_score_x must be one of independent"):
        posterior_made({}, z_score_x="all")
    with pytest.raises(ValueError, match="z_score_theta must be one of independent"):
        likelihood_made({}, z_score_theta="all")


def test_columns_without_a_number_are_refused() -> None:
    columns, conditions = data()
    columns[3, 1] = math.nan
    with pytest.raises(ValueError, match="theta must be finite, got nan in row 3, column 1"):
        posterior_made(VALUES)(columns, conditions)
    with pytest.raises(ValueError, match="x must be finite, got nan in row 3, column 1"):
        likelihood_made(VALUES)(conditions, columns)


def test_conditions_that_do_not_fit_are_refused() -> None:
    columns, conditions = data()
    with pytest.raises(ValueError, match=f"x must have as many rows as theta, {len(columns)}, got 10"):
        posterior_made(VALUES)(columns, conditions[:10])
    conditions[4, 0] = math.inf
    with pytest.raises(ValueError, match="x must be finite to be standardised, got nan or inf in row 4"):
        posterior_made(VALUES)(columns, conditions)
    posterior_made(VALUES, z_score_x="none")(columns, conditions)  # an embedding may have a use for them


def test_an_embedding_of_pictures() -> None:
    columns = data()[0]
    pictures = torch.randn(len(columns), 1, 4, 4)
    embedding = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten())
    made = posterior_made({0: 3, 2: VALUES[2]}, embedding_net=embedding, z_score_x="structured")(columns, pictures)
    made.loss(columns, pictures).mean().backward()
    assert embedding[0].weight.grad.abs().sum() > 0
    assert made.sample((3,), pictures[:2]).shape == (3, 2, 3)
    with pytest.raises(ValueError, match=r"embedding_net must give \(B, C\)"):
        posterior_made({0: 3}, embedding_net=nn.Conv2d(1, 2, 3))(columns, pictures)


def test_copies_and_pickles_draw_the_same() -> None:
    made, condition = estimator(), data(1)[1]
    draws = []
    for each in (made, copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        torch.manual_seed(2)
        draws.append(each.sample((10,), condition))
    assert torch.equal(draws[0], draws[1])
    assert torch.equal(draws[0], draws[2])
    with pytest.raises(ValueError, match="it is a MADE of ours, which the engine draws already"):
        made_fast.accelerate(made)


class Prior(torch.distributions.Distribution):
    """A category of three, a standard normal number, a sign; without a support, as sbi allows."""

    shares = torch.tensor([0.5, 0.3, 0.2])

    def __init__(self) -> None:
        super().__init__(event_shape=torch.Size([3]), validate_args=False)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        category = torch.multinomial(self.shares, torch.Size(sample_shape).numel(), replacement=True)
        sign = 2.0 * torch.randint(2, sample_shape) - 1
        return torch.stack([category.reshape(sample_shape).float(), torch.randn(sample_shape), sign], -1)

    def log_prob(self, value: Tensor) -> Tensor:
        category, number, _ = value.unbind(-1)
        normal = -number.square() / 2 - math.log(2 * math.pi) / 2
        return self.shares.log()[category.long()] + normal - math.log(2)


DIRECTIONS, STEP, NOISE = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, -1.0]]), torch.tensor([0.5, 0.5]), 0.4


def centre(theta: Tensor) -> Tensor:
    """What is observed without noise (..., 2)."""
    return DIRECTIONS[theta[..., 0].long()] * theta[..., 1:2] + theta[..., 2:] * STEP


def evidence(x: Tensor) -> Tensor:
    """log p(category, sign, x), (6, B): the number integrates out."""
    found = []
    for category, sign in itertools.product(range(3), (-1.0, 1.0)):
        direction = DIRECTIONS[category]
        spread = direction[:, None] * direction + NOISE**2 * torch.eye(2)
        law = torch.distributions.MultivariateNormal(sign * STEP, spread)
        found.append(law.log_prob(x) + Prior.shares[category].log() - math.log(2))
    return torch.stack(found)


def trained(build: Any, method: str, count: int, epochs: int) -> tuple[Any, Any, Tensor, Tensor]:
    """An inference of sbi, its estimator, and fresh parameters and observations."""
    import sbi.inference

    torch.manual_seed(0)
    prior = Prior()
    theta, fresh = prior.sample((count,)), prior.sample((5000,))
    x, seen = (centre(each) + NOISE * torch.randn(len(each), 2) for each in (theta, fresh))
    inference = getattr(sbi.inference, method)(prior, density_estimator=build, show_progress_bars=False)
    made = inference.append_simulations(theta, x).train(max_num_epochs=epochs, learning_rate=2e-3)
    return inference, made, fresh, seen


@pytest.mark.slow
def test_the_posterior_is_the_enumerated_one() -> None:
    build = posterior_made({0: 3, 2: [-1, 1]}, hidden_features=(64, 64))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        inference, made, theta, x = trained(build, "NPE", 8000, 60)
        posterior = inference.build_posterior()
    likelihood = torch.distributions.Normal(centre(theta), NOISE).log_prob(x).sum(-1)
    exact = Prior().log_prob(theta) + likelihood - evidence(x).logsumexp(0)
    with torch.no_grad():
        divergence = float((exact - made.log_prob(theta[None], x)[0]).mean())
    assert -0.02 < divergence < 0.12
    observed = x[:3]
    shares = evidence(observed).softmax(0)
    drawn = posterior.sample_batched((4000,), x=observed, show_progress_bars=False)
    assert drawn.shape == (4000, 3, 3)
    for number, (category, sign) in enumerate(itertools.product(range(3), (-1.0, 1.0))):
        found = ((drawn[..., 0] == category) & (drawn[..., 2] == sign)).float().mean(0)
        assert ((found - shares[number]).abs() < 0.12).all()
    again = pickle.loads(pickle.dumps(posterior))
    assert again.sample((5,), x=observed[:1], show_progress_bars=False).shape == (5, 3)


@pytest.mark.slow
def test_likelihoods_of_mixed_observations() -> None:
    """The roles changed: columns are observed, given the two numbers that were."""
    columns, conditions = data()
    import sbi.inference

    prior = torch.distributions.MultivariateNormal(torch.zeros(2), 1e5 * torch.eye(2))
    build = likelihood_made({0: 3, 2: VALUES[2]}, hidden_features=(8,))
    inference = sbi.inference.NLE(prior, density_estimator=build, show_progress_bars=False)
    made = inference.append_simulations(conditions, columns).train(max_num_epochs=3)
    assert made.log_prob(columns[:, None], conditions[:1]).shape == (len(columns), 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        posterior = inference.build_posterior()
    potential = posterior.potential_fn
    potential.set_x(columns[:4])
    found = potential(conditions[:2])
    with torch.no_grad():
        expected = made.log_prob(columns[:4, None].expand(4, 2, 3), conditions[:2]).sum(0) + prior.log_prob(
            conditions[:2]
        )
    torch.testing.assert_close(found, expected)

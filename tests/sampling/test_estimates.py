"""Numbers that come from samples: known values, intervals that cover as often as they say, and what is nan."""

import math

import pytest
import torch

from made_fast.sampling.estimates import log_mean_exp, mean_of, mean_of_weights


def test_a_mean_and_its_error() -> None:
    found = mean_of(torch.tensor([[1, 2, 3, 6], [5, 5, 5, 5]]))
    assert found.value.tolist() == [3, 5]
    assert found.standard_error[0].item() == pytest.approx(math.sqrt(14 / 3) / 2)
    assert found.standard_error[1] == 0
    assert found.value.dtype == found.standard_error.dtype == torch.float64


def test_one_sample_has_no_error() -> None:
    for found in (mean_of(torch.ones(3, 1)), mean_of_weights(torch.zeros(3, 1)), log_mean_exp(torch.zeros(3, 1))):
        assert found.value.isfinite().all()
        assert found.standard_error.isnan().all()
        assert found.value.shape == found.standard_error.shape == (3,)


def test_sums_are_made_in_fp64() -> None:
    values = torch.full((2**20,), 0.1)
    found = mean_of(values)
    assert found.value.item() == pytest.approx(float(values[0]), rel=1e-12)


def test_weights_by_their_logs() -> None:
    weights = torch.tensor([0.5, 0.25, 0.0, 1.0], dtype=torch.float64)
    found, log = mean_of_weights(weights.log()), log_mean_exp(weights.log())
    torch.testing.assert_close(found.value, weights.mean())
    torch.testing.assert_close(log.value, weights.mean().log())
    torch.testing.assert_close(log.standard_error, found.standard_error / found.value)


@pytest.mark.parametrize("shift", [-1e5, -800.0, 800.0, 1e5])
def test_logs_of_weights_beyond_the_range_of_numbers(shift: float) -> None:
    log_weight = torch.tensor([0.0, -1.0, 0.5], dtype=torch.float64)
    found, plain = log_mean_exp(log_weight + shift), log_mean_exp(log_weight)
    torch.testing.assert_close(found.value, plain.value + shift)
    torch.testing.assert_close(found.standard_error, plain.standard_error, rtol=1e-9, atol=0)


def test_weights_that_are_all_zero() -> None:
    nothing = torch.full((2, 4), -torch.inf)
    assert mean_of_weights(nothing).value.tolist() == [0, 0]
    found = log_mean_exp(nothing)
    assert (found.value == -torch.inf).all()
    assert found.standard_error.isnan().all()


@pytest.mark.parametrize("level", [0.5, 0.9, 0.99])
def test_intervals_cover_as_often_as_they_say(level: float) -> None:
    """4,000 estimates of 400 draws each; within 5 standard errors of the share."""
    generator = torch.Generator().manual_seed(1)
    draws = torch.randn(4000, 400, generator=generator, dtype=torch.float64)
    error = math.sqrt(level * (1 - level) / 4000)
    for found, truth in (
        (mean_of(draws), 0.0),
        (mean_of_weights(0.3 * draws), math.exp(0.045)),
        (log_mean_exp(0.3 * draws), 0.045),
    ):
        low, high = found.interval(level)
        share = ((low <= truth) & (truth <= high)).double().mean().item()
        assert abs(share - level) < 5 * error + 0.01, share  # the last two are skewed a little

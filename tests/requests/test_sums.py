"""What is asked of sums: which totals can be, in which words all else is refused, and what goes with what."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from made_fast import MADE, Between, SumTo, outputs
from made_fast.requests.checks import conditions_of
from made_fast.requests.sums import Totals
from made_fast.sampling.draws import WeightedSamples

BITS = MADE(5, (8,))
SPINS = MADE(16, (8,), output="spin")
LEVELS = MADE(4, (8,), output=outputs.Categorical(5))
GIVEN, OBSERVED = torch.tensor([1.0, 0, 0, 0, 1]), torch.tensor([True, False, False, False, True])


@pytest.mark.parametrize(
    "columns",
    [
        [(0, 1)] * 5,
        [(-1, 1)] * 4,
        [(0, 1, 2)] * 3,
        [(-1, 1), (0, 1), (-1, 1)],
        [(0, 4), (0, 4, 8)],
        [(5,), (-7, 3, 4)],
        [],
    ],
)
def test_totals_are_those_of_all_states(columns: list[tuple[int, ...]]) -> None:
    found = Totals()
    for values in columns:
        found = found.plus(values)
    expected = {sum(state) for state in itertools.product(*columns)}
    every = np.arange(-30, 31)
    assert found.has(every).tolist() == [total in expected for total in every.tolist()]
    assert found.packed() == found.bits.to_bytes(len(found.packed()), "little")


@pytest.mark.parametrize("total", [2, np.int64(2), np.uint8(2), torch.tensor(2), torch.tensor([2])])
def test_totals_of_any_whole_number(total: Any) -> None:
    assert torch.equal(BITS.sample(9, seed=0, allowed=SumTo(total)).x, BITS.sample(9, seed=0, allowed=SumTo(2)).x)


@pytest.mark.parametrize("total", [2.0, 2.5, np.float64(2), True, "2", None, [2], torch.tensor(2.0)])
def test_other_totals_are_refused(total: Any) -> None:
    for query, name in ((SumTo(total), r"allowed"), ({(0, 1): SumTo(total)}, r"allowed\[\(0, 1\)\]")):
        with pytest.raises(ValueError, match=rf"^{name}\.total must be an integer, got "):
            BITS.sample(3, allowed=query)


@pytest.mark.parametrize(
    ("model", "options", "says"),
    [
        (BITS, {"allowed": SumTo(6)}, r"^allowed\.total must .*, one of 0, 1, 2, 3, 4, 5, got 6: nothing can be drawn"),
        (BITS, {"allowed": SumTo(10**40)}, "one of 0, 1, 2, 3, 4, 5, got 1000"),
        (
            SPINS,
            {"allowed": SumTo(1)},
            r"one of -16, -14, -12, \.\.\., 16, got 1: nothing can be drawn, and the probability is 0",
        ),
        (SPINS, {"allowed": {(0, 5): SumTo(-3)}}, r"^allowed\[\(0, 5\)\]\.total must .*one of -2, 0, 2, got -3"),
        (
            SPINS,
            {"allowed": [SumTo(0), {range(3): SumTo(0)}]},
            r"^allowed\[range\(0, 3\)\]\.total of query 1 must .*one of -3, -1, 1, 3",
        ),
        (LEVELS, {"allowed": {(0, 1): SumTo(7), 0: {0, 4}, 1: {0, 4}}}, "one of 0, 4, 8, got 7"),
        (BITS, {"allowed": SumTo(1), "given": GIVEN, "observed": OBSERVED}, "one of 2, 3, 4, 5, got 1"),
        (BITS, {"allowed": SumTo(3), "given": GIVEN, "observed": OBSERVED | True}, "one of 2, got 3"),
    ],
)
def test_a_total_that_cannot_be_is_refused_with_those_that_can(model: MADE, options: dict[str, Any], says: str) -> None:
    for draw in (model.sample, model.sample_and_log_prob):
        with pytest.raises(ValueError, match=says):
            draw(3, **options)
    found = model.estimate_probability(options.pop("allowed"), 20, seed=0, **options).value
    assert found.min() == 0


def test_other_queries_are_not_disturbed_by_one_that_cannot_be() -> None:
    found = BITS.estimate_probability([SumTo(2), SumTo(9), {0: {1}}, {0: set(), (1, 2): SumTo(1)}], 200, seed=0).value
    alone = BITS.estimate_probability([SumTo(2), SumTo(3), {0: {1}}, SumTo(0)], 200, seed=0).value
    assert found[[1, 3]].tolist() == [0, 0] and torch.equal(found[[0, 2]], alone[[0, 2]])
    with pytest.raises(ValueError, match=r"^allowed\.total of query 1 must"):
        BITS.sample(2, allowed=[SumTo(2), SumTo(9), {0: set()}])
    with pytest.raises(ValueError, match=r"^allowed must leave variable 0 a value .* that of query 1 leaves none"):
        BITS.sample(2, allowed=[SumTo(2), {0: set()}, SumTo(9)])
    marginal = BITS.log_marginal(GIVEN, OBSERVED, 50, allowed=[SumTo(1), SumTo(3)], seed=0).value
    assert marginal[0] == -torch.inf < marginal[1]


@pytest.mark.parametrize(
    ("model", "query", "says"),
    [
        (SPINS, {(0, 16): SumTo(0)}, r"^a variable of allowed must be an integer, 0 to 15, got 16"),
        (SPINS, {("a",): SumTo(0)}, r"^a variable of allowed must be an integer, 0 to 15, got 'a'"),
        (SPINS, {"a": SumTo(0)}, r"^a variable of allowed must be an integer, 0 to 15, got 'a'"),
        (SPINS, {(): SumTo(0)}, r"^allowed\[\(\)\] must name variables"),
        (SPINS, {(0, 1): {0}}, r"^allowed\[\(0, 1\)\] must be a SumTo, got \{0\}"),
        (
            SPINS,
            {(0, 1): SumTo(0), (1, 2): SumTo(0)},
            "each variable in one SumTo at most, and once, got variable 1 twice",
        ),
        (SPINS, {(3, 3): SumTo(0)}, "got variable 3 twice"),
        (SPINS, {(number,): SumTo(1) for number in range(9)}, "^allowed must have 8 SumTo at most, got 9"),
        (SPINS, SumTo, "^allowed must be a mapping from variables, a SumTo, or a sequence of such"),
        (MADE(2, (), output="normal"), SumTo(0), "whole numbers, and variable 0 is any real number"),
        (MADE(2, (), output=outputs.Mixed(["spin", "normal"])), {(0, 1): SumTo(0)}, "variable 1 is any real number"),
        (MADE(3, (), output=outputs.Own(outputs.NormalConditional())), SumTo(0), "variable 0 is any real number"),
    ],
)
def test_what_is_no_sum_is_refused(model: MADE, query: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        model.sample(3, allowed=query)


@pytest.mark.parametrize("option", [{"temperature": 0.5}, {"greedy": True}, {"top_k": 2}, {"top_p": 0.5}])
def test_decoding_does_not_go_with_sums(option: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be left out with allowed: its mass would mean nothing"):
        LEVELS.sample(3, allowed=SumTo(2), **option)


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_few_rows_and_none(backend: str) -> None:
    options: dict[str, Any] = {"seed": 0, "backend": backend}
    assert SPINS.sample(0, allowed=SumTo(0), **options).x.shape == (0, 16)
    assert SPINS.sample(3, allowed=[], **options).x.shape == (0, 3, 16)
    none = {"given": torch.zeros(0, 5), "observed": torch.zeros(0, 5, dtype=torch.bool)}
    assert BITS.sample(3, allowed=SumTo(2), **none, **options).x.shape == (0, 3, 5)
    assert SPINS.sample(1, allowed=SumTo(0), **options).x.sum() == 0
    one = MADE(1, ())
    drawn = one.sample(4, allowed=SumTo(1), **options)
    assert isinstance(drawn, WeightedSamples) and (drawn.x == 1).all()
    torch.testing.assert_close(drawn.log_weight, one.log_prob(torch.ones(4, 1)).detach())
    every = BITS.sample(2, allowed=SumTo(2), given=GIVEN, observed=OBSERVED | True, **options)
    assert torch.equal(every.x, GIVEN.expand(2, 5))
    torch.testing.assert_close(every.log_weight, BITS.log_prob(GIVEN.expand(2, 5)).detach())


def test_variables_by_any_key() -> None:
    expected = SPINS.sample(50, seed=0, allowed={(0, 1, 2): SumTo(1), 5: {1}}).x
    for query in (
        {range(3): SumTo(1), 5: SumTo(1)},
        {frozenset({0, 1, 2}): SumTo(1), (5,): SumTo(1)},
        {(np.int64(2), 0, torch.tensor(1)): SumTo(1), np.int64(5): Between(low=0)},
    ):
        assert torch.equal(SPINS.sample(50, seed=0, allowed=query).x, expected)
    assert SPINS.sample(9, seed=0, allowed=SumTo(0), dtype=torch.int8).x.sum(1).tolist() == [0] * 9


def test_distributions_of_ones_own_have_sums_by_their_definition() -> None:
    class Dice(outputs.CategoricalConditional):
        """Numbers 1, 2 and 6."""

        code = outputs.Code.OWN
        encoding = outputs.Encoding.NUMBER  # type: ignore[assignment]
        units = 1  # type: ignore[assignment]

        def values(self) -> torch.Tensor:
            return torch.tensor([1.0, 2.0, 6.0], dtype=torch.float64)

        def draw(self, params: torch.Tensor, uniforms: torch.Tensor, decoding: Any = outputs.PLAIN) -> torch.Tensor:
            return self.values().to(params)[super().draw(params, uniforms, decoding).long()]

        def draw_within(self, params: Any, uniforms: Any, allowed: Any) -> tuple[torch.Tensor, torch.Tensor]:
            chosen, log_mass = super().draw_within(params, uniforms, allowed)
            return self.values().to(params)[chosen.long()], log_mass

    model = MADE(4, (8,), output=outputs.Own(Dice(3)))
    drawn = model.sample(300, seed=0, allowed=SumTo(10), backend="reference").x
    assert (drawn.sum(1) == 10).all() and {*drawn.unique().tolist()} == {1.0, 2.0, 6.0}
    with pytest.raises(ValueError, match=r"one of 4, 5, 6, \.\.\., 24, got 7|got 3"):
        model.sample(3, allowed=SumTo(3))


def test_many_patterns_and_huge_sums() -> None:
    generator = torch.Generator().manual_seed(0)
    given = torch.bernoulli(torch.full((300, 5), 0.5), generator=generator)
    observed = torch.rand(300, 5, generator=generator) < 0.4
    drawn = BITS.sample(2, given=given, observed=observed, allowed=[SumTo(int(row.sum())) for row in given], seed=0)
    assert torch.equal(drawn.x.sum(2), given.sum(1, keepdim=True).expand(300, 2))

    class Far(outputs.BernoulliConditional):
        """0 or 2**30."""

        def values(self) -> torch.Tensor:
            return torch.tensor([0.0, 2.0**30], dtype=torch.float64)

    with pytest.raises(ValueError, match="allowed must have sums of fewer totals, got 10737418241"):
        conditions_of((Far(),) * 10, None, None, SumTo(3), None)

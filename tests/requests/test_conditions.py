"""What is given and allowed, in the form of backends: flags, bounds, and which variables are drawn from them."""

import torch

from made_fast.outputs.binary import SpinConditional
from made_fast.outputs.categorical import CategoricalConditional
from made_fast.outputs.normal import NormalConditional
from made_fast.requests.checks import conditions_of
from made_fast.requests.conditions import Between

CONDITIONALS = [SpinConditional(), CategoricalConditional(5), NormalConditional()]  # flags of 2 and 5 values, bounds


def test_ends_of_a_range_are_allowed() -> None:
    queries = [
        {1: Between(1, 3)},
        {1: Between(high=2)},
        {1: Between(low=4)},
        {1: range(1, 4)},
        {0: {-1}, 1: {0, 4}},
        {},
    ]
    found, _, count = conditions_of(CONDITIONALS, None, None, queries, None)
    assert count == len(queries)
    assert found is not None and found.support is not None and found.bounds is not None
    assert found.support[:, 2:].tolist() == [
        [0, 1, 1, 1, 0],
        [1, 1, 1, 0, 0],
        [0, 0, 0, 0, 1],
        [0, 1, 1, 1, 0],
        [1, 0, 0, 0, 1],
        [1, 1, 1, 1, 1],
    ]
    assert found.support[:, :2].tolist() == [[1, 1]] * 4 + [[1, 0], [1, 1]]
    assert found.constrained.tolist() == [1, 1, 1]  # what one query draws must not depend on what others restrict


def test_bounds_of_real_variables() -> None:
    queries = [{2: Between(-1.5, 2)}, {2: Between(low=0)}, {2: Between()}]
    found, _, _ = conditions_of(CONDITIONALS, None, None, queries, None)
    assert found is not None and found.bounds is not None
    inf = torch.inf
    assert found.bounds[:, 2].tolist() == [[-1.5, 2.0], [0.0, inf], [-inf, inf]]


def test_what_is_given_serves_all_rows_or_one_each() -> None:
    given, observed = torch.tensor([1.0, 3.0, 0.25]), torch.tensor([True, False, True])
    found, _, count = conditions_of(CONDITIONALS, given, observed, None, None)
    assert found is not None and found.given is not None and found.observed is not None
    assert count is None
    assert found.observed.tolist() == [[1, 0, 1]]
    assert found.given[found.observed.bool()].tolist() == [1.0, 0.25]
    found, _, count = conditions_of(CONDITIONALS, given.expand(4, 3), observed, None, 4)
    assert count == 4
    assert found is not None and found.given is not None and found.given.shape == (4, 3)
    assert conditions_of(CONDITIONALS, None, None, None, 7) == (None, None, 7)

"""What is given and allowed, in the form of backends: flags, bounds, and which variables are drawn from them."""

import numpy as np
import pytest
import torch

from made_fast import MADE, outputs
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


MODEL = MADE(2, (8,), output=outputs.Categorical(5))
NOTHING: dict[str, object] = {
    "above": Between(7, 9),
    "below": Between(high=-1),
    "turned round": Between(3, 1),
    "between two categories": Between(1.2, 1.8),
    "set outside": {5, 6, 2.5},
    "empty set": set(),
    "empty list": [],
    "empty range": range(3, 3),
    "range outside": range(5, 10**9),
    "range of halves of it": range(-7, 10**30, 10**29),
    "array outside": np.array([7, 8]),
}
SOMETHING: dict[str, tuple[object, set[int]]] = {
    "range partly inside": (range(3, 9), {3, 4}),
    "set partly inside": ({4, 5}, {4}),
    "long range": (range(10**9), {0, 1, 2, 3, 4}),
    "longer than int64": (range(1, 10**40, 2), {1, 3}),
    "downwards": (range(10**12, 1, -2), {2, 4}),
    "Between partly inside": (Between(3, 10**30), {3, 4}),
    "ends of numpy": (Between(np.int64(1), np.float32(2)), {1, 2}),
    "infinite ends": (Between(-np.inf, 1), {0, 1}),
    "array": (np.array([1, 2, 9]), {1, 2}),
    "array of bytes": (np.array([1, 2, 9], dtype=np.uint8), {1, 2}),
    "tensor": (torch.tensor([1.0, 2.0, -4.0]), {1, 2}),
    "one number": (3, {3}),
    "flags": ({True, False}, {0, 1}),
    "tuple": ((1, 1, 2), {1, 2}),
    "frozen set": (frozenset({1}), {1}),
    "keys": ({1: "a"}.keys(), {1}),
}
NO_QUERY: dict[str, object] = {
    "text": "01",
    "bytes": b"\x01",
    "nothing": None,
    "mapping": {1: 2},
    "iterator": iter([1]),
    "generator": (number for number in (1, 2)),
    "text in a set": {"1"},
    "nan in a set": {float("nan")},
    "nan as an end": Between(float("nan"), 1),
    "text as an end": Between("1", 2),  # type: ignore[arg-type]
    "flag as an end": Between(True, 2),
    "complex": {1j},
    "sparse": torch.tensor([1.0]).to_sparse(),
    "meta": torch.zeros(2, device="meta"),
    "array of text": np.array(["1"]),
}


def test_impossible_queries_have_probability_0() -> None:
    expected = MODEL.estimate_probability({0: {1}}, 200, seed=0)
    for kind, wanted in NOTHING.items():
        found = MODEL.estimate_probability({0: wanted}, 20, seed=0)  # type: ignore[dict-item]
        assert (found.value, found.standard_error) == (0, 0), kind
        several = MODEL.estimate_probability([{0: {1}}, {0: wanted}, {1: wanted, 0: {1}}], 200, seed=0)  # type: ignore[dict-item]
        assert several.value[1:].tolist() == [0, 0], kind
        torch.testing.assert_close(several.value[0], expected.value)
        for draw in (MODEL.sample, MODEL.sample_and_log_prob):
            with pytest.raises(ValueError, match=r"^allowed must leave variable 0 a value .*, but that leaves none"):
                draw(3, allowed={0: wanted})
            with pytest.raises(ValueError, match=r"^allowed must leave variable 1 .* of query 1 leaves none"):
                draw(3, allowed=[{0: {1}}, {1: wanted}])


def test_values_outside_are_left_out() -> None:
    for kind, (wanted, values) in SOMETHING.items():
        same = {"allowed": {0: {1}, 1: wanted}, "seed": 0, "num_samples": 50}
        drawn = MODEL.sample(**same)
        expected = MODEL.sample(**{**same, "allowed": {0: {1}, 1: values}})
        assert torch.equal(drawn.x, expected.x) and torch.equal(drawn.log_weight, expected.log_weight), kind
        assert {*drawn.x[:, 1].tolist()} <= values, kind


def test_what_is_no_query_is_refused() -> None:
    for kind, wanted in NO_QUERY.items():
        with pytest.raises(ValueError, match=r"^allowed\[1\](\.low)? must .*, got ") as error:
            MODEL.sample(3, allowed={1: wanted})  # type: ignore[dict-item]
        assert "\n" not in str(error.value), kind
    for wrong in ("01", 5, [1], [{0: {1}}, None], b"0", {2: {1}}, {-1: {1}}, {"0": {1}}, {True: {1}}):
        with pytest.raises(ValueError, match=r"allowed must .*, got "):
            MODEL.sample(3, allowed=wrong)


def test_real_variables_and_spins() -> None:
    model = MADE(2, (8,), output=outputs.Mixed(["normal", "spin"]))
    for query in ({0: Between(1, -1)}, {0: Between(np.inf, np.inf), 1: {1}}, {1: {0, 2}}, {1: range(5, 10**9)}):
        found = model.estimate_probability([query, {}], 20, seed=0)
        assert found.value.tolist() == [0, 1], query
    assert model.estimate_probability({1: range(-5, 1)}, 20, seed=0).value > 0
    with pytest.raises(ValueError, match=r"^allowed\[0\] must be a Between for a real variable, got \{1\}"):
        model.estimate_probability({0: {1}}, 20)


def test_given_values_that_are_not_allowed_are_impossible() -> None:
    observed, given = torch.tensor([True, False]), torch.tensor([[1, 0], [2, 0]])
    found = MODEL.log_marginal(given, observed, 50, allowed={0: {1}, 1: {3, 4}}, seed=0)
    assert found.value[1] == -torch.inf and found.value[0] > -torch.inf
    shares = MODEL.estimate_probability({0: {1}}, 50, given=given, observed=observed, seed=0)
    assert shares.value[1] == 0 < shares.value[0]
    with pytest.raises(ValueError, match=r"^allowed must leave variable 0 .* of query 1"):
        MODEL.sample(5, given=given, observed=observed, allowed={0: {1}})


@pytest.mark.parametrize("num_masks", [1, 3])
def test_impossible_queries_with_contexts_and_masks(num_masks: int) -> None:
    model = MADE(2, (8,), output=outputs.Categorical(5), context_features=1, num_masks=num_masks)
    context = torch.tensor([[0.0], [1.0], [2.0]])
    expected = model.estimate_probability({0: {1}}, 30, context, seed=0).value
    found = model.estimate_probability([{0: {1}}, {1: {9}}, {0: {1}}], 30, context, seed=0).value
    assert found[1] == 0 and torch.equal(found[[0, 2]], expected[[0, 2]])
    assert model.estimate_probability({0: {7}}, 30, context, seed=0).value.tolist() == [0, 0, 0]

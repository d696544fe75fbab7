"""Whole numbers, seeds, flags and options: converted or refused by name; tables of kinds and of all that takes them."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from callers import CONTEXT, FLAGS, Plain, callers, cost_of
from torch import Tensor

from made_fast import MADE, MaskedLinear, accelerate, outputs, sample_rows
from made_fast.arguments import shown, tensor_of
from made_fast.compat import nflows, pytorch_made
from made_fast.estimation import entropy, enumerate_log_prob, free_energy
from made_fast.flows import MaskedAutoregressiveFlow
from made_fast.masks import make_order


@pytest.fixture
def made() -> dict[str, Any]:
    """What is called, by name."""
    return callers()


# Every function and argument that takes a whole number, here 3, 2 or 1 as it fits.
_LAYER: dict[str, Any] = {"mask": torch.ones(3, 3)}
OF_WHOLE_NUMBERS: dict[str, tuple[str, int, Callable[[dict[str, Any], Any], Any]]] = {
    "MADE features": ("features", 3, lambda m, v: MADE(v, (4,)).features),
    "MADE hidden_features": ("hidden_features", 3, lambda m, v: MADE(2, (v, 4)).hidden_features),
    "MADE context_features": ("context_features", 3, lambda m, v: MADE(2, (4,), context_features=v).context_features),
    "MADE seed": ("seed", 3, lambda m, v: MADE(4, (4,), seed=v, order="random").order),
    "MADE num_masks": ("num_masks", 3, lambda m, v: MADE(2, (4,), num_masks=v).num_masks),
    "make_order features": ("features", 3, lambda m, v: make_order("natural", v)),
    "make_order seed": ("seed", 3, lambda m, v: make_order("random", 5, seed=v)),
    "mask_index": ("mask_index", 2, lambda m, v: setattr(m["ensemble"], "mask_index", v)),
    "forward mask": ("mask", 2, lambda m, v: m["ensemble"](m["x"], m["x"], mask=v)),
    "log_prob masks": ("mask", 2, lambda m, v: m["ensemble"].log_prob(m["x"], m["x"], masks=v)),
    "log_prob masks, several": ("mask", 2, lambda m, v: m["ensemble"].log_prob(m["x"], m["x"], masks=[0, v])),
    "order_of": ("mask", 2, lambda m, v: m["ensemble"].order_of(v)),
    "program mask": ("mask", 2, lambda m, v: m["ensemble"].program(mask=v).order),
    "sample mask": ("mask", 2, lambda m, v: m["ensemble"].sample(2, m["x"], mask=v, seed=0)),
    "sampler sample mask": ("mask", 2, lambda m, v: m["ensemble sampler"].sample(2, m["x"], mask=v, seed=0)),
    "sample num_samples": ("num_samples", 3, lambda m, v: m["plain"].sample(v, seed=0)),
    "sample seed": ("seed", 3, lambda m, v: m["plain"].sample(3, seed=v)),
    "sample first_row": ("first_row", 3, lambda m, v: m["plain"].sample(3, seed=0, first_row=v)),
    "sample top_k": (
        "top_k",
        1,
        lambda m, v: MADE(2, (), output=outputs.Categorical(3)).sample(3, top_k=v, seed=0) * 0,
    ),
    "flow num_samples": ("num_samples", 3, lambda m, v: m["flow"].sample(v, m["x"], seed=0)),
    "flow seed": ("seed", 3, lambda m, v: m["flow"].sample(2, m["x"], seed=v)),
    "flow transforms": ("transforms", 3, lambda m, v: len(MaskedAutoregressiveFlow(2, v, (4,)).networks)),
    "flow features": ("features", 3, lambda m, v: MaskedAutoregressiveFlow(v, 1, (4,)).features),
    "flow of a seed": ("seed", 3, lambda m, v: MaskedAutoregressiveFlow(2, 1, (4,), seed=v).features),
    "accelerated num_samples": ("num_samples", 3, lambda m, v: m["accelerated"].sample(v, m["x"], seed=0)),
    "accelerate features": (
        "features",
        2,
        lambda m, v: accelerate(Plain(), features=v, context_features=2).features,
    ),
    "nflows num_samples": ("num_samples", 3, lambda m, v: m["nflows"].sample(v, m["x"], seed=0)),
    "nflows features": ("features", 3, lambda m, v: nflows.MADE(v, 4).features),
    "nflows hidden_features": ("hidden_features", 3, lambda m, v: nflows.MADE(2, v).hidden_features),
    "pytorch_made nin": ("nin", 3, lambda m, v: pytorch_made.MADE(v, [4], 3).nin),
    "pytorch_made hidden_sizes": ("hidden_sizes", 3, lambda m, v: pytorch_made.MADE(2, [v], 2).hidden_sizes),
    "allowed column": (
        "a variable of allowed",
        1,
        lambda m, v: m["plain"].estimate_probability({v: {1}}, 5, seed=0).value,
    ),
    "log_marginal num_samples": (
        "num_samples",
        3,
        lambda m, v: m["plain"].log_marginal(m["x"], FLAGS, v, seed=0).value,
    ),
    "Categorical sizes": ("sizes", 3, lambda m, v: outputs.Categorical(v).sizes),
    "Categorical sizes, several": ("sizes", 3, lambda m, v: outputs.Categorical([2, v]).sizes),
    "Categorical embedding": ("embedding", 3, lambda m, v: outputs.Categorical(4, v).embedding),
    "MixtureOfNormals": ("components", 3, lambda m, v: outputs.MixtureOfNormals(v).conditional.components),
    "MixtureOfLogistics": ("levels", 3, lambda m, v: outputs.MixtureOfLogistics(2, v).conditional.size),
    "sample_rows rank": ("rank", 1, lambda m, v: sample_rows(v, 2, 10)),
    "sample_rows n": ("n", 3, lambda m, v: sample_rows(0, 2, v)),
    "entropy num_samples": ("num_samples", 3, lambda m, v: entropy(m["plain"], v, seed=0).value),
    "enumerate max_states": ("max_states", 8, lambda m, v: enumerate_log_prob(MADE(3, ()), max_states=v)[0]),
    "MaskedLinear in_features": ("in_features", 3, lambda m, v: MaskedLinear(v, 3, **_LAYER).in_features),
}
ALSO_NOTHING = {"seed", "mask"}  # which may be left out
WHOLE: dict[str, Callable[[int], Any]] = {
    "np.int64": np.int64,
    "np.uint8": np.uint8,
    "array of no dimension": np.array,
    "tensor": torch.tensor,
    "tensor of uint8": lambda number: torch.tensor(number, dtype=torch.uint8),
}
NO_WHOLE: dict[str, Any] = {
    "True": True,
    "np.True_": np.True_,
    "tensor of a flag": torch.tensor(True),
    "text": "3",
    "float": 3.0,
    "np.float64": np.float64(3),
    "tensor of a float": torch.tensor(3.0),
    "nan": math.nan,
    "complex": 3 + 0j,
    "nothing": None,
    "negative": -1,
    "meta": torch.tensor(3, device="meta"),
    "mapping": {3: 3},
    "bytes": b"3",
}


@pytest.mark.parametrize("function", OF_WHOLE_NUMBERS)
def test_whole_numbers_of_every_kind_are_taken(made: dict[str, Any], function: str) -> None:
    _, number, call = OF_WHOLE_NUMBERS[function]
    expected = call(made, number)
    for kind, convert in WHOLE.items():
        if function == "allowed column" and "array" in kind:  # no key of a mapping
            continue
        found = call(made, convert(number))
        same = torch.equal(found, expected) if isinstance(found, Tensor) else found == expected
        assert same, kind
        assert not isinstance(found, np.generic), kind


@pytest.mark.parametrize("function", OF_WHOLE_NUMBERS)
def test_what_is_no_whole_number_is_refused(made: dict[str, Any], function: str) -> None:
    name, _, call = OF_WHOLE_NUMBERS[function]
    for kind, value in NO_WHOLE.items():
        left_out = value is None and (
            (name in ALSO_NOTHING and "several" not in function) or function == "accelerate features"
        )
        if left_out or (function == "allowed column" and value == {3: 3}):  # no key of a mapping
            continue
        with pytest.raises(ValueError, match=rf"{name} must .*, got"):
            assert call(made, value) is None, f"{kind} was taken"


def test_arrays_where_several_numbers_are_taken(made: dict[str, Any]) -> None:
    table = np.array([[0, 1], [2, 0], [1, 1]])
    assert outputs.Categorical(list(table.max(0) + 1)).sizes == (3, 2)
    for several in (np.array([3, 2]), torch.tensor([3, 2]), (np.int64(3), 2), range(3, 1, -1)):
        assert outputs.Categorical(several).sizes == (3, 2)
        assert MADE(2, several).hidden_features == (3, 2)
        assert pytorch_made.MADE(2, several, 2).hidden_sizes == [3, 2]
    for wrong in (np.array([[3]]), np.array([3.0]), np.array([True]), torch.tensor([[3]]), "3", {3}, np.array(["3"])):
        with pytest.raises(ValueError, match="sizes must"):
            outputs.Categorical(wrong)
    for masks in ([0, 2], np.array([0, 2]), torch.tensor([0, 2]), range(0, 3, 2)):
        for model in (made["ensemble"], MADE(2, **CONTEXT, num_masks=0)):
            found = model.log_prob(made["x"], made["x"], masks=masks)
            assert torch.equal(found, model.log_prob(made["x"], made["x"], masks=(0, 2)))
    assert torch.equal(MADE(3, (), order=np.array([2, 0, 1])).order, torch.tensor([2, 0, 1]))
    expected = made["plain"].sample(3, seed=0)
    for rows in (range(3), [0, 1, 2], np.arange(3), torch.arange(3, dtype=torch.int32), np.arange(3, dtype=np.uint8)):
        assert torch.equal(made["plain"].sample(3, seed=0, rows=rows), expected)
    for rows in ([True] * 3, [0.0, 1.0, 2.0], "012", torch.zeros(3, device="meta").long(), [[0, 1, 2]], range(10**12)):
        with pytest.raises(ValueError, match=r"^rows must "):
            made["plain"].sample(3, seed=0, rows=rows)


def test_no_two_seeds_are_the_same_one(made: dict[str, Any]) -> None:
    calls = (made["plain"].sample, made["flow"].sample, made["accelerated"].sample)
    for call in calls:
        x = (16,) if call is calls[0] else (16, made["x"])
        drawn = [call(*x, seed=seed) for seed in (0, 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1)]
        assert all(not torch.equal(a, b) for k, a in enumerate(drawn) for b in drawn[:k])
        for seed in (-1, -(2**63), 2**64, 2**64 + 1, 10**40):
            with pytest.raises(ValueError, match=r"^seed must be an integer, 0 to 18446744073709551615"):
                call(*x, seed=seed)
    for make in (MADE, MaskedAutoregressiveFlow):
        make(3, hidden_features=(4,), seed=2**64 - 1, degrees="random")
        for seed in (-1, 2**64):
            with pytest.raises(ValueError, match=r"^seed must "):
                make(3, hidden_features=(4,), seed=seed)


@pytest.mark.parametrize("name", ["sed", "temprature", "top"])
def test_unknown_options_are_refused(made: dict[str, Any], name: str) -> None:
    for kind in ("model", "ensemble", "sampler", "accelerated", "nflows", "flow"):
        with pytest.raises((TypeError, ValueError), match=name):
            made[kind].sample(2, made["x"], **{name: 1})
    for function in (entropy, lambda model, count, **options: free_energy(model, cost_of, count, **options)):
        with pytest.raises(ValueError, match=name):
            function(made["plain"], 5, **{name: 1})
        with pytest.raises(ValueError, match="temperature"):  # whose estimate would be of another distribution
            function(made["plain"], 5, temperature=2.0)


def test_numbers_and_flags_of_decoding(made: dict[str, Any]) -> None:
    model = MADE(2, (), output=outputs.Categorical(4))
    expected = model.sample(5, seed=0, temperature=0.5, top_k=2, top_p=0.5)
    same = {"temperature": np.float32(0.5), "top_k": np.int64(2), "top_p": torch.tensor(0.5)}
    assert torch.equal(model.sample(5, seed=0, **same), expected)
    assert torch.equal(model.sample(5, seed=0, greedy=np.True_), model.sample(5, seed=0, greedy=True))
    several = (np.array([1.0, 2.0]), torch.tensor([1.0, 2.0]), "1", True, None, [1.0], math.nan)
    for name in ("temperature", "top_p"):
        for value in (*several, -1, math.inf):
            if value is not True or name == "temperature":
                with pytest.raises(ValueError, match=f"^{name} must "):
                    model.sample(5, **{name: value, "top_k": 1})
    for value in ("False", "", None, 2, np.array([True, False]), [True]):
        with pytest.raises(ValueError, match=r"^greedy must be True or False, got "):
            model.sample(5, greedy=value)


def test_messages_are_short() -> None:
    assert len(shown("x" * 10_000)) < 250 and shown(torch.zeros(5, 5)) == "Tensor torch.float32 (5, 5)"
    assert len(shown(list(range(10_000)))) < 250
    assert tensor_of("x", [[1, 2]]).dtype == torch.int64 and tensor_of("x", [0.1]).dtype == torch.float64

"""Noise is a function of (seed, row, step, draw): known answers, the layout of the counter, and every engine's uniforms."""

import random
from typing import Any

import pytest
import torch
from torch import Tensor

from made_fast import noise
from made_fast.programs.program import Affine, Program, Term, X

WORD = 2**32 - 1

# Random123, examples/kat_vectors, philox4x32 with 10 rounds: counter, key, result
KNOWN_ANSWERS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def _words(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


def _philox(counter: list[int], key: list[int]) -> list[int]:
    """Philox4x32-10 in Python's own integers, straight from the paper."""
    (a, b, c, d), (k, m) = counter, key
    for _ in range(10):
        first, second = a * 0xD2511F53, c * 0xCD9E8D57
        a, b, c, d = (second >> 32) ^ b ^ k, second & WORD, (first >> 32) ^ d ^ m, first & WORD
        k, m = (k + 0x9E3779B9) & WORD, (m + 0xBB67AE85) & WORD
    return [a, b, c, d]


def _uniform(seed: int, row: int, step: int, draw: int) -> float:
    """DESIGN's definition, word for word."""
    key = [seed & WORD, (seed >> 32) & WORD]
    word = _philox([step >> 2, draw, row & WORD, row >> 32], key)[step & 3]
    return (word >> 8) * 2**-24


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_known_answers(counter: str, key: str, expected: str) -> None:
    found = noise.philox(tuple(torch.tensor(word) for word in _words(counter)), tuple(_words(key)))
    assert [int(word) for word in found] == _words(expected)
    assert _philox(_words(counter), _words(key)) == _words(expected)


def test_uniforms_are_laid_out_as_designed() -> None:
    chance = random.Random(1)
    cases = [
        (0, 0, 0, 0),
        (2**64 - 1, 2**62 - 1, 2**31, 2**31),
        (-1, 2**32, 3, 1),
        (2**63, 2**32 - 1, 4, 0),
        (5, 7, 6, 2),
    ]
    cases += [
        (chance.getrandbits(64), chance.getrandbits(62), chance.getrandbits(20), chance.getrandbits(8))
        for _ in range(200)
    ]
    for seed, row, step, draw in cases:
        found = noise.uniform(seed, torch.tensor(row), step, draw)
        assert found.item() == _uniform(seed, row, step, draw), (seed, row, step, draw)


def test_uniforms_do_not_depend_on_the_shape_asked_for() -> None:
    rows, steps, draws = torch.arange(2**32 - 3, 2**32 + 3), torch.arange(10), torch.arange(3)
    found = noise.uniform(9, rows[:, None, None], steps[:, None], draws)
    assert found.shape == (6, 10, 3)
    assert found.dtype == torch.float32
    assert found[4, 7, 2].item() == _uniform(9, 2**32 + 1, 7, 2)
    assert torch.equal(found[2:4, :, 1], noise.uniform(9, rows[2:4, None], steps, 1))


def test_uniforms_are_multiples_of_two_to_the_minus_24_below_one() -> None:
    found = noise.uniform(3, torch.arange(4000)[:, None], torch.arange(16))
    assert found.min() >= 0
    assert found.max() < 1
    assert torch.equal(found * 2**24, (found * 2**24).round())
    assert len(found.unique()) > 0.99 * found.numel()
    in_each_sixteenth = torch.histc(found, bins=16, min=0, max=1)  # 4000 each, standard deviation 61
    assert (in_each_sixteenth - 4000).abs().max() < 5 * 61


@pytest.mark.parametrize(
    "changed", [{"seed": 1}, {"seed": 2**32}, {"row": 1}, {"row": 2**32}, {"step": 1}, {"step": 4}, {"draw": 1}]
)
def test_every_argument_counts(changed: dict[str, int]) -> None:
    def some(seed: int = 0, row: int = 0, step: int = 0, draw: int = 0) -> Tensor:
        return noise.uniform(seed, row + 1000 * torch.arange(50), step, draw)

    assert (some() != some(**changed)).all()


def test_only_the_lowest_64_bits_of_a_seed_count() -> None:
    rows = torch.arange(20)
    assert torch.equal(noise.uniform(7, rows, 0), noise.uniform(7 + 2**64, rows, 0))
    assert torch.equal(noise.uniform(-1, rows, 0), noise.uniform(2**64 - 1, rows, 0))


def _coins(probability: Tensor, order: Tensor) -> Program:
    """Independent coins: no weights, the logits are the biases."""
    features = len(order)
    weight = torch.zeros(features, features, dtype=probability.dtype)
    op = Affine((Term(X, weight, weight.bool()),), torch.logit(probability))
    return Program(features, 0, (op,), order, (1,) * features)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
@pytest.mark.parametrize(("seed", "first_row"), [(2**64 - 5, 2**32 - 60), (-3, 2**61 + 7)])
def test_every_engine_has_the_same_uniforms(engine: Any, dtype: torch.dtype, seed: int, first_row: int) -> None:
    features, rows = 37, 130
    order = torch.randperm(features)
    uniforms = noise.uniform(seed, first_row + torch.arange(rows)[:, None], torch.arange(features)).to(dtype)
    fair = torch.full((features,), 0.5, dtype=dtype)
    drawn, _ = engine.draw(_coins(fair, order), rows, seed=seed, first_row=first_row)
    assert torch.equal(drawn[:, order], (uniforms < 0.5).to(dtype))

    # Probabilities that split the uniforms of row 17 from those next to them: half a step of 2**-12 to either side.
    for side in (-1, 1):
        probability = (uniforms[17] + side * 2.0**-13).clamp(2.0**-10, 1 - 2.0**-10)  # by step
        by_variable = torch.empty_like(probability)
        by_variable[order] = probability
        drawn, _ = engine.draw(_coins(by_variable, order), rows, seed=seed, first_row=first_row)
        clear = (uniforms - probability).abs() > 1e-5
        assert clear.float().mean() > 0.99
        assert torch.equal(drawn[:, order][clear], (uniforms < probability).to(dtype)[clear])

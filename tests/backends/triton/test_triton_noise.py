"""The uniforms that kernels make are those of ``made_fast.noise``, bit for bit."""

import os
import random

import pytest
import torch
from quick import some
from torch import Tensor

from made_fast import noise

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
if not INTERPRETED and not torch.cuda.is_available():
    pytest.skip("needs a GPU or, set before the start, TRITON_INTERPRET=1", allow_module_level=True)

pytestmark = [pytest.mark.triton, pytest.mark.interpreter]
triton = pytest.importorskip("triton", reason="triton is not installed")
tl = pytest.importorskip("triton.language")
philox_words = pytest.importorskip("made_fast.backends.triton.noise").philox_words

BLOCK = 64
SEEDS = (0, 1, 16, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**40 + 12345, 2**63 - 1, 2**63, 2**64 - 5, 2**64 + 7)
NEGATIVE = (-1, -(2**31), -(2**31) - 1, -(2**63))


@triton.jit(do_not_specialize=["seed"])
def _words(seed: tl.int64, counters, words, uniforms, count, BLOCK: tl.constexpr):
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = place < count
    row = tl.load(counters + 3 * place, mask=inside, other=0)
    step = tl.load(counters + 3 * place + 1, mask=inside, other=0)
    draw = tl.load(counters + 3 * place + 2, mask=inside, other=0)
    a, b, c, d = philox_words(seed, step >> 2, draw, row)
    number = step & 3
    word = tl.where(number == 0, a, tl.where(number == 1, b, tl.where(number == 2, c, d)))
    tl.store(words + 4 * place, a.to(tl.int64), mask=inside)
    tl.store(words + 4 * place + 1, b.to(tl.int64), mask=inside)
    tl.store(words + 4 * place + 2, c.to(tl.int64), mask=inside)
    tl.store(words + 4 * place + 3, d.to(tl.int64), mask=inside)
    tl.store(uniforms + place, (word >> 8).to(tl.float32) * (1.0 / 16777216.0), mask=inside)


def _signed(seed: int) -> int:
    """The lowest 64 bits of a seed as the int64 that a kernel takes."""
    low = seed & 0xFFFFFFFFFFFFFFFF
    return low - 2**64 if low >= 2**63 else low


def _drawn(seed: int, counters: Tensor) -> tuple[Tensor, Tensor]:
    words = torch.full((len(counters), 4), -1, dtype=torch.int64, device=DEVICE)
    uniforms = torch.full((len(counters),), torch.nan, device=DEVICE)
    grid = (triton.cdiv(len(counters), BLOCK),)
    _words[grid](_signed(seed), counters.to(DEVICE), words, uniforms, len(counters), BLOCK=BLOCK)
    return words.cpu(), uniforms.cpu()


def _counters() -> Tensor:
    """(n, 3) rows, steps and draws: the borders of every word of the counter, and some from anywhere."""
    chance = random.Random(0)
    rows = (0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**32 + 1, 2**40 + 3, 2**63 - 1)
    border = [(row, step, draw) for row in rows for step in (0, 3, 4, 2**31 - 1) for draw in (0, 1, 255)]
    anywhere = [(chance.getrandbits(63), chance.getrandbits(31), chance.getrandbits(20)) for _ in range(100)]
    return torch.tensor(border + anywhere)


@pytest.mark.parametrize("seed", some(SEEDS + NEGATIVE, {1, 2**63, -(2**31) - 1}))
def test_words_and_uniforms_are_those_of_the_definition(seed: int) -> None:
    counters = _counters()
    row, step, draw = counters.T
    words, uniforms = _drawn(seed, counters)
    low = 0xFFFFFFFF
    expected = noise.philox((step >> 2, draw, row & low, row >> 32), (seed & low, (seed >> 32) & low))
    assert torch.equal(words, torch.stack(expected, dim=1))
    assert torch.equal(uniforms, noise.uniform(seed, row, step, draw))


def test_the_four_words_of_a_group_are_its_four_steps() -> None:
    steps = torch.arange(12)
    counters = torch.stack([torch.full_like(steps, 2**33 + 5), steps, torch.zeros_like(steps)], dim=1)
    words, uniforms = _drawn(9, counters)
    assert torch.equal(words[::4].flatten() >> 8, (uniforms * 2**24).long())
    assert len(uniforms.unique()) == 12

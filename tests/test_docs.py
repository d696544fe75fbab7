"""Pages of docs/ whose code is run as it stands."""

import linecache
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from made_fast import backends
from made_fast.testing import unexplained_differences

DOCS = Path(__file__).parents[1] / "docs"


def run_page(name: str) -> dict[str, Any]:
    """The names that the page's blocks of Python define, run one after the other."""
    blocks = re.findall(r"^```python\n(.*?)^```", (DOCS / name).read_text(), re.MULTILINE | re.DOTALL)
    assert blocks
    names: dict[str, Any] = {}
    for number, block in enumerate(blocks):
        label = f"{name}, block {number}"
        linecache.cache[label] = (len(block), None, block.splitlines(keepends=True), label)  # Triton reads its kernels
        exec(compile(block, label, "exec"), names)
    return names


def test_own_outputs() -> None:
    for tool in ("numba", "triton"):
        pytest.importorskip(tool)
    torch.manual_seed(0)
    names = run_page("own-outputs.md")
    model, fast, x = names["model"], names["fast"], names["x"]
    expected = model.sample(1000, seed=0)
    torch.testing.assert_close(x, expected, rtol=1e-4, atol=2e-4)
    torch.testing.assert_close(names["log_prob"], model.log_prob(x), rtol=1e-4, atol=1e-4)
    usable = {row.name for row in backends.table() if row.usable}
    for backend in sorted(usable & {"cpp", "numba"}):
        for each in (fast, names["anywhere"]):
            drawn = each.sample(1000, seed=0, backend=backend)
            torch.testing.assert_close(drawn, expected, rtol=1e-4, atol=2e-4)
    with pytest.raises(ValueError, match="native_draw"):
        model.sample(3, backend="numba")


@pytest.mark.skipif(not backends._TRITON_INTERPRETED, reason="needs TRITON_INTERPRET=1 (make test does that)")
def test_own_outputs_by_triton() -> None:
    torch.manual_seed(0)
    names = run_page("own-outputs.md")
    expected = names["model"].sample(100, seed=0, backend="reference")
    x, log_prob = names["anywhere"].sample_and_log_prob(100, seed=0, backend="triton")
    torch.testing.assert_close(x, expected, rtol=1e-4, atol=2e-4)
    torch.testing.assert_close(log_prob, names["model"].log_prob(x).detach(), rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="triton_draw"):
        names["fast"].sample(3, backend="triton")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_own_outputs_by_triton_on_a_gpu() -> None:
    pytest.importorskip("numba")
    torch.manual_seed(0)
    names = run_page("own-outputs.md")
    expected = names["model"].sample(1000, seed=0, backend="reference")
    x = names["anywhere"].cuda().sample(1000, seed=0, backend="triton").cpu()
    torch.testing.assert_close(x, expected, rtol=1e-4, atol=1e-3)


def test_outputs() -> None:
    names = run_page("outputs.md")
    table, x = names["table"], names["x"]
    assert x.shape == names["mode"].shape == names["share"].shape == (5, 6)
    assert not unexplained_differences(table, x, seed=0).any()
    assert ((names["share"] >= 0) & (names["share"] <= 1)).all()
    for model in (table, names["pixels"], names["words"], names["codes"]):
        drawn = model.sample(20, seed=1)
        model.output.check(drawn)
        assert model.log_prob(drawn).isfinite().all()
    grey = torch.arange(16.0).expand(5, -1)
    levels = torch.stack(
        [names["pixels"].output.log_prob(torch.zeros(16 * 15), level) for level in grey[:1].T.expand(16, 16)]
    )
    torch.testing.assert_close(levels.exp().sum(0), torch.ones(16))
    assert names["mean"].shape == (5, 16)
    assert ((names["mean"] >= 0) & (names["mean"] <= 15)).all()


def test_conditions() -> None:
    names = run_page("conditions.md")
    states, log_prob = names["states"], names["log_prob"].double()
    assert log_prob.logsumexp(0).abs() < 1e-5
    two = states[:, 5] == 2
    exact = log_prob[two].logsumexp(0)
    marginal = names["marginal"]
    assert (marginal.value - exact).abs() < 5 * marginal.standard_error
    share = log_prob[two & (states[:, 0] == 1)].logsumexp(0) - exact
    assert abs(float(names["share"]) - math.exp(share)) < 0.03
    assert 0 < names["effective"] < 20_000
    inside = (states[:, 0] != 1) & (states[:, 3] >= 1) & (states[:, 5] >= 1)
    answer = names["answer"]
    assert (answer.value - log_prob[inside].logsumexp(0).exp()).abs() < 5 * answer.standard_error
    assert names["low"] < answer.value < names["high"]
    model = names["model"]
    torch.testing.assert_close(names["nats"], model.log_prob(names["sharp"]).detach(), rtol=1e-4, atol=1e-4)
    assert names["nats"].mean() > log_prob.exp() @ log_prob  # sharper than the model
    assert names["best_nats"] > log_prob.median()


def test_physics() -> None:
    names = run_page("physics.md")
    exact, bound, corrected = names["exact"], names["bound"], names["corrected"]
    assert (corrected.value - exact).abs() < 5 * corrected.standard_error
    assert corrected.standard_error < 0.01
    gap = (bound.value - exact) - names["divergence"]
    assert gap.abs() < 5 * bound.standard_error
    assert 0 <= names["divergence"] < 0.05
    assert (names["estimate"] - names["magnetisation"]).abs() < 0.01


def test_tables() -> None:
    names = run_page("tables.md")
    table, mean, scale = names["table"], names["mean"], names["scale"]
    assert names["history"].best.valid_nll < 3.4
    assert names["rows"].shape == (4000, 4)
    for column in range(4):
        difference = names["rows"][:, column].mean() - table[:, column].mean()
        assert difference.abs() < 0.15 * table[:, column].std(), column
    wrong = (names["expected_rent"] - (table[3600:3700, 3] * scale + mean)).abs()
    assert wrong[1::2].mean() < 90 < wrong[::2].mean()  # where the number of rooms is known, 48 are noise
    observed = names["observed"]
    assert torch.equal(names["one_each"][observed], names["incomplete"][observed])
    assert names["one_each"].isfinite().all()
    assert abs(names["cardinality"] / 4000 / float(names["share"]) - 1) < 0.25
    assert names["least"] < names["cardinality"] < names["most"]

"""Every backend keeps the contract of ``backends/reference.py``: signatures, memory, pieces, errors of rounding, choice."""

import inspect
import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from made_fast import MADE, backends, build_config
from made_fast.backends import reference
from made_fast.outputs.conditional import Conditional
from made_fast.outputs.own import Own
from made_fast.testing import naive_sample

Build = Callable[..., MADE]
Context = Callable[..., Tensor | None]
USABLE = [backend for backend in backends.BACKENDS if backend.missing is None]
CPU = torch.device("cpu")


@pytest.fixture(params=USABLE, ids=[backend.name for backend in USABLE])
def module(request: pytest.FixtureRequest) -> Any:
    """The module of every usable backend."""
    return backends.load(request.param)


def test_functions_have_the_names_and_arguments_of_the_reference(module: Any) -> None:
    for name in ("pack", "draw"):
        expected = list(inspect.signature(getattr(reference, name)).parameters.values())
        found = list(inspect.signature(getattr(module, name)).parameters.values())
        for own, theirs in zip(found, expected, strict=False):
            assert (own.name, own.kind, own.default) == (theirs.name, theirs.kind, theirs.default)
        for extra in found[len(expected) :]:
            assert extra.kind is inspect.Parameter.KEYWORD_ONLY
            assert extra.default is not inspect.Parameter.empty


@pytest.mark.skipif(not build_config()["compiled"], reason="the compiled module is not installed")
def test_scratch_does_not_grow_with_the_rows(build: Build, engines: dict[str, Any]) -> None:
    model = build({"hidden_features": (64, 64)}, torch.float32)
    for name, engine in engines.items():
        if engine.backend.name == "cpp":
            native = engine.pack(model.program()).native
            sizes = {native.scratch_bytes(engine.extra["isa"], rows, 2) for rows in (10**3, 10**6, 10**9)}
            assert len(sizes) == 1, name
            assert sizes.pop() < 10**6


class Pair(Conditional):
    """A third-party conditional with two parameters and two uniforms: the sum of two coins."""

    num_params = 2
    num_draws = 2

    def valid(self, x: Tensor) -> Tensor:
        return (x == 0) | (x == 1) | (x == 2)

    @property
    def expected(self) -> str:
        return "0, 1 or 2"

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        a, b = params.sigmoid().unbind(-1)
        return torch.where(x == 0, (1 - a) * (1 - b), torch.where(x == 1, a + b - 2 * a * b, a * b)).log()

    def draw(self, params: Tensor, uniforms: Tensor, decoding: object = None) -> Tensor:
        return (uniforms < params.sigmoid()).sum(-1).to(params.dtype)


@pytest.mark.parametrize("num_masks", [1, 3])
def test_a_conditional_of_ones_own(build: Build, num_masks: int) -> None:
    """One class is enough: variable-major parameters, several uniforms, and only backends that have it."""
    options = {"hidden_features": (20,), "order": "random", "direct": True, "output": Own(Pair())}
    model = build({**options, "num_masks": num_masks}, features=4).eval()
    assert model(torch.zeros(4).double()).shape == (8,)
    states = torch.cartesian_prod(*[torch.arange(3.0, dtype=torch.float64)] * 4)
    assert abs(model.log_prob(states).logsumexp(0).item()) < 1e-12
    x, log_prob = model.sample_and_log_prob(400, seed=5, first_row=7)
    assert x.unique().tolist() == [0, 1, 2]
    assert torch.equal(x, naive_sample(model, 400, seed=5, first_row=7))
    assert torch.allclose(log_prob, model.log_prob(x), rtol=1e-12)
    with pytest.raises(ValueError, match=r"^x must be 0, 1 or 2 for output 'own', got 3.0"):
        model.log_prob(torch.full((4,), 3.0).double())
    given, observed = x[0], torch.tensor([True, False, True, False])
    drawn = model.sample(400, seed=5, given=given, observed=observed)
    naive = naive_sample(model, 400, seed=5, given=given, observed=observed)
    assert torch.equal(drawn.x, naive.x)
    torch.testing.assert_close(drawn.log_weight, naive.log_weight)
    with pytest.raises(ValueError, match=r"^allowed\[0\] .*one's own"):
        model.sample(1, allowed={0: {1}})
    with pytest.raises(ValueError, match=r"^top_k and top_p need categorical variables"):
        model.sample(1, top_k=1)
    for backend in USABLE:
        if "own" not in (backend.outputs or ("own",)):
            with pytest.raises(ValueError, match=rf"^backend '{backend.name}' cannot be used: (has no output|needs)"):
                model.sample(1, backend=backend.name)


def test_table_lists_every_backend_best_first() -> None:
    rows = backends.table()
    assert [row.name for row in rows] == [backend.name for backend in backends.BACKENDS]
    assert rows[-1].name == "reference"
    assert rows[-1].usable
    for row in rows:
        assert row.usable == (row.reason is None)
        assert row.summary


def test_auto_takes_the_first_that_can_and_logs_why(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="made_fast")
    assert backends.choose("auto", backends.Needs(CPU, torch.float32, outputs=["bernoulli"])) == USABLE[0]
    caplog.clear()
    assert backends.choose("auto", backends.Needs(CPU, torch.float16, outputs=["bernoulli"])).name == "reference"
    for backend in USABLE:
        assert (backend.name == "reference") or f"backend {backend.name} passed over: needs " in caplog.text


def test_a_named_backend_runs_or_says_why_not(monkeypatch: pytest.MonkeyPatch) -> None:
    for backend in backends.BACKENDS:
        for device, dtype in ((CPU, torch.float32), (CPU, torch.bfloat16), (torch.device("cuda"), torch.float32)):
            arguments = {"device": device, "dtype": dtype, "outputs": ["bernoulli"]}
            reason = backends.why_not(backend, backends.Needs(**arguments))
            if reason is None:
                assert backends.choose(backend.name, backends.Needs(**arguments)) is backend
                continue
            with pytest.raises(ValueError, match=rf"^backend '{backend.name}' cannot be used: ") as error:
                backends.choose(backend.name, backends.Needs(**arguments))
            assert str(error.value).endswith(reason)
    monkeypatch.setenv("MADE_FAST_BACKEND", "reference")
    assert backends.choose("auto", backends.Needs(CPU, torch.float32)).name == "reference"
    assert backends.choose(USABLE[0].name, backends.Needs(CPU, torch.float32)) is USABLE[0]
    monkeypatch.setenv("MADE_FAST_BACKEND", "abacus")
    with pytest.raises(ValueError, match=r"^(backend|MADE_FAST_BACKEND) must be .*, got 'abacus'\Z"):
        backends.choose("auto", backends.Needs(CPU, torch.float32))


@pytest.mark.skipif(not build_config()["compiled"], reason="the compiled module is not installed")
def test_the_instruction_set_can_be_chosen(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    cpp = backends.load(next(backend for backend in USABLE if backend.name == "cpp"))
    names = cpp.build_config()["instruction_sets"]
    for name in names:
        monkeypatch.setenv("MADE_FAST_ISA", name)
        assert cpp.build_config()["instruction_set"] == name
        assert build({"hidden_features": (8,)}).sample(3, seed=1).shape == (3, 9)
    monkeypatch.setenv("MADE_FAST_ISA", "abacus")
    with pytest.raises(ValueError, match=r"^MADE_FAST_ISA must be one of .*, got 'abacus'\Z"):
        build({"hidden_features": (8,)}).sample(3)

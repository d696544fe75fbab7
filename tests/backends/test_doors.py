"""The doors that docs/extend.md describes: a toy backend, a toy output and a toy command come in by them, and work."""

import argparse
import importlib.metadata
import sys
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import made_fast
from made_fast import MADE, backends
from made_fast.backends import reference
from made_fast.cli import commands
from made_fast.outputs import OUTPUTS, PLAIN, Conditional, Decoding
from made_fast.outputs.output import OneConditional
from made_fast.sampling import capabilities
from made_fast.testing import naive_sample, unexplained_differences


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A backend that comes first and can do nothing but plain draws of bits; returns the list of its calls."""
    calls: list[str] = []
    module: Any = types.ModuleType("made_fast.backends.toy")

    def pack(program: Any, schedule: Any) -> Any:
        calls.append("pack")
        return reference.pack(program, schedule)

    def draw(packed: Any, out: Tensor, piece: Any) -> None:
        calls.append("draw")
        reference.draw(packed, out, piece)

    module.pack, module.draw = pack, draw
    monkeypatch.setitem(sys.modules, "made_fast.backends.toy", module)
    row = backends.Backend("toy", "draws bits", None, devices=("cpu",), outputs=("bernoulli",), features=())
    monkeypatch.setattr(backends, "BACKENDS", (row, *backends.BACKENDS))
    backends._load.cache_clear()
    return calls


def test_a_backend_placed_first_draws_what_it_can(toy: list[str]) -> None:
    model = MADE(6, (16,))
    x = model.sample(50, seed=3)
    assert toy == ["pack", "draw"]
    assert not bool(unexplained_differences(model, x, seed=3).any())
    assert backends.table()[0].name == "toy"


def test_a_triton_that_is_too_old_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch 2.6 to 2.9 bring Triton 3.2 to 3.5, which these kernels were not written for."""
    installed = {"triton": "3.2.0"}

    def version(name: str) -> str:
        if name not in installed:
            raise importlib.metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(backends.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(backends.importlib.metadata, "version", version)
    assert backends._without_triton() == (
        "needs triton 3.6 or newer, which comes with torch 2.10 and newer, found triton 3.2.0"
    )
    for name, number in {"triton": "3.6.0", "triton-windows": "3.10.0.post1", "pytorch-triton": "4.0+git1"}.items():
        installed = {name: number}
        assert backends._without_triton() is None, name
    installed = {"pytorch-triton-rocm": "3.5.1"}
    assert "found pytorch-triton-rocm 3.5.1" in str(backends._without_triton())
    installed = {}  # built from its sources, say
    assert backends._without_triton() is None
    monkeypatch.setattr(backends.importlib.util, "find_spec", lambda name: None)
    assert "is not installed" in str(backends._without_triton())


def test_a_backend_without_the_memory_to_load_it(toy: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(name: str) -> None:
        raise ImportError(f"{name}.so: {said}")

    monkeypatch.setattr(backends.importlib, "import_module", refused)
    for said, kind in (("failed to map segment from shared object", MemoryError), ("no such symbol", ImportError)):
        with pytest.raises(kind, match=said):
            backends.load(backends.BACKENDS[0])


def test_what_it_cannot_do_is_done_by_the_next_one(toy: list[str]) -> None:
    config = made_fast.build_config()
    assert config["compiled"] == any(row.build_config and row.missing is None for row in backends.BACKENDS)
    model = MADE(6, (16,), output="normal")
    x = model.sample(100, seed=0)
    loss = -model.log_prob(x).mean()  # 100 rows: by masked products, which the toy lacks
    loss.backward()
    assert toy == []
    given = {"given": torch.zeros(6), "observed": torch.arange(6) == 0}
    assert float(MADE(6, (16,)).sample(5, seed=0, **given).x[:, 0].abs().max()) == 0
    assert toy == []


def test_what_it_cannot_do_is_refused_where_it_is_named(toy: list[str]) -> None:
    model = MADE(6, (16,), output="normal")
    with pytest.raises(ValueError, match=r"^backend 'toy' cannot be used: has no output 'normal', only bernoulli\Z"):
        model.sample(1, backend="toy")
    x, weight = torch.ones(9, 3), torch.ones(2, 3)
    with pytest.raises(ValueError, match=r"^backend 'toy' cannot be used: has no masked products\Z"):
        made_fast.masked_linear(x, weight, weight > 0, backend="toy")
    with pytest.raises(ValueError, match="has no bf16 weights here"):
        made_fast.Sampler(MADE(6, (16,)).program(), MADE(6).output, backend="toy", bf16_weights=True)
    if any(row.missing is None and row.has_bf16 and row.has_bf16() for row in backends.BACKENDS):
        assert MADE(6, (16,)).sampler(bf16_weights=True).sample(3, seed=0).shape == (3, 6)
    else:
        with pytest.raises(ValueError, match=r"no backend can serve.*bf16"):
            MADE(6, (16,)).sampler(bf16_weights=True)


@dataclass(frozen=True)
class LaplaceConditional(Conditional):
    """A real number; parameters are the location and the log of the scale."""

    num_params = 2

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        return -(x - params[..., 0]).abs() / params[..., 1].exp() - params[..., 1] - torch.log(torch.tensor(2.0))

    def draw(self, params: Tensor, uniforms: Tensor, decoding: Decoding = PLAIN) -> Tensor:
        centred = uniforms[..., 0].to(params.dtype) + 2.0**-25 - 0.5
        return params[..., 0] - params[..., 1].exp() * centred.sign() * torch.log1p(-2 * centred.abs())


class Laplace(OneConditional):
    """Real numbers with a Laplace distribution."""

    name = "laplace"
    conditional = LaplaceConditional()


@pytest.fixture
def laplace(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(OUTPUTS, "laplace", Laplace)
    return "laplace"


def test_an_output_of_one_file_and_one_row_works(laplace: str, tmp_path: Path) -> None:
    model = MADE(5, (16,), output=laplace)
    x = model.sample(200, seed=1)
    assert torch.allclose(x, naive_sample(model, 200, seed=1), atol=1e-4)
    drawn, nats = model.sample_and_log_prob(200, seed=1)
    assert torch.allclose(nats, model.log_prob(drawn), atol=1e-4)
    model.save(tmp_path / "laplace.safetensors")
    assert torch.equal(MADE.load(tmp_path / "laplace.safetensors").sample(200, seed=1), x)
    assert "`Laplace`" in capabilities.markdown()


def test_engines_without_it_say_so(laplace: str) -> None:
    model = MADE(5, (16,), output=laplace)
    for row in backends.BACKENDS:
        if row.name != "reference" and row.missing is None:
            with pytest.raises(ValueError, match=rf"^backend '{row.name}' cannot be used: "):
                model.sample(1, backend=row.name)


def test_a_command_of_one_file_and_one_row_works(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def add_options(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("number", type=int)

    def run(args: argparse.Namespace) -> int:
        print(2 * args.number)
        return 0

    module: Any = types.ModuleType("made_fast.cli.double")
    module.TEXT, module.EXAMPLE, module.add_options, module.run = (
        "Double a number.",
        "made-fast double 3",
        add_options,
        run,
    )
    monkeypatch.setattr(commands, "COMMANDS", (*commands.COMMANDS, module))
    assert commands.main(["double", "21"]) == 0
    assert capsys.readouterr().out == "42\n"

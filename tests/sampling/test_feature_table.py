"""The table of outputs in the README: it says what the code says, and each of its cells is tried."""

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from quick import some
from torch import Tensor

from made_fast import MADE, backends
from made_fast.cli import main
from made_fast.outputs.conditional import Conditional
from made_fast.outputs.decoding import PLAIN
from made_fast.outputs.kinds import OUTPUTS, Mixed
from made_fast.outputs.output import Output
from made_fast.outputs.own import Own
from made_fast.sampling import capabilities
from made_fast.sampling.capabilities import METHODS, REQUESTS, able, request_of
from made_fast.sampling.draws import WeightedSamples
from made_fast.testing import naive_sample

README = Path(__file__).parents[2] / "README.md"
BEGIN, END = "<!-- outputs: begin -->", "<!-- outputs: end -->"
TRIED = [row for row in backends.BACKENDS if row.name != "triton" and row.missing is None]
ROWS = 200
OPTIONS: dict[str, dict[str, Any]] = {"ensembles": {"num_masks": 2}, "context": {"context_features": 2}}


class Laplace(Conditional):
    """A conditional of one's own: location, and log of the scale."""

    num_params = 2

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        loc, log_scale = params.unbind(-1)
        return -(x - loc).abs() * torch.exp(-log_scale) - log_scale - math.log(2)

    def draw(self, params: Tensor, uniforms: Tensor, decoding: Any = PLAIN) -> Tensor:
        loc, log_scale = params.unbind(-1)
        if decoding.greedy:
            return loc
        centred = uniforms[..., 0] + 2.0**-25 - 0.5
        size = -decoding.temperature * torch.log1p(-2 * centred.abs())
        return loc + torch.exp(log_scale) * torch.copysign(size, centred)


def _compiled() -> dict[str, Any]:
    numba = pytest.importorskip("numba")
    found = {}
    for name in ("float32", "float64"):
        pointer = numba.types.CPointer(getattr(numba, name))
        uniforms = numba.types.CPointer(numba.float32)

        @numba.cfunc(numba.types.void(pointer, uniforms, pointer, numba.int64, numba.int64))
        def draw(params: Any, uniforms: Any, x: Any, rows: Any, stride: Any) -> None:
            for r in range(rows):
                centred = uniforms[r] + 2.0**-25 - 0.5
                x[r] = params[r] + math.exp(params[stride + r]) * math.copysign(math.log(1 - 2 * abs(centred)), centred)

        found[name] = draw
    return found


def _outputs() -> dict[str, tuple[Output, int]]:
    """The outputs that the table is made of, with an own conditional that can be drawn."""
    return {**capabilities.examples(), "own": (Own(Laplace()), 3)}


def _model(name: str, **options: Any) -> MADE:
    output, features = _outputs()[name]
    torch.manual_seed(1)
    return MADE(features, (8,), output=output, **options)


def _cells(text: str) -> dict[tuple[str, str], str]:
    """By output and column; the columns of both tables."""
    found = {}
    for table in text.strip().split("\n\n"):
        heads, _, *rows = (
            [cell.replace("`", "").strip() for cell in line.strip("|").split("|")] for line in table.splitlines()
        )
        for name, *cells in rows:
            found.update({(name, head): cell for head, cell in zip(heads[1:], cells, strict=True)})
    return found


CELLS = _cells(capabilities.markdown())


def test_the_readme_says_what_the_code_says() -> None:
    text = README.read_text()
    found = text[text.index(BEGIN) + len(BEGIN) : text.index(END)].strip()
    assert found == capabilities.markdown(), "put the output of `made-fast backends --outputs` between the markers"


def test_the_command_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["backends", "--outputs"]) == 0
    assert capsys.readouterr().out.strip() == capabilities.markdown()


def test_it_is_complete() -> None:
    names = [type(output).__name__ for output, _ in capabilities.examples().values()]
    assert {*capabilities.examples()} == {*OUTPUTS, "own"}
    heads = [*METHODS, *REQUESTS, *(f"drawn by {row.name}" for row in backends.BACKENDS)]
    assert {*CELLS} == {*itertools.product(names, heads)}
    assert {*backends.FEATURES} <= {*REQUESTS}
    mixed = {each.name for each in capabilities.examples()["mixed"][0].conditionals(len(OUTPUTS) - 1)}
    assert mixed == {*OUTPUTS} - {"mixed"}


@pytest.mark.parametrize("what", METHODS)
@pytest.mark.parametrize("name", _outputs())
def test_methods(name: str, what: str) -> None:
    """Each method that is claimed works on parameters of a model, each that is not raises."""
    model = _model(name)
    output, x = model.output, model.sample(5, seed=0, backend="reference")
    cell = CELLS[type(output).__name__, what]
    params = model(x).detach()
    call: Callable[[], Tensor] = {
        "log_prob": lambda: output.log_prob(params, x),
        "cdf": lambda: output.cdf(params, x),
        "mean": lambda: output.mean(params, model.features),
        "mode": lambda: output.mode(params, model.features),
    }[what]
    if cell == "yes":
        assert call().shape == x.shape
        assert call().isfinite().all()
        return
    assert cell in ("no", "if it has one", "yes, if every column has one")
    with pytest.raises(NotImplementedError, match=f"has no {what}"):
        call()
    if cell == "yes, if every column has one":
        parts = _columns(output, what)
        mean = getattr(Mixed(parts), what)(torch.zeros(sum(Mixed(parts).params_per_variable(len(parts)))), len(parts))
        assert mean.isfinite().all()


def _columns(output: Output, what: str) -> list[Output]:
    """Those parts of a mixed output that can."""
    assert isinstance(output, Mixed)
    return [part for part, _ in output.parts if able(what, part.conditionals(1)[0])]


def _claimed(backend: str, output: Output, what: str) -> bool:
    """What the table says."""
    cell = CELLS[type(output).__name__, f"drawn by {backend}" if what == "plain" else what]
    return cell.startswith(("yes", "by its")) or backend in cell.replace(",", " ").split()


@pytest.mark.parametrize("what", ["plain", *REQUESTS])
@pytest.mark.parametrize("backend", some({row.name: row for row in TRIED}, {"cpp"}))
@pytest.mark.parametrize("name", _outputs())
def test_draws(name: str, backend: backends.Backend, what: str) -> None:
    """Each cell that is claimed draws what the naive sampler draws; each other one is refused."""
    model = _model(name, **OPTIONS.get(what, {}))
    context, options = torch.randn(4, 2) if what == "context" else None, {"seed": 3, "backend": backend.name}
    if name == "own" and backend.own_draw is not None:
        assert isinstance(model.output, Own)
        model.output.conditional.native_draw = _compiled()
    claimed = _claimed(backend.name, model.output, what)
    if not claimed or (what != "plain" and "if every column" in CELLS[type(model.output).__name__, what]):
        with pytest.raises(ValueError, match=r"cannot be used|top_k and top_p need|one's own|are whole numbers"):
            model.sample(6, context, **options, **request_of(what, model.conditionals))
        if not claimed:
            return
        columns = _columns(model.output, what)
        model = MADE(len(columns), (8,), output=Mixed(columns))
    arguments = request_of(what, model.conditionals)
    drawn = model.sample_and_log_prob(ROWS, context, **options, **arguments)
    expected = naive_sample(model, ROWS, context, seed=3, **arguments)
    if isinstance(expected, WeightedSamples):
        torch.testing.assert_close(drawn[2], expected.log_weight, rtol=1e-3, atol=1e-4)
        expected = expected.x
    torch.testing.assert_close(drawn[0], expected, rtol=1e-3, atol=1e-4)
    with torch.no_grad():
        nats = model.eval().log_prob(drawn[0], None if context is None else context[:, None])
    torch.testing.assert_close(drawn[1], nats, rtol=1e-3, atol=1e-4)
    if what in ("temperature", "greedy", "top_k", "top_p"):
        assert not torch.equal(drawn[0], model.sample(ROWS, context, **options)), "it must do something"

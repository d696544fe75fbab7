"""What torch's tools make of a model: graphs that end at a sample, exports of any number of rows, counts, decompositions."""

import subprocess
import sys
import warnings
from typing import Any

import pytest
import torch
from exported import Both, example_model
from quick import some
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from made_fast import MADE, outputs
from made_fast.layers import decompositions
from made_fast.outputs import OUTPUTS

D = 9


def _dynamic(model: MADE, *inputs: Tensor) -> torch.export.ExportedProgram:
    rows = torch.export.Dim("rows")
    return torch.export.export(Both(model), inputs, dynamic_shapes=tuple({0: rows} for _ in inputs))


def _check(program: Any, model: MADE, *inputs: Tensor) -> None:
    found = program(*inputs)
    expected = (model(*inputs), model.log_prob(*inputs))
    torch.testing.assert_close(tuple(found), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", some([*OUTPUTS], {"categorical"}))
def test_log_probabilities_are_exported_for_any_number_of_rows(name: str) -> None:
    model = example_model(name)
    program = _dynamic(model, model.sample(12, seed=0)).module()
    for rows in (1, 7, 30):
        _check(program, model, model.sample(rows, seed=1))


def test_what_is_exported_is_finite_where_the_definition_is() -> None:
    """A sigmoid is 0 in fp32 below -104, and its log would be infinite."""
    for name in ("bernoulli", "mixture_of_logistics"):
        model = example_model(name)
        nn.init.normal_(model.parameters_layer.bias, 0, 300)
        x = model.sample(12, seed=0, temperature=30.0) if name == "bernoulli" else model.sample(12, seed=0).roll(1, 0)
        program = _dynamic(model, x)
        assert not any("log_sigmoid" in str(node.target) for node in program.graph.nodes)
        assert model.log_prob(x).isfinite().all()
        _check(program.module(), model, x)


def test_a_program_without_our_operators() -> None:
    model = MADE(D, (16, 16), residual=True, direct=True, order="random", context_features=2).eval()
    x, context = torch.zeros(6, D), torch.randn(6, 2)
    program = _dynamic(model, x, context)
    assert any("made_fast" in str(node.target) for node in program.graph.nodes)
    plain = program.run_decompositions({**torch.export.default_decompositions(), **decompositions()})
    assert not any("made_fast" in str(node.target) for node in plain.graph.nodes)
    _check(plain.module(), model, torch.ones(3, D), context[:3])


def test_a_graph_ends_at_a_sample() -> None:
    torch._dynamo.reset()
    model, other = MADE(D, (16,)), MADE(D, (16,), output=outputs.Categorical(2))

    def step() -> Tensor:
        drawn = model.sample(32, seed=0)
        _, log_prob = other.sampler().sample_and_log_prob(32, seed=0)
        return (model.log_prob(drawn) * drawn.sum(-1) + log_prob).mean()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = torch.compile(step, backend="eager")()
    torch.testing.assert_close(found, step())
    found.backward()
    assert model.parameters_layer.weight.grad is not None
    torch._dynamo.reset()
    reason = r"what engines write cannot be recorded|wrapped function"  # torch 2.6 gives none
    with pytest.raises(RuntimeError, match=reason):
        torch.compile(step, backend="eager", fullgraph=True)()


def test_operations_are_counted_as_those_of_dense_layers() -> None:
    model, x = MADE(D, (32, 32)), torch.zeros(16, D)
    dense = nn.Sequential(nn.Linear(D, 32), nn.Linear(32, 32), nn.Linear(32, D))
    counts = []
    for network in (model, dense):
        with FlopCounterMode(display=False) as counter:
            network(x).sum().backward()
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0


LATE = """
import torch
from made_fast import MADE
import sys
assert "torch.utils.flop_counter" not in sys.modules
from torch.utils.flop_counter import FlopCounterMode
with FlopCounterMode(display=False) as counter:
    MADE(9, (32, 32))(torch.zeros(16, 9))
print(counter.get_total_flops())
"""


def test_a_counter_that_comes_after_the_package() -> None:
    done = subprocess.run([sys.executable, "-c", LATE], capture_output=True, text=True, check=True, timeout=120)
    assert int(done.stdout) == 2 * 16 * (9 * 32 + 32 * 32 + 32 * 9)

"""The contenders: ways to draw rows from a network, or to run one forward of as many.

The protocol: what is timed is a ``Run``, a callable without arguments. A network is a ``Forward`` from units to parameters
(``*_network``), and ``one_pass`` makes a run of it; samplers return the rows that they drew. Everything is checked
(``check_draws``, ``check_close``) before a suite times it. Those that need a GPU are in ``benchmarks.gpu.contenders``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils import mkldnn

from benchmarks import WrongResult
from benchmarks.precision import precision
from made_fast import MADE, masks, noise
from made_fast.outputs import Code, Encoding
from made_fast.programs import Program
from made_fast.requests import Piece
from made_fast.sampling import Sampler
from made_fast.testing import unexplained_differences

SEED = 20
CHECKED = 4096  # rows at each end of a request that are compared with the model's own conditionals
Run = Callable[[], Tensor]
Forward = Callable[[Tensor], Tensor]
Layer = tuple[Tensor, Tensor | None, Tensor]  # weight (out, in); the mask to multiply it with, if any; bias


class Rotation:
    """Hands out several things in turn, so that a cache does not hold what the next call reads."""

    def __init__(self, things: Sequence[Any]) -> None:
        self.things, self.place = things, 0

    def next(self) -> Any:
        """The next one."""
        self.place = (self.place + 1) % len(self.things)
        return self.things[self.place]


# Networks.


def layers_of(model: MADE, *, masked: bool, learned: bool = False) -> list[Layer]:
    """The layers of a network without direct connections.

    Args:
        model: the network.
        masked: whether masks, in the dtype of the weights, stand beside them, or have been multiplied into them.
        learned: whether weights and biases are copies that require gradients.
    """

    def tensor(value: Tensor) -> Tensor:
        return value.detach().clone().requires_grad_() if learned else value.detach()

    layers: list[Layer] = []
    for layer in (*model.hidden, model.parameters_layer):
        mask = layer.mask.to(layer.weight.dtype)
        weight, beside = (layer.weight, mask) if masked else (layer.weight * mask, None)
        layers.append((tensor(weight), beside, tensor(layer.bias)))
    return layers


def plain_network(layers: Sequence[Layer]) -> Forward:
    """``F.linear`` and rectifiers; a mask that stands beside a weight is multiplied into it in every forward."""

    def forward(x: Tensor) -> Tensor:
        for index, (weight, mask, bias) in enumerate(layers):
            x = F.linear(F.relu(x) if index else x, weight if mask is None else weight * mask, bias)
        return x

    return forward


def masked_network(model: MADE) -> Forward:
    """(a) The network as most libraries have it: the mask is multiplied into the weight in every forward."""
    return plain_network(layers_of(model, masked=True))


def dense_network(model: MADE) -> Forward:
    """(b) The network with masks folded into plain weights; any options."""
    return model.program().evaluate


def onednn_network(model: MADE) -> Forward:
    """(c) The same through oneDNN, weights packed by it beforehand."""
    packed = []
    for weight, _, bias in layers_of(model, masked=False):
        linear = torch.nn.Linear(*reversed(weight.shape))
        linear.load_state_dict({"weight": weight, "bias": bias})
        packed.append(mkldnn.to_mkldnn(linear.eval()))

    def forward(x: Tensor) -> Tensor:
        value = x.to_mkldnn()
        for index, linear in enumerate(packed):
            value = linear(F.relu(value) if index else value)
        return value.to_dense()

    return forward


def one_pass(network: Forward, x: Tensor | Rotation) -> Run:
    """One forward without gradients of these rows, or of several batches in turn."""
    inputs = x if isinstance(x, Rotation) else Rotation([x])

    def run() -> Tensor:
        with torch.no_grad():
            return network(inputs.next())

    return run


# Passes for any output. What the network reads of the rows (one-hot units, embeddings, scaled numbers) is made before the
# clock starts.


def dense_linear(frozen: Sampler, x: Tensor) -> Run:
    """One forward by ``F.linear``, weights masked once; one-hot variables are a matrix of zeros and ones."""
    return one_pass(plain_network(_layers_of_program(frozen.program)), frozen.program.encode(x))


def masked_linear(model: MADE, frozen: Sampler, x: Tensor) -> Run:
    """One of the D forwards of the naive sampler: ``F.linear(x, weight * mask)``."""
    return one_pass(masked_network(model), frozen.program.encode(x))


def dense_bag(frozen: Sampler, x: Tensor) -> Run | None:
    """As ``dense_linear``, with ``F.embedding_bag`` over the one-hot variables; None where there are none."""
    program = frozen.program
    (weight, _, bias), *others = _layers_of_program(program)
    rest = plain_network(others)
    first_unit = [0]
    for units in program.input_units:
        first_unit.append(first_unit[-1] + units)
    one_hot = [d for d, variable in enumerate(program.conditionals) if variable.encoding == Encoding.ONE_HOT]
    if not one_hot:
        return None
    rows = x[:, one_hot].long() + torch.tensor([first_unit[d] for d in one_hot])
    columns = weight.t().contiguous()  # (E, H)
    plain = [d for d in range(program.features) if d not in one_hot]
    numbers, narrow = None, weight[:, :0]
    if plain:
        numbers = torch.cat([program.encode_variable(d, x[:, d]) for d in plain], dim=1)
        narrow = weight[:, [unit for d in plain for unit in range(first_unit[d], first_unit[d + 1])]].contiguous()

    def run() -> Tensor:
        with torch.no_grad():
            total = F.embedding_bag(rows, columns, mode="sum")
            total += bias if numbers is None else F.linear(numbers, narrow, bias)
            return rest(F.relu(total)) if others else total

    return run


def _layers_of_program(program: Program) -> list[Layer]:
    layers: list[Layer] = []
    for op in program.affines:
        assert len(op.terms) == 1 and op.bias is not None
        layers.append((op.terms[0].weight, None, op.bias))
    return layers


def useful_macs(model: MADE) -> float:
    """Multiply-adds of one row with unmasked weights; of a one-hot variable one column is added, the mean of its columns."""
    columns = model.hidden[0].mask.sum(0).double()  # (E,)
    by_variable = zip(model.conditionals, columns.split([one.units for one in model.conditionals]), strict=True)
    read = sum(float(part.mean()) * (1 if one.encoding == Encoding.ONE_HOT else one.units) for one, part in by_variable)
    return read + sum(int(layer.mask.sum()) for layer in (*list(model.hidden)[1:], model.parameters_layer))


# Samplers.


def sampler(frozen: Sampler, rows: int, backend: str = "auto", seeds: Rotation | None = None) -> Run:
    """This package's sampler as a user calls it; weights are packed before the clock starts. Seeds come in turn if given."""
    chosen = seeds or Rotation([SEED])
    return lambda: frozen.sample(rows, seed=chosen.next(), backend=backend)


def engine(frozen: Sampler, rows: int, *, isa: str) -> Run:
    """The compiled engine on one instruction set."""
    module, packed = frozen._ready("cpp")
    out = torch.empty(rows, frozen.features)

    def run() -> Tensor:
        module.draw(packed, out, Piece(SEED), isa=isa)
        return out

    return run


def step_by_step(forward: Forward, model: MADE, rows: int) -> Run:
    """D forwards, one variable drawn after each: what everybody runs. Uniforms are made before the clock starts.

    Nothing waits for the device, so that it can be captured as a graph.
    """
    uniforms, order = uniforms_of(model, rows), model.order.tolist()
    x = torch.empty_like(uniforms)

    def run() -> Tensor:
        x.zero_()
        with torch.no_grad():
            for variable in order:
                x[:, variable] = (uniforms[:, variable] < torch.sigmoid(forward(x)[:, variable])).float()
        return x

    return run


class Jacobi:
    """Song et al. 2021: guess all variables, run the network, draw all again, until nothing changes. Masks folded.

    Args:
        model: the network.
        rows: B.
        graphed: makes one pass a graph that is replayed.

    Attributes:
        passes: how many the last draw took.
    """

    def __init__(self, model: MADE, rows: int, graphed: Callable[[Run], Run] = lambda run: run) -> None:
        self.forward, self.uniforms = dense_network(model), uniforms_of(model, rows)
        self.features, self.passes = model.features, 0
        self.x = torch.zeros_like(self.uniforms)
        self.changed = torch.zeros((), dtype=torch.bool, device=self.x.device)
        self.one = graphed(self._pass)

    def _pass(self) -> Tensor:
        with torch.no_grad():
            drawn = (self.uniforms < torch.sigmoid(self.forward(self.x))).float()
            self.changed.copy_((drawn != self.x).any())
            self.x.copy_(drawn)
        return self.changed

    def __call__(self) -> Tensor:
        self.x.zero_()
        for passes in range(1, self.features + 2):
            self.passes = passes
            if not bool(self.one()):  # waits for the device
                break
        return self.x


def uniforms_of(model: MADE, rows: int) -> Tensor:
    """The uniforms (rows, D) that draw the first noise rows of ``SEED``, on the device of the model."""
    row = torch.arange(rows, device=model.parameters_layer.weight.device)
    return noise.uniform(SEED, row[:, None], masks.rank_of(model.order))


# Checks.


def check_draws(
    name: str, model: MADE, x: Tensor, *, seed: int = SEED, tolerance: float = 1e-5, rows: int = CHECKED
) -> None:
    """Refuses draws that contradict the model: those of the first and the last rows are compared.

    Args:
        name: of the contender, for the message.
        model: what was drawn from.
        x: (B, D) drawn with this seed, from noise row 0 on.
        seed: of the noise.
        tolerance: how near to its threshold a uniform excuses a draw.
        rows: how many are compared at each end.

    Raises:
        WrongResult: with the name and how many draws are wrong.
    """
    bits = all(conditional.code == Code.BERNOULLI for conditional in model.conditionals)
    for start in sorted({0, max(0, len(x) - rows)}):
        part = x[start : start + rows]
        if bits and not bool(((part == 0) | (part == 1)).all()):
            raise WrongResult(f"{name} wrote values that are neither 0 nor 1")
        with precision("ieee"), plain_torch():
            wrong = unexplained_differences(model, part, seed=seed, first_row=start, tolerance=tolerance)
        if bool(wrong.any()):
            raise WrongResult(f"{name} drew {int(wrong.sum())} of {wrong.numel()} values that contradict the model")


def check_close(name: str, result: Tensor, expected: Tensor, *, allowed: float = 1e-4) -> None:
    """Refuses numbers that differ by more than so much of the largest one.

    Raises:
        WrongResult: with the name and the error.
    """
    error = float(((result - expected).abs().max() / expected.abs().max()).detach())
    if not error < allowed:
        raise WrongResult(f"{name} is wrong by {error:.1e}")


def plain_torch() -> AbstractContextManager[None]:
    """Within the block models run on the reference, so that no kernel is judged by another one."""
    return on_backend("reference")


@contextmanager
def on_backend(name: str) -> Iterator[None]:
    """Within the block models run on a backend."""
    before = os.environ.get("MADE_FAST_BACKEND")
    os.environ["MADE_FAST_BACKEND"] = name
    try:
        yield
    finally:
        del os.environ["MADE_FAST_BACKEND"]
        if before is not None:
            os.environ["MADE_FAST_BACKEND"] = before

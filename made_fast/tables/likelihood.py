"""The likelihood of rows with missing cells, and the program that draws them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import accumulate

import torch
from torch import Tensor, nn

from made_fast.models.made import MADE
from made_fast.outputs.mixtures import MixtureOfNormalsConditional
from made_fast.programs.program import CONTEXT, Affine, Elementwise, Multiply, Op, Program, Term, X
from made_fast.tables.schema import Schema

__all__ = ["Likelihood", "gated", "log_bin"]

_NARROW = 1e-6  # deviations: below, the density of a bin is level


class Likelihood(nn.Module):
    r"""The log-probability of the cells of a table.

    .. math:: \sum_d \log p(m_d \mid \cdot) + [m_d]\,\log p(v_d \mid m_d, \cdot)

    The bit :math:`m_d` says whether cell d is present and comes before its value :math:`v_d`. Where it is absent the network
    reads 0 in its place, and its term is left out, so that the probabilities of all rows add up to 1.

    Args:
        model: the network over all variables of the schema.
        schema: of the table.
    """

    def __init__(self, model: MADE, schema: Schema) -> None:
        super().__init__()
        self.model, self.indicators, self.rounded = model, schema.indicators, schema.rounded
        self.starts = list(accumulate(model.params_per_variable, initial=0))

    def log_prob(self, rows: Tensor) -> Tensor:
        """log p (N,) in nats, in the units of the columns, from rows of ``Schema.encode``."""
        weight = self.model.parameters_layer.weight
        rows = rows.to(weight.device)
        x = rows[:, : self.model.features].to(weight)
        params = self.model(x)
        terms = self.model.output.log_prob(params, x)
        if self.rounded:
            terms = terms.index_copy(1, torch.tensor(self.rounded, device=x.device), self._bins(params, x, rows))
        if self.indicators:
            values, bits = (
                torch.tensor(list(each), device=x.device) for each in zip(*self.indicators.items(), strict=True)
            )
            counted = torch.where(x[:, bits] > 0, terms[:, values], 0.0)
            terms = terms.index_copy(1, values, counted)
        return terms.sum(-1) + rows[:, -1]

    def _bins(self, params: Tensor, x: Tensor, rows: Tensor) -> Tensor:
        """The log-masses of bins (N, R)."""
        edges = rows[:, self.model.features : -1].double()
        found = []
        for place, variable in enumerate(self.rounded):
            conditional = self.model.conditionals[variable]
            assert isinstance(conditional, MixtureOfNormalsConditional)
            own = params[:, self.starts[variable] : self.starts[variable + 1]].double()
            logits, locs, scales = conditional.parts(own)
            centre = x[:, variable, None].double()
            low, high = centre - edges[:, 2 * place, None], centre + edges[:, 2 * place + 1, None]
            masses = log_bin((low - locs) / scales, (high - locs) / scales)
            found.append((logits.log_softmax(-1) + masses).logsumexp(-1))
        return torch.stack(found, 1).to(params.dtype)


def log_bin(low: Tensor, high: Tensor) -> Tensor:
    """log(Phi(high) - Phi(low)) of a standard normal, fp64, with derivatives: by the lower tail, which keeps its digits."""
    flipped = low + high > 0
    low, high = torch.where(flipped, -high, low), torch.where(flipped, -low, high)
    top = torch.special.log_ndtr(high)
    ratio = top - torch.special.log_ndtr(low)  # of the tails, 0 or more
    narrow = high - low < _NARROW
    share = torch.log(-torch.expm1(-torch.where(narrow, 1.0, ratio)))
    middle = 0.5 * (low + high)
    level = torch.where(narrow, -0.5 * middle * middle, 0.0) - 0.918938533204672742 + torch.log(high - low)
    return torch.where(narrow, level, top + share)


def gated(program: Program, gates: Mapping[int, int]) -> Program:
    """The same network, which reads some variables only where a bit is 1, and 0 elsewhere.

    Args:
        program: whose variables named here are read as numbers, and whose bits are read as they are.
        gates: the number of the bit of each gated variable; it is drawn before it.
    """
    starts = list(accumulate(program.input_units, initial=0))
    units = torch.tensor([starts[variable] for variable in gates])
    bits = torch.tensor([starts[bit] for bit in gates.values()])
    picks = [torch.zeros(len(gates), starts[-1], dtype=program.dtype, device=program.device) for _ in range(2)]
    for pick, places in zip(picks, (units, bits), strict=True):
        pick[torch.arange(len(gates)), places] = 1
    first = [Affine((Term(X, pick, pick != 0),), None) for pick in picks]
    value, bit, product = range(CONTEXT + 1, CONTEXT + 4)  # the numbers of what these make
    gate: list[Op] = [*first, Multiply(value, bit)]
    return replace(program, ops=(*gate, *(_shifted(op, len(gate), product, units) for op in program.ops)))


def _shifted(op: Op, by: int, product: int, units: Tensor) -> Op:
    """An operation of the program below ``by`` others, where what it reads of the gated units comes from their product."""

    def number(source: int) -> int:
        return source if source <= CONTEXT else source + by

    if isinstance(op, Elementwise):
        return replace(op, source=number(op.source))
    if not isinstance(op, Affine):
        return replace(op, left=number(op.left), right=number(op.right))
    terms = []
    for term in op.terms:
        if term.source != X:
            terms.append(replace(term, source=number(term.source)))
            continue
        units = units.to(term.weight.device)
        kept = torch.ones(term.weight.shape[1], dtype=torch.bool, device=term.weight.device)
        kept[units] = False
        mask = torch.ones_like(term.weight, dtype=torch.bool) if term.mask is None else term.mask
        terms.append(Term(X, term.weight * kept, mask & kept))
        terms.append(Term(product, term.weight[:, units].contiguous(), mask[:, units].contiguous()))
    return Affine(tuple(terms), op.bias)

"""MaskedNetwork: the layers of one wiring, and what is computed by them: parameters, log-probabilities, a program.

The wiring is written once, in ``wired``, over values of any kind: rows of numbers in a forward pass, numbers of operations
where a program is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from math import prod
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from made_fast.arguments import flag
from made_fast.layers.chains import NLL
from made_fast.layers.encoder import Encoder, read, read_layer
from made_fast.layers.linear import MaskedLinear, masked_linear
from made_fast.masks import MaskSet, connectivity, hidden_degrees, layer_degrees
from made_fast.models.lowering import Tensors, Units
from made_fast.models.settled import make_weights
from made_fast.models.structure import Structure
from made_fast.models.whole import Whole
from made_fast.outputs.conditional import Conditional
from made_fast.outputs.output import log_prob, merged
from made_fast.programs.functions import FUNCTIONS
from made_fast.programs.program import Program
from made_fast.tracing import unwatched

__all__ = ["MaskedNetwork"]

V = TypeVar("V")
# For each masked layer another mask, or its degrees; None where all layers have masks of their own.
LayerMasks = Sequence[Tensor] | None

# Parameters of a whole batch (128 MB in fp32) above which they are made, used and made again in the backward pass some
# variables at a time, and about how many are made at once.
_TOO_MANY, _AT_ONCE = 1 << 25, 1 << 22

_LAYERS = ("parameters_layer", "direct_layer", "context_layer", "context_direct_layer", "encoder")


class _Engine(Protocol[V]):
    """What a wiring is run on."""

    def read(self, layer: int, context: nn.Linear | None, function: str | None) -> V:
        """A masked layer, by its number, of the variables, with a layer of the context; then a function."""

    def affine(self, layer: int, value: V, function: str | None) -> V:
        """A masked layer of a value; then a function."""

    def apply(self, function: str, value: V) -> V:
        """A function of each unit."""

    def add(self, left: V, right: V) -> V:
        """The sum, unit by unit."""


class _Part(NamedTuple):
    """Rows of a masked layer: what makes the parameters of some variables."""

    weight: Tensor
    mask: Tensor
    bias: Tensor | None


class _Parts(NamedTuple):
    """Everything that makes the parameters of some variables from what comes before."""

    params: _Part
    direct: _Part | None
    context: Tensor | None


class MaskedNetwork(nn.Module):
    """Masked layers from variables and context to the parameters of all conditionals.

    Args:
        conditionals: one for each of the D variables.
        order: (D,), of mask 0.
        hidden_features: widths of the hidden layers.
        context_features: C; 0 for none.
        activation: name of a function.
        residual, direct: see ``MADE``; flags.
        degrees: ``"even"`` or ``"random"``.
        num_masks, shuffle: see ``MADE``; of one mask alone nothing but its layers is kept.
        mask_conditioning: whether the biases of hidden layers and parameters depend on the mask.
        seed: of random degrees and of the masks.

    Attributes:
        hidden: the hidden masked layers.
        parameters_layer, direct_layer: the masked layers that make the parameters.
        context_layer, context_direct_layer: of the context, into the first hidden layer and into the parameters.
        encoder: what the network reads of the variables, or None where it reads them as they are.
        ensemble: the masks, or None where there is one.
    """

    order: Tensor

    def __init__(
        self,
        conditionals: tuple[Conditional, ...],
        order: Tensor,
        hidden_features: tuple[int, ...],
        *,
        context_features: int,
        activation: str,
        residual: bool,
        direct: bool,
        degrees: str,
        num_masks: int,
        shuffle: str,
        mask_conditioning: bool,
        seed: int,
    ) -> None:
        super().__init__()
        self.features, self.context_features = len(conditionals), context_features
        residual, direct = flag("residual", residual), flag("direct", direct)
        mask_conditioning = flag("mask_conditioning", mask_conditioning)
        self.conditionals, self.activation, self.residual = merged(conditionals), activation, residual
        self.direct, self.mask_conditioning = direct, mask_conditioning
        self.params_per_variable = tuple(conditional.num_params for conditional in conditionals)
        self.register_buffer("order", order)
        self.encoder = Encoder(conditionals) if Encoder.needed(conditionals) else None
        context = context_features > 0
        # Blocks of a residual network add units of equal degree, so all its layers share one set of degrees.
        sets = [0] * (2 * len(hidden_features) - 1) if residual else list(range(len(hidden_features)))
        wiring: dict[str, Any] = {"params_per_variable": self.params_per_variable, "direct": direct}
        wiring["input_units"] = [conditional.units for conditional in conditionals]
        self.ensemble: MaskSet | None = None
        with unwatched():  # structure is made of numbers, also where weights are to have no memory yet
            widths = hidden_features[:1] if residual else hidden_features
            drawn = _drawn_degrees(widths, self.features, context=context, kind=degrees, seed=seed)
            if num_masks != 1:
                shared: dict[str, Any] = {"num_masks": num_masks, "shuffle": shuffle, "seed": seed, "context": context}
                self.ensemble = MaskSet(order, drawn, **shared, sets=sets, **wiring)
            layers = layer_degrees(order, [drawn[number] for number in sets], **wiring)
            masks = [connectivity(*layer) if self.ensemble is None else None for layer in layers]
        masked = [
            MaskedLinear(
                len(columns),
                len(rows),
                bias=number <= len(sets),
                conditioning=mask_conditioning and number <= len(sets),
            )
            for number, (rows, columns) in enumerate(layers)
        ]
        for layer, mask in zip(masked, masks, strict=True):
            layer.mask = mask
        self.hidden = nn.ModuleList(masked[: len(sets)])
        self.parameters_layer = masked[len(sets)]
        self.direct_layer = masked[-1] if len(masked) > len(sets) + 1 else None
        num_params, to_params = sum(self.params_per_variable), direct or not hidden_features
        self.context_layer = (
            nn.Linear(context_features, hidden_features[0], False) if context and hidden_features else None
        )
        self.context_direct_layer = nn.Linear(context_features, num_params, False) if context and to_params else None
        self.structure = Structure(self)
        self._whole = (activation, residual, conditionals, len(self.hidden), Whole(self))

    @property
    def masked_layers(self) -> list[MaskedLinear]:
        """The layers that have masks: hidden ones, parameters, and the direct one if there is one."""
        direct = [] if self.direct_layer is None else [self.direct_layer]
        return [*self.hidden, self.parameters_layer, *direct]  # type: ignore[list-item]

    @property
    def whole(self) -> Whole:
        """How all layers are run in one call; made again where an attribute that it was made from has changed."""
        activation, residual, conditionals, count, made = self._whole
        now = (self.activation, self.residual, self.conditionals, len(self._modules["hidden"]._modules))  # type: ignore[union-attr]
        if activation != now[0] or residual != now[1] or conditionals is not now[2] or count != now[3]:
            made = Whole(self)
            self._whole = (*now, made)
        return made

    @property
    def layers(self) -> list[nn.Module]:
        """Everything that has weights."""
        of = self._modules  # a third of the time of attributes
        found = [*of["hidden"]._modules.values(), *map(of.get, _LAYERS)]  # type: ignore[union-attr]
        return [each for each in found if each is not None]

    def check_structure(self) -> None:
        """Makes sure that order, masks and degrees are right, if anything was done to them; see ``Structure.check``."""
        if not torch.compiler.is_compiling():
            self.structure.check(self)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """What ``to`` and ``to_empty`` do; structure that had no memory gets its values with it."""
        absent = self.structure.absent(self)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if absent:
            self.structure.fill(self, absent)
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        self.structure.admit(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    def wired(self, engine: _Engine[V]) -> V | None:
        """The last hidden layer; None without any. Blocks of a residual network are ``h + W2 a(W1 a(h))``."""
        count, name = len(self.hidden), self.activation
        if not count:
            return None
        value = engine.read(0, self.context_layer, None if self.residual else name)
        if not self.residual:
            for number in range(1, count):
                value = engine.affine(number, value, name)
            return value
        for number in range(1, count, 2):
            inner = engine.affine(number, engine.apply(name, value), name)
            value = engine.add(value, engine.affine(number + 1, inner, None))
        return engine.apply(name, value)

    def parameters_of(self, x: Tensor, context: Tensor | None, layer_masks: LayerMasks) -> Tensor:
        """Parameters (..., P) from x (..., D) and context (..., C) or None, checked ones, under the masks of all layers."""
        chain = None if torch.compiler.is_compiling() else self.whole.chain(self, x, context, layer_masks)
        if chain is not None:
            return chain.run("parameters", 0.0, self._units_of(x), context)  # type: ignore[no-any-return]
        return self._to_parameters(_Rows(self, x, context, layer_masks))

    def log_prob_of(self, x: Tensor, context: Tensor | None, layer_masks: LayerMasks) -> Tensor:
        """log p(x) in nats, (...), of the arguments of ``parameters_of``; many parameters are never all held at once."""
        batch, num_params = prod(x.shape[:-1]), sum(self.params_per_variable)  # a size may be a symbol
        compiling = torch.compiler.is_compiling()
        few = compiling or batch * num_params <= _TOO_MANY
        head = None if compiling else self.whole.head
        if head is not None and (few or not torch.is_grad_enabled()):  # of which blocks of rows alone are ever held
            chain = self.whole.chain(self, x, context, layer_masks)
            if chain is not None:
                return chain.run(*head, self._units_of(x), context)  # type: ignore[no-any-return]
        if few:
            return self._share(self.parameters_of(x, context, layer_masks), x, 0, self.features)
        rows = _Rows(self, x, context, layer_masks)
        bounds, size = [0], 0
        for variable, count in enumerate(self.params_per_variable):
            size += count
            if size * batch >= _AT_ONCE or variable == self.features - 1:
                bounds.append(variable + 1)
                size = 0
        hidden, total = self.wired(rows), x.new_zeros(batch).reshape(x.shape[:-1])
        parts = _split(rows.parts(), [sum(self.params_per_variable[a:b]) for a, b in pairwise(bounds)])
        for (first, last), part in zip(pairwise(bounds), parts, strict=True):
            arguments = (x, hidden, context, part, first, last)
            total = total + checkpoint(
                self._log_prob_of_part, *arguments, use_reentrant=False, preserve_rng_state=False
            )
        return total

    def nll_of(
        self, x: Tensor, context: Tensor | None, layer_masks: LayerMasks, seen: Tensor | None = None
    ) -> NLL | None:
        """That of checked rows (B, D), of which the network sees others if ``seen`` says so; None: by ``log_prob_of``."""
        if len(x) * sum(self.params_per_variable) > _TOO_MANY:
            return None
        chain = self.whole.chain(self, x, context, layer_masks)
        if chain is None:
            return None
        units = self._units_of(x if seen is None else seen)
        if units.requires_grad:  # of an encoder that learns
            return None
        found = self.whole.head if seen is None else None  # heads take the log-probability of what the network reads
        head, floor = found or ("parameters", 0.0)
        density = None if found else partial(self._share, x=x, first=0, last=self.features)
        return NLL(chain, head, floor, units, context, density)

    def program_of(self, layer_masks: LayerMasks, order: Tensor, *, copy: bool = True) -> Program:
        """The network as a program; weights and biases are copied.

        Args:
            layer_masks: see ``parameters_of``.
            order: (D,), of that mask.
            copy: False where nobody writes to the weights any more: those of layers without masks of their own are shared.
        """
        units = Units(self, layer_masks, copy=copy)
        units.run(self)
        sizes = (self.features, self.context_features)
        tables = None if self.encoder is None else self.encoder.flat_tables()
        return Program(*sizes, tuple(units.ops), order.clone(), self.params_per_variable, self.conditionals, tables)

    def _units_of(self, x: Tensor) -> Tensor:
        """What the network reads of variables (..., D)."""
        return x if self.encoder is None else self.encoder(x)  # type: ignore[no-any-return]

    def tensors_of(self, layer_masks: LayerMasks) -> list[Tensor | None]:
        """What the weights of ``program_of`` are copied from, in the order of ``Program.tensors``, and not masked."""
        listed = Tensors(self, layer_masks)
        listed.run(self)
        return [*listed.found, None if self.encoder is None else self.encoder.flat_tables()]

    def _to_parameters(self, rows: _Rows) -> Tensor:
        hidden, number = self.wired(rows), len(self.hidden)
        params = rows.read(number, None, None) if hidden is None else rows.affine(number, hidden, None)
        if self.direct_layer is not None:
            params = params + rows.read(-1, None, None)
        if self.context_direct_layer is not None:
            params = params + self.context_direct_layer(rows.context)
        return params

    def _share(self, params: Tensor, x: Tensor, first: int, last: int) -> Tensor:
        """What the variables [first, last), whose parameters these are, add to log p(x): (...)."""
        x = x[..., first:last]
        if params.dtype in (torch.bfloat16, torch.float16):  # half precision would lose the sum over variables
            params, x = params.float(), x.float()
        return log_prob(self.conditionals[first:last], params, x).sum(-1)

    def _log_prob_of_part(
        self, x: Tensor, hidden: Tensor | None, context: Tensor | None, parts: _Parts, first: int, last: int
    ) -> Tensor:
        params = read(self.encoder, x, *parts.params) if hidden is None else masked_linear(hidden, *parts.params)
        if parts.direct is not None:
            params = params + read(self.encoder, x, *parts.direct)
        if parts.context is not None and context is not None:
            params = params + F.linear(context, parts.context)
        return self._share(params, x, first, last)


def _drawn_degrees(widths: Sequence[int], features: int, *, context: bool, kind: str, seed: int) -> list[Tensor]:
    """Degrees (H,) of hidden layers, each of which is to read the one below."""
    drawn: list[Tensor] = []
    for index, width in enumerate(widths):
        minimum = int(drawn[-1].min()) if drawn else 1  # the smallest of the layer below
        settings: dict[str, Any] = {"context": context, "kind": kind, "seed": seed + 1 + index}
        drawn.append(hidden_degrees(width, features, minimum=minimum, **settings))
    return drawn


class _Rows:
    """Runs a wiring on rows of numbers."""

    def __init__(self, network: MaskedNetwork, x: Tensor, context: Tensor | None, layer_masks: LayerMasks) -> None:
        self.network, self.x, self.context, self.layers = network, x, context, network.masked_layers
        self.layer_masks: Sequence[Tensor | None] = [None] * len(self.layers) if layer_masks is None else layer_masks

    def read(self, layer: int, context: nn.Linear | None, function: str | None) -> Tensor:
        """See ``_Engine``."""
        fused, encoder = function if context is None else None, self.network.encoder
        if encoder is None:
            total = self.affine(layer, self.x, fused)
        else:
            make_weights(self.layers[layer])
            make_weights(encoder)
            total = read_layer(encoder, self.x, self.layers[layer], self.layer_masks[layer], fused)
        if context is not None:
            total = total + context(self.context)
        return total if fused == function else self.apply(str(function), total)

    def affine(self, layer: int, value: Tensor, function: str | None) -> Tensor:
        """See ``_Engine``."""
        made: Tensor = self.layers[layer](value, self.layer_masks[layer], activation=function)
        return made

    def apply(self, function: str, value: Tensor) -> Tensor:
        """See ``_Engine``."""
        return FUNCTIONS[function](value)

    def add(self, left: Tensor, right: Tensor) -> Tensor:
        """See ``_Engine``."""
        return left + right

    def parts(self) -> _Parts:
        """The weights that make the parameters."""
        network, number = self.network, len(self.network.hidden)
        if network.encoder is not None:
            make_weights(network.encoder)
        direct = None if network.direct_layer is None else self._part(-1)
        if network.context_direct_layer is not None:
            make_weights(network.context_direct_layer)
        context = None if network.context_direct_layer is None else network.context_direct_layer.weight
        return _Parts(self._part(number), direct, context)

    def _part(self, number: int) -> _Part:
        layer, mask = self.layers[number], self.layer_masks[number]
        make_weights(layer)
        return _Part(layer.weight, layer.chosen_mask(mask), layer.bias_under(mask))


def _split(parts: _Parts, sizes: list[int]) -> list[_Parts]:
    """Rows of all layers in parts of these sizes; by ``split``, whose gradients are put together in one piece."""

    def split(part: _Part | None) -> list[_Part] | list[None]:
        if part is None:
            return [None] * len(sizes)
        height, biases = part.weight.shape[0], [None] * len(sizes) if part.bias is None else part.bias.split(sizes)
        of_rows = part.mask[:height].split(sizes)
        if part.mask.ndim == 1:  # degrees: those of the columns belong to every part
            of_rows = tuple(torch.cat([mask, part.mask[height:]]) for mask in of_rows)
        return [_Part(*row) for row in zip(part.weight.split(sizes), of_rows, biases, strict=True)]

    contexts = [None] * len(sizes) if parts.context is None else parts.context.split(sizes)
    return [_Parts(*row) for row in zip(split(parts.params), split(parts.direct), contexts, strict=True)]  # type: ignore[arg-type]

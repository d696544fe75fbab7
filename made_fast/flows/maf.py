"""Masked autoregressive flows with fast sampling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from made_fast.arguments import MOST_SEED, context_like, finite, like_weights, one_of, seed_number, whole_number
from made_fast.flows.inverse import AutoregressiveMap, Solve, affine_inverse, compiled, invert, solved
from made_fast.flows.noise import noise_sampler
from made_fast.layers.chains import NLL, Chain
from made_fast.layers.networks import Call
from made_fast.layers.unchanged import Seen, is_watched
from made_fast.models.made import MADE
from made_fast.models.samplers import watch_of
from made_fast.models.whole import LastChain, pays, serving
from made_fast.outputs.dtypes import check_dtype, check_written, write_values
from made_fast.outputs.normal import Normal
from made_fast.outputs.point import Point
from made_fast.outputs.rules import LOG_SQRT_2_PI
from made_fast.programs.wiring import MOST_NETWORKS
from made_fast.requests.request import Request
from made_fast.sampling.kept import Kept, State
from made_fast.sampling.sampler import Sampler

__all__ = ["MaskedAutoregressiveFlow"]

ORDERS = ("natural", "reversed", "random")


class MaskedAutoregressiveFlow(nn.Module):
    r"""A stack of affine autoregressive transforms of standard normal noise, each with a MADE of its own.

    .. math:: x_d = z_d \, (\mathrm{softplus}(r_d(x_{<d}, c)) + \text{floor}) + m_d(x_{<d}, c)

    The density takes one pass of each network, and so does a sample: each transform is inverted by one call of the compiled
    engine, which evaluates each hidden unit once. With one transform it is the MADE with output ``Normal(floor)``, draw for
    draw.

    Args:
        features: number of variables D.
        transforms: how many.
        hidden_features: widths of the hidden layers of each network.
        context_features: C; 0 for none. All variables see the context, the first one too.
        order: of the variables: ``"natural"`` in all transforms, ``"reversed"`` in every second one, or ``"random"`` in each.
        floor: least scale.
        seed: of random orders (and degrees); the weights come from torch's generator.
        activation, residual, direct, degrees: of each network, see ``MADE``.

    Raises:
        ValueError: an argument does not fit; the message names it.

    Source: Papamakarios, Pavlakou, Murray, "Masked Autoregressive Flow for Density Estimation", NeurIPS 2017.

    Examples:
        >>> flow = MaskedAutoregressiveFlow(3, transforms=2, hidden_features=(16,))
        >>> x, log_prob = flow.sample_and_log_prob(5, seed=0)
        >>> torch.allclose(log_prob, flow.log_prob(x), atol=1e-4)
        True
    """

    def __init__(
        self,
        features: int,
        transforms: int = 3,
        hidden_features: Sequence[int] = (512,),
        context_features: int = 0,
        *,
        order: str = "reversed",
        floor: float = 1e-4,
        seed: int = 0,
        activation: str = "relu",
        residual: bool = False,
        direct: bool = False,
        degrees: str = "even",
    ) -> None:
        super().__init__()
        transforms, features = whole_number("transforms", transforms, 1), whole_number("features", features, 1)
        context_features = whole_number("context_features", context_features)
        one_of("order", order, ORDERS)
        seed = seed_number("seed", seed)
        self.features, self.context_features, self.floor = features, context_features, float(floor)
        self.networks = nn.ModuleList()
        for number in range(transforms):
            network = MADE(
                features,
                hidden_features,
                output=Normal(floor),
                order="natural" if order == "reversed" and number % 2 == 0 else order,
                context_features=context_features,
                activation=activation,
                residual=residual,
                direct=direct,
                seed=(seed + number) & MOST_SEED,
                degrees=degrees,
            )
            bias = network.parameters_layer.bias
            with torch.no_grad():  # a scale of 1 at first, so that deep stacks neither shrink nor grow
                bias[1::2] += math.log(math.expm1(max(1 - self.floor, 1e-3)))
            self.networks.append(network)
        self._last = LastChain()
        self._inverses: dict[int, Kept[Solve]] = {}  # by the number of the network, whichever that is
        self._noise: Kept[Sampler] = Kept(self._noise_state, self._make_noise)

    def _network(self, number: int) -> MADE:
        found = self.networks._modules[str(number)]  # a fifth of the time of the list's own
        if not isinstance(found, MADE):
            raise ValueError(f"networks must be MADE, got {type(found).__name__}")
        output = found.output
        if not isinstance(output, Normal) or found.features != self.features or output.conditional.floor != self.floor:
            raise ValueError(
                f"networks must have {self.features} features and output Normal(floor={self.floor:g}), got "
                f"{found.features} and {output!r}"
            )
        return found

    def _solve(self, number: int, z: Tensor, context: Tensor | None) -> Tensor:
        """One transform inverted, without gradients."""
        self._network(number)  # which must be what it was, however it is watched
        kept = self._inverses.get(number)
        if kept is None:
            read, make = partial(self._inverse_state, number), partial(self._make_inverse, number)
            kept = self._inverses.setdefault(number, Kept(read, make, watch=partial(self._watch_inverse, number)))
        return solved(kept.current(), z, context)

    def _inverse_state(self, number: int) -> State:
        return self._network(number)._state()

    def _watch_inverse(self, number: int) -> Any:
        seen = Seen()
        seen.children(self, "networks")
        seen.children(self.networks, str(number))
        return watch_of(self._network(number), seen)

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Returns log p(x | context) in nats.

        Args:
            x: (..., D), finite.
            context: (..., C) that broadcasts with ``x``, or None.

        Returns:
            (...).

        Raises:
            ValueError: a shape does not fit, or a value is nan or infinite.
        """
        x, context = self._finite(x, context)
        chain = self._chain(x, context)
        if chain is not None:
            return chain.run("flow", self.floor, x, context)  # type: ignore[no-any-return]
        z, log_det = self._noise_of(x, context)
        found: Tensor = (-0.5 * z**2 - LOG_SQRT_2_PI).sum(-1) + log_det
        return found

    def _nll(self, x: Tensor, context: Tensor | None) -> NLL | None:
        """See ``MADE``."""
        if type(self) is not MaskedAutoregressiveFlow or "log_prob" in self.__dict__:
            return None
        x, context = self._finite(x, context)
        chain = self._chain(x, context)
        return None if chain is None else NLL(chain, "flow", self.floor, x, context)

    def noise_of(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The base noise (..., D) that x (..., D) comes from, and log |det dz/dx| (...)."""
        return self._noise_of(*self._checked("x", x, context))

    def _noise_of(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """``noise_of`` of checked arguments."""
        chain = self._chain(x, context)
        if chain is not None:
            return chain.run("affine", self.floor, x, context)  # type: ignore[no-any-return]
        log_det = x.new_zeros(())
        for number in range(len(self.networks) - 1, -1, -1):
            shift, scale = self._parts(number, x, context)
            x, log_det = (x - shift) / scale, log_det - torch.log(scale).sum(-1)
        return x, log_det

    def _chain(self, x: Tensor, context: Tensor | None) -> Chain | None:
        """All networks for one call, from the last to the first; None where they must run one by one."""
        if torch.compiler.is_compiling() or len(self.networks) > MOST_NETWORKS:
            return None
        backend = serving(x, context)
        if backend is None:
            return None
        chain = self._last.of((self.__dict__, backend, x.dtype))
        if chain is None:
            calls: list[Call] = []
            seen = Seen()
            seen.attributes(self, "floor", "features")
            seen.children(self, "networks")
            seen.children(self.networks)
            for number in range(len(self.networks) - 1, -1, -1):
                network = self._network(number)
                call = network.whole.call_by(backend, network, x, network._layer_masks(None))
                if call is None or is_watched(network) or type(network).forward is not MADE.forward:
                    return None
                calls.append(call)
                network.whole.show(network, seen)
                seen.module(network)
                seen.attributes(network, "features", "output")
                seen.attributes(network.output, "conditional")
            chain = Chain(calls)
            if all(network.ensemble is None for network in self.networks):  # type: ignore[union-attr]
                self._last.keep((self.__dict__, backend, x.dtype), chain, seen)
        return chain if pays(chain, x) else None

    def _checked(self, name: str, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """x or z, and the context, in the dtype and on the device of the weights."""
        weight = self._network(0).parameters_layer.weight
        x = like_weights(name, x, self.features, weight)
        return x, context_like(context, self.context_features, weight, x)

    def _finite(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """``_checked``, whose values must be finite."""
        x, context = self._checked("x", x, context)
        finite("x", x)
        finite("context", context)
        return x, context

    def _parts(self, number: int, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Shift and scale of one transform, (..., D) each."""
        shift, raw = self._network(number)(x, context).unflatten(-1, (self.features, 2)).unbind(-1)
        return shift, F.softplus(raw) + self.floor

    def sample(
        self,
        num_samples: int,
        context: Tensor | None = None,
        *,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        first_row: int = 0,
        rows: Tensor | None = None,
        dtype: torch.dtype | None = None,
        backend: str = "auto",
        progress: bool = False,
    ) -> Tensor:
        """Draws samples: (n, D), or (B, n, D) with context (B, C), without gradients.

        They depend on the seed and the row number alone: ``sample(n, seed=s)[a:b]`` equals ``sample(b - a, seed=s,
        first_row=a)``.

        Args:
            num_samples: n.
            context: (B, C), or None.
            seed, generator, first_row, rows, dtype, backend, progress: see ``Sampler.sample``.

        Raises:
            ValueError: an argument does not fit; the message names it.
            FloatingPointError: a value was no finite number.
        """
        x, _ = self._drawn(
            False,
            num_samples,
            context,
            seed=seed,
            generator=generator,
            first_row=first_row,
            rows=rows,
            dtype=dtype,
            backend=backend,
            progress=progress,
        )
        return x

    @torch.no_grad()
    def _drawn(
        self,
        with_log_prob: bool,
        num_samples: int,
        context: Tensor | None,
        *,
        dtype: torch.dtype | None,
        **options: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Samples and, if asked for, their log-probabilities; rounded to ``dtype`` when all is done."""
        request = self._request(num_samples, context, **options)
        first = self._network(0).sampler()
        assert isinstance(first, Sampler)
        look = False if dtype is None else check_dtype(first.conditionals, dtype)
        x, _, _ = first._drawn(request, False)  # the first network draws its noise on the way
        contexts = None if request.context is None else request.context.repeat_interleave(request.shape[-1], 0)
        for number in range(1, len(self.networks)):
            x = self._solve(number, x, contexts)
        log_prob = self.log_prob(x, contexts).reshape(request.shape) if with_log_prob else None
        x = x.reshape(*request.shape, self.features)
        if dtype is None or dtype == x.dtype:
            return x, log_prob
        out = torch.empty_like(x, dtype=dtype)
        write_values(out, x, look)
        return out, log_prob

    def rsample(
        self,
        num_samples: int,
        context: Tensor | None = None,
        *,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        first_row: int = 0,
        rows: Tensor | None = None,
        dtype: torch.dtype | None = None,
        backend: str = "auto",
        progress: bool = False,
    ) -> Tensor:
        """Draws the samples of ``sample``, differentiable in the parameters and the context (once).

        The arguments are those of ``sample``. The gradient is that of the implicit function: one pass of each network, and
        as many backward passes as it takes to solve a triangular system, D at most.
        """
        options: dict[str, Any] = {"seed": seed, "generator": generator, "first_row": first_row, "rows": rows}
        request = self._request(num_samples, context, **options, backend=backend, progress=progress)
        look = False if dtype is None else check_dtype(self._network(0).conditionals, dtype)
        if request.context is not None and not isinstance(context, Tensor):
            context = request.context
        contexts = None if context is None else context.repeat_interleave(request.shape[-1], 0)
        x = self.inverse(self._base_noise(request), contexts).reshape(*request.shape, self.features)
        if dtype is None:
            return x
        out = x.to(dtype)
        check_written(out, x, look)
        return out

    def sample_and_log_prob(
        self,
        num_samples: int,
        context: Tensor | None = None,
        *,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        first_row: int = 0,
        rows: Tensor | None = None,
        dtype: torch.dtype | None = None,
        backend: str = "auto",
        progress: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Draws samples with their log-probabilities in nats, without gradients. For the arguments see ``sample``."""
        x, log_prob = self._drawn(
            True,
            num_samples,
            context,
            seed=seed,
            generator=generator,
            first_row=first_row,
            rows=rows,
            dtype=dtype,
            backend=backend,
            progress=progress,
        )
        assert log_prob is not None
        return x, log_prob

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """x (B, D) from base noise z (B, D) and context (B, C) or None, differentiable once in all that requires it.

        Raises:
            ValueError: a shape does not fit.
            FloatingPointError: a value was no finite number.
        """
        z, context = self._checked("z", z, context)
        if z.ndim != 2 or (context is not None and context.shape[:-1] != z.shape[:-1]):
            of_context = "" if context is None else f", and context {tuple(context.shape)}"
            raise ValueError(
                f"z must have shape (B, {self.features}), with a context for each row, got {tuple(z.shape)}{of_context}"
            )
        for number in range(len(self.networks)):
            of = self._network(number).parameters() if torch.is_grad_enabled() else ()
            parameters = [each for each in of if each.requires_grad]

            def apply(before: Tensor, itself: Tensor, c: Tensor | None, number: int = number) -> Tensor:
                shift, scale = self._parts(number, before, c)
                return (itself - shift) / scale

            z = invert(AutoregressiveMap(apply, partial(self._solve, number), parameters), z, context)
        return z

    def _make_inverse(self, number: int, last: Solve | None) -> Solve:
        return compiled(Sampler(affine_inverse(self._network(number).program(), self.floor), Point()))

    def _request(self, num_samples: int, context: Tensor | None, **options: Any) -> Request:
        return Request.checked(self._network(0).conditionals, self.context_features, num_samples, context, **options)

    def _base_noise(self, request: Request) -> Tensor:
        """(count, D): the standard normal numbers that the first network draws, by an engine."""
        drawn = self._noise.current()
        noise: Tensor = drawn.sample(request.count, seed=request.seed, first_row=request.first_row, rows=request.rows)
        return noise.to(next(self.parameters()))

    def _noise_state(self) -> State:
        return State([self._network(0).order_of(0)], [next(self.parameters()).dtype])

    def _make_noise(self, last: Sampler | None) -> Sampler:
        return noise_sampler(self._network(0).order_of(0).cpu(), next(self.parameters()).dtype)

"""``Mixture``: the mean of the densities of several models, each with weights and an order of its own."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from made_fast.layers.chains import NLL
from made_fast.models import files
from made_fast.models.made import MADE
from made_fast.models.settled import settled
from made_fast.programs.program import Program
from made_fast.requests.request import Request
from made_fast.sampling.draws import Draws
from made_fast.sampling.ensemble_sampler import EnsembleSampler
from made_fast.sampling.kept import Kept, State
from made_fast.tracing import uncompiled

__all__ = ["Mixture"]

_ROWS = 1000  # whose log-probabilities are found at once, where members are chosen
_HALF = (torch.bfloat16, torch.float16)


class Mixture(nn.Module, Draws):
    r"""The mean of the densities of K models, :math:`p(x) = \frac1K \sum_k p_k(x)`.

    Other than the masks of one model, which share weights, each member has weights of its own; a mean of models with
    different orders is better than the best of them, for K times the cost. In training mode ``log_prob`` is the mean of the
    members' log-probabilities, so that each learns by itself; in evaluation mode it is that of the mean of the densities. So
    ``fit`` trains all members together and keeps the weights with which their mean validates best.

        model = Mixture([MADE(32, (64,), order="random", seed=k) for k in range(4)])

    Args:
        members: models with one mask each, of the same variables, outputs and number of context features, whose weights have
            one dtype and device.

    Attributes:
        members: the models.
        features: number of variables D.
        output: what the parameters of the members mean.

    Raises:
        ValueError: there is no member, or one is no ``MADE``, has several masks, or does not fit the first.
    """

    def __init__(self, members: Sequence[MADE]) -> None:
        super().__init__()
        if not isinstance(members, Iterable):
            raise ValueError(f"members must be a sequence of models, got {type(members).__name__}")
        found = list(members)
        if not found:
            raise ValueError("members must be at least one model, got none")
        for number, each in enumerate(found):
            if not isinstance(each, MADE):
                raise ValueError(
                    f"members must be models of the class MADE, got {type(each).__name__} as member {number}"
                )
            if each.num_masks != 1:
                raise ValueError(f"members must have one mask each, got num_masks={each.num_masks} of member {number}")
            expected, kind = _kind_of(found[0]), _kind_of(each)
            if kind != expected:
                raise ValueError(f"members must be alike, {expected}, got {kind} as member {number}")
        self.members = nn.ModuleList(found)
        first = found[0]
        self.features, self.context_features = first.features, first.context_features
        self.conditionals, self.output = first.conditionals, first.output
        self._kept = Kept(self._state, self._made)

    def log_prob(self, x: Tensor, context: Tensor | None = None, *, masks: int | Sequence[int] | None = None) -> Tensor:
        """Returns log p(x | context) in nats: of the mixture, in training mode the mean of the members' own.

        Args:
            x: (..., D) with values that the output distribution can take.
            context: (..., C) that broadcasts with ``x``, or None.
            masks: number of one member, or a sequence of several that the mean is over, to bound the cost; all if left out.

        Returns:
            (...).

        Raises:
            ValueError: a shape does not fit, a value of ``x`` is impossible, or there is no such member.
        """
        count = len(self.members)
        chosen = list(range(count)) if masks is None else [masks] if isinstance(masks, int) else list(masks)
        if not chosen or not all(isinstance(k, int) and 0 <= k < count for k in chosen):
            raise ValueError(f"masks must be numbers of members, 0 .. {count - 1}, got {masks!r}")
        total = self._member(chosen[0]).log_prob(x, context)
        for member in chosen[1:]:
            found = self._member(member).log_prob(x, context)
            total = total + found if self.training else torch.logaddexp(total, found)
        return total / len(chosen) if self.training else total - math.log(len(chosen))

    @torch.no_grad()
    def selected(self, x: Tensor, context: Tensor | None = None) -> Mixture:
        """Returns the mixture of those members whose mean is best on some rows, validation rows say; none is copied.

        It begins with the best member and adds, one by one, the one that helps most, as long as one helps.

        Args:
            x: (N, D).
            context: (N, C), or None.

        Raises:
            ValueError: there are no rows, or ``log_prob`` refuses them.
        """
        if not len(x):
            raise ValueError("x must have at least one row, got none")
        was_training = self.training
        self.eval()
        given = [None] * -(-len(x) // _ROWS) if context is None else context.split(_ROWS)
        batches = list(zip(x.split(_ROWS), given, strict=True))
        each = torch.stack([torch.cat([m.log_prob(*pair) for pair in batches]) for m in self.members]).double()  # type: ignore[operator]
        self.train(was_training)
        chosen: list[int] = []
        total, best = torch.full_like(each[0], -math.inf), -math.inf
        while len(chosen) < len(each):
            means = (torch.logaddexp(total, each) - math.log(len(chosen) + 1)).mean(1)
            means[chosen] = -math.inf
            number = int(means.argmax())
            if chosen and not means[number] > best:
                break
            best, total = means[number].item(), torch.logaddexp(total, each[number])
            chosen.append(number)
        found = Mixture([self._member(number) for number in sorted(chosen)])
        return found.train(was_training)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """``log_prob`` of x (..., D): a mixture has no parameters of conditionals of its own."""
        return self.log_prob(x, context)

    def _nll(self, x: Tensor, context: Tensor | None, seen: Tensor | None = None) -> _Together | None:
        """See ``MADE``."""
        if type(self) is not Mixture or "log_prob" in self.__dict__ or not self.training:
            return None
        found = [self._member(k)._nll(x, context, seen) for k in range(len(self.members))]
        return None if any(each is None for each in found) else _Together(found)  # type: ignore[arg-type]

    def _log_prob_seeing(self, seen: Tensor, x: Tensor, context: Tensor | None) -> Tensor:
        """The mean of the members' log-probabilities of x, where their networks see other rows in its place."""
        given = () if context is None else (context,)
        members = (self._member(k) for k in range(len(self.members)))
        return torch.stack([each.distribution(seen, *given).log_prob(x) for each in members]).mean(0)

    def _member(self, number: int) -> MADE:
        return self.members[number]  # type: ignore[return-value]

    @uncompiled
    def sampler(self) -> EnsembleSampler:
        """Returns a sampler of the mixture as it is now; the last one is kept until a weight changes."""
        return self._kept.current()

    def _drawn(self, request: Request, with_log_prob: bool) -> tuple[Tensor, Tensor | None, Tensor | None]:
        return self.sampler()._drawn(request, with_log_prob)

    def _of_mask(self, mask: int) -> Draws:
        return self.sampler()._of_mask(mask)

    def _state(self) -> State:
        states = [self._member(k)._state() for k in range(len(self.members))]
        tensors = [tensor for each in states for tensor in each.tensors]
        return State(tensors, [other for each in states for other in each.others or ()])

    def _made(self, last: EnsembleSampler | None) -> EnsembleSampler:
        frozen = [settled(self._member(k), own=True) for k in range(len(self.members))]
        exact = Mixture(
            [each.float() if each.parameters_layer.weight.dtype in _HALF else each for each in frozen]
        ).eval()
        widest = max(max(each.features, *(layer.out_features for layer in each.masked_layers)) for each in frozen)
        programs = partial(_program_of, frozen)
        return EnsembleSampler(programs, exact.log_prob, self.output, len(frozen), widest=widest)

    def save(self, path: str | Path) -> None:
        """Writes weights and configurations of all members to a safetensors file.

        Raises:
            OSError: the folder does not exist or cannot be written.
            ValueError: a member cannot be saved; see ``MADE.save``.
        """
        state: dict[str, Tensor] = {}
        members = [settled(self._member(k), own=True) for k in range(len(self.members))]
        for number, member in enumerate(members):
            own = member.state_dict()
            files.check_state(own, member.arguments())
            state.update({f"members.{number}.{name}": tensor for name, tensor in own.items()})
        files.save(path, state, {"members": [member.arguments() for member in members]})

    @classmethod
    def load(cls, path: str | Path) -> Mixture:
        """Reads a mixture that ``save`` wrote. No code from the file is run.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is truncated, foreign, or does not fit its own configuration.
        """
        state, config = files.load(path)
        listed = config.get("members")
        if not isinstance(listed, list) or not all(isinstance(each, dict) for each in listed):
            raise ValueError(
                f"{path} has no mixture: its configuration must list members; MADE.load reads a single model"
            )
        with files.fitting(path):
            members = []
            for number, arguments in enumerate(listed):
                prefix = f"members.{number}."
                own = {name[len(prefix) :]: state.pop(name) for name in list(state) if name.startswith(prefix)}
                dtype = files.check_state(own, arguments)
                member = MADE(**arguments).to(dtype)
                member.load_state_dict(own)
                members.append(member)
            if state:
                raise ValueError(f"members must have all tensors, found {', '.join(sorted(state)[:4])} besides")
            return cls(members)


class _Together(NamedTuple):
    """The mean of the means of several models; see ``NLL``."""

    parts: Sequence[NLL]

    @property
    def weights(self) -> list[Tensor]:
        """Those of all, in turn."""
        return [weight for part in self.parts for weight in part.weights]

    def write_gradients(self, into: Sequence[Tensor | None]) -> Tensor:
        """See ``NLL``."""
        first, losses = 0, []
        for part in self.parts:
            places = into[first : first + len(part.weights)]
            losses.append(part.write_gradients(places))
            first += len(places)
            torch._foreach_div_([each for each in places if each is not None], float(len(self.parts)))
        return torch.stack(losses).mean()


def _kind_of(model: MADE) -> str:
    """What members have in common, in words."""
    weight = model.parameters_layer.weight
    sizes = f"{model.features} variables, {model.context_features} context features"
    return f"{sizes}, {model.output!r}, {weight.dtype} on {weight.device}"


def _program_of(frozen: Sequence[MADE], number: int) -> Program:
    """The program of a member to which nobody writes any more."""
    model = frozen[number]
    return model.program_of(None, model.order, copy=False)

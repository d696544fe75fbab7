"""``accelerate``: the sampler of any torch module that gives the parameters of autoregressive conditionals."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from made_fast.arguments import flag, whole_number
from made_fast.capture.again import LastGraph
from made_fast.capture.captured import Captured, CaptureError, capture, first_width
from made_fast.capture.export import Call, own_attributes, watch_of
from made_fast.flows.adapters import accelerate_flow, is_flow
from made_fast.flows.adapters.refusals import looks_like_a_flow, unknown
from made_fast.outputs.kinds import make_output
from made_fast.outputs.output import Output
from made_fast.programs.program import Program
from made_fast.programs.schedule import Schedule
from made_fast.programs.summary import Summary, summary_of
from made_fast.requests.request import Request
from made_fast.sampling.draws import Draws
from made_fast.sampling.kept import Kept, Stale, State
from made_fast.sampling.sampler import Sampler

__all__ = ["AcceleratedSampler", "accelerate"]


class _Made(NamedTuple):
    """What was captured of a module, and its sampler."""

    capture: Captured
    sampler: Sampler


_CHANGED = "module has changed since it was captured: call refresh(), or make the sampler with stale='refresh'"


class AcceleratedSampler(Draws):
    """Draws exact samples of a module of any kind; see ``accelerate``, which makes it.

    Attributes:
        module: which it draws from.
        stale: what happens if the module has changed: of ``Stale``.
    """

    def __init__(
        self, module: nn.Module, features: int, output: str | Output | None, stale: Stale, options: dict[str, Any]
    ) -> None:
        self.module, self.stale = module, stale
        self._backend, self._bounded = options.pop("backend"), options.pop("bounded", False)
        self._options, self._last_graph = options, LastGraph()
        self._features, self._output = features, None if output is None else make_output(output)
        self._kept: Kept[_Made] = Kept(
            self._state, self._make, stale, changed=_CHANGED, portable=True, watch=self._watch
        )
        self._kept.refresh()
        self.features, self.context_features = features, self.sampler.context_features
        self.conditionals = self.sampler.conditionals

    @property
    def _made(self) -> _Made:
        last = self._kept.last
        return self._kept.refresh() if last is None else last

    @property
    def sampler(self) -> Sampler:
        """The sampler of the module as it was at the last look."""
        return self._made.sampler

    @property
    def capture(self) -> Captured:
        """What was captured of the module; ``capture.difference`` is the largest difference from the module's own forward."""
        return self._made.capture

    @property
    def program(self) -> Program:
        """The module as a program."""
        return self.sampler.program

    @property
    def schedule(self) -> Schedule:
        """When which unit is evaluated."""
        return self.sampler.schedule

    @property
    def output(self) -> Output:
        """What the parameters mean."""
        return self.sampler.output

    @property
    def order(self) -> Tensor:
        """int64 (D,): order in which variables are drawn."""
        return self.sampler.order

    @property
    def levels(self) -> Tensor:
        """int64 (D,): the sequential step at which each variable is drawn."""
        return self.sampler.levels

    @property
    def num_steps(self) -> int:
        """Number of sequential steps of one draw."""
        return self.sampler.num_steps

    @property
    def macs(self) -> int:
        """Multiply-adds for one sample."""
        return self.sampler.macs

    @property
    def dense_macs(self) -> int:
        """Multiply-adds of the module's own matrices for one row."""
        return self.capture.dense_macs

    @property
    def dtype(self) -> torch.dtype:
        """Of the samples."""
        return self.sampler.dtype

    def summary(self) -> Summary:
        """Order, levels, units that do nothing, and multiply-adds."""
        return replace(summary_of(self.program, self.schedule), dense_macs=self.dense_macs)

    def refresh(self) -> None:
        """Captures the module again, as it is now.

        Raises:
            CaptureError: it cannot be captured any more.
        """
        self._kept.refresh()

    @property
    def is_stale(self) -> bool:
        """Whether the module has changed since it was captured."""
        return self._kept.is_stale

    def __setstate__(self, state: dict[str, Any]) -> None:
        """A copy or a pickle holds the module and what was captured of it."""
        self.__dict__.update(state)
        if vars(self.module):  # empty where the module holds its own sampler and is filled later
            _ = self.is_stale  # notes the identities of the copy's attributes

    def _state(self) -> State:
        return State(*_state_of(self.module))

    def _watch(self) -> Any:
        return watch_of(self.module)

    def _make(self, last: _Made | None) -> _Made:
        output = self._output
        conditionals = () if output is None else output.conditionals(self._features)
        options = {**self._options, "last": self._last_graph}
        captured = capture(self.module, self._features, conditionals=conditionals, **options)
        if output is None:
            if set(captured.params_per_variable) != {1}:
                raise CaptureError(
                    f"output must be given, since module has {captured.params_per_variable[0]} parameters for each variable: "
                    "only one would be taken for a Bernoulli logit; see made_fast.outputs"
                )
            output = make_output("bernoulli")
            conditionals = output.conditionals(self._features)
        if not self._bounded:
            captured.check_parameters(conditionals)
        device = next((tensor.device for tensor in self._state().tensors), torch.device("cpu"))
        program = captured.program(conditionals, dtype=captured.dtype, device=device)
        return _Made(captured, Sampler(program, output, backend=self._backend))

    def _drawn(self, request: Request, with_log_prob: bool) -> tuple[Tensor, Tensor | None, Tensor | None]:
        return self._kept.current().sampler._drawn(request, with_log_prob)


def accelerate(
    module: Any,
    *,
    features: int | None = None,
    context_features: int | None = None,
    output: str | Output | None = None,
    layout: str | None = None,
    call: Call | None = None,
    check: bool = True,
    stale: Stale = "refresh",
    backend: str = "auto",
    bounded: bool = False,
) -> Any:
    """Makes a sampler of any torch module that gives the parameters of autoregressive conditionals; or makes a flow quick.

    The module is read by ``torch.export`` and translated into linear maps, elementwise functions, sums and products of units;
    what each variable depends on, and so the order, is found from the weights. Each unit is then evaluated once for a whole
    sample. The module is not changed.

    A flow of nflows, normflows, zuko, pyro or sbi comes back as the same flow, quicker in both directions, and one of
    torchflows, denmarf, deeprob-kit or flowtorch quicker in the slow one, by
    ``made_fast.flows.adapters.accelerate_flow``; ``check`` and ``stale`` are then the only options.

    Args:
        module: maps x (B, D), in floating point, to parameters: (B, P), (B, D, K), (B, K, D) or a tuple of such. It is handed
            the values of the variables as they are; categories one-hot, (B, sum of sizes), unless its first weight matrix has
            D columns. Or a flow.
        features: D; the columns of the module's first weight matrix if left out.
        context_features: C, if the module has a context: a second argument (B, C), or the last C columns of its only one.
        output: what the parameters mean, by name or as an object of ``made_fast.outputs``; Bernoulli logits if left out, for
            modules with one parameter for each variable.
        layout: of the parameters, ``"variable-major"`` (all of variable 0, then all of variable 1, ...) or
            ``"parameter-major"``; found from the dependencies if left out.
        call: a function of (module, x, context) that returns the parameters, for modules that are called in another way.
        check: compare with the module's own forward in fp64 on random input.
        stale: what a draw does if parameters, buffers or plain attributes of the module have changed: ``"refresh"`` captures
            again, ``"exact"`` too and compares all numbers each time (see ``Kept``), ``"raise"`` raises, ``"keep"`` draws
            from the module as it was and saves the comparison.
        backend: ``"auto"`` or the name of a backend.
        bounded: takes the parameters as they are where a last function bounds them. They are refused otherwise, since a
            sigmoid makes probabilities, and an exponential odds or scales, but outputs take logits and raw scales.

    Returns:
        An ``AcceleratedSampler``; of a flow, a flow of the same class.

    Raises:
        ValueError: an argument does not fit, the module has an operation that cannot be translated (the message says which
            and where), it is not autoregressive (the message names variables), it returns probabilities in place of logits,
            or it is in training mode where that matters.

    Examples:
        >>> import torch, made_fast
        >>> module = torch.nn.Linear(3, 3)
        >>> module.weight.data.copy_(module.weight.tril(-1))  # parameter d reads the variables before d
        tensor(...)
        >>> sampler = made_fast.accelerate(module)
        >>> sampler.sample(100, seed=0).shape
        torch.Size([100, 3])
    """
    if is_flow(module):
        sizes = {"features": features, "context_features": context_features}
        others = {"output": output, "layout": layout, "call": call, "backend": None if backend == "auto" else backend}
        for name, value in {**sizes, **others, "bounded": bounded or None}.items():
            if value is not None:
                raise ValueError(f"{name} must be left out for a flow, which says itself what it draws, got {value!r}")
        return accelerate_flow(module, stale=stale, check=check)
    if not isinstance(module, nn.Module):
        trains = hasattr(module, "build_posterior")  # as those who infer do in sbi
        hint = ", which trains one: give what its build_posterior() returns" if trains else ""
        raise ValueError(f"module must be a torch.nn.Module or a flow, got {type(module).__name__}{hint}")
    module = getattr(module, "_orig_mod", module)  # of torch.compile, which shares its parameters
    context = 0 if context_features is None else whole_number("context_features", context_features)
    output = None if output is None else make_output(output)
    features = _features_of(module, context, output) if features is None else whole_number("features", features, 1)
    options = {"context_features": context, "layout": layout, "call": call, "check": flag("check", check)}
    options |= {"backend": backend, "bounded": flag("bounded", bounded)}
    try:
        return AcceleratedSampler(module, features, output, stale, options)
    except CaptureError as reason:
        if isinstance(module, Draws) or not looks_like_a_flow(module):
            raise
        raise CaptureError(unknown(module, str(reason))) from reason


def _features_of(module: nn.Module, context_features: int, output: Output | None) -> int:
    """The number of variables, by the width of the first weight matrix."""
    width = first_width(module) - context_features
    if width < 1:
        raise ValueError("features must be given: module has no weight matrix from which to take it")
    try:
        units = 1 if output is None else output.conditionals(1)[0].units
    except ValueError:  # an output of so many variables and no other
        raise ValueError(f"features must be given for output {output!r}") from None
    if units != 1:
        raise ValueError("features must be given for an output that the network reads one-hot")
    return width


def _state_of(module: nn.Module) -> tuple[list[Tensor], list[Any]]:
    """All that a module may compute with: its tensors, and its other attributes in a form that can be compared."""
    tensors = [each.detach() for each in (*module.parameters(), *module.buffers())]
    others: list[Any] = []
    for name, each in module.named_modules():
        others.append((name, type(each), id(each)))
        for attribute, value in own_attributes(each).items():
            others.append(attribute)
            _collect(value, tensors, others)
    return tensors, others


def _collect(value: Any, tensors: list[Tensor], others: list[Any]) -> None:
    if isinstance(value, Tensor):
        tensors.append(value.detach())
    elif isinstance(value, np.ndarray) and value.dtype != object:
        tensors.append(torch.from_numpy(np.ascontiguousarray(value)))
    elif isinstance(value, (list, tuple)):
        others.append(len(value))
        for item in value:
            _collect(item, tensors, others)
    elif isinstance(value, dict):
        others.append(list(map(str, value)))
        for item in value.values():
            _collect(item, tensors, others)
    else:
        others.append(value if isinstance(value, (bool, int, float, str, type(None))) else id(value))

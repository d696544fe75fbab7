"""Density estimators for sbi whose parameters, or observations, are discrete and continuous together: a ``MADE`` each."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from made_fast.arguments import one_of, real_number, whole_number
from made_fast.models.made import MADE
from made_fast.outputs import Bernoulli, Categorical, Mixed, MixtureOfNormals, Output

__all__ = ["likelihood_made", "posterior_made"]

Discrete = Mapping[int, int | Sequence[float]]
Builder = Callable[[Tensor, Tensor], Any]
_Z_SCORES = ("independent", "structured", "none")


def posterior_made(
    discrete: Discrete,
    *,
    hidden_features: Sequence[int] = (128, 128),
    components: int = 8,
    order: Sequence[int] | None = None,
    activation: str = "relu",
    residual: bool = False,
    z_score_x: str = "independent",
    embedding_net: nn.Module | None = None,
) -> Builder:
    """What ``NPE(prior, density_estimator=...)`` takes: one ``MADE`` for all parameters, discrete ones and continuous ones.

    A parameter that is named here is drawn from its probabilities, another from a mixture of normals over the values that it
    has, less their mean and over their standard deviation; each given those before it in the order and the embedded
    observation. Where the prior ends is left to the posterior of sbi, which draws again. Training, ``build_posterior``,
    ``sample``, ``sample_batched`` and ``log_prob`` are sbi's and stay as they are; samples follow ``torch.manual_seed``.

    Args:
        discrete: which columns of theta are discrete, in any place: how many values such a one has (0, 1, 2, ...) or the
            values themselves. A column that is not named is continuous; none is taken for discrete by its numbers.
        hidden_features: widths of the hidden layers.
        components: normals of the mixture of a continuous parameter.
        order: columns of theta in the order in which they are drawn; the discrete ones first if left out.
        activation: see ``MADE``.
        residual: see ``MADE``.
        z_score_x: observations less their mean and over their standard deviation: ``"independent"`` each number,
            ``"structured"`` all by one mean and deviation, ``"none"`` as they are.
        embedding_net: maps observations (B, ...) to (B, C); they are flattened if left out.

    Returns:
        a function of theta (B, D) and x (B, ...), by which sbi makes its estimator.

    Raises:
        ValueError: an argument does not fit; when training begins, theta has a value that ``discrete`` does not name or
            that is not finite, x has other rows or is not finite where it is standardised, or columns that are not there are
            named.
    """
    return functools.partial(
        _posterior,
        _Options(
            discrete, hidden_features, components, order, activation, residual, "z_score_x", z_score_x, embedding_net
        ),
    )


def likelihood_made(
    discrete: Discrete,
    *,
    hidden_features: Sequence[int] = (128, 128),
    components: int = 8,
    order: Sequence[int] | None = None,
    activation: str = "relu",
    residual: bool = False,
    z_score_theta: str = "independent",
    embedding_net: nn.Module | None = None,
) -> Builder:
    """What ``NLE(prior, density_estimator=...)`` takes: one ``MADE`` for observations that are discrete and continuous.

    See ``posterior_made``: here columns are those of x (B, D), and theta is the context.

    Args:
        discrete: which columns of x are discrete, and how many values or which such a one has.
        hidden_features: widths of the hidden layers.
        components: normals of the mixture of a continuous column.
        order: columns of x in the order in which they are drawn; the discrete ones first if left out.
        activation: see ``MADE``.
        residual: see ``MADE``.
        z_score_theta: parameters less their mean and over their standard deviation, see ``posterior_made``.
        embedding_net: maps parameters (B, D) to (B, C).

    Returns:
        a function of theta (B, D) and x (B, D'), by which sbi makes its estimator.

    Raises:
        ValueError: see ``posterior_made``.
    """
    return functools.partial(
        _likelihood,
        _Options(
            discrete,
            hidden_features,
            components,
            order,
            activation,
            residual,
            "z_score_theta",
            z_score_theta,
            embedding_net,
        ),
    )


class _Options:
    """The arguments, checked as far as they can be before there are data."""

    def __init__(
        self,
        discrete: Discrete,
        hidden_features: Sequence[int],
        components: int,
        order: Sequence[int] | None,
        activation: str,
        residual: bool,
        z_score_name: str,
        z_score: str,
        embedding_net: nn.Module | None,
    ) -> None:
        if not isinstance(discrete, Mapping):
            raise ValueError(f"discrete must be a mapping from columns to values, got {discrete!r}")
        self.values = {whole_number("discrete", key, 0): _values_of(key, each) for key, each in discrete.items()}
        self.components = whole_number("components", components, 1)
        self.order = order
        self.z_score = one_of(z_score_name, z_score, _Z_SCORES)
        self.embedding_net = embedding_net
        self.network: dict[str, Any] = {
            "hidden_features": hidden_features,
            "activation": activation,
            "residual": residual,
        }

    def outputs(self, features: int) -> list[Output | str]:
        """Of each column."""
        wrong = [column for column in self.values if column >= features]
        if wrong:
            raise ValueError(f"discrete must name columns of {features}, 0 to {features - 1}, got {wrong}")
        return [self._output(len(self.values.get(column, ()))) for column in range(features)]

    def _output(self, count: int) -> Output:
        if count == 0:
            return MixtureOfNormals(self.components)
        return Bernoulli() if count == 2 else Categorical(count)

    def order_of(self, features: int) -> list[int]:
        """Of all columns."""
        if self.order is not None:
            return list(self.order)
        return sorted(range(features), key=lambda column: column not in self.values)


def _values_of(column: int, values: Any) -> tuple[float, ...]:
    if isinstance(values, (str, bytes)):
        raise ValueError(f"discrete[{column}] must be a number of values or the values, got {values!r}")
    if not hasattr(values, "__iter__"):
        return tuple(map(float, range(whole_number(f"discrete[{column}]", values, 2))))
    found = tuple(sorted(real_number(f"discrete[{column}]", each) for each in values))
    stored = torch.tensor(found, dtype=torch.float32)
    if len(found) < 2 or len(stored.unique()) < len(found) or not bool(stored.isfinite().all()):
        raise ValueError(
            f"discrete[{column}] must be two or more different finite values, as float32 has them, got {list(values)}"
        )
    return found


def _posterior(options: _Options, theta: Tensor, x: Tensor) -> Any:
    return _estimator_class()(options, "theta", theta, x)


def _likelihood(options: _Options, theta: Tensor, x: Tensor) -> Any:
    return _estimator_class()(options, "x", x, theta)


def _moments(rows: Tensor, together: bool = False) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each column of rows (B, ...), or of all numbers; where nothing varies, 1."""
    if together:
        mean, scale = rows.mean().expand(rows.shape[1:]), rows.std(unbiased=False).expand(rows.shape[1:])
    else:
        mean, scale = rows.mean(0), rows.std(0, unbiased=False)
    return mean.clone(), torch.where(scale > 0, scale, torch.ones_like(scale))


class _Columns(nn.Module):
    """A ``MADE`` of columns (..., D) given conditions (..., *shape), with the methods that sbi calls.

    Attributes:
        net: the model, whose values are numbers of categories and standardised numbers.
    """

    net: MADE
    embedding: nn.Module
    shift: Tensor
    scale: Tensor
    condition_shift: Tensor
    condition_scale: Tensor
    condition_shape: torch.Size

    def __init__(self, options: _Options, name: str, rows: Tensor, conditions: Tensor) -> None:
        if rows.ndim != 2:
            raise ValueError(f"{name} must be (B, D), got {tuple(rows.shape)}")
        features = rows.shape[1]
        rows, conditions = rows.float(), conditions.float()
        if not bool(rows.isfinite().all()):
            row, column = (~rows.isfinite()).nonzero()[0].tolist()
            raise ValueError(f"{name} must be finite, got {float(rows[row, column])} in row {row}, column {column}")
        of = {"theta": "x", "x": "theta"}[name]
        if len(conditions) != len(rows):
            raise ValueError(f"{of} must have as many rows as {name}, {len(rows)}, got {len(conditions)}")
        embedding, outputs = options.embedding_net or nn.Flatten(), options.outputs(features)
        with torch.no_grad():
            width = embedding.to(conditions.device)(conditions[:2]).shape
        if len(width) != 2:
            raise ValueError(f"embedding_net must give (B, C), got {tuple(width)}")
        sizes: dict[str, Any] = {"order": options.order_of(features), "context_features": width[1]}
        model = MADE(features, output=Mixed(outputs), **sizes, **options.network).to(rows.device)
        super().__init__(model, rows.shape[1:], conditions.shape[1:])  # that of sbi's class, which comes after this one
        self.embedding, self.columns, self.name = embedding, sorted(options.values), name
        shift, scale = _moments(rows)
        shift[self.columns], scale[self.columns] = 0, 1
        self.register_buffer("shift", shift)
        self.register_buffer("scale", scale)
        for column in self.columns:
            self.register_buffer(f"values_{column}", torch.tensor(options.values[column]).to(rows))
        if options.z_score != "none":
            mean, deviation = _moments(conditions, options.z_score == "structured")
            if not bool(mean.isfinite().all()):
                row = int((~conditions.isfinite()).nonzero()[0, 0])
                raise ValueError(f"{of} must be finite to be standardised, got nan or inf in row {row}")
        else:
            mean, deviation = torch.zeros_like(conditions[0]), torch.ones_like(conditions[0])
        self.register_buffer("condition_shift", mean)
        self.register_buffer("condition_scale", deviation)
        self._encoded(rows, strict=True)

    @property
    def embedding_net(self) -> nn.Module:
        """Maps conditions, standardised, to the context of the model."""
        return self.embedding

    def log_prob(self, input: Tensor, condition: Tensor, **_: Any) -> Tensor:
        """(S, B) in nats of input (S, B, D) or (B, D) given condition (B, ...) or (S, B, ...)."""
        return self._log_prob(input if input.ndim > 2 else input[None], condition, strict=False)

    def loss(self, input: Tensor, condition: Tensor, **_: Any) -> Tensor:
        """``-log_prob`` (B,) of input (B, D) given condition (B, ...).

        Raises:
            ValueError: a discrete column has a value that was not named.
        """
        return -self._log_prob(input, condition, strict=True)

    def sample(self, sample_shape: Any, condition: Tensor, **_: Any) -> Tensor:
        """(*sample_shape, B, D) given condition (B, ...), by the compiled engine."""
        return self._drawn(sample_shape, condition, False)[0]

    def sample_and_log_prob(self, sample_shape: Any, condition: Tensor, **_: Any) -> tuple[Tensor, Tensor]:
        """``sample`` and the log-probabilities (*sample_shape, B), at once."""
        found, log_prob = self._drawn(sample_shape, condition, True)
        return found, log_prob  # type: ignore[return-value]

    def _log_prob(self, input: Tensor, condition: Tensor, strict: bool) -> Tensor:
        context = self._context(condition)
        lead = torch.broadcast_shapes(input.shape[:-1], context.shape[:-1])
        x, possible = self._encoded(input.expand(*lead, input.shape[-1]), strict=strict)
        found = self.net.log_prob(x, context.expand(*lead, context.shape[-1])) - self.scale.log().sum()
        return found if possible is None else found.masked_fill(~possible, -math.inf)

    @torch.no_grad()
    def _drawn(self, sample_shape: Any, condition: Tensor, with_log_prob: bool) -> tuple[Tensor, Tensor | None]:
        shape, context = torch.Size(sample_shape), self._context(condition)
        if context.ndim == 1:
            context = context[None]
        log_prob: Tensor | None = None
        if with_log_prob:
            x, log_prob = self.net.sample_and_log_prob(shape.numel(), context)
            log_prob = (log_prob - self.scale.log().sum()).T.reshape(*shape, len(context))
        else:
            x = self.net.sample(shape.numel(), context)
        return self._decoded(x).transpose(0, 1).reshape(*shape, len(context), -1), log_prob

    def _context(self, condition: Tensor) -> Tensor:
        """(..., C) of condition (..., *shape)."""
        lead = condition.shape[: condition.ndim - len(self.condition_shape)]
        rows = condition.to(self.shift).reshape(-1, *self.condition_shape)
        found: Tensor = self.embedding((rows - self.condition_shift) / self.condition_scale)
        return found.reshape(*lead, -1)

    def _encoded(self, input: Tensor, strict: bool) -> tuple[Tensor, Tensor | None]:
        """x (..., D) as the model has it, and which rows (...) are possible; None for all."""
        rows, possible = input.to(self.shift), None
        x = (rows - self.shift) / self.scale
        for column in self.columns:
            values, found = getattr(self, f"values_{column}"), rows[..., column]
            index = torch.bucketize(found.contiguous(), values).clamp(max=len(values) - 1)
            equal = values[index] == found
            if not bool(equal.all()):
                if strict:
                    raise ValueError(
                        f"{self.name}[:, {column}] must be one of the values of discrete[{column}], "
                        f"{values.tolist()}, got {float(found[~equal].flatten()[0]):g}"
                    )
                possible = equal if possible is None else possible & equal
            x[..., column] = index.to(x)
        return x, possible

    def _decoded(self, x: Tensor) -> Tensor:
        """``_encoded`` the other way round."""
        found = x * self.scale + self.shift
        for column in self.columns:
            found[..., column] = getattr(self, f"values_{column}")[x[..., column].long()]
        return found


def __getattr__(name: str) -> Any:
    if name == "MADEEstimator":  # by which pickles find it
        return _estimator_class()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@functools.cache
def _estimator_class() -> Any:
    try:
        from sbi.neural_nets.estimators.base import ConditionalDensityEstimator
    except ImportError as error:
        raise ImportError("an estimator for sbi needs sbi: pip install sbi") from error
    bases = (_Columns, ConditionalDensityEstimator)
    return type("MADEEstimator", bases, {"__module__": __name__, "__doc__": _Columns.__doc__})

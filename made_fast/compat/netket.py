"""NetKet's dense autoregressive networks, read from their parameters, and a sampler that NetKet's states take."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from made_fast.arguments import positive_number, real_number
from made_fast.models.made import MADE
from made_fast.outputs.categorical import Categorical
from made_fast.programs.functions import ACTIVATIONS

__all__ = ["direct_sampler", "read", "read_file", "update"]

_LAYER = "_layers_"
_BITS, _SPINS = (0.0, 1.0), (-1.0, 1.0)
_NDARRAY, _SCALAR = 1, 3  # codes of flax.serialization


def read(variables: Mapping[str, Any], *, local_states: Sequence[float], machine_pow: float, activation: str) -> MADE:
    """A ``MADE`` with the probabilities of an ``ARNNDense`` or a ``FastARNNDense``.

    Its samples are exact and its log-probability is ``machine_pow * real(log_psi(x))``, in the dtype of the parameters. What
    ``x`` holds: with the local states 0 and 1 bits, with -1 and 1 spins; of any others the index among ``local_states``.

    Args:
        variables: of the network, as ``{"params": ...}`` or the parameters themselves: arrays ``_layers_i/kernel`` (N f_in,
            N f_out) and ``_layers_i/bias`` (N, f_out), real, for each layer.
        local_states: of the Hilbert space, in its order: ``hilbert.local_states``. It is not among the parameters.
        machine_pow: of the network; 2 unless it was made with another. Nor is it among them.
        activation: name of the function between layers (``"selu"`` for NetKet's default, ``reim_selu``). Nor is this.

    Raises:
        ValueError: parameters are complex, missing or of other shapes, or an argument does not fit; the message names it.

    Source: ``netket.models.ARNNDense`` of NetKet 3.23; see https://netket.readthedocs.io. The structure was compared with it,
    and nothing of it is imported.
    """
    states = _checked_states(local_states)
    power = positive_number("machine_pow", machine_pow)
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
    layers = _layers_of(variables, len(states))
    kernel = layers[0][0]
    sites, widths = len(kernel), [len(each[0]) for each in layers[1:]]
    output: Any = Categorical(len(states))
    if _have_one_parameter(states):
        output = "bernoulli" if 0.0 in states else "spin"
    if widths and activation == "identity":
        raise ValueError("activation must be a function that is not linear, got 'identity'")
    model = MADE(sites, widths, output=output, activation=activation if widths else "relu")
    model = model.to(torch.float64 if kernel.dtype == np.float64 else torch.float32)
    state = model.state_dict()
    made = _for_made(layers, states, power)
    for number, (mask, _, _) in enumerate(made):
        state[_name_of(number, len(layers)) + ".mask"] = mask
    model.load_state_dict(state)
    _write(model, made)
    return model


def update(model: MADE, variables: Mapping[str, Any], *, local_states: Sequence[float], machine_pow: float) -> None:
    """Gives a model of ``read`` the parameters that a network has now; all is checked before anything is written.

    Args:
        model: of ``read``.
        variables, local_states, machine_pow: see ``read``.

    Raises:
        ValueError: see ``read``; or they are those of another network.
    """
    states = _checked_states(local_states)
    layers = _layers_of(variables, len(states))
    sizes = [len(layer[0]) for layer in layers]
    if sizes != [model.features, *model.hidden_features]:
        raise ValueError(
            f"variables must be those of a network with {[model.features, *model.hidden_features]} inputs of its layers, "
            f"got {sizes}"
        )
    _write(model, _for_made(layers, states, positive_number("machine_pow", machine_pow)))


def read_file(path: str | Path) -> dict[str, Any]:
    """The variables in a ``.mpack`` file, of ``MCState``'s bytes or of a ``JsonLog``, without NetKet; no code of it is run.

    Args:
        path: of the file. The package ``msgpack`` reads it.

    Returns:
        what ``read`` takes.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: ``msgpack`` is not installed.
        ValueError: the file is damaged, or holds no parameters.
    """
    try:
        import msgpack
    except ImportError as error:
        raise ImportError("read_file needs the package msgpack: pip install msgpack") from error
    content = Path(path).read_bytes()
    try:
        found = msgpack.unpackb(content, ext_hook=_array_of, strict_map_key=False)
    except Exception as error:  # its exceptions have no class in common
        raise ValueError(f"{path} is no .mpack file of NetKet: {error}") from error
    for name in ("variables", "params"):
        if isinstance(found, dict) and name in found:
            return dict(found["variables"]) if name == "variables" else {"params": found["params"]}
    raise ValueError(f"{path} must hold 'variables' or 'params', found {_shown(found)}")


def direct_sampler(hilbert: Any, *, dtype: Any = None, activation: str | None = None) -> Any:
    """A ``netket.sampler.Sampler`` that draws an ``ARNNDense`` or ``FastARNNDense`` by a compiled engine.

    It takes the place of ``netket.sampler.ARDirectSampler(hilbert)`` in ``netket.vqs.MCState``; samples are exact and
    independent, and follow from the state's key. It runs on the host, outside of ``jax.jit``.

    Args:
        hilbert: the space to sample, homogeneous and without constraint.
        dtype: of the states, float64 if left out.
        activation: name of the network's function, see ``read``; where it is left out, that of the network is recognised or
            refused.

    Raises:
        ImportError: NetKet is not installed.
        ValueError: the space has a constraint, or other local states on its sites.
    """
    return _sampler_class()(hilbert, dtype=dtype, activation=activation)


def _checked_states(local_states: Sequence[float]) -> tuple[float, ...]:
    try:
        states = tuple(real_number("local_states", each) for each in local_states)
    except TypeError:
        raise ValueError(f"local_states must be numbers, got {local_states!r}") from None
    if len(states) < 2 or len(set(states)) < len(states) or not all(map(math.isfinite, states)):
        raise ValueError(f"local_states must be two or more different finite numbers, got {states}")
    return states


def _have_one_parameter(states: tuple[float, ...]) -> bool:
    """Whether they are read as they are, as bits or spins; others are one-hot categories."""
    return tuple(sorted(states)) in (_BITS, _SPINS)


Layer = tuple[NDArray[Any], NDArray[Any], int, int]  # kernel, bias, and units of a site in and out


def _layers_of(variables: Mapping[str, Any], num_states: int) -> list[Layer]:
    """Kernel and bias of each layer, checked."""
    if not isinstance(variables, Mapping):
        raise ValueError(f"variables must be a mapping of parameters, got {type(variables).__name__}")
    params = variables.get("params", variables)
    names = [name for name in params if isinstance(name, str) and name.startswith(_LAYER)]
    places = [name[len(_LAYER) :] for name in names]
    if (
        not names
        or sorted(places, key=_number) != [str(number) for number in range(len(names))]
        or len(params) != len(names)
    ):
        raise ValueError(f"variables must hold {_LAYER}0, {_LAYER}1, ... and nothing else, got {_shown(params)}")
    layers: list[Layer] = []
    sites, units = 0, 1
    for number in range(len(names)):
        layer = params[f"{_LAYER}{number}"]
        kernel = _numbers(f"{_LAYER}{number}/kernel", layer.get("kernel"))
        sites = sites or (kernel.shape[0] if kernel.ndim == 2 else 0)
        fits = kernel.ndim == 2 and sites > 0 and kernel.shape[0] == sites * units and kernel.shape[1] > 0
        if not fits or kernel.shape[1] % sites:
            raise ValueError(
                f"{_LAYER}{number}/kernel must have shape ({sites * units}, a multiple of {sites}), got {kernel.shape}"
            )
        made = kernel.shape[1] // sites
        bias = layer.get("bias")
        bias = np.zeros((sites, made), kernel.dtype) if bias is None else _numbers(f"{_LAYER}{number}/bias", bias)
        if bias.shape != (sites, made) or kernel.dtype != bias.dtype or (layers and kernel.dtype != layers[0][0].dtype):
            raise ValueError(
                f"{_LAYER}{number}/bias must have shape {(sites, made)} and all parameters one dtype, got {bias.shape}, "
                f"{bias.dtype} beside {kernel.dtype}"
            )
        layers.append((kernel, bias, units, made))
        units = made
    if units != num_states:
        raise ValueError(f"local_states must be {units} as the network has, got {num_states}")
    return layers


def _number(text: str) -> int:
    return int(text) if text.isdecimal() else -1


def _numbers(name: str, value: Any) -> NDArray[Any]:
    found = np.asarray(value)
    if np.iscomplexobj(found):
        raise ValueError(
            f"{name} must be real, got {found.dtype}: of complex networks only those with real parameters are read"
        )
    if found.dtype not in (np.float32, np.float64):
        raise ValueError(f"{name} must be float32 or float64, got {found.dtype if value is not None else None}")
    if not np.isfinite(found).all():
        raise ValueError(f"{name} must be finite, found nan or inf")
    return found


def _shown(found: Any) -> str:
    return ", ".join(sorted(map(str, found)))[:200] if isinstance(found, Mapping) else type(found).__name__


def _name_of(number: int, count: int) -> str:
    return "parameters_layer" if number == count - 1 else f"hidden.{number}"


def _for_made(layers: Sequence[Layer], states: tuple[float, ...], power: float) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Mask (out, in), weight (out, in) and bias (out,) of each layer of a MADE.

    A unit of site s reads those of the sites before, and but for the first layer of its own. Where a MADE reads one-hot
    categories, each category has its value times the weight of the site; where it has one parameter, that is the difference
    of two.
    """
    made = []
    two = _have_one_parameter(states)
    for number, (kernel, bias, units, out) in enumerate(layers):
        sites = bias.shape[0]
        sees = np.triu(np.ones((sites, sites), bool), 1 if number == 0 else 0)
        mask = np.kron(sees, np.ones((units, out), bool))
        weight = np.where(mask, kernel, 0)
        if number == 0 and not two:
            mask, weight = np.repeat(mask, len(states), 0), np.kron(weight, np.array(states, kernel.dtype)[:, None])
        flat = bias.reshape(-1)
        if number == len(layers) - 1:
            weight, flat = weight * kernel.dtype.type(power), flat * kernel.dtype.type(power)
            if two:
                high, low = (1, 0) if states[1] > states[0] else (0, 1)
                weight, flat = weight[:, high::2] - weight[:, low::2], flat[high::2] - flat[low::2]
                mask = mask[:, ::2]
        arrays = (mask.T, weight.T, flat)
        made.append(tuple(torch.from_numpy(np.array(each, order="C")) for each in arrays))
    return made  # type: ignore[return-value]


@torch.no_grad()
def _write(model: MADE, made: Sequence[tuple[Tensor, Tensor, Tensor]]) -> None:
    for layer, (_, weight, bias) in zip([*model.hidden, model.parameters_layer], made, strict=True):
        layer.weight.copy_(weight)  # type: ignore[operator, union-attr]
        layer.bias.copy_(bias)  # type: ignore[operator, union-attr]


def _array_of(code: int, data: bytes) -> Any:
    import msgpack

    if code not in (_NDARRAY, _SCALAR):
        raise ValueError(f"extension {code} is not known")
    shape, name, content = msgpack.unpackb(data, raw=False)
    dtype = np.dtype(name.decode() if isinstance(name, bytes) else name)
    if dtype.kind not in "fciub":
        raise ValueError(f"dtype {dtype} is no number")
    found = np.frombuffer(content, dtype).reshape(shape)
    return found[()] if code == _SCALAR else found


@functools.cache
def _sampler_class() -> Any:
    try:
        import jax
        import netket
    except ImportError as error:
        raise ImportError("direct_sampler needs NetKet: pip install netket") from error
    from netket.sampler.autoreg import ARDirectSamplerState
    from netket.utils import struct

    class DirectSampler(netket.sampler.Sampler):  # type: ignore[misc]
        """See ``direct_sampler``."""

        activation: str | None = struct.field(pytree_node=False, default=None)

        def __init__(self, hilbert: Any, *, dtype: Any = None, activation: str | None = None) -> None:
            if hilbert.constrained or not hasattr(hilbert, "local_states"):
                raise ValueError(f"hilbert must be homogeneous and without constraint, got {hilbert!r}")
            super().__init__(hilbert, machine_pow=2, dtype=dtype)
            self.activation = activation

        @property
        def is_exact(self) -> bool:
            """They are independent."""
            return True

        def _init_state(self, machine: Any, variables: Any, key: Any) -> Any:
            return ARDirectSamplerState(key=key)

        def _reset(self, machine: Any, variables: Any, state: Any) -> Any:
            return state

        def _sample_chain(
            self, machine: Any, variables: Any, state: Any, chain_length: int, return_log_probabilities: bool = False
        ) -> Any:
            states = tuple(float(each) for each in self.hilbert.local_states)
            model = _drawn(machine, variables, states, self.activation)
            key, own = jax.random.split(state.key)
            low, high = (int(each) for each in np.asarray(jax.random.bits(own, (2,), "uint32")))
            x, log_prob = model.sample_and_log_prob(self.n_batches * chain_length, seed=high << 32 | low)
            values = (
                x.numpy() if not isinstance(model.output, Categorical) else np.array(states)[x.numpy().astype(np.int64)]
            )
            shape = (self.n_batches, chain_length)
            made = jax.numpy.asarray(values.reshape(*shape, -1), dtype=self.dtype)
            log_probs = jax.numpy.asarray(log_prob.double().numpy().reshape(shape))
            return ((made, log_probs) if return_log_probabilities else made), state.replace(key=key)

    return DirectSampler


_models: dict[Any, MADE] = {}
_MOST_MODELS = 8


def _drawn(machine: Any, variables: Any, states: tuple[float, ...], activation: str | None) -> MADE:
    """The model of a network, with its present parameters; made once."""
    import netket

    if not isinstance(machine, netket.models.ARNNDense | netket.models.FastARNNDense):
        raise ValueError(f"machine must be an ARNNDense or a FastARNNDense, got {type(machine).__name__}")
    power, name = machine.machine_pow, activation or _name_of_function(machine.activation)
    plain = {
        "params": {
            layer: {key: np.asarray(each) for key, each in of.items()} for layer, of in variables["params"].items()
        }
    }
    key = (machine, states, name)
    model = _models.get(key)
    if (
        model is None
        or next(model.parameters()).numpy(force=True).dtype != plain["params"][f"{_LAYER}0"]["kernel"].dtype
    ):
        if len(_models) >= _MOST_MODELS:
            _models.clear()
        _models[key] = read(plain, local_states=states, machine_pow=power, activation=name)
        return _models[key]
    update(model, plain, local_states=states, machine_pow=power)
    return model


def _name_of_function(function: Callable[..., Any]) -> str:
    import jax
    from netket.nn import activation as of_netket

    known = {
        "selu": (jax.nn.selu, of_netket.reim_selu),
        "relu": (jax.nn.relu, of_netket.reim_relu),
        "elu": (jax.nn.elu,),
        "silu": (jax.nn.silu, jax.nn.swish),
        "tanh": (jax.nn.tanh, jax.numpy.tanh),
        "sigmoid": (jax.nn.sigmoid,),
        "softplus": (jax.nn.softplus,),
        "leaky_relu": (jax.nn.leaky_relu,),
    }
    for name, functions in known.items():
        if any(function is each for each in functions):
            return name
    raise ValueError(
        f"activation of the network must be one of {', '.join(known)}, got {function!r}: name it by activation=..."
    )

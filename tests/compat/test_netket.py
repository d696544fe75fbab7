"""NetKet's dense autoregressive networks, rebuilt here in numpy as NetKet 3.23 computes them, and as ``MADE`` reads them."""

import itertools
import re
from typing import Any

import numpy as np
import pytest
import torch

from made_fast.compat import netket

SITES = 5
FUNCTIONS: dict[str, Any] = {
    "selu": lambda x: 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * np.expm1(np.minimum(x, 0))),
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
}
STATES = {
    "spins": (1.0, -1.0),
    "inverted spins": (-1.0, 1.0),
    "bits": (0.0, 1.0),
    "spin 1": (2.0, 0.0, -2.0),
    "levels": (0.0, 1.0, 2.0, 3.0),
    "two of its own": (0.0, 2.0),
}


def variables(states: int, units: tuple[int, ...], dtype: Any = np.float64, *, bias: bool = True) -> dict[str, Any]:
    """Random ones; what lies under masks is not zero."""
    random = np.random.default_rng(0)
    params, before = {}, 1
    for number, made in enumerate((*units, states)):
        layer = {"kernel": random.normal(size=(SITES * before, SITES * made)).astype(dtype)}
        if bias:
            layer["bias"] = random.normal(size=(SITES, made)).astype(dtype)
        params[f"_layers_{number}"], before = layer, made
    return {"params": params}


def log_probs(
    of: dict[str, Any], x: np.ndarray, states: tuple[float, ...], power: float, activation: str
) -> np.ndarray:
    """log p of rows of local states, by the whole network."""
    value = x.astype(np.float64)
    for number in range(len(of["params"])):
        layer = of["params"][f"_layers_{number}"]
        kernel = layer["kernel"].astype(np.float64)
        value = FUNCTIONS[activation](value) if number else value
        for row, column in itertools.product(range(kernel.shape[0]), range(kernel.shape[1])):
            before, site = row // (kernel.shape[0] // SITES), column // (kernel.shape[1] // SITES)
            if before > site or (number == 0 and before == site):
                kernel[row, column] = 0
        value = value @ kernel + layer.get("bias", np.zeros(1)).reshape(-1)
    logits = power * value.reshape(len(x), SITES, len(states))
    logits = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    chosen = np.abs(x[..., None] - np.array(states)).argmin(-1)
    return np.take_along_axis(logits, chosen[..., None], -1)[..., 0].sum(-1)


def as_ours(x: np.ndarray, states: tuple[float, ...]) -> torch.Tensor:
    if sorted(states) in ([0.0, 1.0], [-1.0, 1.0]):
        return torch.from_numpy(x)
    return torch.from_numpy(np.abs(x[..., None] - np.array(states)).argmin(-1)).double()


@pytest.mark.parametrize("kind", STATES)
@pytest.mark.parametrize(("units", "activation", "power"), [((3,), "selu", 2), ((), "relu", 1), ((2, 4), "tanh", 1.5)])
def test_log_probabilities_are_those_of_the_network(
    kind: str, units: tuple[int, ...], activation: str, power: float
) -> None:
    states = STATES[kind]
    of = variables(len(states), units)
    model = netket.read(of, local_states=states, machine_pow=power, activation=activation)
    x = np.array(list(itertools.product(states, repeat=SITES)))
    found = model.log_prob(as_ours(x, states)).detach()
    np.testing.assert_allclose(found.numpy(), log_probs(of, x, states, power, activation), rtol=0, atol=1e-11)
    assert found.exp().sum().item() == pytest.approx(1)
    assert "every variable depends on variables before it alone" in str(model.check())


def test_samples_follow_it() -> None:
    states = STATES["spins"]
    of = variables(2, (3,))
    model = netket.read(of, local_states=states, machine_pow=1, activation="selu")
    x, log_prob = model.sample_and_log_prob(20_000, seed=0)
    np.testing.assert_allclose(log_prob.numpy(), log_probs(of, x.numpy(), states, 1, "selu"), atol=1e-10)
    every = np.array(list(itertools.product(states, repeat=SITES)))
    expected = 20_000 * np.exp(log_probs(of, every, states, 1, "selu"))
    codes = {tuple(row): number for number, row in enumerate(every.tolist())}
    counts = np.bincount([codes[tuple(row)] for row in x.tolist()], minlength=len(every))
    often = expected > 5
    assert ((counts - expected)[often] ** 2 / expected[often]).sum() < 1.5 * often.sum() + 20


def test_layers_are_in_the_order_of_their_numbers() -> None:
    """As texts _layers_10 comes before _layers_2."""
    of = variables(2, (1, 2, 3, 1, 2, 3, 1, 2, 3, 1))
    of = {"params": dict(sorted(of["params"].items()))}
    model = netket.read(of, local_states=(1, -1), machine_pow=2, activation="tanh")
    x = np.array(list(itertools.product((1.0, -1.0), repeat=SITES)))
    found = model.log_prob(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(found, log_probs(of, x, (1.0, -1.0), 2, "tanh"), atol=1e-11)


def test_dtypes_biases_and_bare_parameters() -> None:
    of = variables(2, (3,), np.float32, bias=False)
    for layer in of["params"].values():
        layer["kernel"].flags.writeable = False  # as arrays of JAX are
    model = netket.read(of["params"], local_states=(1, -1), machine_pow=2, activation="selu")
    assert model.parameters_layer.weight.dtype == torch.float32
    x = np.array(list(itertools.product((1.0, -1.0), repeat=SITES)))
    found = model.log_prob(torch.from_numpy(x).float()).detach().numpy()
    np.testing.assert_allclose(found, log_probs(of, x, (1.0, -1.0), 2, "selu"), atol=1e-4)


def test_new_parameters_are_drawn_from() -> None:
    model = netket.read(variables(2, (3,)), local_states=(1, -1), machine_pow=2, activation="selu")
    model.sample(3, seed=0)
    new = variables(2, (3,))
    for layer in new["params"].values():
        layer["kernel"] *= -0.5
    netket.update(model, new, local_states=(1, -1), machine_pow=2)
    x, log_prob = model.sample_and_log_prob(50, seed=0)
    np.testing.assert_allclose(log_prob.numpy(), log_probs(new, x.numpy(), (1.0, -1.0), 2, "selu"), atol=1e-10)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match="those of a network"):
        netket.update(model, variables(2, (4,)), local_states=(1, -1), machine_pow=2)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def changed(**layer: Any) -> dict[str, Any]:
    of = variables(2, (3,))
    of["params"]["_layers_1"].update(layer)
    return of


GOOD = {"local_states": (1, -1), "machine_pow": 2, "activation": "selu"}


@pytest.mark.parametrize(
    ("of", "options", "says"),
    [
        (variables(2, (3,)), {"local_states": (1,)}, "local_states must be two or more"),
        (variables(2, (3,)), {"local_states": (1, 1)}, "local_states must be two or more different"),
        (variables(2, (3,)), {"local_states": 2}, "local_states must be numbers"),
        (variables(2, (3,)), {"local_states": (2, 0, -2)}, "local_states must be 2 as the network has, got 3"),
        (variables(2, (3,)), {"machine_pow": 0}, "machine_pow must be"),
        (variables(2, (3,)), {"activation": "reim_selu"}, "activation must be one of"),
        (variables(2, (3,)), {"activation": "identity"}, "not linear"),
        (changed(kernel=np.ones((15, 10), complex)), {}, "_layers_1/kernel must be real, got complex128"),
        (changed(kernel=np.ones((15, 10), np.float16)), {}, "must be float32 or float64, got float16"),
        (changed(kernel=np.full((15, 10), np.nan)), {}, "_layers_1/kernel must be finite"),
        (changed(kernel=np.ones((14, 10))), {}, "_layers_1/kernel must have shape (15, a multiple of 5), got (14, 10)"),
        (changed(kernel=None), {}, "_layers_1/kernel must be float32 or float64"),
        (changed(bias=np.ones((5, 3))), {}, "_layers_1/bias must have shape (5, 2)"),
        (changed(bias=np.ones((5, 2), np.float32)), {}, "one dtype"),
        (
            {"params": {"Dense_0": {}}},
            {},
            "variables must hold _layers_0, _layers_1, ... and nothing else, got Dense_0",
        ),
        ({"params": {"_layers_1": {}}}, {}, "variables must hold _layers_0"),
        ({"params": {**variables(2, ())["params"], "phase": {}}}, {}, "nothing else"),
        ({}, {}, "variables must hold"),
        ([1, 2], {}, "variables must be a mapping of parameters, got list"),
    ],
)
def test_refusals(of: Any, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        netket.read(of, **{**GOOD, **options})


def packed(of: Any) -> bytes:
    """As flax writes arrays."""
    msgpack = pytest.importorskip("msgpack")

    def default(array: np.ndarray) -> Any:
        return msgpack.ExtType(1, msgpack.packb((array.shape, array.dtype.name, array.tobytes())))

    return msgpack.packb(of, default=default)


@pytest.mark.parametrize("wrap", [lambda of: {"variables": of, "n_samples": 8}, lambda of: of], ids=["state", "log"])
def test_files(wrap: Any, tmp_path: Any) -> None:
    of = variables(2, (3,))
    (tmp_path / "a.mpack").write_bytes(packed(wrap(of)))
    found = netket.read(netket.read_file(tmp_path / "a.mpack"), **GOOD)
    expected = netket.read(of, **GOOD)
    assert all(
        torch.equal(a, b) for a, b in zip(found.state_dict().values(), expected.state_dict().values(), strict=True)
    )


def test_files_that_are_none(tmp_path: Any) -> None:
    whole = packed(variables(2, (3,)))
    with pytest.raises(FileNotFoundError):
        netket.read_file(tmp_path / "none.mpack")
    for content in (b"", b"text", whole[:100], whole[:-1], packed({"other": 1}), packed([1, 2])):
        (tmp_path / "a.mpack").write_bytes(content)
        with pytest.raises(ValueError, match=r"a\.mpack"):
            netket.read_file(tmp_path / "a.mpack")


def test_without_netket_it_says_what_is_missing() -> None:
    try:
        import netket as _  # noqa: F401
    except ImportError:
        with pytest.raises(ImportError, match="pip install netket"):
            netket.direct_sampler(None)


def test_a_state_of_netket_draws_by_the_engine() -> None:
    theirs = pytest.importorskip("netket")
    space = theirs.hilbert.Spin(0.5, 6)
    network = theirs.models.ARNNDense(hilbert=space, layers=2, features=3)
    state = theirs.vqs.MCState(netket.direct_sampler(space), network, n_samples=256, seed=1)
    x, y = np.asarray(state.samples), np.asarray(state.sample())
    assert x.shape == (1, 256, 6) and set(np.unique(x)) == {-1, 1} and not np.array_equal(x, y)
    (x, log_prob), _ = state.sampler.sample(
        network, state.variables, state=state.sampler_state, chain_length=7, return_log_probabilities=True
    )
    expected = 2 * np.asarray(network.apply(state.variables, x.reshape(-1, 6))).real
    np.testing.assert_allclose(np.asarray(log_prob).ravel(), expected, atol=1e-10)
    with pytest.raises(ValueError, match="without constraint"):
        netket.direct_sampler(theirs.hilbert.Spin(0.5, 6, total_sz=0))

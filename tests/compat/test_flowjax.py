"""flowjax's masked autoregressive flow, rebuilt here in numpy as flowjax 19.1 computes it, and as ours reads it."""

import copy
import io
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from made_fast.compat import flowjax

FUNCTIONS: dict[str, Any] = {
    "relu": lambda x: np.maximum(x, 0),
    "tanh": np.tanh,
    "softplus": lambda x: np.logaddexp(x, 0),
}


def leaves_of(
    features: int,
    *,
    context: int = 0,
    transforms: int = 2,
    width: int = 7,
    depth: int = 1,
    base: bool = False,
    dtype: Any = np.float64,
) -> list[Any]:
    """Random ones in the order of flowjax's tree, ranks and masks as it makes them; what lies under masks is not zero."""
    random = np.random.default_rng(0)

    def numbers(*shape: int) -> np.ndarray:
        return random.normal(size=shape, scale=0.5).astype(dtype)

    ranks = np.concatenate([np.arange(features), -np.ones(context, int)])
    hidden = np.arange(width) % features - 1 if context else np.arange(width) % max(features - 1, 1)
    found: list[Any] = [features]
    if base:
        found += [numbers(features), lambda x: x, numbers(features)]
    for layer in range(depth + 1):
        rows = np.repeat(np.arange(features), 2) if layer == depth else hidden
        mask = rows[:, None] > ranks if layer == depth else rows[:, None] >= ranks
        found += [
            np.where,
            np.tile(mask, (transforms, 1, 1)),
            numbers(transforms, *mask.shape),
            0,
            numbers(transforms, len(rows)),
        ]
        ranks = hidden
    if features > 2:
        permutation = np.stack([random.permutation(features) for _ in range(transforms)])
        found += [features, permutation, permutation.argsort(1)]
    return [*found, features]


def arrays_of(leaves: list[Any]) -> list[np.ndarray]:
    return [each for each in leaves if isinstance(each, np.ndarray)]


def rebuilt(
    leaves: list[Any], z: np.ndarray, context: np.ndarray | None, activation: str, least: float
) -> tuple[np.ndarray, np.ndarray]:
    """What all transforms make of z (B, D), and the log-determinant, by the whole network of each."""
    arrays = [each for each in arrays_of(leaves) if each.ndim > 1]
    features, total = z.shape[1], np.zeros(len(z))
    layers = [arrays[place : place + 3] for place in range(0, len(arrays) - 2 * (features > 2), 3)]
    for number in range(len(layers[0][0])):
        value = z if context is None else np.concatenate([z, context], 1)
        for place, (mask, weight, bias) in enumerate(layers):
            value = FUNCTIONS[activation](value) if place else value
            value = value @ np.where(mask[number], weight[number], 0).T.astype(np.float64) + bias[number]
        loc, raw = np.moveaxis(value.reshape(len(z), features, 2), -1, 0)
        scale = np.logaddexp(raw + np.log(np.expm1(1 - least)), 0) + least
        z, total = z * scale + loc, total + np.log(scale).sum(1)
        z = z[:, arrays[-2][number]] if features > 2 else z[:, ::-1].copy()
    return z, total


def normal(z: np.ndarray) -> np.ndarray:
    return -(0.5 * z**2 + 0.5 * np.log(2 * np.pi)).sum(1)


GOOD: dict[str, Any] = {"invert": True, "activation": "relu", "transformer": "default", "base": "standard normal"}
SHAPES: dict[str, dict[str, Any]] = {
    "three": {"features": 3},
    "context": {"features": 5, "context": 2, "depth": 2, "transforms": 3},
    "two": {"features": 2, "width": 4},
    "one": {"features": 1, "context": 2},
    "no hidden layer": {"features": 4, "context": 1, "depth": 0},
    "narrow": {"features": 9, "width": 3},  # no unit has a rank of the last variables
    "base": {"features": 3, "base": True},
}


@pytest.mark.parametrize(
    ("activation", "transformer"), [("relu", "default"), ("tanh", "affine"), ("softplus", "default")]
)
@pytest.mark.parametrize("name", SHAPES)
def test_log_probabilities_are_those_of_the_flow(name: str, activation: str, transformer: str) -> None:
    leaves, random = leaves_of(**SHAPES[name]), np.random.default_rng(1)
    options = {**GOOD, "activation": activation, "transformer": transformer}
    least = flowjax.TRANSFORMERS[transformer]
    flow = flowjax.read(leaves, **{**options, "base": "normal" if name == "base" else "standard normal"})
    x, context = random.normal(size=(20, flow.features)), None
    if flow.context_features:
        context = random.normal(size=(20, flow.context_features))
    c = None if context is None else torch.from_numpy(context)
    z, log_det = rebuilt(leaves, x, context, activation, least)
    if name == "base":
        loc, scale = arrays_of(leaves)[0], np.logaddexp(arrays_of(leaves)[1], 0)
        z, log_det = (z - loc) / scale, log_det - np.log(scale).sum()
    found = flow.log_prob(torch.from_numpy(x), c).detach().numpy()
    np.testing.assert_allclose(found, normal(z) + log_det, rtol=0, atol=1e-11)
    if name == "base":
        return
    # The other direction: from noise to x by the same leaves.
    other = flowjax.read(leaves, **{**options, "invert": False})
    y, log_det = rebuilt(leaves, x, context, activation, least)
    found = other.log_prob(torch.from_numpy(y), c).detach().numpy()
    np.testing.assert_allclose(found, normal(x) - log_det, rtol=0, atol=1e-10)


@pytest.mark.parametrize("inverted", [True, False])
@pytest.mark.parametrize("name", SHAPES)
def test_samples_come_of_the_noise(name: str, inverted: bool) -> None:
    """The same noise in both directions; each sample with its log-probability, each row by its number."""
    leaves = leaves_of(**SHAPES[name])
    flow = flowjax.read(
        leaves, **{**GOOD, "invert": inverted, "base": "normal" if name == "base" else "standard normal"}
    )
    context = torch.ones(3, flow.context_features, dtype=torch.float64) if flow.context_features else None
    x, log_prob = flow.sample_and_log_prob(40, context, seed=3)
    assert x.shape == ((40, flow.features) if context is None else (3, 40, flow.features))
    flat = x.reshape(-1, flow.features)
    contexts = None if context is None else context.repeat_interleave(40, 0)
    torch.testing.assert_close(log_prob.flatten(), flow.log_prob(flat, contexts).detach(), rtol=0, atol=1e-12)
    noise = flow._noise.sample(len(flat), seed=3).numpy()
    c = None if contexts is None else contexts.numpy()
    if name == "base":
        noise = noise * np.logaddexp(arrays_of(leaves)[1], 0) + arrays_of(leaves)[0]
    start, end = (flat.numpy(), noise) if inverted else (noise, flat.numpy())
    np.testing.assert_allclose(rebuilt(leaves, start, c, "relu", 0.01)[0], end, rtol=1e-11, atol=1e-11)
    later = flow.sample(10, context if context is None else context[:1], seed=3, first_row=30)
    if inverted:  # by the engine; torch's products may round otherwise
        assert torch.equal(later.reshape(10, -1), flat[30:40])
    torch.testing.assert_close(later.reshape(10, -1), flat[30:40], rtol=1e-12, atol=1e-12)
    assert len(flat.unique(dim=0)) == len(flat)


def test_moments_of_the_samples() -> None:
    """One transform of two variables, whose first is normal and whose second is so given it."""
    leaves = leaves_of(2, transforms=1, depth=0)
    weight, bias = arrays_of(leaves)[1][0], arrays_of(leaves)[2][0]
    flow = flowjax.read(leaves, **GOOD)
    x = flow.sample(40_000, seed=0).numpy()
    scale = np.logaddexp(bias[1::2] + np.log(np.expm1(0.99)), 0) + 0.01
    assert abs(x[:, 0].mean() + bias[0] / scale[0]) < 4 / scale[0] / 200
    given = np.logaddexp(bias[3] + weight[3, 0] * x[:, 0] + np.log(np.expm1(0.99)), 0) + 0.01
    z = x[:, 1] * given + bias[2] + weight[2, 0] * x[:, 0]
    assert abs(z.mean()) < 0.02 and abs(z.std() - 1) < 0.02 and abs(np.corrcoef(z, x[:, 0])[0, 1]) < 0.02


@pytest.mark.parametrize("inverted", [True, False])
def test_gradients_and_dtypes(inverted: bool) -> None:
    flow = flowjax.read(
        leaves_of(3, context=1, base=True), **{**GOOD, "base": "normal", "activation": "tanh", "invert": inverted}
    )
    x = torch.linspace(-1, 1, 6, dtype=torch.float64).reshape(2, 3).requires_grad_()
    context = torch.ones(2, 1, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(flow.log_prob, (x, context))
    flow.log_prob(x, context).sum().backward()
    assert all(each.grad is not None and each.grad.isfinite().all() for each in flow.parameters())
    single = flowjax.read(leaves_of(3, dtype=np.float32), **{**GOOD, "invert": inverted})
    assert single.sample(5, seed=0).dtype == torch.float32
    torch.testing.assert_close(
        single.log_prob(torch.zeros(1, 3)).double(),
        flowjax.read(leaves_of(3), **{**GOOD, "invert": inverted}).log_prob(torch.zeros(1, 3)),
        rtol=1e-4,
        atol=1e-4,
    )


def test_new_parameters_are_drawn_from() -> None:
    leaves = leaves_of(3)
    flow = flowjax.read(leaves, **GOOD)
    flow.sample(3, seed=0)
    new = [each * -0.5 if isinstance(each, np.ndarray) and each.dtype == np.float64 else each for each in leaves]
    flowjax.update(flow, new)
    x = flow.sample(20, seed=0)
    assert torch.equal(x, flowjax.read(new, **GOOD).sample(20, seed=0))
    before = {name: value.clone() for name, value in flow.state_dict().items()}
    for wrong, says in (
        (leaves_of(3, width=6), "those of a flow with shapes"),
        (leaves_of(3, base=True), "before those of the layers"),
    ):
        with pytest.raises(ValueError, match=says):
            flowjax.update(flow, wrong)
    assert all(torch.equal(value, before[name]) for name, value in flow.state_dict().items())


@pytest.mark.parametrize("inverted", [True, False])
def test_copies_pickles_and_trained_weights(inverted: bool) -> None:
    flow = flowjax.read(leaves_of(3, base=True), **{**GOOD, "base": "normal", "invert": inverted})
    x, log_prob = flow.sample_and_log_prob(9, seed=0)
    for other in (copy.deepcopy(flow), pickle.loads(pickle.dumps(flow))):
        assert all(torch.equal(*pair) for pair in zip(other.sample_and_log_prob(9, seed=0), (x, log_prob), strict=True))
        optimizer = torch.optim.SGD(other.parameters(), lr=0.1)
        (-other.log_prob(x).mean()).backward()
        optimizer.step()
        moved, nats = other.sample_and_log_prob(9, seed=0)
        assert not torch.equal(moved, x) and torch.equal(flow.sample(9, seed=0), x)
        torch.testing.assert_close(nats, other.log_prob(moved).detach(), rtol=0, atol=1e-12)
        single = other.float().sample(9, seed=0)
        assert single.dtype == torch.float32
        torch.testing.assert_close(single.double(), moved, rtol=1e-4, atol=1e-4)


def changed(place: int, value: Any) -> list[Any]:
    """Leaves without what is no array: mask, weight, bias, mask, weight, bias, permutation, inverse."""
    leaves = arrays_of(leaves_of(3))
    leaves[place] = value
    return leaves


@pytest.mark.parametrize(
    ("leaves", "options", "says"),
    [
        (leaves_of(3), {"activation": "swish2"}, "activation must be one of"),
        (leaves_of(3), {"transformer": "spline"}, "transformer must be one of default, affine, got 'spline'"),
        (leaves_of(3), {"base": "uniform"}, "base must be one of standard normal, normal, got 'uniform'"),
        (leaves_of(3), {"invert": "yes"}, "invert must be True or False"),
        (leaves_of(3), {"base": "normal"}, "leaves before those of the layers must be 2 with base='normal', got 0"),
        (leaves_of(3, base=True), {}, "must be 0 with base='standard normal', got 2"),
        ([], {}, "leaves must hold a mask, a weight and a bias for each layer, got no array"),
        (3, {}, "leaves must be arrays one after another, got int"),
        (changed(0, np.ones((2, 7, 3))), {}, "masks among the leaves must let no variable"),
        (changed(0, np.ones((2, 7, 2), bool)), {}, "the mask of layer 0 must have shape (2, 7, 3)"),
        (
            changed(1, np.ones((2, 7, 3), int)),
            {},
            "the weight of layer 0 must have shape (2, 7, 3) and be float32 or float64",
        ),
        (changed(1, np.full((2, 7, 3), np.nan)), {}, "the weight of layer 0 must be finite"),
        (changed(2, np.ones((2, 6))), {}, "the bias of layer 0 must have shape (2, 7)"),
        (
            changed(4, np.ones((2, 6, 7), np.float32)),
            {},
            "the weight of layer 1 must have shape (2, 6, 7) and be float64",
        ),
        (changed(4, np.ones((2, 9, 7))), {}, "the mask of layer 1 must have shape (2, 9, 7)"),
        (changed(6, np.zeros((2, 3), int)), {}, "leaves must end with permutations (2, 3) and their inverses"),
        (changed(6, np.zeros((2, 4), int)), {}, "leaves must end with permutations (2, 3) and their inverses"),
        (arrays_of(leaves_of(3))[:-1], {}, "leaves must end with permutations"),
        (changed(3, np.ones((2, 6, 7), bool)), {}, "must let no variable depend on itself or on later ones"),
    ],
)
def test_refusals(leaves: Any, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        flowjax.read(leaves, **{**GOOD, **options})


def serialised(leaves: list[Any]) -> bytes:
    """As equinox writes leaves: arrays one after another, numbers as arrays without a dimension."""
    file = io.BytesIO()
    for each in leaves:
        if not callable(each):
            np.save(file, each)
    return file.getvalue()


def test_files(tmp_path: Path) -> None:
    leaves = leaves_of(4, context=2, base=True)
    (tmp_path / "flow.eqx").write_bytes(serialised(leaves))
    options = {**GOOD, "base": "normal"}
    found = flowjax.read(flowjax.read_file(tmp_path / "flow.eqx"), **options).state_dict()
    expected = flowjax.read(leaves, **options).state_dict()
    assert {*found} == {*expected} and all(torch.equal(found[name], expected[name]) for name in found)


def test_files_that_are_none(tmp_path: Path) -> None:
    whole = serialised(leaves_of(3))
    with pytest.raises(FileNotFoundError):
        flowjax.read_file(tmp_path / "none.eqx")
    archive, pickled = io.BytesIO(), io.BytesIO()
    np.savez(archive, a=np.zeros(3))
    np.save(pickled, np.array([{}], dtype=object), allow_pickle=True)
    for content in (b"", b"text", whole[:100], whole[:-1], archive.getvalue(), pickled.getvalue()):
        (tmp_path / "flow.eqx").write_bytes(content)
        with pytest.raises(ValueError, match=r"flow\.eqx is no file of equinox"):
            flowjax.read_file(tmp_path / "flow.eqx")


THEIRS = {
    "default": {"dim": 4},
    "context": {"dim": 5, "cond_dim": 2, "nn_depth": 2, "nn_activation": "tanh"},
    "other direction": {"dim": 3, "invert": False, "nn_activation": "silu"},
    "affine": {"dim": 3, "transformer": "affine", "base": "normal"},
    "two": {"dim": 2, "base": "normal", "cond_dim": 1, "invert": False},
    "wide": {"dim": 60, "flow_layers": 2},
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name != "default" else []) for name in THEIRS]
)
def test_flows_of_flowjax(name: str, tmp_path: Path) -> None:
    """Against the library itself, where it is installed, in fp64: to 1e-10, of our samples too; and its file."""
    pytest.importorskip("flowjax")
    import equinox
    import jax
    from flowjax.bijections import Affine
    from flowjax.distributions import Normal, StandardNormal
    from flowjax.flows import masked_autoregressive_flow

    options = dict(THEIRS[name])
    dim, base, transformer = (
        options.pop("dim"),
        options.pop("base", "standard normal"),
        options.pop("transformer", "default"),
    )
    activation = options.pop("nn_activation", "relu")
    with jax.enable_x64(True):
        flow = masked_autoregressive_flow(
            jax.random.key(0),
            base_dist=StandardNormal((dim,)) if base != "normal" else Normal(jax.numpy.arange(dim) * 0.3, 2.0),
            transformer=Affine() if transformer == "affine" else None,
            nn_activation=getattr(jax.nn, activation),
            **options,
        )
        floating, rest = equinox.partition(flow, equinox.is_inexact_array)
        moved = jax.tree_util.tree_map(
            lambda each: each + 0.1 * np.sin(np.arange(each.size)).reshape(each.shape), floating
        )
        flow = equinox.combine(moved, rest)
        equinox.tree_serialise_leaves(tmp_path / "flow.eqx", flow)
        known = {
            "invert": options.get("invert", True),
            "activation": activation,
            "transformer": transformer,
            "base": base,
        }
        ours = flowjax.read(jax.tree_util.tree_leaves(flow), **known)
        read = flowjax.read(flowjax.read_file(tmp_path / "flow.eqx"), **known).state_dict()
        assert all(torch.equal(read[key], value) for key, value in ours.state_dict().items())
        random = np.random.default_rng(0)
        context = random.normal(size=(30, options["cond_dim"])) if "cond_dim" in options else None
        c = None if context is None else torch.from_numpy(context)
        x = random.normal(size=(30, dim))
        expected = np.asarray(flow.log_prob(x, context))
        np.testing.assert_allclose(ours.log_prob(torch.from_numpy(x), c).detach().numpy(), expected, rtol=0, atol=1e-10)
        drawn, log_prob = ours.sample_and_log_prob(4, c, seed=0)
        each = None if context is None else np.repeat(context, 4, 0)
        theirs = np.asarray(flow.log_prob(drawn.reshape(-1, dim).numpy(), each))
        np.testing.assert_allclose(log_prob.numpy().ravel(), theirs, rtol=0, atol=1e-10)

"""TensorFlow Probability on JAX: its masked autoregressive flow, and its autoregressive distribution of bits.

Its own masked network needs Keras, which the JAX side does not have, so the network is written here; the weights are
masked once, as that library's initialiser and constraint do. The last release does not import beside this JAX, hence
the nightly.
"""

from collections.abc import Callable
from typing import Any

from ._protocol import Call, Draw, Widths, main, one_layer

PACKAGES = ("jax==0.10.2", "jaxlib==0.10.2", "numpy==2.4.6", "tfp-nightly==0.26.0.dev20261027")


def _network(features: int, widths: Widths, outputs: int) -> Callable[[Any], Any]:
    """Masked network (B, D) -> (B, D, outputs)."""
    import jax
    from jax import numpy as jnp

    inputs = jnp.arange(1, features + 1)
    degrees = [inputs, *(jnp.arange(width) * features // width for width in widths), jnp.repeat(inputs - 1, outputs)]
    layers = []
    for key, columns, rows in zip(
        jax.random.split(jax.random.key(0), len(degrees)), degrees, degrees[1:], strict=False
    ):
        bound = len(columns) ** -0.5
        weight = jax.random.uniform(key, (len(columns), len(rows)), minval=-bound, maxval=bound)
        layers.append((weight * (columns[:, None] <= rows), jnp.full(len(rows), bound)))  # (in, out), (out,)

    def apply(x: Any) -> Any:
        for weight, bias in layers[:-1]:
            x = jax.nn.relu(x @ weight + bias)
        weight, bias = layers[-1]
        return (x @ weight + bias).reshape(*x.shape[:-1], features, outputs)

    return apply


def prepare_maf(features: int, widths: Widths, rows: int) -> Draw:
    """`MaskedAutoregressiveFlow` over a standard normal; its forward is a loop of D passes."""
    import jax
    from jax import numpy as jnp
    from tensorflow_probability.substrates import jax as tfp

    net = _network(features, widths, 2)
    normal = tfp.distributions.MultivariateNormalDiag(jnp.zeros(features), jnp.ones(features))
    bijector = tfp.bijectors.MaskedAutoregressiveFlow(lambda x: tuple(jnp.moveaxis(net(x), -1, 0)))
    flow = tfp.distributions.TransformedDistribution(normal, bijector)
    sample = jax.jit(lambda seed: flow.sample(rows, seed=jax.random.key(seed)))
    return lambda seed: sample(jnp.uint32(seed)).block_until_ready()


def prepare_bits(features: int, widths: Widths, rows: int) -> Draw:
    """`Autoregressive` of independent Bernoullis: D + 1 passes, all D variables drawn anew with one seed in each."""
    import jax
    from jax import numpy as jnp
    from tensorflow_probability.substrates import jax as tfp

    net = _network(features, widths, 1)

    def conditionals(x: Any) -> Any:
        return tfp.distributions.Independent(tfp.distributions.Bernoulli(logits=net(x)[..., 0], dtype=jnp.float32), 1)

    model = tfp.distributions.Autoregressive(conditionals, jnp.zeros(features), num_steps=features)
    sample = jax.jit(lambda seed: model.sample(rows, seed=jax.random.key(seed)))
    return lambda seed: sample(jnp.uint32(seed)).block_until_ready()


CALLS = (
    Call(
        "maf",
        "jit(TransformedDistribution(normal, MaskedAutoregressiveFlow(net)).sample)(B, seed=key)",
        "real, affine; D whole passes, jitted",
        one_layer,
        prepare_maf,
        "network written by hand, masked once",
    ),
    Call(
        "autoregressive",
        "jit(Autoregressive(lambda x: Independent(Bernoulli(net(x)), 1), zeros(D), num_steps=D).sample)(B, seed=key)",
        "Bernoulli; D + 1 whole passes, unrolled and jitted",
        one_layer,
        prepare_bits,
        "network written by hand, masked once; the library unrolls the D passes, so compilation grows with D",
    ),
)

if __name__ == "__main__":
    main(PACKAGES, CALLS)

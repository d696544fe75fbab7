"""NetKet: its dense autoregressive network with its direct sampler, naive and "fast" (each layer caches its inputs)."""

from collections.abc import Callable
from typing import Any

from ._protocol import Call, Draw, Widths, main

PACKAGES = ("jax==0.10.2", "jaxlib==0.10.2", "numpy==2.4.6", "netket==3.23.0")


def _widths(features: int, hidden: int) -> Widths:
    """NetKet gives each variable the same whole number of hidden units, at least one."""
    return (features * max(1, hidden // features),)


def _prepare(model: str, **options: int) -> Callable[[int, Widths, int], Draw]:
    def prepare(features: int, widths: Widths, rows: int) -> Draw:
        import jax
        import netket
        from jax import numpy as jnp

        space = netket.hilbert.Spin(s=0.5, N=features)
        units = widths[0] // features
        net = getattr(netket.models, model)(
            hilbert=space, layers=2, features=units, param_dtype=jnp.float32, activation=jax.nn.relu, **options
        )
        variables = net.init(jax.random.key(0), jnp.zeros((1, features), jnp.float32))
        sampler = netket.sampler.ARDirectSampler(space, dtype=jnp.float32)
        state = sampler.init_state(net, variables, seed=0)

        def draw(seed: int) -> Any:
            nonlocal state
            sample, state = sampler.sample(net, variables, state=state, chain_length=rows)
            return sample.block_until_ready()

        return draw

    return prepare


_SAMPLE = "ARDirectSampler(Spin(0.5, N=D)).sample(net, variables, chain_length=B)"
CALLS = (
    Call(
        "dense",
        f"net = ARNNDense(layers=2, features=max(1, H // D)); {_SAMPLE}",
        "two states (a Bernoulli); D whole passes, jitted",
        _widths,
        _prepare("ARNNDense"),
        "hidden width is a multiple of D; relu and float32 asked for instead of its defaults",
    ),
    Call(
        "fast-dense",
        f"net = FastARNNDense(layers=2, features=max(1, H // D)); {_SAMPLE}",
        "two states (a Bernoulli); cached inputs",
        _widths,
        _prepare("FastARNNDense"),
        "the only other cached dense sampler that we know",
    ),
    Call(
        "fast-conv",
        f"net = FastARNNConv1D(layers=2, features=max(1, H // D), kernel_size=9); {_SAMPLE}",
        "two states (a Bernoulli); not dense: kernel 9, cached, jitted",
        _widths,
        _prepare("FastARNNConv1D", kernel_size=9),
        "ANOTHER MODEL: a convolution, each unit sees 9 neighbours instead of all earlier variables, hence so quick",
    ),
)

if __name__ == "__main__":
    main(PACKAGES, CALLS)

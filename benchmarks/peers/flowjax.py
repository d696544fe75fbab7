"""flowjax: its masked autoregressive flow on JAX."""

from typing import Any

from ._protocol import Call, Draw, Widths, main, one_layer

PACKAGES = ("jax==0.10.2", "jaxlib==0.10.2", "numpy==2.4.6", "equinox==0.13.8", "flowjax==19.1.2")


def prepare(features: int, widths: Widths, rows: int) -> Draw:
    """One flow layer; sampling inverts it by a scan of D passes."""
    import equinox
    import jax
    from flowjax.distributions import Normal
    from flowjax.flows import masked_autoregressive_flow
    from jax import numpy as jnp

    flow = masked_autoregressive_flow(
        jax.random.key(0),
        base_dist=Normal(jnp.zeros(features)),
        flow_layers=1,
        nn_width=widths[0],
        nn_depth=len(widths),
    )
    sample = equinox.filter_jit(lambda flow, seed: flow.sample(jax.random.key(seed), (rows,)))

    def draw(seed: int) -> Any:
        return sample(flow, jnp.uint32(seed)).block_until_ready()

    return draw


CALLS = (
    Call(
        "maf",
        "filter_jit(masked_autoregressive_flow(key, base_dist=Normal(zeros(D)), flow_layers=1, nn_width=H, nn_depth=1)"
        ".sample)(key, (B,))",
        "real, affine; D whole passes, jitted",
        one_layer,
        prepare,
    ),
)

if __name__ == "__main__":
    main(PACKAGES, CALLS)

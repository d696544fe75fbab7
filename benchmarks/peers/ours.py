"""made_fast: each hidden unit is evaluated once per draw."""

from ._protocol import Call, Draw, Widths, main, one_layer

PACKAGES = ("made_fast", "torch")


def prepare(features: int, widths: Widths, rows: int) -> Draw:
    """Bernoulli MADE, cached sampler."""
    from made_fast import MADE

    sampler = MADE(features, widths).sampler()
    return lambda seed: sampler.sample(rows, seed=seed)


def about() -> list[str]:
    """The backend that draws, and the instruction set where it is the compiled one."""
    import torch

    from made_fast import backends, build_config

    chosen = backends.choose("auto", backends.Needs(torch.device("cpu"), torch.float32, outputs=["bernoulli"])).name
    facts = [f"backend {chosen}"]
    return [*facts, str(build_config()["instruction_set"])] if chosen == "cpp" else facts


CALLS = (
    Call(
        "sampler",
        "MADE(D, widths).sampler().sample(B, seed=i)",
        "Bernoulli, each unit once",
        one_layer,
        prepare,
    ),
)

if __name__ == "__main__":
    main(PACKAGES, CALLS, about)

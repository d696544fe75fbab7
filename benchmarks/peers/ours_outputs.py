"""made_fast with outputs beyond bits, for the suite ``output_peers``."""

from collections.abc import Callable
from typing import Any

from ._protocol import Call, Draw, Widths, main, two_layers

PACKAGES = ("made_fast", "torch")
CODES = ("normal", "mixture_of_normals", "categorical")


def _prepare(name: str, *arguments: int) -> Callable[[int, Widths, int], Draw]:
    def prepare(features: int, widths: Widths, rows: int) -> Draw:
        from made_fast import MADE, outputs

        output: Any = getattr(outputs, name)(*arguments)
        sampler = MADE(features, widths, output=output).eval().sampler()
        return lambda seed: sampler.sample(rows, seed=seed)

    return prepare


def about() -> list[str]:
    """The backend that draws all of these, and the instruction set where it is the compiled one."""
    import torch

    from made_fast import backends, build_config

    chosen = backends.choose("auto", backends.Needs(torch.device("cpu"), torch.float32, outputs=CODES)).name
    facts = [f"backend {chosen}"]
    return [*facts, str(build_config()["instruction_set"])] if chosen == "cpp" else facts


def _call(name: str, text: str, draws: str, *arguments: int) -> Call:
    code = f"MADE(D, widths, output={text}).sampler().sample(B, seed=i)"
    return Call(name, code, draws, two_layers, _prepare(text.partition("(")[0], *arguments))


CALLS = (
    _call("normal", "Normal()", "normal, each unit once"),
    _call("mixture_of_normals", "MixtureOfNormals(5)", "mixture of 5 normals, each unit once", 5),
    _call("categorical", "Categorical(10)", "10 categories read one-hot, each unit once", 10),
)

if __name__ == "__main__":
    main(PACKAGES, CALLS, about)

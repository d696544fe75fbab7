"""Law 5: ``sample_and_log_prob`` returns the log-probability that ``log_prob`` gives to that sample."""

from typing import Any

import torch
from conditions import arguments_of
from models import SINGLE, Case, context_of, drawn_by, dtypes_of, engines_of, masks_of


def _tolerance(dtype: torch.dtype) -> dict[str, float]:
    return dict.fromkeys(("rtol", "atol"), 5e-5 if dtype == SINGLE else 1e-10)


@drawn_by()
def test_engines(backend: str, case: Case) -> None:
    for dtype in dtypes_of(backend):
        model = case.make(dtype)
        context, mask = context_of(model, 8), masks_of(model)[-1]
        repeated, program = None if context is None else context.repeat_interleave(5, 0), model.program(mask=mask)
        for name, engine in engines_of(backend).items():
            x, log_prob = engine.draw(program, 40, seed=11, first_row=3, context=context, rows_per_condition=5)
            with torch.no_grad():
                nats = model.log_prob(x, repeated, masks=mask)
            torch.testing.assert_close(log_prob, nats, msg=f"{name} {dtype}", **_tolerance(dtype))


@drawn_by(
    quick={
        "bernoulli-both",
        "mixed-context",
        "mixed_finite-both",
        "bernoulli-conditioned",
        "mixture_of_normals-orders",
    },
    interpreted=(),
)
def test_samplers(backend: str, case: Case) -> None:
    """Of an ensemble the mean over its masks, or one of them; whatever is given, allowed or decoded, the model's own."""
    for dtype in dtypes_of(backend):
        model = case.make(dtype)
        context = context_of(model, 8)
        given: list[dict[str, Any]] = [{}, {"mask": masks_of(model)[-1]}, {"temperature": 0.5}, {"greedy": True}]
        given += [arguments_of(case.output, "given and allowed", case.features)]
        for arguments in given:
            x, log_prob, *_ = model.sample_and_log_prob(5, context, seed=3, first_row=5, backend=backend, **arguments)
            assert x.dtype == log_prob.dtype == dtype
            assert log_prob.shape == x.shape[:-1]
            assert not log_prob.requires_grad
            chosen = arguments.get("mask")
            with torch.no_grad():
                nats = model.log_prob(x, None if context is None else context[:, None], masks=chosen)
            torch.testing.assert_close(log_prob, nats, msg=f"{arguments} {dtype}", **_tolerance(dtype))
            if not isinstance(chosen, int) or not arguments:
                drawn = model.sample(5, context, seed=3, first_row=5, backend=backend, **arguments)
                assert torch.equal(getattr(drawn, "x", drawn), x)

"""Ensembles of masks as models: training and resuming, copies, files, and what they refuse."""

import copy
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from made_fast import MADE, training
from made_fast.models import files as checkpoint

Build = Callable[..., MADE]


@pytest.mark.parametrize(("num_masks", "seen"), [(3, [0, 1, 2] * 8), (0, list(range(24))), (1, [0] * 24)])
def test_fit_gives_each_minibatch_the_next_mask(tmp_path: Path, num_masks: int, seen: list[int]) -> None:
    """Five minibatches an epoch, so that epochs begin with different masks; a resumed run goes on where it was."""
    rows = (torch.rand(82, 9, generator=torch.Generator().manual_seed(1)) < 0.5).to(torch.uint8)

    def fit(epochs: int, **options: Any) -> tuple[MADE, list[Any], list[int]]:
        torch.manual_seed(0)
        model, used = MADE(9, (12,), num_masks=num_masks, mask_conditioning=True, seed=1), []
        hook = model.hidden[0].register_forward_pre_hook(
            lambda layer, _: used.append(model.mask_index) if layer.training else None  # the average is a copy
        )
        settings = {"batch_size": 10, "seed": 3, "input_dropout": 0.1}
        history = training.fit(model, rows[:48], rows[48:], epochs=epochs, **settings, **options)
        hook.remove()
        return model, [(epoch.train_nll, epoch.valid_nll) for epoch in history.epochs], used

    whole, figures, used = fit(4)
    assert used == seen[:20]
    path = tmp_path / "run.ckpt"
    fit(2, checkpoint=path)
    resumed, again, used = fit(4, checkpoint=path, resume=True)
    assert used == seen[10:20]
    assert again == figures
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    for change in ({"shuffle": "order"}, {"num_masks": 2}, {"seed": 9}, {"mask_conditioning": False}):
        other = MADE(9, (12,), **{"num_masks": num_masks, "mask_conditioning": True, "seed": 1, **change})
        if num_masks != 1 or not change.keys() & {"shuffle", "seed"}:
            with pytest.raises(ValueError, match="another model"):
                training.fit(
                    *(other, rows[:48], rows[48:]),
                    **{"batch_size": 10, "seed": 3, "input_dropout": 0.1, "checkpoint": path, "resume": True},
                )


def test_evaluate_is_of_the_whole_ensemble(build: Build, all_states: Any) -> None:
    model = build({"hidden_features": (14,), "num_masks": 3})
    x = all_states(9)[::11]
    expected = -model.log_prob(x, masks=range(3)).mean().item()
    assert training.evaluate(model, x)[0] == pytest.approx(expected, rel=1e-12)
    assert model.training


def _through_torch_save(model: MADE) -> MADE:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def _through_a_state_dict(model: MADE) -> MADE:
    other = MADE(**{**model.arguments(), "seed": model.seed + (model.num_masks > 0)}).double()
    other.log_prob(torch.zeros(9).double())  # what is kept of its own masks must not stay
    other.load_state_dict(model.state_dict())
    other.mask_index = model.mask_index
    return other


COPIES = [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model)), _through_torch_save, _through_a_state_dict]


@pytest.mark.parametrize("copied", COPIES)
@pytest.mark.parametrize("num_masks", [3, 0])
def test_copies(build: Build, all_states: Any, copied: Callable[[MADE], MADE], num_masks: int) -> None:
    model, x = build({"hidden_features": (14, 11), "num_masks": num_masks, "mask_conditioning": True}), all_states(9)
    model.next_mask()
    drawn = model.sample(50, seed=1)
    other = copied(model)
    assert other.mask_index == 1
    assert torch.equal(other.log_prob(x), model.log_prob(x))
    assert torch.equal(other.eval().log_prob(x), model.eval().log_prob(x))
    assert torch.equal(other.sample(50, seed=1), drawn)
    other.next_mask()
    assert model.mask_index == 1
    assert all(torch.equal(a, b) for a, b in zip(other.ensemble.present, other._layer_masks(None), strict=True))


@pytest.mark.parametrize("num_masks", [1, 4, 0])
def test_model_files(tmp_path: Path, build: Build, all_states: Any, num_masks: int) -> None:
    options = {"hidden_features": (14,), "shuffle": "connectivity", "num_masks": num_masks, "mask_conditioning": True}
    model, x = build(options).eval(), all_states(9)
    model.save(tmp_path / "model")
    other = MADE.load(tmp_path / "model").eval()
    assert other.arguments() == model.arguments()
    assert other.state_dict().keys() == model.state_dict().keys()
    assert torch.equal(other.log_prob(x), model.log_prob(x))
    assert torch.equal(other.sample(40, seed=2), model.sample(40, seed=2))


def test_models_with_one_mask_are_as_they_were(tmp_path: Path) -> None:
    model = MADE(9, (8,), direct=True)
    names = ["order", "hidden.0.weight", "hidden.0.bias", "hidden.0.mask", "direct_layer.weight", "direct_layer.mask"]
    assert set(model.state_dict()) == {*names, *(f"parameters_layer.{name}" for name in ("weight", "bias", "mask"))}
    assert dict(model.named_buffers()).keys() <= set(model.state_dict())
    assert repr(model).count("mask") == 0
    new = {"num_masks", "shuffle", "mask_conditioning"}
    old = {name: value for name, value in model.arguments().items() if name not in new}
    checkpoint.save(tmp_path / "old", model.state_dict(), old)
    assert torch.equal(MADE.load(tmp_path / "old").sample(30, seed=1), model.sample(30, seed=1))


BROKEN = {
    "order_no_permutation": ("ensemble.orders", lambda t: t * 0, "orders must be permutations of 0 .. 8"),
    "order_out_of_range": ("ensemble.orders", lambda t: t + 1, "orders must be permutations of 0 .. 8"),
    "order_negative": ("ensemble.orders", lambda t: t - 4, "orders must be permutations of 0 .. 8"),
    "degrees_too_high": ("ensemble.degrees_0", lambda t: t + 1, r"ensemble.degrees_0 must lie in 0 .. 8, got 2 .. 9"),
    "degrees_negative": ("ensemble.degrees_0", lambda t: -t, r"degrees_0 must lie in 0 .. 8"),
    "orders_missing": ("ensemble.orders", lambda t: None, r"ensemble.orders must have shape \(4, 9\), got none"),
    "orders_short": ("ensemble.orders", lambda t: t[:3], r"ensemble.orders must have shape \(4, 9\), got \(3, 9\)"),
    "degrees_short": (
        "ensemble.degrees_0",
        lambda t: t[:, :5],
        r"ensemble.degrees_0 must have shape \(4, 12\), got \(4, 5\)",
    ),
    "order_of_another_model": ("order", lambda t: t.flip(0), "order must be that of mask 0"),
}


@pytest.mark.parametrize(("name", "change", "message"), BROKEN.values(), ids=BROKEN)
def test_broken_model_files_are_refused(tmp_path: Path, name: str, change: Any, message: str) -> None:
    model = MADE(9, (12,), num_masks=4)
    state = {**model.state_dict(), name: change(model.state_dict()[name])}
    checkpoint.save(tmp_path / "m", {key: t for key, t in state.items() if t is not None}, model.arguments())
    with pytest.raises(ValueError, match=rf"{message}") as error:
        MADE.load(tmp_path / "m")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("num_masks", [10**12, -1, 2, 0, 1, "4", None, 4.0, [4], True])
def test_broken_numbers_of_masks_are_refused(tmp_path: Path, num_masks: Any) -> None:
    model = MADE(9, (12,), num_masks=4)
    checkpoint.save(tmp_path / "m", model.state_dict(), {**model.arguments(), "num_masks": num_masks})
    with pytest.raises(ValueError, match=r"does not fit its own configuration"):
        MADE.load(tmp_path / "m")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_masks": -1}, r"num_masks must be an integer, 0 or more, got -1"),
        ({"num_masks": 2.0}, r"num_masks must .*, got 2\.0"),
        ({"num_masks": True}, r"num_masks must .*, got True"),
        ({"shuffle": "x"}, r"shuffle must be one of order, connectivity, both, got 'x'"),
        ({"shuffle": None}, r"shuffle must .*, got None"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=rf"^{message}\Z"):
        MADE(4, (6,), **{"num_masks": 2, **arguments})


@pytest.mark.parametrize(("num_masks", "limit"), [(1, "0"), (3, "0 to 2"), (0, f"0 to {2**62 - 1}")])
@pytest.mark.parametrize("bad", [-1, 2**62, 1.0, "0", True])
def test_masks_that_do_not_exist_are_named(num_masks: int, limit: str, bad: Any) -> None:
    model, x = MADE(4, (6,), num_masks=num_masks), torch.zeros(4)
    calls: list[Callable[[], object]] = [
        *(lambda: model(x, mask=bad), lambda: model.log_prob(x, masks=[0, bad]), lambda: model.order_of(bad)),
        *(lambda: model.distribution(x, mask=bad), lambda: model.sampler(mask=bad), lambda: model.sample(1, mask=bad)),
        *(lambda: model.sample_and_log_prob(1, mask=bad), lambda: model.program(mask=bad)),
        lambda: setattr(model, "mask_index", bad),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=rf"^mask(_index)? must be .*{limit}.*, got {bad!r}\Z"):
            call()
    for masks_ in ([], (), "0", 0.5):
        with pytest.raises(ValueError, match=r"^masks? must be .*, got "):
            model.log_prob(x, masks=masks_)


@pytest.mark.parametrize("num_masks", [1, 3, 0])
def test_a_mask_may_be_a_tensor_of_one_number(num_masks: int) -> None:
    model, x = MADE(4, (6,), num_masks=num_masks), torch.zeros(4)
    assert torch.equal(model.log_prob(x, masks=torch.tensor(0)), model.log_prob(x, masks=0))

"""What is kept is made again when a tensor has changed, and only then."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from made_fast import MADE, backends
from made_fast.sampling.kept import Kept, State

SMALL, LARGE = (10, 7), (300, 400)


def _kept(tensors: list[Tensor], stale: str = "refresh", structure: int = 0) -> tuple[Kept[list[Any]], list[Any]]:
    """Something that copies the tensors, and the list of what it was handed at each making."""
    made: list[Any] = []

    def make(last: Any) -> list[Any]:
        made.append(last)
        return [tensor.clone() for tensor in tensors]

    return Kept(lambda: State(tensors, None, structure), make, stale), made


CHANGES: dict[str, Callable[[Tensor], Any]] = {
    "in place": lambda t: t.add_(1),
    "one number": lambda t: t.view(-1)[5].fill_(7),
    "data": lambda t: t.data.mul_(2),
    "numpy": lambda t: t.numpy().__imul__(3),
    "set": lambda t: t.set_(torch.ones(t.shape)),
    "moved": lambda t: setattr(t, "data", torch.ones(t.shape)),
    "another dtype": lambda t: setattr(t, "data", t.data.double()),
    "another layout of the same memory": lambda t: setattr(t, "data", t.data.view(t.shape[::-1])),
    "strides": lambda t: setattr(t, "data", t.data.as_strided(t.shape, (1, t.shape[0]))),
    "nan": lambda t: t.data.fill_(torch.nan),
}


@pytest.mark.parametrize("shape", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("change", CHANGES)
def test_changes_are_seen_at_once(change: str, shape: tuple[int, ...]) -> None:
    tensors = [torch.randn(3), torch.randn(shape)]
    kept, made = _kept(tensors)
    for _ in range(3):
        kept.current()
    assert made == [None]
    CHANGES[change](tensors[1])
    torch.testing.assert_close(kept.current()[1], tensors[1], equal_nan=True)
    kept.current()
    assert len(made) == 2


def test_a_number_written_past_every_count_is_seen_after_some_looks() -> None:
    """By ``.data``: at once where there are few numbers or with ``"exact"``, else when its lines have their turn."""
    for shape, stale, most in ((SMALL, "refresh", 1), (LARGE, "exact", 1), (LARGE, "refresh", 1 + 480_000 // 2**15)):
        for place in (0, 5000, 119_999):
            tensors = [torch.randn(shape)]
            kept, made = _kept(tensors, stale)
            kept.current()
            tensors[0].data.view(-1)[place % tensors[0].numel()] = 100.0
            looks = 0
            while len(made) == 1:
                kept.current()
                looks += 1
                assert looks <= most
            assert torch.equal(kept.current()[0], tensors[0])


def test_a_write_to_all_of_a_small_tensor_among_large_ones_is_seen_at_once() -> None:
    """By ``.data``, whichever lines of the large one have their turn."""
    tensors = [torch.randn(1000, 1000), torch.randn(1500)]
    kept, made = _kept(tensors)
    for number in range(1, 150):
        assert len(made) == number - 1
        tensors[1].data.add_(1)
        kept.current()


class _Watch:
    """Something that says what it is told to."""

    def __init__(self, tensors: list[Tensor]) -> None:
        self.tensors, self.asked, self.says = [(each, each._version) for each in tensors], 0, True

    def same(self) -> bool:
        self.asked += 1
        return self.says and all(each._version == version for each, version in self.tensors)


@pytest.mark.skipif(backends.memory_digests() is None, reason="nothing was compiled")
@pytest.mark.parametrize("shape", [SMALL, LARGE], ids=["small", "large"])
def test_what_is_watched_is_not_read(shape: tuple[int, ...]) -> None:
    tensors, reads, watches = [torch.randn(shape)], 0, []

    def read() -> State:
        nonlocal reads
        reads += 1
        return State(tensors)

    def watch() -> _Watch:
        watches.append(_Watch(tensors))
        return watches[-1]

    kept = Kept(read, lambda last: tensors[0].clone(), watch=watch)
    for _ in range(2):
        kept.current()
    known = reads
    for _ in range(5):
        kept.current()
    assert (reads, len(watches), watches[0].asked) == (known, 1, 5)
    tensors[0].data.mul_(2)  # what no watch sees
    assert torch.equal(kept.current(), tensors[0])
    assert torch.equal(kept.current(), tensors[0])
    assert len(watches) == 2
    tensors[0].mul_(2)
    assert torch.equal(kept.current(), tensors[0])
    kept.current()
    watches[-1].says = False  # the same contents
    known = reads
    kept.current()
    assert reads > known and len(watches) == 4


@pytest.mark.skipif(backends.memory_digests() is None, reason="nothing was compiled")
def test_what_changes_while_a_watch_is_made_is_seen() -> None:
    tensors, hidden = [torch.randn(SMALL)], [torch.randn(SMALL)]

    def watch() -> _Watch:
        tensors[0] = hidden[0]  # another thread, just before the watch looks
        return _Watch(tensors)

    kept = Kept(lambda: State(list(tensors)), lambda last: tensors[0].clone(), watch=watch)
    for _ in range(3):
        kept.current()
    assert torch.equal(kept.current(), hidden[0])


def test_watches_in_vain_end() -> None:
    tensors, watches = [torch.randn(SMALL)], []

    def watch() -> _Watch:
        watches.append(_Watch(tensors))
        watches[-1].says = False
        return watches[-1]

    kept = Kept(lambda: State(tensors), lambda last: tensors[0].clone(), watch=watch)
    for _ in range(20):
        kept.current()
    assert len(watches) <= 4


@pytest.mark.skipif(backends.memory_digests() is None, reason="nothing was compiled")
def test_digests_do_not_depend_on_who_reads_which_parts() -> None:
    read: Any = backends.memory_digests()
    memory = [torch.randn(size) for size in (5, 256, 257, 70_000)]
    pieces = [each.data_ptr() for each in memory], [each.nbytes for each in memory]
    for parts in (1, 2, 7, 40):
        alone = [read(*pieces, part, part + 1, parts, 1)[0] for part in range(parts)]
        assert len(set(alone)) == parts
        for threads in (1, 2, 3, 50):
            assert read(*pieces, 0, parts, parts, threads) == alone


def test_equal_contents_are_no_change() -> None:
    for shape in (SMALL, LARGE):
        tensors = [torch.randn(shape), torch.ones(shape, dtype=torch.bool)]
        kept, made = _kept(tensors, "raise", structure=1)
        for _ in range(2):
            tensors[0].mul_(1.0)
            tensors[0].data = tensors[0].data.clone()
            tensors[1] = tensors[1].clone()
            kept.current()
        assert made == [None]
        tensors[0].add_(1)
        with pytest.raises(RuntimeError, match="has changed"):
            kept.current()


def test_what_follows_from_structure_is_handed_over_while_it_is_the_same() -> None:
    tensors = [torch.ones(SMALL, dtype=torch.bool), torch.randn(SMALL)]
    kept, made = _kept(tensors, structure=1)
    first = kept.current()
    tensors[1].add_(1)
    second = kept.current()
    tensors[0][0] = False
    kept.current()
    kept.refresh()
    assert made[0] is None
    assert made[1] is first
    assert made[2:] == [None, None]
    assert second is not first


def test_what_can_be_renewed_is_where_only_numbers_have_changed() -> None:
    tensors = [torch.ones(SMALL, dtype=torch.bool), torch.randn(SMALL)]
    done: list[tuple[str, Any]] = []

    def make(last: Any) -> int:
        done.append(("made", last))
        return len(done)

    def renew(last: int, now: Any) -> int | None:
        assert [each.data_ptr() for each in now] == [each.data_ptr() for each in tensors]
        done.append(("renewed", last))
        return None if bool(now[1].isnan().any()) else len(done)

    kept = Kept(lambda: State(tensors, None, 1), make, renew=renew)
    kept.current()
    tensors[1].add_(1)
    assert kept.current() == 2
    tensors[1] = tensors[1] + 1  # another tensor of the same kind
    assert kept.current() == 3
    tensors[1].fill_(torch.nan)  # what renews passes on
    assert kept.current() == 5
    tensors[1] = torch.randn(SMALL).double()  # another kind
    kept.current()
    tensors[0][0] = False  # another structure
    kept.current()
    kept.refresh()
    expected = [("made", None), ("renewed", 1), ("renewed", 2), ("renewed", 3), ("made", 3), ("made", 5)]
    assert done == [*expected, ("made", None), ("made", None)]


def test_without_the_compiled_module_contents_are_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "memory_digests", lambda: None)
    for change in CHANGES.values():
        tensors = [torch.randn(SMALL)]
        kept, made = _kept(tensors)
        kept.current()
        kept.current()
        change(tensors[0])
        torch.testing.assert_close(kept.current()[0], tensors[0], equal_nan=True)
        assert len(made) == 2


def test_tensors_that_are_made_anew_for_each_look_are_compared_by_content() -> None:
    """As the weights are that hooks make: something is made once of them, and again when they differ."""
    weight, made = torch.randn(LARGE), []
    kept = Kept(lambda: State([weight * 2]), lambda _: made.append(1))
    for _ in range(3):
        kept.current()
    assert len(made) == 1
    weight.add_(1)
    kept.current()
    assert len(made) == 2


def test_a_write_while_it_is_made_is_seen() -> None:
    tensors = [torch.zeros(LARGE)]
    writes = iter((1.0, 2.0))

    def make(_: Any) -> Tensor:
        copied = tensors[0].clone()
        value = next(writes, None)
        if value is not None:
            tensors[0].data.fill_(value)  # no version tells of it
        return copied

    kept: Kept[Tensor] = Kept(lambda: State(tensors), make)
    for expected in (0.0, 1.0, 2.0, 2.0):
        assert float(kept.current()[0, 0]) == expected


def test_threads_that_ask_at_once_get_what_is() -> None:
    model = MADE(40, (64,))
    wrong: list[bool] = []

    def ask() -> None:
        for _ in range(30):
            wrong.append(model.sampler().sample(1, seed=0).shape != (1, 40))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(30):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(1e-3)
    for thread in threads:
        thread.join()
    assert len(wrong) == 90
    assert not any(wrong)
    assert torch.equal(model.sample(9, seed=1), MADE.sample(_copied(model), 9, seed=1))


def _copied(model: MADE) -> MADE:
    other = MADE(40, (64,))
    other.load_state_dict(model.state_dict())
    return other


def test_parameters_on_meta_and_buffers_can_be_kept() -> None:
    tensors: list[Tensor] = [nn.Parameter(torch.ones(3)), nn.Buffer(torch.ones(2)), torch.ones(2, 2).to_sparse()]
    kept, made = _kept(tensors)
    kept.current()
    kept.current()
    assert made == [None]

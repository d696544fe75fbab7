"""What tests of whole networks ask for: each backend that runs them, in turn."""

import pytest
from engines import names_of


@pytest.fixture(params=names_of(networks=True))
def network_backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, _reproducible: None) -> str:
    """The name of a backend that runs whole networks, which is the one in use; it may be asked for as ``cpp-avx2``."""
    name, _, isa = request.param.partition("-")
    monkeypatch.setenv("MADE_FAST_BACKEND", name)
    if isa:
        monkeypatch.setenv("MADE_FAST_ISA", isa)
    return name  # type: ignore[no-any-return]

"""Adapters of peft, the hub, and what tools of Hugging Face read of a model."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from made_fast import MADE, outputs
from made_fast.outputs import Output
from made_fast.outputs.kinds import describe, make_output


def test_the_configuration_is_a_dict_and_may_be_called() -> None:
    model = MADE(5, (8,), output=outputs.Categorical(3), order="random", num_masks=3)
    assert model.config == model.config() == model.arguments()
    assert model.config.get("tie_word_embeddings") is None
    assert MADE(**model.config()).arguments() == model.arguments()


def test_adapters_leak_and_are_refused() -> None:
    peft = pytest.importorskip("peft")
    model, x = MADE(9, (32, 32)), torch.zeros(4, 9)
    before = model.log_prob(x)
    lora = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=["hidden.0", "hidden.1", "parameters_layer"]))
    for name, weight in lora.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight)
    for work in (lambda: model.sample(3), model.check, lambda: model.log_prob(x), lambda: lora(x)):
        with pytest.raises(ValueError, match=r"got Linear of peft.* has no mask.*merge_and_unload"):
            work()
    merged: Any = lora.merge_and_unload()
    assert merged is model
    merged.check()
    assert not torch.allclose(merged.log_prob(x), before)
    assert merged.sample(3, seed=0).shape == (3, 9)


@pytest.mark.parametrize(
    "options",
    [{}, {"output": outputs.Mixed([("normal", 4), (outputs.Categorical(3), 5)]), "num_masks": 3}, {"residual": True}],
)
def test_models_on_the_hub(options: dict[str, Any], tmp_path: Path) -> None:
    hub = pytest.importorskip("huggingface_hub")

    class Hub(MADE, hub.PyTorchModelHubMixin, coders={Output: (describe, make_output)}):  # type: ignore[misc,call-arg,name-defined]
        pass

    model = Hub(9, (16, 16), order="random", **options)
    model.save_pretrained(tmp_path)
    loaded = Hub.from_pretrained(tmp_path)
    assert torch.equal(loaded.sample(20, seed=0), model.sample(20, seed=0))
    assert loaded.arguments() == model.arguments()

"""A frozen model in host memory of one process; several processes: tests/integration/test_strategies.py."""

import copy

import pytest
import torch
from tinymodel import QWEN, packed
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from katlit.errors import UserError
from katlit.model.frozen import FrozenModel, _keep_on_host


def model_of(**settings: object) -> PreTrainedModel:
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(**(QWEN | {"vocab_size": 64} | settings)))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("placement", ["sharded", "cpu"])
def test_one_process_reads_the_same_wherever_the_weights_are(placement, tied) -> None:
    model = model_of(tie_word_embeddings=tied)
    batch = packed([[4, 3], [6]], vocabulary=64)
    truth = model(batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits
    frozen = FrozenModel(copy.deepcopy(model), placement)
    with torch.inference_mode():  # as in a validation before the first step
        frozen.read(batch["input_ids"], batch["position_ids"])
    hidden, head = frozen.read(batch["input_ids"], batch["position_ids"])
    assert not hidden.is_inference()
    torch.testing.assert_close(hidden @ head.T, truth)
    assert model.state_dict().keys() == frozen.model.state_dict().keys()


def test_only_the_unit_that_runs_is_on_the_device() -> None:
    """The meta device stands for the one that is too small."""

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.head = nn.Embedding(9, 4), nn.Linear(4, 9, bias=False)
            self.head.weight = self.embedding.weight
            self.layers = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))

        def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
            hidden = self.layers(self.embedding(ids))
            return hidden, self.head.weight.clone()

    model = Tied().eval()
    before = dict(model.named_parameters())
    seen: list[set[str]] = []
    for layer in model.layers:
        layer.register_forward_hook(lambda *_: seen.append(on_meta()))

    def on_meta() -> set[str]:
        return {name for name, weight in model.named_parameters() if weight.is_meta}

    _keep_on_host([*model.layers, model], torch.device("meta"))
    outputs = model(torch.zeros(2, dtype=torch.long, device="meta"))
    assert all(output.is_meta for output in outputs)
    layers = [{f"layers.{index}.{name}" for name in ("weight", "bias")} for index in (0, 1)]
    assert seen == [layer | {"embedding.weight"} for layer in layers]
    after = dict(model.named_parameters())
    assert all(after[name] is weight for name, weight in before.items())
    assert model.head.weight is model.embedding.weight


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.base_model, self.config = nn.Identity(), AutoConfig.for_model("gpt2")

    def forward(self, ids: Tensor) -> Tensor:
        return ids


def test_weights_come_by_layer_only_where_there_are_layers() -> None:
    model: PreTrainedModel = Plain()  # type: ignore[assignment]
    FrozenModel(model)
    with pytest.raises(UserError, match=r"'cpu' of a frozen .* Llama-like decoder.*gpt2 is not"):
        FrozenModel(model, "cpu")

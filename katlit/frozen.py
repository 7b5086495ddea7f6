"""A model that is only read: the teacher of a distillation, the reference of a policy."""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from katlit.pretrained import output_weight


class FrozenModel:
    """Wraps a causal language model so that no optimizer, checkpoint or strategy finds it.

    It is deliberately no `nn.Module`: as a submodule of a stage it would land in every checkpoint.

    Args:
        model: Is set to evaluation mode, its weights to no gradient.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model.eval().requires_grad_(False)

    @torch.no_grad()
    def hidden(self, input_ids: Tensor, position_ids: Tensor) -> Tensor:
        """Hidden states [B, L, H] of packed rows, after the final norm; moves to their device first.

        Args:
            input_ids: [B, L].
            position_ids: [B, L], 0 at the first token of each document.
        """
        if self.model.device != input_ids.device:
            self.model.to(input_ids.device)
        base = self.model.base_model
        return base(input_ids=input_ids, position_ids=position_ids, use_cache=False).last_hidden_state

    @property
    def head_weight(self) -> Tensor:
        """The output head [V, H]."""
        return output_weight(self.model)

"""Multi-token prediction: modules that look one, two, … tokens further ahead than the model itself.

The method is DeepSeek-V3's (arXiv 2412.19437, §2.2), the layout of the weights that of vLLM's MiMo drafter:
the previous hidden state is taken before its final norm, `input_proj` takes [hidden ; embedding], and the
embedding at a document's first position is masked to zero.

Shapes: B rows, L tokens, H width.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from katlit.batch import document_ids

MTP_PREFIX = "model.mtp_layers."  # of the modules' weights in a checkpoint
DRAFTER_PREFIX = f"{MTP_PREFIX}0."  # of those of the first, which alone drafts in vLLM
MTP_FOLDER = "mtp"  # of an export, with its modules
# Which of vLLM's models runs a model of this type so that its drafter can follow it, and the MTP modules as
# that drafter. The one below is Qwen2 but for the place of the final norm.
MTP_ARCHITECTURES = {"qwen2": "MiMoForCausalLM"}


class MTPModule(nn.Module):
    """One depth k: `h^k = Block(M [RMSNorm(h^{k-1}_t) ; RMSNorm(Emb(x_{t+k}))])` (recipe §3).

    The block and the three norms start as copies of the model's last layer and final norm, the projection
    from a normal distribution (our choice: the copies already fit the shared output head).

    Args:
        layer: The model's last decoder layer.
        norm: The model's final norm.
        width: H.
        std: Standard deviation of the fresh projection.
    """

    def __init__(self, layer: nn.Module, norm: nn.Module, width: int, std: float) -> None:
        super().__init__()
        self.token_layernorm = copy.deepcopy(norm)
        self.hidden_layernorm = copy.deepcopy(norm)
        weight = next(layer.parameters())
        self.input_proj = nn.Linear(2 * width, width, bias=False, dtype=weight.dtype, device=weight.device)
        nn.init.normal_(self.input_proj.weight, std=std)
        self.block = copy.deepcopy(layer)
        self.final_layernorm = copy.deepcopy(norm)

    def forward(
        self, previous: Tensor, embeddings: Tensor, layer_arguments: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        """Predict one token further.

        Args:
            previous: h^{k-1} [B, L, H], before its final norm.
            embeddings: [B, L, H], Emb(x_{t+k}) at t, from `future_embeddings`.
            layer_arguments: What the model passed to its own last layer beside the hidden state: mask,
                positions and rotary embeddings. So the block sees exactly what that layer saw.

        Returns:
            h^k before its final norm, for the next depth, and after it, for the shared head. Position t
            depends on tokens up to t+k and predicts x_{t+k+1}.
        """
        parts = [self.hidden_layernorm(previous), self.token_layernorm(embeddings)]
        hidden = self.block(self.input_proj(torch.cat(parts, dim=-1)), **layer_arguments)
        return hidden, self.final_layernorm(hidden)


def future_embeddings(embeddings: Tensor, position_ids: Tensor, depth: int) -> Tensor:
    """Embeddings of the tokens `depth` further on, zero where a document has none.

    Zero as well at each document's first position, whose token vLLM's drafter masks: a drafter must be
    trained as it is used.

    Args:
        embeddings: [B, L, H], Emb(x_t).
        position_ids: [B, L], restarting at 0 at each document.
        depth: k ≥ 1.
    """
    documents = document_ids(position_ids)
    inside = torch.zeros_like(documents, dtype=torch.bool)
    inside[:, :-depth] = documents[:, :-depth] == documents[:, depth:]
    inside &= position_ids > 0
    return torch.where(inside.unsqueeze(-1), embeddings.roll(-depth, dims=1), 0.0)


def stored_name(name: str) -> str:
    """Name of a weight in a checkpoint, from its name in the list of modules: `0.block.mlp…` → `…0.mlp…`."""
    depth, _, rest = name.partition(".")
    return f"{MTP_PREFIX}{depth}.{rest.removeprefix('block.')}"

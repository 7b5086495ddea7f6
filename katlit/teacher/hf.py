"""A teacher in this process: one forward pass of transformers, exact to the rest's last digit.

Shapes: B rows, L tokens a row, K width, W vocabulary, N tokens of responses, R of a chunk.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from katlit.errors import UserError
from katlit.losses.head import chunk_targets
from katlit.model.frozen import FrozenModel, Placement
from katlit.model.pretrained import Dtype, load_model
from katlit.packing import bucket_by_length, fill_rows
from katlit.teacher.scorer import TeacherScorer, TopK, Transcript


class HFScorer(TeacherScorer):
    """Scores with transformers, on one device.

    Args:
        batch_tokens: Most tokens of a forward pass; a longer text is one of its own.
        dtype: Type of the weights; probabilities are computed in float32 in any case.
        placement: `device`: the whole model on the device. `cpu`: in host memory, layer by layer to the
            device.
        device: "auto" is the current CUDA device where there is one, else the CPU.
    """

    def __init__(
        self,
        batch_tokens: int = 8192,
        dtype: Dtype = "float32",
        placement: Literal["device", "cpu"] = "device",
        device: str = "auto",
    ) -> None:
        if batch_tokens < 1:
            raise UserError(f"batch_tokens: {batch_tokens}; give at least 1")
        self.batch_tokens = batch_tokens
        self.dtype: Dtype = dtype
        self.placement: Placement = placement
        self.device = device
        self._model: FrozenModel | None = None

    def start(self, teacher: str) -> None:
        """Load the model; see `TeacherScorer.start`."""
        self._model = FrozenModel(load_model(teacher, "data.teacher", self.dtype, "sdpa"), self.placement)

    def score(self, transcripts: Sequence[Transcript], k: int) -> list[TopK]:
        """Read texts of similar length together; see `TeacherScorer.score`."""
        found: dict[int, TopK] = {}
        lengths = [len(transcript.token_ids) for transcript in transcripts]
        for indices in bucket_by_length(lengths, self.batch_tokens):
            batch = [transcripts[index] for index in indices]
            ids, log_probs = self._score(batch, k)
            rows = [transcript.rows for transcript in batch]
            parts = zip(torch.split(ids, rows), torch.split(log_probs, rows), strict=True)
            found |= {
                index: TopK(part_ids.numpy(), part_log_probs.numpy())
                for index, (part_ids, part_log_probs) in zip(indices, parts, strict=True)
            }
        return [found[index] for index in range(len(transcripts))]

    def _score(self, batch: Sequence[Transcript], k: int) -> tuple[Tensor, Tensor]:  # -> [N, k], [N, k + 1]
        if self._model is None:
            raise RuntimeError("HFScorer: not started, or closed")
        input_ids, position_ids = fill_rows([[transcript.token_ids] for transcript in batch], pad_id=0)
        device = _device(self.device)
        states = self._model.read(input_ids.to(device), position_ids.to(device))
        hidden = torch.cat(  # each token is predicted one place before it
            [row[t.start - 1 : len(t.token_ids) - 1] for row, t in zip(states.hidden, batch, strict=True)]
        )
        size = chunk_targets(len(states.head), device=device.type)
        tops = [top_of_logits(part @ states.head.T, k) for part in torch.split(hidden, size)]
        ids, log_probs = zip(*tops, strict=True)
        return torch.cat(ids).cpu(), torch.cat(log_probs).cpu()

    def close(self) -> None:
        """Drop the model."""
        self._model = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


@torch.no_grad()
def top_of_logits(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:  # [R, W] -> [R, k], [R, k + 1]
    """The likeliest tokens, and log-probabilities of these and of all others, which are added up."""
    log_probs = logits.float().log_softmax(dim=-1)
    top, ids = log_probs.topk(k, dim=-1)
    rest = log_probs.scatter(-1, ids, -torch.inf).logsumexp(dim=-1, keepdim=True)
    return ids, torch.cat([top, rest], dim=-1)


def _device(name: str) -> torch.device:
    if name != "auto":
        return torch.device(name)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")

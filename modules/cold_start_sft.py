"""Stage 2: supervised fine-tuning that teaches the model to judge whether to think (recipe §4).

Shapes: B rows, L tokens, H width, T targets.
"""

import torch
from torch import Tensor
from typing_extensions import override

from katlit.batch import TokenBatch
from katlit.errors import require
from katlit.losses.head import selected_log_probs
from katlit.losses.mtp import target_indices, target_number
from katlit.losses.reduce import token_mean
from katlit.model.backbone import Backbone
from katlit.stage.module import DEFAULT_OPTIMIZATION, KatModule
from katlit.stage.optimization import Optimization


class ColdStartSFT(KatModule):
    """Token-level cross-entropy on the response, a mean in which the judge segment may weigh more.

    Validation logs cross-entropy and perplexity of the whole response (`val/ce`), of its judge segment
    (`val/judge_ce`) and of the rest (`val/answer_ce`), and `val/mode_accuracy`: how often, where the label's
    mode marker stands, the model gives that marker a higher probability than the other mode's. There all
    tokens weigh the same. Where MTP modules are trained, also `val/mtp<k>_ce` of each depth.

    Args:
        backbone: The model.
        optimization: AdamW and its schedule.
        judge_weight: Weight of a token of the judge segment; the others have 1, and the mean is over weights.
            The mode is one of many tokens of a response, so where few steps are to be had it is learned last;
            a weight above 1 brings it forward (our choice).
        mtp_weight: μ, of the MTP modules' mean cross-entropy over all tokens of the response, so that their
            drafts keep up with the model (our choice); 0 leaves the modules as stage 1 has trained them.
    """

    def __init__(
        self,
        backbone: Backbone,
        optimization: Optimization = DEFAULT_OPTIMIZATION,
        judge_weight: float = 1.0,
        mtp_weight: float = 0.0,
    ) -> None:
        require(judge_weight > 0, "model.judge_weight", judge_weight, "a number above 0")
        require(mtp_weight >= 0, "model.mtp_weight", mtp_weight, "0 or more")
        super().__init__(backbone, optimization)
        self.judge_weight = judge_weight
        self.mtp_weight = mtp_weight
        self.trains_mtp = mtp_weight > 0

    @override
    def training_step(self, batch: TokenBatch, batch_idx: int) -> Tensor:
        numbers = self.step_numbers(batch)
        targets = target_indices(batch["loss_mask"], batch["position_ids"], 0)
        hidden = self.backbone(batch["input_ids"], batch["position_ids"], with_mtp=self.trains_mtp)
        losses = self._cross_entropy(batch, hidden.main.flatten(0, 1), targets)
        loss = token_mean(losses * self._weights(batch).flatten()[targets], numbers["ce"])
        for name, losses in self._mtp_cross_entropies(batch, hidden.mtp).items():
            loss = loss + self.mtp_weight / len(hidden.mtp) * token_mean(losses, numbers[name])
        loss = self.add_router_loss(loss, batch, hidden.routing)
        self.log_training({"loss": loss})
        return loss

    @override
    def target_numbers(self, batch: TokenBatch) -> dict[str, Tensor]:
        is_target = batch["loss_mask"] & (batch["position_ids"] > 0)
        numbers = {"ce": (self._weights(batch) * is_target).sum()}
        for k in range(1, 1 + (len(self.backbone.mtp) if self.trains_mtp else 0)):
            numbers[f"mtp{k}_ce"] = target_number(batch["loss_mask"], batch["position_ids"], k)
        return numbers

    @override
    def validation_step(self, batch: TokenBatch, batch_idx: int) -> None:
        states = self.backbone(batch["input_ids"], batch["position_ids"], with_mtp=self.trains_mtp)
        hidden = states.main.flatten(0, 1)
        targets = target_indices(batch["loss_mask"], batch["position_ids"], 0)
        losses = self._cross_entropy(batch, hidden, targets)
        judge = self._in_judge(batch).flatten()[targets]
        self.count("ce", losses)
        self.count("judge_ce", losses[judge])
        self.count("answer_ce", losses[~judge])
        self.count("mode_accuracy", self._mode_hits(batch, hidden, targets))
        for name, values in self._mtp_cross_entropies(batch, states.mtp).items():
            self.count(name, values)

    @override
    def summarize(self, means: dict[str, Tensor]) -> dict[str, Tensor]:
        return super().summarize(means) | {"loss": means["ce"]}

    def _cross_entropy(self, batch: TokenBatch, hidden: Tensor, targets: Tensor, depth: int = 0) -> Tensor:
        """One value for each target, [T]."""
        ids = batch["input_ids"].flatten()[targets]
        return -selected_log_probs(hidden[targets - depth - 1], self.backbone.head_weight, ids)[0]

    def _mtp_cross_entropies(self, batch: TokenBatch, hidden: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """Of each MTP depth, one value for each target within its reach."""
        found: dict[str, Tensor] = {}
        for k, states in enumerate(hidden, start=1):
            targets = target_indices(batch["loss_mask"], batch["position_ids"], k)
            found[f"mtp{k}_ce"] = self._cross_entropy(batch, states.flatten(0, 1), targets, k)
        return found

    def _in_judge(self, batch: TokenBatch) -> Tensor:
        """Which tokens belong to a judge segment, [B, L] bool."""
        return judge_mask(batch["input_ids"], batch["position_ids"], self._mode_ids())

    def _weights(self, batch: TokenBatch) -> Tensor:
        """Weight of each token, [B, L]."""
        return torch.where(self._in_judge(batch), self.judge_weight, 1.0)

    def _mode_ids(self) -> Tensor:
        """Token ids of the two mode markers, [2]."""
        marker_ids = self.backbone.protocol.marker_ids
        return torch.tensor([marker_ids["<think_on>"], marker_ids["<think_off>"]], device=self.device)

    def _mode_hits(self, batch: TokenBatch, hidden: Tensor, targets: Tensor) -> Tensor:
        """For each target that is a mode marker: 1 where it is the likelier one of the two, else 0."""
        modes = self._mode_ids()
        ids = batch["input_ids"].flatten()
        labels = targets[torch.isin(ids[targets], modes)]
        logits = hidden[labels - 1] @ self.backbone.head_weight[modes].T
        return (modes[logits.argmax(dim=-1)] == ids[labels]).float()


def judge_mask(input_ids: Tensor, position_ids: Tensor, mode_ids: Tensor) -> Tensor:
    """Tokens [B, L] up to and including the first mode marker of their document.

    Args:
        input_ids: [B, L].
        position_ids: [B, L], 0 at the first token of each document.
        mode_ids: [2], token ids of the mode markers, which no content can contain.
    """
    is_mode = torch.isin(input_ids, mode_ids).long()
    before = is_mode.cumsum(dim=-1) - is_mode  # mode markers further left in the row
    start = torch.arange(input_ids.shape[-1], device=input_ids.device) - position_ids
    return before == before.gather(-1, start)

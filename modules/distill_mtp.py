"""Stage 1: distillation from a teacher, with multi-token prediction (recipe §3).

Shapes: B rows, L tokens, H width, V vocabulary, T targets, P aligned pairs, D MTP depths. The main head is
depth 0. A target at flattened index s is predicted by depth k from position s - k - 1.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from typing_extensions import override

from katlit.backbone import Backbone
from katlit.batch import DistillBatch
from katlit.errors import UserError
from katlit.frozen import FrozenModel, Placement
from katlit.losses.distill import jsd
from katlit.losses.log_probs import selected_log_probs
from katlit.losses.mtp import pair_number, paired_indices, paired_targets, target_indices, target_number
from katlit.losses.reduce import token_mean
from katlit.losses.uld import hybrid_uld, uld
from katlit.module import DEFAULT_OPTIMIZATION, KatModule
from katlit.needs import Loss, Needs
from katlit.optimization import Optimization
from katlit.pretrained import load_model, load_tokenizer, output_weight
from katlit.shared_tokens import SharedTokens, shared_tokens


class DistillMTP(KatModule):
    """Cross-entropy and knowledge distillation: `L = L_0 + (μ/D)·Σ_k L_k` with `L_k = CE_k + λ·KD_k`.

    The teacher's target for depth k is its ordinary distribution of the same token, that is its logits
    shifted by k (our choice). `uld/paired_share` is the share of targets that have a counterpart at the
    teacher, `val/paired_share` in validation, which logs each term, `val/perplexity`, and for each depth
    `val/mtp<k>_acceptance`: how often its greedy token is the main head's for the same target.

    Args:
        backbone: The student.
        teacher: Name or directory of a Hugging Face causal language model; needed unless `kd` is none.
        optimization: AdamW and its schedule.
        kd: Universal Logit Distillation for two vocabularies, generalised Jensen-Shannon for one, or none.
        uld_matching: Of `uld`: by rank alone, or hybrid, where tokens that both vocabularies have are
            compared with each other and only the rest by rank.
        kd_weight: λ.
        beta: Of `jsd`: towards 0 forward KL, towards 1 reverse KL.
        temperature: Divides the logits of both sides in `kd`.
        mtp_weight: μ; 0 leaves the MTP modules untrained.
        teacher_placement: Where the teacher's weights are, see `katlit.frozen.FrozenModel`.
    """

    def __init__(
        self,
        backbone: Backbone,
        teacher: str | None = None,
        optimization: Optimization = DEFAULT_OPTIMIZATION,
        kd: Literal["uld", "jsd", "none"] = "uld",
        uld_matching: Literal["rank", "hybrid"] = "rank",
        kd_weight: float = 1.0,
        beta: float = 0.5,
        temperature: float = 1.0,
        mtp_weight: float = 0.3,
        teacher_placement: Placement = "device",
    ) -> None:
        super().__init__(backbone, optimization)
        self.teacher = teacher
        self.kd = kd
        self.uld_matching = uld_matching
        self.kd_weight = kd_weight
        self.beta = beta
        self.temperature = temperature
        self.mtp_weight = mtp_weight
        self.teacher_placement: Placement = teacher_placement
        self.trains_mtp = mtp_weight > 0
        self._teacher: FrozenModel | None = None
        self._shared: SharedTokens | None = None  # where `uld` is hybrid

    @override
    def needs(self) -> Needs:
        losses: tuple[Loss, ...] = ("log_probs",) if self.kd == "none" else ("log_probs", self.kd)
        teacher = None if self.kd == "none" else self.teacher
        mtp_losses = losses if self.trains_mtp else ()
        return Needs(losses, mtp_losses, teacher, placement=self.teacher_placement)

    @override
    def load_companions(self) -> None:
        if self.kd == "none":
            return
        if self.teacher is None:
            raise UserError(f"model.teacher: not given; kd {self.kd!r} needs one, or set kd to none")
        model = load_model(self.teacher, "model.teacher", self.backbone.dtype, self.backbone.attention)
        if self.kd == "jsd":
            self._require_one_vocabulary(self.teacher, len(output_weight(model)))
        elif self.uld_matching == "hybrid":
            self._shared = shared_tokens(
                self.backbone.protocol.tokenizer,
                load_tokenizer(self.teacher, "model.teacher"),
                len(self.backbone.head_weight),
                len(output_weight(model)),
            )
        self._teacher = FrozenModel(model, self.teacher_placement)

    def _require_one_vocabulary(self, source: str, teacher_logits: int) -> None:
        theirs = load_tokenizer(source, "model.teacher").get_vocab()
        ours = self.backbone.protocol.tokenizer.get_vocab()
        sizes = teacher_logits, len(self.backbone.head_weight)
        if theirs != ours or sizes[0] != sizes[1]:
            raise UserError(
                f"model.kd: jsd needs one vocabulary, but the teacher's has {len(theirs)} tokens "
                f"({sizes[0]} logits), the student's {len(ours)} ({sizes[1]}), or they differ; set kd to uld"
            )

    @override
    def training_step(self, batch: DistillBatch, batch_idx: int) -> Tensor:
        numbers = self.step_numbers(batch)
        hidden, routing = self._hidden(batch)
        terms = self._terms(batch, hidden)
        means = {name: token_mean(values, numbers[name]) for name, values in terms.items()}
        loss = self.add_router_loss(self._combine(means), batch, routing)
        if self._teacher is not None:
            means["uld/paired_share"] = token_mean(self._paired(batch), numbers["ce"])
        self.log_training(means | {"loss": loss})
        return loss

    @override
    def target_numbers(self, batch: DistillBatch) -> dict[str, Tensor]:
        numbers: dict[str, Tensor] = {}
        for k in range(1 + (len(self.backbone.mtp) if self.trains_mtp else 0)):
            numbers[_name(k, "ce")] = target_number(batch["loss_mask"], batch["position_ids"], k)
            if self._teacher is not None:
                numbers[_name(k, "kd")] = pair_number(batch["student_targets"], batch["position_ids"], k)
        return numbers

    @override
    def validation_step(self, batch: DistillBatch, batch_idx: int) -> None:
        hidden, _ = self._hidden(batch)
        for name, values in (self._terms(batch, hidden) | self._accepted(batch, hidden)).items():
            self.count(name, values)
        if self._teacher is not None:
            self.count("paired_share", self._paired(batch))

    @override
    def summarize(self, means: dict[str, Tensor]) -> dict[str, Tensor]:
        return super().summarize(means) | {"loss": self._combine(means)}

    def _combine(self, means: dict[str, Tensor]) -> Tensor:
        """The loss, from the means of its terms."""
        weights = {"ce": 1.0, "kd": self.kd_weight}
        depths = len(self.backbone.mtp)
        for k in range(1, depths + 1):
            weights[f"mtp{k}_ce"] = self.mtp_weight / depths
            weights[f"mtp{k}_kd"] = self.mtp_weight / depths * self.kd_weight
        return torch.stack([weight * means[name] for name, weight in weights.items() if name in means]).sum()

    def _hidden(self, batch: DistillBatch) -> tuple[list[Tensor], tuple[Tensor, ...]]:
        """Hidden states of each depth, [B * L, H], the main head's first; and the routing."""
        hidden = self.backbone(batch["input_ids"], batch["position_ids"], with_mtp=self.trains_mtp)
        return [states.flatten(0, 1) for states in (hidden.main, *hidden.mtp)], hidden.routing

    def _terms(self, batch: DistillBatch, hidden: list[Tensor]) -> dict[str, Tensor]:
        """Cross-entropy [T] and distillation [P] of each depth, one value for each target within reach."""
        ids = batch["input_ids"].flatten()
        terms: dict[str, Tensor] = {}
        for k, states in enumerate(hidden):
            targets = target_indices(batch["loss_mask"], batch["position_ids"], k)
            predictors = states[targets - k - 1]
            terms[_name(k, "ce")] = -selected_log_probs(predictors, self.backbone.head_weight, ids[targets])[
                0
            ]
        if self._teacher is not None:
            terms |= self._distillation(batch, hidden, self._teacher)
        return terms

    def _distillation(
        self, batch: DistillBatch, hidden: list[Tensor], teacher: FrozenModel
    ) -> dict[str, Tensor]:
        theirs, head = teacher.read(batch["teacher_input_ids"], batch["teacher_position_ids"])
        theirs = theirs.flatten(0, 1)
        terms: dict[str, Tensor] = {}
        for k, states in enumerate(hidden):
            student, paired = paired_indices(
                batch["student_targets"], batch["teacher_targets"], batch["position_ids"], k
            )
            ours = self.backbone.logits(states[student - k - 1])
            truth = nn.functional.linear(theirs[paired - 1], head)
            if self.kd == "jsd":
                terms[_name(k, "kd")] = jsd(ours, truth, self.beta, self.temperature)
            elif self._shared is None:
                terms[_name(k, "kd")] = uld(ours, truth, self.temperature)
            else:
                self._shared = self._shared.to(ours.device)
                terms[_name(k, "kd")] = hybrid_uld(ours, truth, *self._shared, self.temperature)
        return terms

    def _paired(self, batch: DistillBatch) -> Tensor:
        """Whether each target [T] of the main head has a counterpart at the teacher."""
        return paired_targets(batch["student_targets"], batch["loss_mask"], batch["position_ids"]).float()

    def _accepted(self, batch: DistillBatch, hidden: list[Tensor]) -> dict[str, Tensor]:
        """Whether each depth's greedy token [T] is the main head's for the same target."""
        accepted: dict[str, Tensor] = {}
        for k, states in enumerate(hidden[1:], start=1):
            targets = target_indices(batch["loss_mask"], batch["position_ids"], k)
            draft = self.backbone.logits(states[targets - k - 1]).argmax(dim=-1)
            main = self.backbone.logits(hidden[0][targets - 1]).argmax(dim=-1)
            accepted[_name(k, "acceptance")] = (draft == main).float()
        return accepted


def _name(depth: int, term: str) -> str:
    return f"mtp{depth}_{term}" if depth else term

"""Stage 1: distillation from one teacher or two, with multi-token prediction (recipe §3).

Shapes: B rows, L tokens, H width, T targets, P of them aligned with a teacher's, G = 1 + D depths of
prediction. The main head is depth 0. A target at flattened index s is predicted by depth k from position
s - k - 1.
"""

import logging
from typing import Literal

import torch
from torch import Tensor
from typing_extensions import override

from katlit.batch import DistillBatch, TeacherTokens
from katlit.errors import UserError, require
from katlit.losses.distill import JensenShannon
from katlit.losses.divergence import Divergence
from katlit.losses.head import greedy_tokens, selected_log_probs
from katlit.losses.mtp import pair_number, paired_first, target_indices, target_number, within_reach
from katlit.losses.reduce import token_mean
from katlit.losses.top_k import TopJensenShannon, TopLogProbs, TopUniversalLogit
from katlit.losses.uld import UniversalLogit, matching_of
from katlit.model.backbone import Backbone
from katlit.model.frozen import FrozenDtype, FrozenModel, Placement
from katlit.model.packed_rows import require_documents_apart
from katlit.model.pretrained import load_config, load_model, load_tokenizer, output_weight
from katlit.stage.module import DEFAULT_OPTIMIZATION, KatModule
from katlit.stage.needs import Needs
from katlit.stage.optimization import Optimization
from katlit.teacher.by_mode import ByMode, Teacher, is_text_only, teachers_of
from katlit.teacher.comparison import LiveTeacher, ToldTeacher
from katlit.text.shared_tokens import shared_tokens

logger = logging.getLogger(__name__)

_TEACHER = "model.teacher"


class DistillMTP(KatModule):
    """Cross-entropy and knowledge distillation: `L = L_0 + (μ/D)·Σ_k L_k` with `L_k = CE_k + λ·KD_k`.

    The teacher's target for depth k is its ordinary distribution of the same token, that is its logits
    shifted by k (our choice). `uld/paired_share` is the share of targets that have a counterpart at the
    teacher, `val/paired_share` in validation, which logs each term, `val/perplexity`, and for each depth
    `val/mtp<k>_acceptance`: how often its greedy token is the main head's for the same target.

    With two teachers (recipe §2) each record is compared with the one that wrote it, as the data say, and KD
    is the mean over the targets of both. For `uld` each may have a tokenizer of its own.

    Args:
        backbone: The student.
        teacher: Name or directory of a Hugging Face causal language model; needed unless `kd` is none. Two
            are a mapping: `think_on` is the teacher of the think-on records, `think_off` that of the others.
            With one that only an endpoint has (`endpoint:NAME`) `kd` becomes none.
        optimization: AdamW and its schedule.
        kd: Universal Logit Distillation for two vocabularies, generalised Jensen-Shannon for one, or none.
        uld_matching: What `uld` compares: tokens by rank alone, or hybrid, where tokens that both
            vocabularies have are compared with each other and only the rest by rank.
        kd_weight: λ.
        beta: Weight β of jsd: towards 0 forward KL, towards 1 reverse KL.
        temperature: Divides the logits of both sides in `kd`.
        mtp_weight: μ; 0 leaves the MTP modules untrained.
        teacher_placement: Where a teacher's weights are, see `katlit.model.frozen.FrozenModel`; or `cached`:
            nowhere, the data bring its likeliest tokens (`cached_teacher`), and `kd` compares these and the
            rest (`katlit.losses.top_k`).
        teacher_dtype: Type of a teacher's weights, see `katlit.model.frozen.frozen_dtype`.
    """

    def __init__(
        self,
        backbone: Backbone,
        teacher: ByMode[str] | None = None,
        optimization: Optimization = DEFAULT_OPTIMIZATION,
        kd: Literal["uld", "jsd", "none"] = "uld",
        uld_matching: Literal["rank", "hybrid"] = "rank",
        kd_weight: float = 1.0,
        beta: float = 0.5,
        temperature: float = 1.0,
        mtp_weight: float = 0.3,
        teacher_placement: Placement | Literal["cached"] = "device",
        teacher_dtype: FrozenDtype = "auto",
    ) -> None:
        require(kd_weight >= 0, "kd_weight", kd_weight, "0 or more")
        require(mtp_weight >= 0, "mtp_weight", mtp_weight, "0 or more")
        require(0 <= beta <= 1, "beta", beta, "a number from 0 (forward KL) to 1 (reverse KL)")
        require(temperature > 0, "temperature", temperature, "a number above 0")
        super().__init__(backbone, optimization)
        self.teachers = teachers_of(teacher, _TEACHER)
        self.kd = kd
        if kd != "none" and is_text_only(self.teachers):
            self.kd = "none"
            logger.warning(
                "%s: only an endpoint has %s, so nothing is known of it but text: kd is none, not %s",
                _TEACHER, ", ".join(one.name for one in self.teachers), kd,
            )  # fmt: skip
        self.uld_matching = uld_matching
        self.kd_weight = kd_weight
        self.temperature = temperature
        jsd, uld = JensenShannon(beta, temperature), UniversalLogit(temperature)
        self.divergence: Divergence[Tensor] = jsd if kd == "jsd" else uld
        self.top_divergence: Divergence[TopLogProbs] = (
            TopJensenShannon(beta) if kd == "jsd" else TopUniversalLogit()
        )
        self.mtp_weight = mtp_weight
        self.teacher_placement: Placement | Literal["cached"] = teacher_placement
        self.teacher_dtype: FrozenDtype = teacher_dtype
        self.trains_mtp = mtp_weight > 0
        self._teachers: list[LiveTeacher | ToldTeacher] = []

    @override
    def needs(self) -> Needs:
        if self.kd == "none":
            return Needs(("log_probs",))
        teachers = {teacher.key: teacher.name for teacher in self._require_teachers()}
        if self.teacher_placement == "cached":
            return Needs(("top_k",), len(teachers))
        placement, dtype = self.teacher_placement, self.teacher_dtype
        return Needs((self.kd,), len(teachers), teachers, placement=placement, dtype=dtype)

    @override
    def load_companions(self) -> None:
        if self.kd != "none":
            self._teachers = [self._load(teacher.key, teacher.name) for teacher in self._require_teachers()]

    def _require_teachers(self) -> list[Teacher]:
        if not self.teachers:
            raise UserError(f"{_TEACHER}: not given; kd {self.kd!r} needs one, or set kd to none")
        return self.teachers

    def _load(self, key: str, source: str) -> LiveTeacher | ToldTeacher:
        if self.teacher_placement == "cached":
            self._check_cached(key, source)
            return ToldTeacher(self.top_divergence)
        divergence = self.divergence
        model = load_model(source, key, self.frozen_dtype(self.teacher_dtype), self.backbone.attention)
        require_documents_apart(model, key)
        if self.kd == "jsd":
            self._require_one_vocabulary(key, source, len(output_weight(model)))
        elif self.uld_matching == "hybrid":
            sizes = len(self.backbone.head_weight), len(output_weight(model))
            tokenizers = self.backbone.protocol.tokenizer, load_tokenizer(source, key)
            matching = matching_of(*shared_tokens(*tokenizers, *sizes), *sizes)
            divergence = UniversalLogit(self.temperature, matching)
        return LiveTeacher(FrozenModel(model, self.teacher_placement), divergence)

    def _check_cached(self, key: str, source: str) -> None:
        """Refuse what the likeliest tokens alone do not tell."""
        if self.temperature != 1:
            raise UserError(
                f"model.temperature: {self.temperature}, but a cached teacher is known at 1.0 only; set 1.0"
            )
        if self.kd == "uld" and self.uld_matching == "hybrid":
            raise UserError("model.uld_matching: hybrid needs all tokens of the teacher; set it to rank")
        if self.kd == "jsd":
            vocabulary = load_config(source, key).get_text_config().vocab_size
            self._require_one_vocabulary(key, source, vocabulary)

    def _require_one_vocabulary(self, key: str, source: str, teacher_logits: int) -> None:
        theirs = load_tokenizer(source, key).get_vocab()
        ours = self.backbone.protocol.tokenizer.get_vocab()
        sizes = teacher_logits, len(self.backbone.head_weight)
        if theirs != ours or sizes[0] != sizes[1]:
            raise UserError(
                f"model.kd: jsd needs one vocabulary, but that of {key} has {len(theirs)} tokens "
                f"({sizes[0]} logits), the student's {len(ours)} ({sizes[1]}), or they differ; set kd to uld"
            )

    @override
    def training_step(self, batch: DistillBatch, batch_idx: int) -> Tensor:
        numbers = self.step_numbers(batch)
        hidden, routing = self._hidden(batch)
        terms = self._terms(batch, hidden)
        means = {name: token_mean(values, numbers[name]) for name, values in terms.items()}
        loss = self.add_router_loss(self._combine(means), batch, routing)
        if self.kd != "none":
            means["uld/paired_share"] = token_mean(self._paired(batch), numbers["ce"])
        self.log_training(means | {"loss": loss})
        return loss

    @override
    def target_numbers(self, batch: DistillBatch) -> dict[str, Tensor]:
        numbers: dict[str, Tensor] = {}
        for k in range(1 + (len(self.backbone.mtp) if self.trains_mtp else 0)):
            numbers[_name(k, "ce")] = target_number(batch["loss_mask"], batch["position_ids"], k)
            if self.kd != "none":
                numbers[_name(k, "kd")] = pair_number(_student_targets(batch), batch["position_ids"], k)
        return numbers

    @override
    def validation_step(self, batch: DistillBatch, batch_idx: int) -> None:
        hidden, _ = self._hidden(batch)
        for name, values in (self._terms(batch, hidden) | self._accepted(batch, hidden)).items():
            self.count(name, values)
        if self.kd != "none":
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
        """Cross-entropy and distillation of each depth, one value for each target within reach."""
        positions = batch["position_ids"]
        targets = paired_first(_student_targets(batch), batch["loss_mask"], positions)
        log_probs, divergences = self._losses(batch, _predictors(hidden, targets), targets)
        terms: dict[str, Tensor] = {}
        for k in range(len(hidden)):
            reach = within_reach(targets, positions, k)
            terms[_name(k, "ce")] = -log_probs[k, reach]
            if divergences is not None:
                terms[_name(k, "kd")] = divergences[k, reach[: divergences.shape[1]]]
        return terms

    def _losses(
        self, batch: DistillBatch, predictors: Tensor, targets: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Log-probabilities [G, T] and, where there is a teacher, divergences [G, P]."""
        head, ids = self.backbone.head_weight, batch["input_ids"].flatten()[targets]
        if self.kd == "none":
            log_probs, _ = selected_log_probs(predictors.flatten(0, 1), head, ids.repeat(len(predictors)))
            return log_probs.view(len(predictors), -1), None
        parts = self._checked_parts(batch)
        numbers = [len(part["student_targets"]) for part in parts]
        numbers[-1] += len(targets) - sum(numbers)  # the last part takes along what has no teacher
        cut = torch.split(predictors, numbers, dim=1), torch.split(ids, numbers)
        compared = [
            teacher.compare(part, rows, head, of_rows)
            for teacher, part, rows, of_rows in zip(self._teachers, parts, *cut, strict=True)
        ]
        log_probs, divergences = (torch.cat(values, dim=1) for values in zip(*compared, strict=True))
        return log_probs, divergences

    def _checked_parts(self, batch: DistillBatch) -> list[TeacherTokens]:
        parts = _parts(batch)
        if len(parts) != len(self._teachers):
            raise UserError(
                f"{_TEACHER}: the stage has {len(self._teachers)} teacher(s), the data {len(parts)}; give "
                "data.init_args.teacher the same value"
            )
        return parts

    def _paired(self, batch: DistillBatch) -> Tensor:
        """Whether each target [T] of the main head has a counterpart at the teacher."""
        paired = _student_targets(batch)
        targets = paired_first(paired, batch["loss_mask"], batch["position_ids"])
        return (torch.arange(len(targets), device=targets.device) < len(paired)).float()

    def _accepted(self, batch: DistillBatch, hidden: list[Tensor]) -> dict[str, Tensor]:
        """Whether each depth's greedy token [T] is the main head's for the same target."""
        targets = target_indices(batch["loss_mask"], batch["position_ids"], 0)
        greedy = greedy_tokens(_predictors(hidden, targets), self.backbone.head_weight)
        accepted: dict[str, Tensor] = {}
        for k in range(1, len(hidden)):
            reach = within_reach(targets, batch["position_ids"], k)
            accepted[_name(k, "acceptance")] = (greedy[k] == greedy[0])[reach].float()
        return accepted


def _parts(batch: DistillBatch) -> list[TeacherTokens]:
    """What the data say of each teacher; nothing where they have none."""
    if "student_targets" not in batch:
        return []
    return [batch, batch["think_on"]] if "think_on" in batch else [batch]


def _student_targets(batch: DistillBatch) -> Tensor:
    """Targets [P] that have a teacher; those of the first one come first."""
    none = batch["input_ids"].new_empty(0)
    return torch.cat([none, *(part["student_targets"] for part in _parts(batch))])


def _predictors(hidden: list[Tensor], targets: Tensor) -> Tensor:
    """The hidden state [H] from which each depth predicts each target, [G, T, H]; any, where out of reach."""
    return torch.stack([states[(targets - k - 1).clamp(min=0)] for k, states in enumerate(hidden)])


def _name(depth: int, term: str) -> str:
    return f"mtp{depth}_{term}" if depth else term

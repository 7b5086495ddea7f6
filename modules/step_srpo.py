"""Stage 3: reinforcement learning with supervision of two steps, mode and answer (recipe §5).

Shapes: B rows, L tokens, H width, N rollouts, T trained tokens.
"""

import copy

import torch
from torch import Tensor, nn
from typing_extensions import override

from katlit.advantages import AdvantageEstimator, Process, Rollouts
from katlit.advantages.base import estimate
from katlit.batch import RolloutBatch
from katlit.errors import require
from katlit.losses.aggregation import Aggregation, Segments
from katlit.losses.head import selected_log_probs
from katlit.losses.mtp import target_indices, target_number
from katlit.losses.policy import clipped, effective_sample_share, importance_weights, k3, policy_loss
from katlit.losses.reduce import token_mean
from katlit.model.backbone import Backbone
from katlit.model.dropout import remove_dropout
from katlit.model.frozen import FrozenDtype, FrozenModel, Placement, cast
from katlit.parallel.collectives import most_over_ranks
from katlit.rollout.fillers import require_one_sampler, require_prompts
from katlit.stage.module import DEFAULT_OPTIMIZATION, KatModule
from katlit.stage.needs import Needs
from katlit.stage.optimization import Optimization
from katlit.stage.portions import portions, portions_needed

TOKEN_MEAN = Aggregation()


class StepSRPO(KatModule):
    """Group-relative policy optimisation with an advantage for the judge segment and one for the answer.

    In the first update on a batch of rollouts the old log-probabilities are the present ones, and the ratio
    is 1 with the gradient of the log-probability. For further updates they are recorded by a forward pass
    before the first one, as `old_log_probs` of their batches; then the clip acts. The engine that sampled
    computes a little differently, and stale rollouts come from older weights; a truncated importance weight,
    of the old policy over the sampler, makes up for both. The clip bounds steps away from the old policy,
    not from the sampler (the decoupled objective of AReaL, arXiv 2505.24298).

    Args:
        backbone: The policy; its dropout is set to 0.
        optimization: AdamW and its schedule.
        estimator: What makes the advantages: `katlit.advantages.Process`, `HiPO` or `GRPO` beside it, or a
            class of one's own.
        clip_low: The ratio is clipped below 1 - clip_low.
        clip_high: The ratio is clipped above 1 + clip_high.
        importance_cap: C, the largest importance weight.
        aggregation: How the loss is averaged over the whole optimizer step.
        kl_weight: Weight of the KL divergence from the model as it was before this stage; 0 keeps no copy.
        temperature: Temperature of the sampler; log-probabilities are compared under it.
        reference_placement: Where the copy's weights are, see `katlit.model.frozen.FrozenModel`.
        reference_dtype: Type of its weights, see `katlit.model.frozen.frozen_dtype`.
        pass_tokens: Most tokens of one forward and backward pass, though always a whole row: however many
            rollouts a step has, its activations are those of so many tokens (`KatModule.in_passes`).
    """

    def __init__(
        self,
        backbone: Backbone,
        optimization: Optimization = DEFAULT_OPTIMIZATION,
        estimator: AdvantageEstimator = Process(),  # noqa: B008 (the command line reads the class from here)
        clip_low: float = 0.2,
        clip_high: float = 0.28,
        importance_cap: float = 2.0,
        aggregation: Aggregation = TOKEN_MEAN,
        kl_weight: float = 0.0,
        temperature: float = 1.0,
        reference_placement: Placement = "device",
        reference_dtype: FrozenDtype = "auto",
        pass_tokens: int = 16384,
    ) -> None:
        super().__init__(backbone, optimization)
        self.estimator = estimator
        self.clip_low = clip_low
        self.clip_high = clip_high
        self.importance_cap = importance_cap
        self.aggregation = aggregation
        require(kl_weight >= 0, "kl_weight", kl_weight, "0 or more")
        require(temperature > 0, "temperature", temperature, "a number above 0, that of the sampler")
        require(pass_tokens >= 1, "pass_tokens", pass_tokens, "at least 1")
        self.pass_tokens = pass_tokens
        self.kl_weight = kl_weight
        self.temperature = temperature
        self.reference_placement: Placement = reference_placement
        self.reference_dtype: FrozenDtype = reference_dtype
        self._reference: FrozenModel | None = None

    @override
    def needs(self) -> Needs:
        if self.kl_weight <= 0:
            return Needs(pass_tokens=self.pass_tokens)
        # The head of the reference is used like the policy's.
        return Needs(
            ("log_probs", "log_probs"),
            references=1,
            placement=self.reference_placement,
            dtype=self.reference_dtype,
            pass_tokens=self.pass_tokens,
        )

    @override
    def load_companions(self) -> None:
        remove_dropout(self.backbone)
        if self.kl_weight > 0:
            model = cast(copy.deepcopy(self.backbone.causal_lm), self.frozen_dtype(self.reference_dtype))
            self._reference = FrozenModel(model, self.reference_placement)

    @override
    def training_step(self, batch: RolloutBatch, batch_idx: int) -> Tensor:
        """Update on a batch that the rollout callback filled; writes its `advantages` and `logprob_gap`."""
        if "rollout_ids" not in batch:
            require_prompts(self.trainer, batch)
            require_one_sampler(self.trainer, "fit")
        for later in batch.get("later", []):
            later["old_log_probs"] = self._present_log_probs(later)
        numbers = self.step_numbers(batch)
        batch["advantages"] = self._advantages(batch)
        passes = self._passes(batch)
        loss = self.in_passes(passes, lambda portion: self._portion_loss(portion, numbers))
        batch["logprob_gap"] = torch.stack([portion["logprob_gap"] for portion in passes]).sum()
        self.log_training(_group_statistics(batch, numbers))
        return loss

    def _passes(self, batch: RolloutBatch) -> list[RolloutBatch]:
        """The batch in portions of at most `pass_tokens`, equally many on all ranks; a collective."""
        number = most_over_ranks(portions_needed(batch, self.pass_tokens))
        return portions(batch, number, self.backbone.protocol.pad_id)

    def _portion_loss(self, batch: RolloutBatch, numbers: dict[str, Tensor]) -> Tensor:
        """The part of the loss that some rows of a micro-batch have; writes theirs of `logprob_gap`."""
        hidden = self.backbone(batch["input_ids"], batch["position_ids"])
        targets = target_indices(self._trained(batch), batch["position_ids"], 0)
        states, weight = hidden.main.flatten(0, 1), self.backbone.head_weight
        log_probs, entropy = self._log_probs(batch, states, weight, targets)
        losses = self._policy_losses(batch, targets, log_probs, numbers)
        if "probe_mask" in batch and "old_log_probs" not in batch:  # else the weights have moved since
            batch["logprob_gap"] = self._probed_gap(batch, states, weight, numbers["compared"])
        if self._reference is not None:
            divergence = self._divergence(batch, self._reference, targets, log_probs)
            self.log_training({"kl": token_mean(divergence, numbers["tokens"])})
            losses = losses + self.kl_weight * divergence
        loss = self.aggregation.mean(losses, _segments(batch).of(targets), numbers)
        loss = self.add_router_loss(loss, batch, hidden.routing)
        self.log_training({"loss": loss, "entropy": token_mean(entropy, numbers["tokens"])})
        return loss

    @override
    def validation_step(self, batch: RolloutBatch, batch_idx: int) -> None:
        """Nothing: the rollout callback samples and scores."""

    @override
    def target_numbers(self, batch: RolloutBatch) -> dict[str, Tensor]:
        trained = self._trained(batch)
        compared = batch.get("probe_mask", trained)  # what was sampled from the present weights
        numbers = {
            name: target_number(mask, batch["position_ids"], 0)
            for name, mask in (("tokens", trained), ("compared", compared))
        }
        modes = {f"rollouts_{name}": chosen.sum() for name, chosen in _by_mode(batch).items()}
        return numbers | modes | self.aggregation.numbers(trained, _segments(batch))

    @override
    def summarize_training(self, means: dict[str, Tensor]) -> dict[str, Tensor]:
        if "importance_weight_square" not in means:
            return means
        square = means.pop("importance_weight_square")
        return means | {"effective_sample_share": effective_sample_share(means["importance_weight"], square)}

    @torch.no_grad()
    def _present_log_probs(self, batch: RolloutBatch) -> Tensor:
        """Log-probabilities of the trained tokens under the weights as they are, [B, L]; 0 elsewhere."""
        found = [self._portion_log_probs(portion) for portion in self._passes(batch)]
        return torch.cat(found[: len(batch["input_ids"])])  # the rest are empty portions

    def _portion_log_probs(self, batch: RolloutBatch) -> Tensor:
        hidden = self.backbone(batch["input_ids"], batch["position_ids"]).main
        targets = target_indices(self._trained(batch), batch["position_ids"], 0)
        log_probs, _ = self._log_probs(batch, hidden.flatten(0, 1), self.backbone.head_weight, targets)
        found = torch.zeros_like(batch["rollout_log_probs"])
        found.view(-1)[targets] = log_probs.to(found.dtype)
        return found

    def _policy_losses(
        self, batch: RolloutBatch, targets: Tensor, log_probs: Tensor, numbers: dict[str, Tensor]
    ) -> Tensor:
        """One value for each trained token [T]; logs how far the ratios and the sampler are off."""
        number = numbers["tokens"]
        recorded = batch.get("old_log_probs")
        old = log_probs.detach() if recorded is None else recorded.flatten()[targets]
        segments = (~batch["judge_mask"]).long().flatten()[targets]  # 0 judge, 1 answer
        advantages = batch["advantages"][batch["rollout_ids"].flatten()[targets], segments]
        sampled = batch["rollout_log_probs"].flatten()[targets]
        batch["logprob_gap"] = token_mean((old - sampled).abs().detach(), numbers["compared"])
        weights = importance_weights(old, sampled, self.importance_cap)
        outside = clipped(log_probs, old, advantages, self.clip_low, self.clip_high)
        self.log_training(
            {
                "ratio": token_mean((log_probs.detach() - old).exp(), number),
                "clip_share": token_mean(outside.float(), number),
                "importance_weight": token_mean(weights, number),
                "importance_weight_square": token_mean(weights.square(), number),
            }
        )
        return weights * policy_loss(log_probs, old, advantages, self.clip_low, self.clip_high)

    @torch.no_grad()
    def _probed_gap(self, batch: RolloutBatch, hidden: Tensor, weight: Tensor, number: Tensor) -> Tensor:
        """Mean |trainer - engine| log-probability of the tokens that the engine sampled as a probe, []."""
        targets = target_indices(batch["probe_mask"], batch["position_ids"], 0)
        log_probs, _ = self._log_probs(batch, hidden, weight, targets)
        return token_mean((log_probs - batch["rollout_log_probs"].flatten()[targets]).abs(), number)

    def _advantages(self, batch: RolloutBatch) -> Tensor:
        """Judge and answer advantage of each rollout, [N, 2]."""
        return estimate(
            self.estimator,
            Rollouts(
                batch["rewards"],
                batch["correct"],
                batch["group_ids"],
                batch["modes"],
                batch["truncated"],
                batch["forced"],
                batch["tokens"],
            ),
        )

    def _trained(self, batch: RolloutBatch) -> Tensor:
        """The tokens [B, L] that carry a loss: not those of truncated rollouts, nor a forced judge's."""
        # Padding has the rollout -1, which picks the entry added at the end.
        truncated, forced = (nn.functional.pad(batch[name], (0, 1)) for name in ("truncated", "forced"))
        rollouts = batch["rollout_ids"]
        return batch["loss_mask"] & ~truncated[rollouts] & ~(forced[rollouts] & batch["judge_mask"])

    def _log_probs(
        self, batch: RolloutBatch, hidden: Tensor, weight: Tensor, targets: Tensor
    ) -> tuple[Tensor, Tensor]:
        ids = batch["input_ids"].flatten()[targets]
        return selected_log_probs(hidden[targets - 1], weight, ids, self.temperature)

    def _divergence(
        self, batch: RolloutBatch, reference: FrozenModel, targets: Tensor, log_probs: Tensor
    ) -> Tensor:
        hidden, head = reference.read(batch["input_ids"], batch["position_ids"])
        return k3(log_probs, self._log_probs(batch, hidden.flatten(0, 1), head, targets)[0])


def _segments(batch: RolloutBatch) -> Segments:
    return Segments(batch["judge_mask"], batch["rollout_ids"], len(batch["rewards"]))


def _by_mode(batch: RolloutBatch) -> dict[str, Tensor]:
    """Which rollouts chose each mode, or were made to, [N] bool."""
    return {"on": batch["modes"] == 1, "off": batch["modes"] == 0}


def _group_statistics(batch: RolloutBatch, numbers: dict[str, Tensor]) -> dict[str, Tensor]:
    """Mean reward of each mode, 0 where nobody chose it; and the spread of the batch's advantages."""
    judge, answer = (_spread(segment) for segment in batch["advantages"].unbind(dim=-1))
    rewards = {
        f"reward_{name}": token_mean(batch["rewards"][chosen], numbers[f"rollouts_{name}"])
        for name, chosen in _by_mode(batch).items()
    }
    return {"judge_advantage_std": judge, "answer_advantage_std": answer} | rewards


def _spread(values: Tensor) -> Tensor:
    """Standard deviation of the population; 0 of none."""
    return token_mean((values - token_mean(values)).square()).sqrt()

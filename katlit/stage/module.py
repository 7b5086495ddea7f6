"""The base class of the stages: backbone, optimizer, schedule, and means over the tokens of a whole step."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim import Optimizer
from typing_extensions import override

from katlit.errors import UserError
from katlit.losses.load_balance import load_balance, load_statistics
from katlit.losses.reduce import token_mean
from katlit.metrics.token_mean import TokenMean
from katlit.model.backbone import Backbone
from katlit.model.experts import routers
from katlit.model.frozen import FrozenDtype, frozen_dtype
from katlit.model.pretrained import Dtype
from katlit.model.sharding import shard
from katlit.parallel.collectives import add_over_data_ranks
from katlit.parallel.within_step import backward_within_step
from katlit.stage.needs import Needs
from katlit.stage.optimization import Optimization, build_optimizer, build_schedule
from katlit.stage.resumable import ResumableModule

DEFAULT_OPTIMIZATION = Optimization()


class KatModule(ResumableModule):
    """A stage; subclasses add a training step.

    Args:
        backbone: The model, materialised in `configure_model`.
        optimization: AdamW and its schedule.
    """

    trains_mtp: bool = False  # stages that do not train the MTP modules carry them along, frozen

    def __init__(self, backbone: Backbone, optimization: Optimization = DEFAULT_OPTIMIZATION) -> None:
        super().__init__()
        self.backbone = backbone
        self.optimization = optimization
        self._means: dict[str, TokenMean] = {}
        self._numbers: dict[str, Tensor] = {}
        self._micro_batches = 1  # of the present optimizer step
        self._micro_batches_left = 0
        self._passes_left = 0  # of the present micro-batch
        self._has_gradients = False  # of the present step, before Lightning asks to forget the last one's
        self._expert_shares: Tensor | None = None  # of a micro-batch in several passes, [layers, experts]
        self._logged: dict[str, Tensor] = {}
        self._loads: list[Tensor] = []  # of experts, in each of the step's micro-batches so far

    @override
    def configure_model(self) -> None:
        if self.backbone.is_materialized:
            return
        self.backbone.materialize()
        self.backbone.mtp.requires_grad_(self.trains_mtp)
        with torch.device("cpu"):  # Hugging Face's loader refuses the strategy's device
            self.load_companions()
        if self.device_mesh is not None:
            shard(self.backbone, self.device_mesh, str(self.trainer.precision))

    def needs(self) -> Needs:
        """What `katlit plan` has to know beside the backbone: heads that the losses use, frozen models."""
        return Needs()

    def frozen_dtype(self, chosen: FrozenDtype) -> Dtype:
        """Type of the weights of a frozen model here, see `katlit.model.frozen.frozen_dtype`."""
        on_gpu = self._trainer is not None and self.trainer.strategy.root_device.type != "cpu"
        return frozen_dtype(chosen, self.backbone.dtype, on_gpu=on_gpu)

    def load_companions(self) -> None:
        """Load the frozen models that a stage needs beside its own; runs once, before sharding."""

    @override
    def on_train_start(self) -> None:
        """Refuse settings under which a step ends within its micro-batches, or a run resumes elsewhere."""
        if self.trainer.ckpt_path is not None and self.trainer.max_steps == -1:
            # Lightning counts the batches for the schedule before it restores the place in the data.
            raise UserError(
                "trainer.max_steps: -1, but only a run whose length is given in steps can go on where it "
                "stopped; set trainer.max_steps to what trainer.max_epochs comes to"
            )
        if any(isinstance(callback, GradientAccumulationScheduler) for callback in self.trainer.callbacks):
            raise UserError(
                "trainer.callbacks: GradientAccumulationScheduler changes the micro-batches of a step, "
                "whose number the data must know beforehand; use trainer.accumulate_grad_batches"
            )
        parts, batches = self.trainer.accumulate_grad_batches, self.trainer.num_training_batches
        if batches % parts:
            raise UserError(
                f"trainer.accumulate_grad_batches: {parts}, but an epoch has {batches} batches; choose a "
                "divisor, or another limit_train_batches or fast_dev_run"
            )

        if self.trainer.ckpt_path is not None:
            self.follow_settings()

    @override
    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = build_optimizer(self, self.optimization)
        schedule = build_schedule(optimizer, self.trainer.estimated_stepping_batches, self.optimization)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    @override
    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Nothing: the evaluation callback samples the policies."""

    @override
    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        """Return the batch as it is: the prediction callback samples the answers."""
        return batch

    def target_numbers(self, batch: Any) -> dict[str, Tensor]:
        """How many tokens of a batch each mean is over, [] each; what `step_numbers` adds up."""
        raise NotImplementedError(f"{type(self).__name__}.target_numbers")

    def step_numbers(self, batch: Any) -> dict[str, Tensor]:
        """What this batch's sums are divided by, so that gradients are those of means over the whole step.

        Lightning averages gradients over ranks and over the micro-batches of an optimizer step. A loss that
        is the mean of its own batch would so depend on how tokens fall into batches. Each sum is divided by
        the tokens of the whole step ÷ (ranks × micro-batches) instead. To be called once a training step.

        Args:
            batch: Without `window` it is taken for a whole step of this rank.
        """
        window = batch.get("window", [batch])
        if window:
            self._micro_batches = self._micro_batches_left = len(window)
            self._numbers = self._totals([self._token_numbers(part) for part in window])
            self._logged, self._loads = {}, []
        self._micro_batches_left -= 1
        return self._numbers

    def in_passes(self, portions: Sequence[Any], loss_of: Callable[[Any], Tensor]) -> Tensor:
        """Run a micro-batch portion by portion, so that only one portion's activations exist at a time.

        Each portion but the last runs backward here, right after its forward pass; Lightning runs the last
        one's. That is as much work as one pass. A checkpoint around each portion, within one graph, would
        repeat every forward pass. Losses are sums over tokens whose denominators are those of the whole step,
        so the gradients add up to that of one pass. The load-balancing loss alone is none; it is split by
        the shares of experts over all portions, for which a forward pass of them all is run before. What
        `loss_of` logs is added up over the portions as over micro-batches. Every rank must have as many.

        Args:
            portions: At least one.
            loss_of: Loss of a portion, []; `step_numbers` has seen the batch.

        Returns:
            The value of the whole loss, whose gradient is that of the last portion.
        """
        self._expert_shares = self._shares_of_experts(portions)
        earlier: list[Tensor] = []
        for left, portion in zip(reversed(range(len(portions))), portions, strict=True):
            self._passes_left = left
            loss = loss_of(portion)
            if left:
                if not earlier and self._micro_batches_left == self._micro_batches - 1:
                    for optimizer in self.trainer.optimizers:  # of the weights as it knows them, split or not
                        optimizer.zero_grad()
                    self._has_gradients = True
                backward_within_step(self, loss / self._micro_batches)
                earlier.append(loss.detach())
        self._expert_shares = None
        return loss + torch.stack(earlier).sum() if earlier else loss

    @override
    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Optimizer) -> None:
        """Forget the last step's gradients, unless `in_passes` has; Lightning asks after the forward pass."""
        if not self._has_gradients:
            super().optimizer_zero_grad(epoch, batch_idx, optimizer)
        self._has_gradients = False

    @torch.no_grad()
    def _shares_of_experts(self, portions: Sequence[Any]) -> Tensor | None:
        """Share of the tokens of all portions that choose each expert; None where no loss needs them."""
        if len(portions) == 1 or not routers(self.backbone) or not self._router_weight():
            return None
        loads, real = zip(*map(self._loads_of, portions), strict=True)
        return torch.stack(loads).sum(dim=0) / torch.stack(real).sum().clamp(min=1)

    def _loads_of(self, batch: Any) -> tuple[Tensor, Tensor]:
        """How many tokens choose each expert of each layer, and how many there are."""
        routing = self.backbone(batch["input_ids"], batch["position_ids"], with_mtp=self.trains_mtp).routing
        real, top_k = self._real(batch).flatten(), self.backbone.causal_lm.config.num_experts_per_tok
        return torch.stack([load_balance(logits, top_k, real)[1] for logits in routing]), real.sum()

    def _token_numbers(self, batch: Any) -> dict[str, Tensor]:
        numbers = self.target_numbers(batch)
        return numbers | {"routed": self._real(batch).sum()} if routers(self.backbone) else numbers

    def _real(self, batch: Any) -> Tensor:
        """Which tokens are no padding, [B, L] bool."""
        return batch["input_ids"] != self.backbone.protocol.pad_id

    def add_router_loss(self, loss: Tensor, batch: Any, routing: tuple[Tensor, ...]) -> Tensor:
        """Add the load-balancing loss of a mixture of experts; to be called once a forward pass.

        The mean over layers of `load_balance`, times the backbone's `router_loss_weight`. All tokens count
        that are no padding, targets or not. The loss is no sum over tokens, because it multiplies two means.
        Our choice: each micro-batch of each rank balances its own load, and the mean over them weighs by
        their tokens. So it depends on how tokens fall into micro-batches, but not on which rank has which of
        them.

        Logs `train/router_loss` before its weight and, of the whole step and all ranks, `load_statistics` as
        `router/…`.

        Args:
            loss: Loss of the batch, [].
            batch: With `input_ids`; `step_numbers` has seen it.
            routing: Routing of `Backbone.forward`; where it is empty, the loss is returned as it is.
        """
        if not routing:
            return loss
        real, top_k = self._real(batch).flatten(), self.backbone.causal_lm.config.num_experts_per_tok
        shares = [None] * len(routing) if self._expert_shares is None else self._expert_shares
        balances = [load_balance(of, top_k, real, share) for of, share in zip(routing, shares, strict=True)]
        values, loads = zip(*balances, strict=True)
        router_loss = token_mean(torch.stack(values).mean(dim=0), self._numbers["routed"])
        self.log_training({"router_loss": router_loss})
        self._log_loads(torch.stack(loads))
        weight = self._router_weight()
        return loss + weight * router_loss if weight else loss

    def _router_weight(self) -> float:
        weight = self.backbone.router_loss_weight
        if weight is not None:
            return weight
        return 0.0 if self.backbone.lora is not None else self.backbone.causal_lm.config.router_aux_loss_coef

    def _log_loads(self, loads: Tensor) -> None:
        """Log the balance of a step's loads, [layers, experts] each, once all of them are there."""
        self._loads.append(loads)
        if self._step_is_over():
            total, _ = add_over_data_ranks(torch.stack(self._loads).sum(dim=0), self.device_mesh)
            rows = {f"router/{name}": value for name, value in load_statistics(total).items()}
            self.log_dict(rows, on_step=True, on_epoch=False, batch_size=1)

    def _step_is_over(self) -> bool:
        """Whether this is the last pass of the step's last micro-batch."""
        return self._micro_batches_left == 0 and self._passes_left == 0

    def _totals(self, parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        totals = torch.stack([torch.stack(list(part.values())) for part in parts]).sum(dim=0)
        totals, ranks = add_over_data_ranks(totals, self.device_mesh)
        shares = totals.where(totals > 0, 1).float() / (ranks * len(parts))
        return dict(zip(parts[0], shares.unbind(), strict=True))

    def log_training(self, values: dict[str, Tensor]) -> None:
        """Log values of one step as `train/<name>`, averaged over its micro-batches and over ranks.

        A name that has a group of its own, `<group>/<name>`, is taken as it is. Nothing waits for the device.
        """
        for name, value in values.items():
            part = value.detach().float() / self._micro_batches
            self._logged[name] = self._logged[name] + part if name in self._logged else part
        if self._step_is_over():
            parts = torch.stack([self._logged[name] for name in values])
            total, ranks = add_over_data_ranks(parts, self.device_mesh)
            means = self.summarize_training(dict(zip(values, (total / ranks).unbind(), strict=True)))
            rows = {name if "/" in name else f"train/{name}": value for name, value in means.items()}
            self.log_dict(rows, on_step=True, on_epoch=False, batch_size=1)

    def summarize_training(self, means: dict[str, Tensor]) -> dict[str, Tensor]:
        """What is logged of a step's means; a stage may put in what follows from several of them."""
        return means

    def count(self, name: str, values: Tensor) -> None:
        """Add one value a token to a validation mean; a stage counts the same names in every batch."""
        if name not in self._means:
            self._means[name] = TokenMean().to(values.device)
        self._means[name].update(values)

    @override
    def on_validation_epoch_end(self) -> None:
        means = {name: metric.compute() for name, metric in self._means.items()}
        self.log_dict({f"val/{name}": value for name, value in self.summarize(means).items()})
        for metric in self._means.values():
            metric.reset()

    def summarize(self, means: dict[str, Tensor]) -> dict[str, Tensor]:
        """What validation logs: the means themselves, and the perplexity of each cross-entropy `…ce`."""
        cross_entropies = [name for name in means if name == "ce" or name.endswith("_ce")]
        return means | {f"{name[:-2]}perplexity": means[name].exp() for name in cross_entropies}

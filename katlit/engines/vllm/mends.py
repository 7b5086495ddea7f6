"""What vLLM 0.32 gets wrong on the CPU, and how it is put right.

Where it checks drafts at a temperature, it spreads the settings of sequences over their drafts by a kernel
that, on the CPU, writes integers only; real numbers stay what memory happens to hold. So drafts would be
judged by another distribution than the model's. And it reloads a mixture of experts past its packed weights.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from vllm.v1.outputs import SamplerOutput
    from vllm.v1.sample.metadata import SamplingMetadata
    from vllm.v1.sample.rejection_sampler import RejectionSampler
    from vllm.v1.spec_decode.metadata import SpecDecodeMetadata


def forget_expert_kernels(model: nn.Module) -> None:
    """Have vLLM's next reload build the kernels of experts anew; to be called in the worker before each.

    On the CPU the kernel of experts reads weights packed in an order of its own, and vLLM packs them only
    when it builds the kernel. A reload that finds one copies weights into the packed ones' place as they are,
    and every later sample is wrong without an error (or, where the kernel pads them, the copy fails). A
    reload that finds none packs, and copies into the memory that is read. On a GPU nothing is packed in that
    place, and kernels are left alone.

    Args:
        model: vLLM's.
    """
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return
    for module in model.modules():
        method: Any = getattr(module, "quant_method", None)
        if hasattr(method, "moe_kernel"):
            method.moe_kernel = None


def mend_cpu_sampling(worker: Any) -> None:
    """Give a worker on the CPU a rejection sampler that applies the settings itself; leave others alone."""
    if worker.device.type != "cpu":
        return
    runner = worker.model_runner
    runner.rejection_sampler = _rejection_sampler_class()(
        runner.sampler, worker.speculative_config, worker.device
    )


def _rejection_sampler_class() -> "type[RejectionSampler]":
    """Define the sampler where vLLM, whose class it extends, is sure to be there."""
    from vllm.v1.sample.ops.topk_topp_sampler import apply_top_k_top_p
    from vllm.v1.sample.rejection_sampler import RejectionSampler

    class CPURejectionSampler(RejectionSampler):
        """Applies temperature, `top_k` and `top_p` beforehand, so that vLLM has none to spread."""

        def forward(
            self,
            metadata: "SpecDecodeMetadata",
            draft_probs: Tensor | None,
            logits: Tensor,
            sampling_metadata: "SamplingMetadata",
        ) -> "SamplerOutput":
            """Check drafts; the logits have `drafts + 1` rows for each sequence."""
            temperature = sampling_metadata.temperature
            if temperature is None or sampling_metadata.all_greedy:
                return super().forward(metadata, draft_probs, logits, sampling_metadata)
            rows = torch.tensor(metadata.num_draft_tokens) + 1
            top_k, top_p = (
                None if setting is None else setting.repeat_interleave(rows)
                for setting in (sampling_metadata.top_k, sampling_metadata.top_p)
            )
            divisors = temperature.where(temperature > 0, 1.0).repeat_interleave(rows)
            logits = apply_top_k_top_p(logits.float() / divisors.unsqueeze(-1), top_k, top_p)
            is_sampled = (temperature > 0).long()  # vLLM's greedy ones have the temperature 0
            applied = replace(sampling_metadata, temperature=is_sampled, top_k=None, top_p=None)
            return super().forward(metadata, draft_probs, logits, applied)

    return CPURejectionSampler

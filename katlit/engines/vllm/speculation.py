"""Speculative decoding with the model's own first MTP module, by vLLM's method `mtp` (arXiv 2211.17192).

The module drafts a few tokens, the model checks them in one forward pass and keeps those that rejection
sampling accepts. What is sampled has the model's own distribution, whatever the module drafts: a module
that has fallen behind costs time only.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from katlit.engines.weights import checkpoint_weights
from katlit.errors import UserError
from katlit.metrics.tally import Tally
from katlit.model.export import read_mtp
from katlit.model.mtp import DRAFTER_PREFIX, MTP_ARCHITECTURES, MTP_FOLDER, MTP_PREFIX


@dataclass
class Drafts:
    """What became of drafts.

    Attributes:
        proposed: Drafted tokens.
        accepted: Those that the model kept.
        passes: Forward passes of the model that checked a draft.
    """

    proposed: int = 0
    accepted: int = 0
    passes: int = 0

    def add(self, other: "Drafts") -> None:
        """Add what became of others."""
        self.proposed += other.proposed
        self.accepted += other.accepted
        self.passes += other.passes

    def count(self, metrics: Any) -> None:
        """Add vLLM's `RequestSpecDecodeMetrics` of one completion; None where nothing was drafted."""
        if metrics is None:
            return
        self.proposed += metrics.num_draft_tokens
        self.accepted += sum(kept * times for kept, times in enumerate(metrics.histogram))
        self.passes += sum(metrics.histogram)

    def statistics(self) -> dict[str, Tally]:
        """Parts of means, by the names that are logged.

        Share of the drafted tokens that were kept; tokens gained by a forward pass, the kept ones and one of
        the model's own.
        """
        return {
            "draft_acceptance": Tally(self.accepted, self.proposed),
            "tokens_per_pass": Tally(self.passes + self.accepted, self.passes),
        }


def speculation(model_directory: Path, tokens: int, max_context: int) -> dict[str, Any]:
    """What vLLM is told beside the rest.

    Args:
        model_directory: An export with MTP modules.
        tokens: To be drafted at a time, all by the first module, one after another.
        max_context: Longest prompt plus completion, in tokens.

    Raises:
        UserError: where there are no modules, no drafter for this kind of model, no room for the drafts, or
            where the export is of an earlier katlit's, which gave the drafter all modules.
    """
    file = model_directory / MTP_FOLDER / "config.json"
    if not file.is_file():
        raise UserError(
            "speculative_tokens: the model has no MTP modules; train them in stage 1 (backbone.mtp_depth), "
            "or set it to 0"
        )
    config = json.loads(file.read_text(encoding="utf-8"))
    kind, positions = config["model_type"], config["max_position_embeddings"]
    if kind not in MTP_ARCHITECTURES:
        raise UserError(
            f"speculative_tokens: vLLM has no MTP drafter for {kind} models, only for "
            f"{', '.join(MTP_ARCHITECTURES)}; set it to 0"
        )
    # vLLM's drafter fails on any module but the first, or wants a multiple of their number to be drafted.
    if (modules := config["num_nextn_predict_layers"]) != 1:
        raise UserError(
            f"speculative_tokens: {file} names {modules} modules, but vLLM drafts with one; load the model "
            "by backbone.init_from and export it again"
        )
    # Near the end of its context vLLM stops drafting, for all sequences of a batch at once, and that
    # changes which token a seed gives. No sequence of ours gets so far.
    margin = 2 * tokens + 1
    if max_context + margin > positions:
        raise UserError(
            f"speculative_tokens: {tokens} need {margin} positions beyond max_context {max_context}, but the "
            f"model has {positions}; set max_context to {positions - margin} at most"
        )
    return {
        "hf_overrides": {
            "tie_word_embeddings": False,
            "architectures": [MTP_ARCHITECTURES[kind]],
            "num_nextn_predict_layers": 1,  # the drafter builds as many modules as the model's file says
        },
        "speculative_config": {
            "method": "mtp",
            "model": str(model_directory / MTP_FOLDER),
            "num_speculative_tokens": tokens,
        },
        "max_model_len": max_context + margin,
        "per_request_spec_decode_metrics": "summary",
    }


def directory_weights(model_directory: Path, with_mtp: bool) -> Iterator[tuple[str, Tensor]]:
    """The weights that a sync sends, as they are in an export."""
    yield from checkpoint_weights(model_directory)
    if with_mtp:
        yield from read_mtp(model_directory).items()


def without_mtp(
    named_weights: Iterable[tuple[str, Tensor]], aside: list[tuple[str, Tensor]]
) -> Iterator[tuple[str, Tensor]]:
    """Pass on the model's own weights, put those of the module that drafts aside, and drop other modules'."""
    for name, weight in named_weights:
        if name.startswith(DRAFTER_PREFIX):
            aside.append((name, weight))
        elif not name.startswith(MTP_PREFIX):
            yield name, weight


def load_drafter(worker: Any, weights: list[tuple[str, Tensor]]) -> None:
    """Load the MTP module in a worker of vLLM; embedding and head are the model's, and have come with it.

    Args:
        worker: Worker of vLLM.
        weights: Weights of the module, by their names in vLLM.
    """
    from vllm.model_executor.model_loader.reload import (
        finalize_layerwise_reload,
        initialize_layerwise_reload,
    )

    drafter = worker.get_draft_model()
    initialize_layerwise_reload(drafter)
    drafter.load_weights(weights)
    finalize_layerwise_reload(drafter, worker.speculative_config.draft_model_config)

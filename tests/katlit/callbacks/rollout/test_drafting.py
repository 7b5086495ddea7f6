"""Step-SRPO with drafts: after each sync the text is the present model's, the drafts its present module's."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from tinydrafts import GREEDY, PROMPTS, WIDE, assert_greedy, expected_drafts
from tinydrafts import train as learn_to_count
from tinymodel import tiny_backbone
from tinyrollouts import Whole, prompt, train

from katlit.engines import VLLMEngine, VLLMOptions
from katlit.engines.vllm.speculation import Drafts

STEPS = 6  # the first with the weights that the engine starts from, each later one after a sync


class Drafting(Whole, VLLMEngine): ...


class Greedy(Callback):
    """Before each update, compares the engine's greedy text with the model's own, and counts its drafts."""

    def __init__(self, engine: VLLMEngine) -> None:
        self.engine = engine
        self.texts: list[list[list[int]]] = []
        self.drafts: list[Drafts] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        completions = self.engine.generate(PROMPTS, GREEDY)
        assert_greedy(pl_module.backbone, PROMPTS, completions)
        assert self.engine._drafts == expected_drafts(pl_module.backbone, PROMPTS, completions)
        self.texts.append([completion.token_ids for completion in completions])
        self.drafts.append(self.engine._drafts)


@pytest.mark.slow
@pytest.mark.vllm
@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_the_text_with_drafts_is_the_models_after_each_of_five_syncs(tmp_path: Path) -> None:
    pytest.importorskip("vllm", exc_type=ImportError)
    torch.manual_seed(0)
    backbone = tiny_backbone(tmp_path, WIDE | {"tie_word_embeddings": True}, mtp_depth=1)
    backbone.materialize()
    learn_to_count(backbone, 60, after=12)
    options = VLLMOptions(max_num_seqs=32, kv_cache_gib=0.1, speculative_tokens=1)
    engine = Drafting(max_context=125, options=options)
    greedy = Greedy(engine)
    batches = [[prompt(2 * step), prompt(2 * step + 1, 2)] for step in range(STEPS)]
    settings: dict[str, Any] = {"backbone": backbone, "learning_rate": 3e-3, "callbacks": [greedy]}
    watch, _, _ = train(tmp_path, engine, batches, **settings)
    assert len(greedy.texts) == len(watch.logged) == STEPS
    for before, after in pairwise(greedy.texts):  # old weights would show
        assert before != after
    assert all(drafts.accepted > 0.2 * drafts.proposed for drafts in greedy.drafts)
    for logged in watch.logged:
        assert 0 < logged["rollout/logprob_gap"] < 1e-4
        assert logged["rollout/tokens_per_pass"] > 1  # some drafts are among the rollouts
        assert logged["rollout/draft_acceptance"] > 0

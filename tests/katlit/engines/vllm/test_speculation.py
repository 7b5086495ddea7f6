"""Drafts by the MTP module change nothing but the speed; vLLM's drafter is our module, after a sync too."""

import json
import re
import shlex
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tinydrafts import (
    COUNTING,
    FREE,
    GREEDY,
    PROMPTS,
    SEEDS,
    WIDE,
    Running,
    assert_greedy,
    expected_drafts,
    gap,
    log_distribution,
    logits,
    train,
)
from tinymodel import LLAMA, QWEN, tiny_backbone

from katlit.engines import SamplingParameters, VLLMEngine, VLLMOptions
from katlit.engines.vllm.isolation import preserved_process
from katlit.engines.vllm.speculation import speculation
from katlit.errors import UserError
from katlit.metrics.tally import means

ROOT = Path(__file__).parents[4]
DRAFTING = VLLMOptions(max_num_seqs=16, kv_cache_gib=0.1, speculative_tokens=1)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    pytest.importorskip("vllm", exc_type=ImportError)
    directory = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    backbone = tiny_backbone(directory, WIDE | {"tie_word_embeddings": True}, mtp_depth=2)
    backbone.materialize()
    train(backbone, 40)
    backbone.export(directory / "start")
    engine = VLLMEngine(max_context=80, options=DRAFTING)
    try:
        engine.start(directory / "start")
        yield Running(engine, backbone)
    finally:
        engine.close()


@pytest.mark.vllm
def test_greedy_text_is_the_models_and_the_drafts_are_our_modules(running: Running) -> None:
    running.sync()
    running.engine.statistics()  # those of before are told
    for _ in range(2):
        completions = running.engine.generate(PROMPTS, GREEDY)
        assert_greedy(running.backbone, PROMPTS, completions)
        expected = expected_drafts(running.backbone, PROMPTS, completions)
        assert running.engine._drafts == expected
        statistics = means([running.engine.statistics()])
        assert 0.3 < statistics["draft_acceptance"] == expected.accepted / expected.proposed < 1
        assert statistics["tokens_per_pass"] == pytest.approx(1 + expected.accepted / expected.passes)
        assert 0 < statistics["throughput/kv_cache_use"] < 1
        assert 1 < statistics["throughput/sequences_in_flight"] <= len(PROMPTS)
        assert running.engine.statistics()["tokens_per_pass"].number == 0  # they are told once
        train(running.backbone, 5)
        running.sync()


@pytest.mark.vllm
@pytest.mark.parametrize(
    "sampling",
    [
        FREE,
        SamplingParameters(temperature=0.6, max_tokens=40),
        SamplingParameters(temperature=1.5, top_k=5, top_p=0.8, max_tokens=40),
        GREEDY,
    ],
)
def test_log_probs_are_those_of_the_distribution_sampled_from(
    running: Running, sampling: SamplingParameters
) -> None:
    running.sync()
    assert gap(running, running.engine.generate(PROMPTS, sampling, SEEDS), sampling) < 1e-4


@pytest.mark.vllm
def test_log_probs_agree_after_each_of_three_syncs(running: Running) -> None:
    for _ in range(3):
        train(running.backbone, 5)
        assert gap(running, running.engine.generate(PROMPTS, FREE, SEEDS), FREE) > 1e-2
        running.sync()
        assert gap(running, running.engine.generate(PROMPTS, FREE, SEEDS), FREE) < 1e-4


@pytest.mark.vllm
def test_tokens_have_the_models_distribution(running: Running) -> None:
    """The first token comes with the prompt, the second is a draft or its correction, the third either."""
    running.sync()
    sampling = SamplingParameters(temperature=1.3, top_k=3, max_tokens=3)
    prompt, number = PROMPTS[2], 3000
    expected: dict[tuple[int, ...], float] = {(): 1.0}
    for _ in range(3):
        longer = {}
        for start, share in expected.items():
            row = log_distribution(logits(running.backbone, [*prompt, *start])[0][-1], sampling).exp()
            longer |= {(*start, token): share * row[token].item() for token in row.nonzero()[:, 0].tolist()}
        expected = longer
    completions = running.engine.generate([prompt] * number, sampling, list(range(number)))
    found = Counter(tuple(completion.token_ids) for completion in completions)
    assert set(found) <= set(expected)
    assert len(expected) == 27
    statistic = sum((found[key] - number * p) ** 2 / (number * p) for key, p in expected.items())
    assert statistic < 54.1  # chi-square with 26 degrees of freedom exceeds it once in a thousand times


@pytest.mark.vllm
def test_a_seed_gives_the_same_tokens_in_any_batch(running: Running) -> None:
    running.sync()
    together = running.engine.generate(PROMPTS, FREE, SEEDS)
    backwards = running.engine.generate(PROMPTS[::-1], FREE, SEEDS[::-1])
    alone = [running.engine.generate([p], FREE, [s])[0] for p, s in zip(PROMPTS, SEEDS, strict=True)]
    # one that is quick to come to the limit of the context, beside the rest
    full = running.engine.generate([*PROMPTS, *[COUNTING] * 4], FREE, [*SEEDS, 1, 2, 3, 4])[:-4]
    tokens = [c.token_ids for c in together]
    for others in (backwards[::-1], alone, full):
        assert tokens == [c.token_ids for c in others]


@pytest.mark.vllm
def test_a_bad_module_costs_time_only(running: Running) -> None:
    running.sync()
    good = running.engine.generate(PROMPTS, GREEDY)
    weights = dict(running.backbone.named_weights(include_mtp=True))
    name = "model.mtp_layers.0.input_proj.weight"
    running.engine.statistics()
    running.engine.sync_weights((weights | {name: torch.zeros_like(weights[name])}).items())
    assert [c.token_ids for c in running.engine.generate(PROMPTS, GREEDY)] == [c.token_ids for c in good]
    assert means([running.engine.statistics()])["draft_acceptance"] < 0.3
    running.sync()


@pytest.mark.vllm
def test_a_sync_without_the_modules_is_an_error(running: Running) -> None:
    with pytest.raises(UserError, match=r"missing, first 'model\.mtp_layers\.0"):
        running.engine.sync_weights(running.backbone.named_weights())
    running.sync()


@pytest.mark.vllm
def test_vllm_still_needs_our_sampler_on_the_cpu() -> None:
    """Fails where vLLM has been mended: then `katlit.engines.vllm.mends` can go."""
    pytest.importorskip("vllm", exc_type=ImportError)
    with preserved_process():
        from vllm.utils import cpu_triton_utils

        spread = torch.zeros(3)
        cpu_triton_utils._expand_kernel_impl(spread, torch.tensor([0.5]), torch.tensor([3]), 0, 1)
    assert spread.tolist() == [0, 0, 0]


@pytest.mark.vllm
@pytest.mark.slow
def test_the_documented_options_serve_an_export(running: Running, tmp_path: Path) -> None:
    """vLLM's own loader reads the two directories."""
    command = re.search(r"^vllm serve .*speculative.*$", (ROOT / "docs/serving.md").read_text(), re.MULTILINE)
    assert command
    running.engine.close()
    running.backbone.export(tmp_path / "model")
    words = shlex.split(command[0].replace("outputs/demo/step_srpo", str(tmp_path)))[2:]
    options = {key: json.loads(value) for key, value in zip(words[1::2], words[2::2], strict=True)}
    engine = VLLMEngine(max_context=80, options=DRAFTING)
    engine._settings = lambda directory: {  # type: ignore[method-assign]
        **VLLMEngine._settings(engine, directory),
        "load_format": "auto",
        "hf_overrides": options["--hf-overrides"],
        "speculative_config": options["--speculative-config"],
    }
    engine.sync_weights = lambda named_weights: None  # type: ignore[method-assign]
    try:
        engine.start(Path(words[0]))
        completions = engine.generate(PROMPTS, GREEDY)
    finally:
        engine.close()
    assert gap(Running(engine, running.backbone), completions, GREEDY) < 1e-4
    assert means([engine.statistics()])["draft_acceptance"] > 0.3


def test_what_cannot_draft_is_refused(tmp_path: Path) -> None:
    llama = tiny_backbone(tmp_path, LLAMA, mtp_depth=1)
    llama.materialize()
    llama.export(tmp_path / "llama")
    with pytest.raises(UserError, match="no MTP drafter for llama models, only for qwen2"):
        speculation(tmp_path / "llama", 1, 64)
    plain = tiny_backbone(tmp_path, QWEN)
    plain.materialize()
    plain.export(tmp_path / "plain")
    with pytest.raises(UserError, match=r"the model has no MTP modules; train them in stage 1"):
        speculation(tmp_path / "plain", 1, 64)
    qwen = tiny_backbone(tmp_path, QWEN | {"max_position_embeddings": 128}, mtp_depth=1)
    qwen.materialize()
    qwen.export(tmp_path / "qwen")
    assert speculation(tmp_path / "qwen", 2, 123)["max_model_len"] == 128
    with pytest.raises(UserError, match="has 128; set max_context to 123 at most"):
        speculation(tmp_path / "qwen", 2, 124)
    file = tmp_path / "qwen/mtp/config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"num_nextn_predict_layers": 2}))
    with pytest.raises(UserError, match="names 2 modules, but vLLM drafts with one; load the model by"):
        speculation(tmp_path / "qwen", 1, 64)
    with pytest.raises(UserError, match="speculative_tokens: -1"):
        VLLMOptions(speculative_tokens=-1)
    with pytest.raises(UserError, match=r"^options\.max_num_batched_tokens: 300; give at least 400"):
        VLLMOptions(max_num_seqs=8, max_num_batched_tokens=300, speculative_tokens=1).batched_tokens(200)

"""Sampled tokens per second: vLLM against plain transformers, the same model, prompts and sampling.

`python benchmarks/rollout_engines.py`, from the top of the repository. Both engines run one after the other,
in this process, after a warm-up call each; the last line is a JSON object.
"""

import json
import time
from pathlib import Path

from katlit.datamodules.sources.tasks import TaskFamily, TaskPrompts
from katlit.engines import HFEngine, SamplingParameters, VLLMEngine
from katlit.engines.base import RolloutEngine
from katlit.model.pretrained import load_tokenizer
from katlit.text.protocol import Protocol

MODEL = Path("assets/teacher")
PROMPTS = 256


def tokens_per_second(engine: RolloutEngine, prompts: list[list[int]], sampling: SamplingParameters) -> float:
    """Start, warm up, time one call, close."""
    engine.start(MODEL)
    try:
        engine.generate(prompts, sampling, list(range(len(prompts))))
        started = time.perf_counter()
        completions = engine.generate(prompts, sampling, list(range(len(prompts))))
        seconds = time.perf_counter() - started
    finally:
        engine.close()
    return sum(len(completion.token_ids) for completion in completions) / seconds


def main() -> None:
    """Measure both engines and print their ratio."""
    task = TaskFamily(
        "legs", "leg_counting", 2, 1.0, {"min_animals": 2, "max_animals": 2, "max_instances": 9}
    )
    protocol = Protocol(load_tokenizer(str(MODEL), "MODEL"))
    questions = TaskPrompts([task], PROMPTS).load()
    prompts = [protocol.encode_prompt(question["messages"], "on") for question in questions]
    sampling = SamplingParameters(max_tokens=200, stop_token_ids=[protocol.end_id])
    rates = {
        "vllm": tokens_per_second(VLLMEngine(max_context=512), prompts, sampling),
        "hf": tokens_per_second(HFEngine(max_context=512), prompts, sampling),
    }
    for name, rate in rates.items():
        print(f"{name}: {rate:,.0f} tokens/s, {PROMPTS} prompts at once")
    print(json.dumps({"vllm_tokens_per_second": rates["vllm"], "hf_tokens_per_second": rates["hf"],
                      "vllm_over_hf": rates["vllm"] / rates["hf"]}))  # fmt: skip


if __name__ == "__main__":
    main()

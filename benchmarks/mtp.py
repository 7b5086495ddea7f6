"""Speculative decoding with the model's own MTP module: same text, share of right drafts, speed.

`python benchmarks/mtp.py [DIRECTORY]`, from the top of the repository. DIRECTORY is an export of stage 1,
of the demo by default, whose stage 1 is run first where it has not been. 200 held-out questions are
answered greedily without drafts and with one draft a step, then sampled at temperature 1 with one, by vLLM
in this process, one engine after the other, each after a warm-up call. The last line is a JSON object;
`tokens_per_pass` is the number of tokens gained by a forward pass of the model, `time_ratio` the time of a
token with drafts over that without.
"""

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from _demo import OUTPUT, stage_command

from katlit.datamodules.sources.tasks import TaskPrompts
from katlit.engines import SamplingParameters, VLLMEngine, VLLMOptions
from katlit.engines.base import Completion
from katlit.metrics.tally import means
from katlit.model.pretrained import load_tokenizer
from katlit.text.protocol import Protocol

PROMPTS = 200


def prompts(protocol: Protocol) -> list[list[int]]:
    """Questions that the demo never trains on."""
    source = TaskPrompts("configs/demo/levels.yaml", PROMPTS, seed=1000, split="heldout", heldout_percent=20)
    return [protocol.encode_prompt(question["messages"], "auto") for question in source.load()]


def timed(
    engine: VLLMEngine, questions: list[list[int]], sampling: SamplingParameters
) -> tuple[list[Completion], float]:
    """Completions, and tokens per second."""
    started = time.perf_counter()
    completions = engine.generate(questions, sampling, list(range(len(questions))))
    seconds = time.perf_counter() - started
    return completions, sum(len(completion.token_ids) for completion in completions) / seconds


def measure(directory: Path) -> dict[str, float]:
    """Answer with and without drafts."""
    protocol = Protocol(load_tokenizer(str(directory), "DIRECTORY"))
    questions = prompts(protocol)
    sampled = SamplingParameters(max_tokens=200, stop_token_ids=[protocol.end_id])
    greedy = replace(sampled, temperature=0.0)
    texts: list[list[list[int]]] = []
    rates: list[float] = []
    found: dict[str, float] = {}
    for tokens in (0, 1):
        engine = VLLMEngine(max_context=512, options=VLLMOptions(speculative_tokens=tokens))
        engine.start(directory)
        try:
            timed(engine, questions, greedy)
            completions, rate = timed(engine, questions, greedy)
            texts.append([completion.token_ids for completion in completions])
            rates.append(rate)
            if tokens:
                found |= means([engine.statistics()])
                timed(engine, questions, sampled)
                sampled_means = means([engine.statistics()])
                found |= {f"sampled_{name}": value for name, value in sampled_means.items()}
        finally:
            engine.close()
    same = [plain == drafted for plain, drafted in zip(*texts, strict=True)]
    ratio = {"time_ratio": rates[0] / rates[1]}
    return {"prompts": len(same), "same_text": sum(same) / len(same)} | found | ratio


def main() -> None:
    """Measure, and print."""
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else OUTPUT / "distill/model"
    if len(sys.argv) == 1 and not directory.exists():
        for command in ("label", "fit"):
            words = stage_command(command, "distill", 1)[1:]
            subprocess.run([sys.executable, "-m", "katlit.cli", *words], check=True)  # noqa: S603 (our own command)
    found = measure(directory)
    for name, value in found.items():
        print(f"{name}: {value:.4g}")
    print(json.dumps(found))


if __name__ == "__main__":
    main()

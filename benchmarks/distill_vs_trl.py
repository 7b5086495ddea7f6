"""A training step of distillation between two vocabularies beside TRL's GOLD trainer: time, memory, result.

`python benchmarks/distill_vs_trl.py`, from the top of the repository, on the CPU; some minutes.

The texts are blocks of Python's own library, the prompt of each is a line with its file's name. Two
byte-level tokenizers of at most 32,768 and 49,152 tokens are trained on them, then a small teacher for some
steps; both trainers start from the same small student and see the same batches in the same order. The loss
is the mean cross-entropy plus that of Universal Logit Distillation by rank, both of weight 1; float32, AdamW,
constant learning rate, gradients clipped at norm 1, no gradient checkpointing, no packing, no MTP. GOLD's
tokens are first checked to be ours.

What differs: GOLD ("bayesian", its correct strategy) averages the distillation over each sequence and then
over sequences, and merges the distributions of tokens that one side splits further; ours averages over all
pairs, and pairs tokens where they start at the same byte. GOLD tokenizes for the teacher in each step, ours
once before. Lightning against the Hugging Face trainer, fused AdamW in the latter: each as it comes.

Each runs in a process of its own, in turns of one step, from its beginning to that of the next one. Memory is
the peak of resident memory above what is there before the first step, both models loaded: gradients and
AdamW's states count. `time_ratio` and `memory_ratio` are ours over theirs, `ce_ours` and `ce_trl` the
held-out cross-entropy of the completions, in nats a token, after all steps, `ce_start` before. The last line
is a JSON object.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from _library import Batches, Texts, examples, fresh
from _turns import THREADS, Turn, next_turn, report, resident, run_in_turns
from lightning.pytorch import Callback, Trainer
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, AutoTokenizer

from katlit.model.backbone import Backbone
from katlit.modules import DistillMTP
from katlit.stage.optimization import Optimization

STEPS = 20
TEACHER_STEPS = 60
BATCH = 4
HELD_OUT = 64
RATE = 1e-3
OPTIMIZATION = Optimization(learning_rate=RATE, beta2=0.95)


class Turns:
    """Turns of one step, each from its beginning to that of the next one."""

    def __init__(self) -> None:
        self.before: int | None = None
        self.turn: Turn | None = None

    def step_begins(self) -> None:
        """End the turn before, wait for the next one."""
        self.end()
        self.before = self.before or resident()
        self.turn = next_turn(self.before)

    def end(self) -> None:
        """Report the present turn."""
        if self.turn is not None:
            report(self.turn)
            self.turn = None


class InTurns(Callback):
    """For Lightning."""

    def __init__(self) -> None:
        self.turns = Turns()

    def on_train_batch_start(self, *_: Any) -> None:
        """The next step."""
        self.turns.step_begins()

    def on_train_end(self, *_: Any) -> None:
        """The last step's end."""
        self.turns.end()


def fit(stage: DistillMTP, batches: Batches, texts: Texts, steps: int, callbacks: list[Callback]) -> None:
    """Train a stage of ours."""
    encoded = [batches.encode(example) for example in texts[: steps * BATCH]]
    loader: Any = DataLoader(encoded, batch_size=BATCH, collate_fn=batches.collate)  # type: ignore[arg-type]
    trainer = Trainer(
        accelerator="cpu", max_steps=steps, gradient_clip_val=1.0, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=callbacks,
    )  # fmt: skip
    trainer.fit(stage, loader)


def ours(student: str, teacher: str, texts: Texts, directory: Path) -> None:
    """Train with katlit."""
    stage = DistillMTP(Backbone(init_from=student), teacher, OPTIMIZATION, kd="uld")
    fit(stage, Batches(student, teacher), texts, 1 + STEPS, [InTurns()])
    stage.backbone.export(directory / "ours")


def trl(student: str, teacher: str, texts: Texts, directory: Path) -> None:
    """Train with GOLD."""
    from datasets import Dataset
    from torch.utils.data import SequentialSampler
    from transformers import PrinterCallback, TrainerCallback
    from trl.experimental.gold import GOLDConfig, GOLDTrainer

    class InOrder(GOLDTrainer):
        def _get_train_sampler(self, dataset: Any = None) -> Any:
            return SequentialSampler(dataset or self.train_dataset)

    class InTurnsToo(TrainerCallback):
        turns = Turns()

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.turns.step_begins()

        def on_train_end(self, *_: Any, **__: Any) -> None:
            self.turns.end()

    settings = GOLDConfig(
        output_dir=str(directory / "run"), max_steps=1 + STEPS, per_device_train_batch_size=BATCH,
        learning_rate=RATE, lr_scheduler_type="constant", adam_beta2=0.95, max_grad_norm=1.0,
        gradient_checkpointing=False, bf16=False, use_cpu=True, save_strategy="no", logging_strategy="no",
        report_to="none", disable_tqdm=True, max_length=1024, lmbda=0.0, use_uld_loss=True,
        uld_token_merge_strategy="bayesian",  # noqa: S106
        uld_crossentropy_weight=1.0, uld_skip_student_eos=False, uld_skip_teacher_eos=False,
        model_init_kwargs={"dtype": "float32"},
        teacher_model_init_kwargs={"dtype": "float32"},
    )  # fmt: skip
    prompts, completions = zip(*texts[: (1 + STEPS) * BATCH], strict=True)
    data = Dataset.from_dict({"prompt": list(prompts), "completion": list(completions)})
    tokenizer = AutoTokenizer.from_pretrained(student)
    trainer = InOrder(
        model=student, teacher_model=teacher, args=settings, train_dataset=data, processing_class=tokenizer,
        callbacks=[InTurnsToo()],
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    batches = Batches(student, teacher)
    mine = [batches.encode(example)[0][0].token_ids for example in texts[: (1 + STEPS) * BATCH]]
    if list(trainer.train_dataset["input_ids"]) != mine:
        raise SystemExit("the two trainers would not see the same tokens")
    trainer.train()
    trainer.save_model(str(directory / "trl"))


CONTENDERS = {"ours": ours, "trl": trl}


@torch.no_grad()
def cross_entropy(source: Path, batches: Batches, texts: Texts) -> float:
    """Of the completions, in nats a token."""
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    total, number = 0.0, 0
    for example in texts:
        document = batches.encode(example)[0][0]
        ids, first = torch.tensor([document.token_ids]), document.loss_mask.index(True)
        logits = model(ids).logits[0, first - 1 : -1]
        total += F.cross_entropy(logits, ids[0, first:], reduction="sum").item()
        number += len(logits)
    return total / number


def contend(name: str, directory: Path) -> None:
    """Be one of the contenders."""
    torch.set_num_threads(THREADS)
    texts = json.loads((directory / "texts.json").read_text(encoding="utf-8"))
    CONTENDERS[name](str(directory / "student"), str(directory / "teacher"), texts, directory)


def prepare(directory: Path, texts: Texts) -> Batches:
    """Write student, teacher and texts; the teacher is trained on texts that the student does not see."""
    student, teacher = fresh(directory, "student"), fresh(directory, "teacher")
    student.materialize()
    student.export(directory / "student")
    teacher.materialize()
    teacher.export(directory / "fresh-teacher")
    source = str(directory / "fresh-teacher")
    stage = DistillMTP(Backbone(init_from=source), None, OPTIMIZATION, kd="none")
    fit(stage, Batches(source, source), texts[(1 + STEPS) * BATCH :], TEACHER_STEPS, [])
    stage.backbone.export(directory / "teacher")
    (directory / "texts.json").write_text(json.dumps(texts[: (1 + STEPS) * BATCH]), encoding="utf-8")
    return Batches(str(directory / "student"), str(directory / "teacher"))


def main() -> None:
    """Prepare, let both train in turns, judge what they trained."""
    if len(sys.argv) > 1:
        contend(sys.argv[1], Path(sys.argv[2]))
        return
    texts = examples()
    held_out, trained = texts[:HELD_OUT], texts[HELD_OUT:]
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        batches = prepare(directory, trained)
        found = run_in_turns(__file__, list(CONTENDERS), STEPS, name)
        ce = {side: cross_entropy(directory / side, batches, held_out) for side in ("student", *CONTENDERS)}
    for side, row in found.items():
        print(f"{side}: {row['seconds']:.2f} s a step, {row['bytes'] / 2**20:,.0f} MiB, CE {ce[side]:.4f}")
    ratios = {
        f"{key}_ratio": found["ours"][measure] / found["trl"][measure]
        for key, measure in (("time", "seconds"), ("memory", "bytes"))
    }
    losses = {"ce_start": ce["student"], "ce_ours": ce["ours"], "ce_trl": ce["trl"]}
    print(json.dumps(ratios | losses | {"contenders": found}))


if __name__ == "__main__":
    main()

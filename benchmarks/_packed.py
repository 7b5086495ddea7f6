"""Stage 1's gradients where two records share a row and where each has its own; no benchmark by itself.

Tokenizers of two sizes, a student with one MTP module and a teacher with random weights, the batches of
`DistillData` and the step of `DistillMTP`: what packing may get wrong, from the pairs of a row's second
record to what it sees of the first, shows. In float64: the distance of sorted probabilities has a kink where
two are equal, and in float32 the rounding of one of some starts in ten crosses one.
"""

import tempfile
from pathlib import Path
from typing import Any

import torch
from _library import examples, library
from lightning.pytorch import Callback, LightningModule, Trainer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerFast

from katlit.batch import DistillBatch
from katlit.datamodules import DistillData
from katlit.datamodules.records import Record
from katlit.model.backbone import Backbone
from katlit.modules import DistillMTP
from katlit.text.protocol import Mode

VOCABULARIES = {"student": 400, "teacher": 900}
CONFIG = {
    "model_type": "qwen2", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.2,
}  # fmt: skip


def write_model(directory: Path, side: str) -> str:
    """A model with random weights and a tokenizer of its own."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARIES[side], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    tokenizer.train_from_iterator([text for _, text in library()[:20]], trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(directory / f"{side}-tokenizer")
    depth, seed = (1, 0) if side == "student" else (None, 1)
    model = Backbone(
        config=CONFIG, tokenizer=str(directory / f"{side}-tokenizer"), mtp_depth=depth, seed=seed
    )
    model.materialize()
    model.export(directory / side)
    return str(directory / side)


def records() -> list[Record]:
    """One of each regime; code, and what is more than one byte a character."""
    (name, code), (other, more) = examples()[:2]
    question = [{"role": "user", "content": f"What is in {name}?"}]
    thought = Record(
        id="on", messages=question, regime=Mode.THINK_ON, judge="It is long.",
        think=code, answer="naïve — 数 👩\u200d👧",
    )  # fmt: skip
    question = [{"role": "user", "content": other}]
    direct = Record(id="off", messages=question, regime=Mode.THINK_OFF, judge="It is known.", answer=more)
    return [thought, direct]


class Gradients(Callback):
    """Keeps those of the first step."""

    found: Tensor

    def on_fit_start(self, _: Trainer, module: LightningModule) -> None:
        """Turn student and teacher into float64."""
        module.double()
        for teacher in module._teachers:  # noqa: SLF001 (no setting has so many digits)
            teacher.frozen.model.double()

    def on_before_optimizer_step(self, _: Trainer, module: LightningModule, *__: Any) -> None:
        """Keep them."""
        given = [parameter.grad.flatten() for parameter in module.parameters() if parameter.grad is not None]
        self.found = torch.cat(given).clone()


def gradients(student: str, teacher: str, batch: DistillBatch) -> Tensor:
    """By all parameters of the student, of the loss of stage 1."""
    kept = Gradients()
    trainer = Trainer(
        accelerator="cpu", max_steps=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[kept],
    )  # fmt: skip
    loader: Any = DataLoader([batch], batch_size=None)  # type: ignore[arg-type]
    trainer.fit(DistillMTP(Backbone(init_from=student), teacher, kd="uld"), loader)
    return kept.found


def packed_difference() -> float:
    """The largest difference of any gradient, over the largest gradient."""
    with tempfile.TemporaryDirectory() as directory:
        student, teacher = (write_model(Path(directory), side) for side in VOCABULARIES)
        data = DistillData(student, teacher)
        data.encode(records())
        packed, apart = (gradients(student, teacher, data.build(rows)) for rows in ([[0, 1]], [[0], [1]]))
    return ((packed - apart).abs().max() / apart.abs().max()).item()

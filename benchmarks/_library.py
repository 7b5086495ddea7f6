"""Texts, two tokenizers, two small models and batches for `distill_vs_trl.py`; no benchmark by itself."""

import sysconfig
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from katlit.batch import DistillBatch
from katlit.datamodules.dialects.alignment import marker_piece, pair_targets, text_piece
from katlit.model.backbone import Backbone
from katlit.packing import Document, collate, fill_rows

CHARACTERS = (450, 700)  # of a completion
CORPUS = 12_000_000  # characters for the tokenizers
VOCABULARIES = {"student": 32_768, "teacher": 49_152}
SHAPES = {"student": (128, 4), "teacher": (192, 4)}  # width, layers

Texts = list[list[str]]  # prompt and completion


def library() -> list[tuple[str, str]]:
    """Name and text of the files of Python's library, without what was installed beside it."""
    root = Path(sysconfig.get_paths()["stdlib"])
    files = sorted(path for path in root.rglob("*.py") if "site-packages" not in path.parts)
    return [(path.name, path.read_text(encoding="utf-8", errors="ignore")) for path in files]


def examples() -> Texts:
    """Blocks of middle length that begin at the margin, so that no token spans prompt and completion."""
    blocks = [(name, block) for name, text in library() for block in text.split("\n\n\n")]
    low, high = CHARACTERS
    fit = [[f"# {name}\n", block] for name, block in blocks if low < len(block) < high and block[0].isalpha()]
    order = torch.randperm(len(fit), generator=torch.Generator().manual_seed(0)).tolist()
    return [fit[index] for index in order]


def write_tokenizer(directory: Path, side: str) -> str:
    """Train one of the two; the student's has a token for each digit."""
    tokenizer = Tokenizer(models.BPE())
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False)
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = (
        pre_tokenizers.Sequence([digits, bytes_]) if side == "student" else bytes_
    )  # fmt: skip
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARIES[side], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    texts, taken = [], 0
    for _, text in library():
        texts.append(text)
        taken += len(text)
        if taken > CORPUS:
            break
    tokenizer.train_from_iterator(texts, trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(directory / f"{side}-tokenizer")
    return str(directory / f"{side}-tokenizer")


def fresh(directory: Path, side: str) -> Backbone:
    """A model with random weights."""
    width, layers = SHAPES[side]
    config = {
        "model_type": "qwen2", "hidden_size": width, "intermediate_size": 3 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": width // 32, "num_key_value_heads": width // 64, "tie_word_embeddings": True,
    }  # fmt: skip
    return Backbone(config=config, tokenizer=write_tokenizer(directory, side))


class Batches:
    """Batches for our stage; `collate` lays out examples that `encode` has tokenized."""

    def __init__(self, student: str, teacher: str) -> None:
        self.tokenizers = [AutoTokenizer.from_pretrained(source) for source in (student, teacher)]

    def encode(self, example: list[str]) -> list[tuple[Document, list[Any]]]:
        """Tokens of student and teacher, and the pieces of the completion."""
        prompt, completion = example
        sides = []
        for tokenizer in self.tokenizers:
            before, ids = (
                tokenizer(text, add_special_tokens=False)["input_ids"] for text in (prompt, completion)
            )
            spelled = tokenizer.convert_ids_to_tokens(ids)
            pieces = [
                text_piece("text", completion, ids, spelled, []),
                marker_piece("end", tokenizer.eos_token_id),
            ]
            ids = [*ids, tokenizer.eos_token_id]
            sides.append((Document(before + ids, [False] * len(before) + [True] * len(ids)), pieces))
        return sides

    def collate(self, encoded: list[list[tuple[Document, list[Any]]]]) -> DistillBatch:
        """One example a row, padded at the end."""
        tokens = collate([[student] for (student, _), _ in encoded], self.tokenizers[0].pad_token_id)
        theirs = [[teacher.token_ids] for _, (teacher, _) in encoded]
        teacher_ids, teacher_positions = fill_rows(theirs, self.tokenizers[1].pad_token_id)
        pairs = []
        for row, (student, teacher) in enumerate(encoded):
            starts = [
                row * ids.shape[1] + document.loss_mask.index(True)
                for ids, (document, _) in ((tokens["input_ids"], student), (teacher_ids, teacher))
            ]
            for left, right in pair_targets(student[1], teacher[1]):
                pairs.append((starts[0] + left, starts[1] + right))
        student_targets, teacher_targets = torch.tensor(pairs).T.contiguous()
        return {
            "input_ids": tokens["input_ids"], "position_ids": tokens["position_ids"],
            "loss_mask": tokens["loss_mask"],
            "teacher_input_ids": teacher_ids, "teacher_position_ids": teacher_positions,
            "student_targets": student_targets, "teacher_targets": teacher_targets,
        }  # fmt: skip

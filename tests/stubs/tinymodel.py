"""Models and tokenizers as small as they can be, made in place."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerFast

from katlit.model.backbone import Backbone

ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())

QWEN: dict[str, Any] = {
    "model_type": "qwen2",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
    "initializer_range": 0.2,
}
LLAMA: dict[str, Any] = QWEN | {"model_type": "llama"}
EXPERTS: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
QWEN3_MOE: dict[str, Any] = (
    QWEN | EXPERTS | {"model_type": "qwen3_moe", "head_dim": 8, "norm_topk_prob": True}
)
QWEN2_MOE: dict[str, Any] = (
    QWEN | EXPERTS | {"model_type": "qwen2_moe", "shared_expert_intermediate_size": 20}
)


def write_tokenizer(directory: Path, extra: tuple[str, ...] = ()) -> str:
    """A byte tokenizer, with `extra` words of its own, as a directory."""
    vocabulary = {token: index for index, token in enumerate([*ALPHABET, *extra])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(directory)
    return str(directory)


def tiny_backbone(directory: Path, config: dict[str, Any] = QWEN, **settings: Any) -> Backbone:
    """A backbone with fresh weights and the byte tokenizer; the weights appear in `materialize`."""
    return Backbone(config=config, tokenizer=write_tokenizer(directory / "tokenizer"), **settings)


def packed(lengths: list[list[int]], vocabulary: int = 256) -> dict[str, Tensor]:
    """Rows of documents of the given lengths with random tokens, padded by a document of zeros."""
    width = max(map(sum, lengths))
    rows = [[*row, width - sum(row)] for row in lengths]
    positions = torch.stack([torch.cat([torch.arange(length) for length in row]) for row in rows])
    ids = torch.randint(vocabulary, positions.shape)
    real = torch.arange(width) < torch.tensor([[sum(row)] for row in lengths])
    return {"input_ids": ids.where(real, 0), "position_ids": positions, "loss_mask": real & (positions > 0)}


def fit(stage: LightningModule, batches: list[Any], **settings: Any) -> Trainer:
    """Train on the batches, and validate on the very same where the stage has a validation."""
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=-1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **({"max_steps": 3, "enable_checkpointing": False} | settings),
    )
    loader = DataLoader(batches, batch_size=None)
    validates = is_overridden("validation_step", stage)
    trainer.fit(stage, loader, loader if validates else None)
    return trainer

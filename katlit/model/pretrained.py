"""From a name, a directory or a bare configuration to a Hugging Face model and tokenizer."""

import json
import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from katlit.errors import UserError, first_line
from katlit.model.hub import local_directory

Dtype = Literal["float32", "bfloat16", "float16"]
# Flash attention is not offered: transformers 5 reads packed documents from `position_ids` only where a batch
# is one row, so with several rows documents would silently see each other.
Attention = Literal["sdpa", "eager"]

# Settings of models whose logits are not just `hidden @ weight.T`; our losses start from hidden states.
_LOGIT_SETTINGS = ("final_logit_softcapping", "logit_scale", "logits_scaling")

# Of a row's length, see `redraw_alike`.
_ALIKE = 0.05


def load_tokenizer(source: str, key: str) -> PreTrainedTokenizerBase:
    """Load a tokenizer, with nothing changed in it.

    A directory's `tokenizer.json` is taken by its word. `AutoTokenizer` looks at `config.json` as well, and
    for `model_type: qwen2` puts Qwen's own pre-tokenizer and tokens in place of those of the file.

    Args:
        source: A directory or a name on the hub.
        key: The setting that names it, for the message.

    Raises:
        UserError: where there is none.
    """
    directory = local_directory(source, key, weights=False)
    loader = PreTrainedTokenizerFast if (directory / "tokenizer.json").is_file() else AutoTokenizer
    try:
        tokenizer = loader.from_pretrained(directory)
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"{key}: no tokenizer found in {source!r} ({first_line(error)}); "
            "give a directory with tokenizer.json or a name on the Hugging Face hub"
        ) from error
    tokenizer.name_or_path = source
    return tokenizer


def declared_ends(source: str, key: str) -> list[int]:
    """Return the ends of sequence that a model's generation settings name, else those of its configuration.

    Args:
        source: A directory or a name on the hub.
        key: The setting that names it, for the message.
    """
    directory = local_directory(source, key, weights=False)
    for name in ("generation_config.json", "config.json"):
        file = directory / name
        ends = json.loads(file.read_text(encoding="utf-8")).get("eos_token_id") if file.is_file() else None
        if ends is not None:
            return list(ends) if isinstance(ends, list) else [ends]
    return []


def load_model(source: str, key: str, dtype: Dtype, attention: Attention) -> PreTrainedModel:
    """Load a causal language model with its weights, on the CPU, in training mode.

    Args:
        source: A directory or a name on the hub.
        key: The setting that names it, for the message.
        dtype: Type of the weights in memory.
        attention: Implementation of attention.

    Raises:
        UserError: where there is none, or its output head is of a kind that our losses do not know.
    """
    directory = local_directory(source, key)
    if not (directory / "config.json").is_file():
        raise UserError(f"{key}: {source!r} has no config.json; give a Hugging Face model directory")
    try:
        model = AutoModelForCausalLM.from_pretrained(
            directory, dtype=getattr(torch, dtype), attn_implementation=attention
        )
    except (OSError, ValueError) as error:
        raise UserError(
            f"{key}: cannot load a causal language model from {source!r} ({first_line(error)}); "
            "give a Hugging Face model directory or a name on the hub"
        ) from error
    _check_head(model, key)
    return model.train()


def load_config(source: str, key: str) -> PretrainedConfig:
    """Load a model's configuration, without its weights.

    Args:
        source: A directory or a name on the hub.
        key: The setting that names it, for the message.

    Raises:
        UserError: where there is none.
    """
    directory = local_directory(source, key, weights=False)
    try:
        return AutoConfig.from_pretrained(directory)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{key}: no configuration found in {source!r} ({first_line(error)}); "
            "give a Hugging Face model directory or a name on the hub"
        ) from error


def build_model(
    settings: dict[str, Any], vocabulary: int, key: str, dtype: Dtype, attention: Attention
) -> PreTrainedModel:
    """Create a causal language model with fresh weights.

    Args:
        settings: A Hugging Face configuration: `model_type` and whatever differs from its defaults.
        vocabulary: Number of tokens; the configuration's `vocab_size`, unless it asks for more.
        key: The setting that holds the configuration, for the message.
        dtype: Type of the weights.
        attention: Implementation of attention.

    Raises:
        UserError: for an unknown `model_type` or a setting that the model refuses.
    """
    if "model_type" not in settings:
        raise UserError(f"{key}: model_type is missing; name an architecture, for instance qwen2")
    values = settings | {"vocab_size": max(vocabulary, settings.get("vocab_size", 0))}
    try:
        config: PretrainedConfig = AutoConfig.for_model(**values)
        model = AutoModelForCausalLM.from_config(
            config, dtype=getattr(torch, dtype), attn_implementation=attention
        )
    except (ValueError, TypeError) as error:
        raise UserError(
            f"{key}: no model can be built from {settings!r} ({first_line(error)}); mend these settings"
        ) from error
    _check_head(model, key)
    return model.train()


@torch.no_grad()
def grow_vocabulary(model: PreTrainedModel, size: int, first_new: int, generator: torch.Generator) -> None:
    """Make room for `size` tokens and initialise the rows of those that the model never saw.

    A new row is the mean of the old ones plus normal noise of their standard deviation, per dimension (our
    choice). So it is as long as others and as far from them, and a few steps are enough to learn it; rows
    that start all but alike take many to part. Old rows are untouched. A table that is already longer than
    `size`, as padded ones are, keeps its length.

    Args:
        model: Tied or untied; both tables are treated.
        size: Number of tokens of the tokenizer.
        first_new: The lowest token id that was just added; `size` if there is none.
        generator: Draws the noise.
    """
    rows = model.get_input_embeddings().weight.shape[0]
    if size > rows:
        model.resize_token_embeddings(size, mean_resizing=False)
    first = min(rows, first_new)
    for weight in _tables(model):
        weight[first:size] = _drawn_rows(weight[:first], size - first, generator)


@torch.no_grad()
def redraw_alike(model: PreTrainedModel, token_ids: Sequence[int], generator: torch.Generator) -> list[int]:
    """Draw rows of tokens anew that a model has but has never met (our choice).

    Reserved tokens of a base that saw none of them all have about the same row: a model takes one for another
    until many steps have parted them. Rows that lie within 0.05 of their length from another's of `token_ids`
    are drawn as `grow_vocabulary` draws. In a small model trained ones were 0.4 of it or more apart,
    and those never met 0.008. A single such token, or one like a row of others, is not found.

    Args:
        model: Tied or untied; both tables are looked at, and treated apart.
        token_ids: Which rows are compared with one another, and drawn.
        generator: Draws the noise; not another one of the seed that new rows were drawn by.

    Returns:
        The tokens, ascending, of which a row was drawn anew.
    """
    drawn = set[int]()
    for weight in _tables(model):
        rows = weight[list(token_ids)].float()
        distances = torch.cdist(rows, rows).fill_diagonal_(math.inf)
        near = distances.amin(dim=1) <= _ALIKE * rows.norm(dim=1)
        alike = [token for token, is_near in zip(token_ids, near.tolist(), strict=True) if is_near]
        if not alike:
            continue
        others = torch.ones(len(weight), dtype=torch.bool).index_fill_(
            0, torch.tensor(alike, dtype=torch.long), False
        )
        weight[alike] = _drawn_rows(weight[others], len(alike), generator)
        drawn.update(alike)
    return sorted(drawn)


def _tables(model: PreTrainedModel) -> list[Tensor]:
    """Embedding and output head, once where they are one."""
    embedding, head = model.get_input_embeddings().weight, output_weight(model)
    return [embedding] if head is embedding else [embedding, head]


def _drawn_rows(known: Tensor, number: int, generator: torch.Generator) -> Tensor:
    """Rows [number, H] about the mean of known ones [K, H], as far from it as they are."""
    noise = torch.randn(number, known.shape[1], generator=generator)
    values = known.float()
    return (values.mean(dim=0) + values.std(dim=0) * noise).to(known.dtype)


def output_weight(model: PreTrainedModel) -> Tensor:
    """The matrix [V, H] that turns hidden states into logits."""
    return model.get_output_embeddings().weight


def heads_are_tied(model: PreTrainedModel) -> bool:
    """Whether embedding and output head are one matrix; adapters beside them do not count."""
    tables = model.get_input_embeddings(), model.get_output_embeddings()
    first, second = (next(table.parameters()) for table in tables)
    return first is second


def _check_head(model: PreTrainedModel, key: str) -> None:
    head = model.get_output_embeddings()
    if head is None or getattr(head, "bias", None) is not None:
        raise UserError(
            f"{key}: {type(model).__name__} has no output head without bias; choose another model"
        )
    for name in _LOGIT_SETTINGS:
        if getattr(model.config, name, None) not in (None, 1, 1.0):
            raise UserError(
                f"{key}: {type(model).__name__} changes its logits by {name}; choose another model"
            )

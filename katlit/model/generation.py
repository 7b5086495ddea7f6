"""How an export is sampled where nobody says otherwise: its `generation_config.json`, without the base's."""

from dataclasses import dataclass

from transformers import GenerationConfig, PreTrainedModel

from katlit.errors import UserError
from katlit.text.protocol import Protocol

_MIN_TEMPERATURE = 0.01  # vLLM raises lower ones silently to this


@dataclass(frozen=True)  # no slots: jsonargparse merges a partial override by vars()
class TokenSampling:
    """Which distribution a token is drawn from.

    Args:
        temperature: 0 is greedy, else at least 0.01.
        top_p: The most likely tokens, of those that `top_k` left, are kept up to this probability;
            1.0 keeps all.
        top_k: Keep this many of the most likely tokens; 0 keeps all.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0

    def __post_init__(self) -> None:
        """Refuse what the engines would read differently."""
        if self.temperature != 0 and not self.temperature >= _MIN_TEMPERATURE:
            raise UserError(
                f"temperature: {self.temperature}; give 0 (greedy) or at least {_MIN_TEMPERATURE}"
            )
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p: {self.top_p}; give a number above 0 and at most 1")
        if self.top_k < 0:
            raise UserError(f"top_k: {self.top_k}; give 0 (all tokens) or a positive number")


def generation_settings(
    model: PreTrainedModel, protocol: Protocol, sampling: TokenSampling
) -> GenerationConfig:
    """What transformers' `generate` and vLLM's server go by where a caller says nothing.

    Only the ends of a turn are taken over from the base. Penalties, lengths and forbidden words of the base
    stay behind: the model was trained and evaluated without them. `top_k` is always written, since
    transformers keeps 50 tokens where it is not. Greedy is one token of `top_k`, which both read alike:
    transformers refuses a temperature of 0, and vLLM samples where the file has none.

    Args:
        model: The model, which says what ended the base's turns.
        protocol: The protocol, whose end of a turn comes first.
        sampling: How to sample.
    """
    greedy = sampling.temperature == 0
    return GenerationConfig(
        do_sample=True,
        temperature=1.0 if greedy else sampling.temperature,
        top_p=sampling.top_p,
        top_k=1 if greedy else sampling.top_k,
        eos_token_id=_ends(model, protocol),
        pad_token_id=protocol.pad_id,
        bos_token_id=protocol.tokenizer.bos_token_id,
    )


def _ends(model: PreTrainedModel, protocol: Protocol) -> list[int]:
    """The protocol's end of a turn, then the special tokens that end the base's turns."""
    added = protocol.tokenizer.added_tokens_decoder
    found = [protocol.end_id]
    for settings in (model.generation_config, model.config):
        declared = settings.eos_token_id
        for token in declared if isinstance(declared, list) else [declared]:
            # A configuration may name any number, such as the 2 of Llama's default, here a letter perhaps.
            if token in added and added[token].special and token not in found:
                found.append(token)
    return found

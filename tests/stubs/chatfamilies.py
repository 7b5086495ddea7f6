"""Stand-ins for families of chat models: their templates, their tokens and what they do, and their engine."""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from katlit.engines.base import Completion, RolloutEngine, SamplingParameters
from katlit.model.pretrained import load_tokenizer

CHAT = (
    "{% for m in messages %}<|start|>{{ m['role'] }}\n{{ m['content'] }}END\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)


def chat(end: str, before: str = "", opens: str = "") -> str:
    """A template of the common form, which closes a turn by `end`."""
    opened = f"{{% if add_generation_prompt %}}{opens}{{% endif %}}" if opens else ""
    return before + CHAT.replace("END", end) + opened


NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
)
DEFAULT_SYSTEM = (
    "{% if messages[0]['role'] != 'system' %}<|start|>system\nYou are a model.<|im_end|>\n{% endif %}"
)
IF_OFF = "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}"


def thinks(prompt: str, thought: str, answer: str) -> str:
    """A model that thinks unless its thought has been closed."""
    if prompt.rstrip().endswith("</think>"):
        return answer
    opening = "" if prompt.rstrip().endswith("<think>") else "<think>\n"
    return f"{opening}{thought}\n</think>\n\n{answer}"


def thinks_in_brackets(prompt: str, thought: str, answer: str) -> str:
    """A model that thinks between marks of its own."""
    reply = thinks(prompt.replace("[THINK]", "<think>").replace("[/THINK]", "</think>"), thought, answer)
    return reply.replace("<think>", "[THINK]").replace("</think>", "[/THINK]")


def reasons(prompt: str, thought: str, answer: str) -> str:
    """A model that has no thoughts, and does as it is told."""
    return f"{thought}\n\n**Final answer:**\n{answer}" if "step by step" in prompt else answer


@dataclass
class Family:
    """A kind of chat model: its template, its special tokens, and what it does."""

    template: str
    behave: Callable[[str, str, str], str]
    habit: str
    end: str = "<|im_end|>"
    eos: str | None = "<|im_end|>"
    declared: list[str] = field(default_factory=list)
    bos: str | None = None
    asked: bool = False  # whether the template leaves open how it thinks
    settings: dict[str, Any] = field(default_factory=dict)


FAMILIES = {
    "always thinks, and the template opens the thought": Family(
        chat("<|im_end|>", before="{{ bos_token }}", opens="<think>\n"), thinks, "always", bos="<|begin|>"
    ),
    "always thinks, and the template says nothing": Family(chat("<|im_end|>"), thinks, "always", asked=True),
    "switched by enable_thinking": Family(chat("<|im_end|>", opens=IF_OFF), thinks, "switch"),
    "switched by thinking": Family(
        chat("<|im_end|>", opens="{% if thinking %}<think>{% else %}</think>{% endif %}"), thinks, "switch"
    ),
    "an effort that does not switch": Family(
        chat("<|im_end|>", before="Effort: {{ reasoning_effort | default('low') }}\n"), thinks, "always",
        asked=True,
    ),
    "never thinks, with a default system turn": Family(
        chat("<|im_end|>", before=DEFAULT_SYSTEM), reasons, "never", eos="<|endoftext|>", asked=True
    ),
    "no system role, and another end of turn": Family(
        chat("<end_of_turn>", before="{{ bos_token }}" + NO_SYSTEM), reasons, "never", end="<end_of_turn>",
        eos="<eos>", bos="<bos>", asked=True,
    ),
    "an end that only the template and the settings know": Family(
        chat("<|end|>"), reasons, "never", end="<|end|>", eos="<|endoftext|>",
        declared=["<|endoftext|>", "<|end|>"], asked=True,
    ),
    "names the day": Family(
        chat("<|eot_id|>", before="{{ bos_token }}Today: {{ strftime_now('%d %b %Y') }}\n"), reasons, "never",
        end="<|eot_id|>", eos="<|end_of_text|>", bos="<|begin_of_text|>", asked=True,
    ),
    "needs tools": Family(
        chat("<|im_end|>", before="{% for t in tools %}{{ t }}{% endfor %}"), reasons, "never", asked=True
    ),
    "neither end of sequence nor padding": Family(
        chat("<|im_end|>"), thinks, "always", eos=None, asked=True
    ),
    "marks of its own, named by the user": Family(
        chat("<|im_end|>"),
        thinks_in_brackets,
"always", settings={"habit": "always", "opening": "[THINK]", "closing": "[/THINK]"},
    ),
}  # fmt: skip


def save(family: Family, directory: Path) -> None:
    """Write the tokenizer and the settings of a family, as a model's directory holds them."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({letter: number for number, letter in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer: Any = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=family.eos, bos_token=family.bos
    )
    tokenizer.add_special_tokens({"extra_special_tokens": ["<|start|>", family.end]})
    tokenizer.chat_template = family.template
    tokenizer.save_pretrained(directory)
    ends = tokenizer.convert_tokens_to_ids(family.declared)
    (directory / "config.json").write_text("{}")
    if ends:
        (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))


class Actor(RolloutEngine):
    """Answers as a family does: adds up, goes on after an end that it is not told, is cut at the limit."""

    def __init__(self, family: Family) -> None:
        self.family = family
        self.prompts: list[str] = []
        self.starts = 0

    def start(self, model_directory: Path) -> None:
        self.starts += 1
        self.tokenizer: Any = load_tokenizer(str(model_directory), "model")

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: SamplingParameters,
        seeds: Sequence[int] | None = None,
        finished: Callable[[int, Completion], None] | None = None,
    ) -> list[Completion]:
        return [self._one(list(prompt), sampling) for prompt in prompts]

    def _one(self, prompt: list[int], sampling: SamplingParameters) -> Completion:
        text = self.tokenizer.decode(prompt)
        self.prompts.append(text)
        sums = re.findall(r"\d+\+\d+", text)
        left, right = map(int, sums[-1].split("+")) if sums else (1, 1)
        answer = str(left + right)
        if "multi-step" in text:
            answer = f"**{'Yes' if left > 2 else 'No'}**, because of {left}."
        reply = self.family.behave(text, f"I add {right} to {left}.", answer)
        ids = self.tokenizer(reply + self.family.end + "and so on")["input_ids"]
        stops = [index for index, token in enumerate(ids) if token in sampling.stop_token_ids]
        ids = ids[: stops[0] + 1 if stops else len(ids)][: sampling.max_tokens]
        return Completion(ids, [0.0] * len(ids), "stop" if ids[-1] in sampling.stop_token_ids else "length")

    def sync_weights(self, named_weights: Iterable[tuple[str, Tensor]]) -> None:
        raise NotImplementedError

    def close(self) -> None:
        pass

    @property
    def max_context(self) -> int:
        return 10_000

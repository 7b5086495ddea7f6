"""What a client of a plain vLLM server gets from an export, beside what katlit's own evaluation says of it.

`python benchmarks/served.py [DIRECTORY]`, from the top of the repository. DIRECTORY is an export, the demo's
last one by default. It is served as `katlit serve` does, and asked 200 of the evaluation's held-out
questions by the `openai` client: in each mode, plain and streamed, all 200 at once, sampled as the
evaluation samples. Then 100 of them are asked in free text and under grammars. The evaluation, `katlit test`
with the demo's settings, runs first where there is none of these weights; its responses to the same
questions give a 95 % interval.

The last line is a JSON object. By mode it has accuracy, tokens and think rate, those of the evaluation
(`evaluated_…`) with their `interval_…`, and whether all lie in there (`inside_…`). `leaks` counts markers
in answers, `failed` requests that brought no answer; `free_…`, `regex_…`, `choice_…`, `integer_…` (a number
by JSON schema), `json_…` (an object) and `asked_json_…` (an object that the question asks for too) are
accuracies on the same questions without and with a grammar; `gap_…` is what free text has more, question by
question, with its 95 % interval.
"""

import asyncio
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import torch
from _demo import OUTPUT, stage_command

from katlit.batch import Prompt
from katlit.commands.chat_server import started
from katlit.datamodules import TaskPrompts
from katlit.metrics.bootstrap import interval, resampled_means
from katlit.model.pretrained import load_tokenizer
from katlit.rewards import AccuracyReward, Sample
from katlit.text.parser import MARK_SIGN, MARKS
from katlit.text.protocol import Mode, ParsedResponse, Protocol

QUESTIONS = 200
CONSTRAINED = 100
MODES = ("auto", "on", "off")
SAMPLING = {"temperature": 1.0, "max_tokens": 200}  # of configs/demo/evaluate.yaml
SCHEMA = {"type": "object", "properties": {"answer": {"type": "integer"}}, "required": ["answer"]}
REQUEST = 'Answer with a JSON object that has the key "answer".'
# White space in JSON, of which there may be as much as a model likes, could take all its tokens.
COMPACT = {"backend": "xgrammar", "disable_any_whitespace": True}
OPTIONS = ["--served-model-name", "kat", "--structured-outputs-config", json.dumps(COMPACT)]
OBJECT = {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}}}
# The model ends an answer with a line break, so a grammar has to let it.
END = {"type": "or", "elements": [{"type": "const_string", "value": text} for text in ("\n", "")]}
INTEGER = {"type": "sequence", "elements": [{"type": "json_schema", "json_schema": {"type": "integer"}}, END]}
GRAMMARS: dict[str, dict[str, Any]] = {
    "free": {},
    "regex": {"structured_outputs": {"regex": r"-?[0-9]+\n?"}},
    "choice": {"structured_outputs": {"choice": [f"{number}\n" for number in range(-999, 1000)]}},
    "integer": {
        "structured_outputs": {"structural_tag": json.dumps({"type": "structural_tag", "format": INTEGER})}
    },
    "json": OBJECT,
    "asked_json": OBJECT,
}


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply as a client reads it."""

    reasoning: str
    content: str
    tokens: int
    cut: bool

    @property
    def leaks(self) -> int:
        """Marks of the protocol in the answer that a client shows."""
        return sum(self.content.count(mark) for mark in (*MARKS, MARK_SIGN))


def evaluated(directory: Path) -> dict[str, dict[str, Any]]:
    """The responses of katlit's own evaluation, by policy and prompt."""
    demo = directory == OUTPUT / "step_srpo/model"
    name = "-".join(directory.resolve().parts[1:])
    folder = OUTPUT / "evaluate/step_srpo" if demo else Path("outputs/served") / name
    file = folder / "responses.jsonl"
    if not file.exists() or file.stat().st_mtime < (directory / "config.json").stat().st_mtime:
        words = [
            *stage_command("test", "evaluate", 1)[1:],
            f"--model.init_args.backbone.init_args.init_from={directory}",
            f"--trainer.default_root_dir={folder}",
        ]
        subprocess.run([sys.executable, "-m", "katlit.cli", *words], check=True)  # noqa: S603 (our own command)
    lines = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    found: dict[str, dict[str, Any]] = {mode: {} for mode in MODES}
    for line in lines:
        found[line["policy"]][line["prompt_id"]] = line
    return found


def questions() -> list[Prompt]:
    """The first of the evaluation's questions."""
    source = TaskPrompts("configs/demo/levels.yaml", 800, seed=1000, split="heldout", heldout_percent=20)
    return source.load()[:QUESTIONS]


async def plain(client: openai.AsyncOpenAI, **request: Any) -> Reply:
    """Ask for a whole reply."""
    reply = await client.chat.completions.create(**request)
    choice = reply.choices[0]
    text = getattr(choice.message, "reasoning", None) or ""
    cut = choice.finish_reason != "stop"
    return Reply(text, choice.message.content or "", reply.usage.completion_tokens, cut)


async def streamed(client: openai.AsyncOpenAI, **request: Any) -> Reply:
    """Ask for a reply in pieces."""
    reasoning, content, tokens, reason = "", "", 0, None
    options = {"include_usage": True}
    create: Any = client.chat.completions.create
    async for chunk in await create(**request, stream=True, stream_options=options):
        tokens = chunk.usage.completion_tokens if chunk.usage else tokens
        for choice in chunk.choices:
            reasoning += getattr(choice.delta, "reasoning", None) or ""
            content += choice.delta.content or ""
            reason = choice.finish_reason or reason
    return Reply(reasoning, content, tokens, reason != "stop")


async def ask(
    url: str, prompts: list[Prompt], read: Any, mode: str, extra: dict[str, Any]
) -> list[Reply | None]:
    """Ask all at once; None where a request failed."""
    body = {"chat_template_kwargs": {"thinking": mode}} | extra
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        replies = await asyncio.gather(
            *(read(client, model="kat", messages=prompt["messages"], extra_body=body, **SAMPLING)
              for prompt in prompts),
            return_exceptions=True,
        )  # fmt: skip
    for reply in replies:
        if isinstance(reply, BaseException) and not isinstance(reply, openai.OpenAIError):
            raise reply
    return [reply if isinstance(reply, Reply) else None for reply in replies]


def correct(prompts: list[Prompt], replies: list[Reply | None]) -> list[float]:
    """1 where the content is right, by the evaluation's own scorers."""
    samples = []
    for prompt, reply in zip(prompts, replies, strict=True):
        parsed = ParsedResponse("", None, "", None if reply is None else reply.content, None)
        samples.append(Sample(prompt, parsed, truncated=reply is None or reply.cut, tokens=0))
    return [float((verdict.value or 0) >= 1) for verdict in AccuracyReward()(samples)]


def compare(
    mode: str, prompts: list[Prompt], replies: list[Reply | None], own: dict[str, Any], forced: int
) -> Any:
    """Figures of one mode, served and evaluated."""
    got = [reply for reply in replies if reply is not None]
    rows = [own[prompt["id"]] for prompt in prompts[:QUESTIONS]]
    served = {
        "accuracy": sum(correct(prompts, replies)) / len(replies),
        "tokens": sum(reply.tokens + forced for reply in got) / len(got),
        "think_rate": sum(reply.reasoning != "" for reply in got) / len(got),
    }
    values = [[float(row["correct"]), float(row["tokens"]), float(row["mode"] == "on")] for row in rows]
    means = torch.tensor(values).mean(dim=0).tolist()
    resampled = resampled_means(torch.tensor(values).T)
    found: dict[str, Any] = {}
    inside = True
    for index, (name, value) in enumerate(served.items()):
        low, high = interval(resampled[:, index])
        if name != "think_rate" or mode == "auto":  # a forced mode is the prompt's, and its interval a point
            inside &= low <= value <= high
        found |= {f"{name}_{mode}": value, f"evaluated_{name}_{mode}": means[index]}
        found[f"interval_{name}_{mode}"] = [low, high]
    return found | {f"inside_{mode}": inside}


def measure(directory: Path) -> dict[str, Any]:
    """Serve, ask and compare."""
    own = evaluated(directory)
    prompts = questions()
    protocol = Protocol(load_tokenizer(str(directory), "DIRECTORY"))
    found: dict[str, Any] = {"requests": 0, "leaks": 0, "failed": 0}
    begun = time.perf_counter()
    with started(str(directory), 512, OPTIONS) as url:
        found["seconds_to_start"] = time.perf_counter() - begun
        for mode in MODES:
            replies = [
                r for read in (plain, streamed) for r in asyncio.run(ask(url, prompts, read, mode, {}))
            ]
            forced = 0 if mode == "auto" else len(protocol.forced_prefill(Mode(mode)))
            found |= compare(mode, prompts * 2, replies, own[mode], forced)
            found["requests"] += len(replies)
            found["failed"] += replies.count(None)
            for reply in replies:
                if reply is not None and reply.leaks:
                    print(f"leaked: {reply}")
                    found["leaks"] += reply.leaks
            found |= constrained(url, prompts[:CONSTRAINED], mode)
    return found | {
        "accuracy_auto": found["accuracy_auto"],
        "evaluated_auto": found["evaluated_accuracy_auto"],
    }


def constrained(url: str, prompts: list[Prompt], mode: str) -> dict[str, Any]:
    """Accuracy on some questions, in free text and under each grammar."""
    found: dict[str, Any] = {}
    free: list[float] = []
    for name, extra in GRAMMARS.items():
        asked = [asking_for_json(prompt) for prompt in prompts] if name == "asked_json" else prompts
        replies = asyncio.run(ask(url, asked, plain, mode, extra))
        right = correct(asked, replies)
        found[f"{name}_{mode}"] = sum(right) / len(right)
        print(f"{mode} {name}: {found[f'{name}_{mode}']}, {wrong(asked, replies, right)}")
        if name == "free":
            free = right
            continue
        lost = torch.tensor([[a - b for a, b in zip(free, right, strict=True)]])
        found[f"gap_{name}_{mode}"] = [lost.mean().item(), *interval(resampled_means(lost)[:, 0])]
    return found


def asking_for_json(prompt: Prompt) -> Prompt:
    """The question with a wish for an object."""
    turns = [dict(turn) for turn in prompt["messages"]]
    turns[-1]["content"] += f"\n{REQUEST}"
    asking = prompt.copy()
    asking["messages"] = turns
    return asking


def wrong(prompts: list[Prompt], replies: list[Reply | None], right: list[float]) -> list[tuple[str, str]]:
    """Some references with what was answered instead."""
    pairs = zip(prompts, replies, right, strict=True)
    return [(prompt["reference"], reply.content) for prompt, reply, ok in pairs if reply and not ok][:5]


def main() -> None:
    """Measure, and print."""
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else OUTPUT / "step_srpo/model"
    if not (directory / "config.json").exists():
        sys.exit(f"served.py: no export in {directory}; run `make demo` or name one: served.py DIRECTORY")
    found = measure(directory)
    for name, value in found.items():
        print(f"{name}: {value}")
    print(json.dumps(found))


if __name__ == "__main__":
    main()

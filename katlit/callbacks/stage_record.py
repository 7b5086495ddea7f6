"""What the model card tells of a stage: class, steps, data, main settings; no secrets, no machine's paths."""

import re
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import PurePath
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from katlit.callbacks.track_config import TrackConfig, flatten

_PACKAGES = ("katlit", "torch", "transformers")
_TRAINER = ("precision", "devices", "num_nodes", "accumulate_grad_batches", "gradient_clip_val")
# Where a source of prompts says what it reads; `path` may be a file, or a data set on the hub.
_SOURCE_KEYS = ("path", "families", "config", "split")
# Which model another one is or starts from; the card names the base by itself.
_MODELS = re.compile(r"backbone\..*\b(init_from|model|tokenizer|config)\b")
_PLACE = re.compile(r"(?<![\w.:/])(?:[\w+]+://|~?/)[^\s'\"]*")
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_FILE_ENDINGS = (".json", ".jsonl", ".csv", ".parquet", ".yaml", ".gz")


def stage_record(trainer: Trainer, module: LightningModule) -> dict[str, Any]:
    """What is known of a stage at its end; of one that Python code runs, no settings are.

    Args:
        trainer: The trainer, whose `TrackConfig` knows the settings.
        module: The stage.
    """
    tracked = next((one for one in trainer.callbacks if isinstance(one, TrackConfig)), None)
    settings = {} if tracked is None else tracked.settings()
    sources = list(_sources(settings.get("data", {})))
    return {
        "stage": type(module).__name__,
        "steps": trainer.global_step,
        "data": list(dict.fromkeys(map(_described, sources))),
        "datasets": sorted({path for source in sources if (path := _on_hub(source))}),
        "settings": _main_settings(settings),
        "versions": {name: metadata.version(name) for name in _PACKAGES},
    }


def _main_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the stage itself, and of the trainer those that change what is learnt."""
    chosen = {"seed_everything": settings.get("seed_everything")}
    chosen |= {f"trainer.{name}": settings.get("trainer", {}).get(name) for name in _TRAINER}
    own = flatten(settings.get("model", {}).get("init_args", {}), "model.")
    chosen |= {key.replace(".init_args", ""): value for key, value in own.items() if not _MODELS.search(key)}
    return {key: without_places(value) for key, value in chosen.items() if value is not None}


def without_places(value: Any) -> Any:
    """A setting in which an absolute path is its last part, and an address of a machine is left out."""
    if isinstance(value, list):
        return [without_places(item) for item in value]
    if isinstance(value, Mapping):
        return {key: without_places(item) for key, item in value.items()}
    return _PLACE.sub(_shortened, value) if isinstance(value, str) else value


def _shortened(place: re.Match[str]) -> str:
    return "…" if "://" in place[0] else PurePath(place[0]).name or "…"


def _sources(data: Any) -> Iterator[Mapping[str, Any]]:
    """The sources of prompts that the settings of a DataModule name, wherever they stand."""
    if isinstance(data, list):
        for item in data:
            yield from _sources(item)
    elif isinstance(data, Mapping):
        arguments = data.get("init_args") or {}
        if "class_path" in data and ("path" in arguments or "families" in arguments):
            yield data
        else:
            for name, item in data.items():
                if name != "evaluation":  # of `CleanedPrompts`: what is not trained on
                    yield from _sources(item)


def _described(source: Mapping[str, Any]) -> str:
    arguments = source["init_args"]
    named = [f"{key} {without_places(arguments[key])}" for key in _SOURCE_KEYS if arguments.get(key)]
    return f"{source['class_path'].rpartition('.')[2]}: {', '.join(named)}"


def _on_hub(source: Mapping[str, Any]) -> str | None:
    """The name of a data set on the hub; a name with the ending of a file is a file."""
    path = source["init_args"].get("path")
    is_name = isinstance(path, str) and _HUB_NAME.fullmatch(path) and not path.endswith(_FILE_ENDINGS)
    return path if is_name and not PurePath(path).is_absolute() else None

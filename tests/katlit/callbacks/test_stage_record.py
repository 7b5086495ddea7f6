from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import yaml

from katlit.callbacks.stage_record import stage_record, without_places
from katlit.callbacks.track_config import TrackConfig

SETTINGS: dict[str, Any] = {
    "seed_everything": 1,
    "trainer": {"precision": "bf16-mixed", "devices": 2, "default_root_dir": "/home/me/runs", "logger": None},
    "model": {
        "class_path": "katlit.modules.DistillMTP",
        "init_args": {
            "backbone": {
                "class_path": "katlit.model.Backbone",
                "init_args": {"model": "/home/me/base", "init_from": None, "dtype": "float32", "lora": None},
            },
            "teacher": "/data/models/teacher",
            "judge_key": "sk-123",
            "server": "http://me:pw@inside.example:8000/v1",
            "kd_weight": 1.0,
        },
    },
    "data": {
        "class_path": "katlit.datamodules.DistillData",
        "init_args": {
            "engine": {"class_path": "katlit.engines.VLLMEngine", "init_args": {"environment": {"X": "y"}}},
            "prompts": {
                "class_path": "katlit.datamodules.Curriculum",
                "init_args": {
                    "stages": [
                        {"prompts": {"class_path": "katlit.datamodules.FilePrompts",
                                     "init_args": {"path": "owner/set", "config": "main", "split": "train"}}},
                        {"prompts": {"class_path": "katlit.datamodules.FilePrompts",
                                     "init_args": {"path": "/home/me/own.jsonl", "split": "train"}}},
                        {"prompts": {"class_path": "katlit.datamodules.FilePrompts",
                                     "init_args": {"path": "data/own.jsonl", "split": "train"}}},
                        {"prompts": {"class_path": "katlit.datamodules.TaskPrompts",
                                     "init_args": {"families": "levels.yaml", "size": 10}}},
                    ]
                },
            },
        },
    },
}  # fmt: skip


class DistillMTP:
    """Stands for a stage."""


def record(settings: dict[str, Any] | None) -> dict[str, Any]:
    callbacks: list[Any] = [Mock()]
    if settings is not None:
        parser = Mock()
        parser.dump.return_value = yaml.safe_dump(settings)
        callbacks.append(TrackConfig(parser, Mock()))
    trainer: Any = SimpleNamespace(callbacks=callbacks, global_step=9)
    stage: Any = DistillMTP()
    return stage_record(trainer, stage)


def test_a_stage_is_told_without_secrets_and_places() -> None:
    found = record(SETTINGS)
    assert found.pop("versions").keys() == {"katlit", "torch", "transformers"}
    assert found == {
        "stage": "DistillMTP",
        "steps": 9,
        "data": [
            "FilePrompts: path owner/set, config main, split train",
            "FilePrompts: path own.jsonl, split train",
            "FilePrompts: path data/own.jsonl, split train",
            "TaskPrompts: families levels.yaml",
        ],
        "datasets": ["owner/set"],
        "settings": {
            "seed_everything": 1,
            "trainer.precision": "bf16-mixed",
            "trainer.devices": 2,
            "model.backbone.class_path": "katlit.model.Backbone",
            "model.backbone.dtype": "float32",
            "model.teacher": "teacher",
            "model.judge_key": "***",
            "model.server": "…",
            "model.kd_weight": 1.0,
        },
    }


def test_a_stage_of_python_code_has_no_settings() -> None:
    found = record(None)
    assert (found["stage"], found["steps"]) == ("DistillMTP", 9)
    assert (found["data"], found["datasets"], found["settings"]) == ([], [], {})


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("/home/me/a b.jsonl", "a b.jsonl"),
        ("~/models/base", "base"),
        ("outputs/demo/model", "outputs/demo/model"),
        ("x=/home/me/y", "x=y"),
        ("s3://bucket/key", "…"),
        ("file:///home/me", "…"),
        (["/a/b", {"c": "/d/e"}], ["b", {"c": "e"}]),
        ("and/or 1/2", "and/or 1/2"),
        (3, 3),
        (None, None),
    ],
)
def test_places_of_a_machine_are_left_out(value: Any, told: Any) -> None:
    assert without_places(value) == told

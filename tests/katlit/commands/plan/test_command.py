import re
from pathlib import Path

import pytest
import yaml
from tinymodel import QWEN, write_tokenizer

from katlit.cli import main
from katlit.commands.plan.settings import memory_size
from katlit.errors import UserError

ROWS = ("gradients", "optimizer state")
README = (Path(__file__).parents[4] / "README.md").read_text(encoding="utf-8")


def stage(directory: Path, **changes: object) -> str:
    backbone = {"config": QWEN, "tokenizer": write_tokenizer(directory / "tokenizer"), **changes}
    settings = {
        "seed_everything": 1,
        "trainer": {
            "devices": 4,
            "num_nodes": 2,
            "strategy": {"class_path": "katlit.parallel.Fsdp2Strategy"},
        },
        "model": {
            "class_path": "katlit.modules.ColdStartSFT",
            "init_args": {"backbone": {"class_path": "katlit.model.Backbone", "init_args": backbone}},
        },
        "data": {
            "class_path": "katlit.datamodules.ColdStartData",
            "init_args": {"student": "none", "batches": {"batch_tokens": 512, "packing": True}},
        },
    }
    path = directory / "stage.yaml"
    path.write_text(yaml.safe_dump(settings))
    return str(path)


def test_a_stage_is_planned_without_trainer_devices_or_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = stage(tmp_path)
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert main(["plan", "-c", path, "--memory=1GiB"]) == 0
    shown = capsys.readouterr().out
    assert "devices    8 × 1.0 GiB, fsdp2" in shown
    assert "512 tokens a device in rows of 512, no gradient checkpointing" in shown
    assert "fits: " in shown
    assert sorted(tmp_path.rglob("*")) == before


def test_of_lora_the_adapters_are_trained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = stage(tmp_path, lora={"rank": 4})
    assert main(["plan", "-c", path, "--memory=1GiB", "--trainer.strategy=auto"]) == 0
    shown = capsys.readouterr().out
    (number,) = re.findall(
        r"^adapters   ([\d.]+)M parameters, the model's own are frozen$", shown, re.MULTILINE
    )
    gradients, states = (float(re.findall(rf"([\d.]+) MiB  {what}", shown)[0]) for what in ROWS)
    # twice in the buckets of DDP
    assert gradients == pytest.approx(8 * float(number) * 1e6 / 2**20, abs=0.1)
    assert states == pytest.approx(8 * float(number) * 1e6 / 2**20, abs=0.1)


@pytest.mark.parametrize("command", re.findall(r"^katlit (plan .*)$", README, re.MULTILINE))
def test_the_tables_of_the_readme_are_what_its_commands_print(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command.split()) == 0, capsys.readouterr().err
    shown = capsys.readouterr().out
    rows = [line for line in shown.splitlines() if line.startswith(("| fsdp2", "| z3"))]
    assert len(rows) == 4
    assert "\n".join(rows) in README


def test_a_bare_configuration_needs_no_tokenizer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = stage(tmp_path, tokenizer=None, config=QWEN | {"vocab_size": 1000}, mtp_depth=2)
    assert main(["plan", "-c", path, "--memory=1MiB", "--table=[2]"]) == 0
    assert "MTP modules" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--memory=plenty", "memory: 'plenty' is no size; write it like 80 (a device"),
        ("--trainer.strategy.tensor_parallel_size=2", "tensor_parallel_size: 2 is not planned for"),
        ("--trainer.strategy=xla", "trainer.strategy: 'xla' is not planned for"),
        ("--model.init_args.backbone.init_args.model=./missing", "backbone.model: directory './missing'"),
    ],
)
def test_mistakes_are_one_line(
    option: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "-c", stage(tmp_path), option]) == 2
    assert message in capsys.readouterr().err


def test_sizes() -> None:
    assert memory_size("80GiB") == 80 * 2**30
    assert memory_size("80") == memory_size("80 GB") == 79 * 2**30  # what an A100 or H100 of 80 GB has
    assert memory_size("1.5 TiB") == 1.5 * 2**40
    with pytest.raises(UserError):
        memory_size("80 apples")

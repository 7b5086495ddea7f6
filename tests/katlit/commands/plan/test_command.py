import re
from pathlib import Path

import pytest
import yaml
from tinymodel import QWEN, write_tokenizer

from katlit.cli import main
from katlit.commands.plan.settings import device_count, memory_size
from katlit.errors import UserError

ROWS = ("gradients", "optimizer state")
HARDWARE = (Path(__file__).parents[4] / "docs" / "hardware.md").read_text(encoding="utf-8")
TABLES = re.findall(r"^katlit (plan .* --table=.*)$", HARDWARE, re.MULTILINE)


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
    # of the 8 devices, 4 are on a machine
    ((own, machine),) = re.findall(
        r"^ +([\d.]+) MiB  in host memory while a process loads its models, ([\d.]+) MiB on a machine of 4$",
        shown, re.MULTILINE,
    )  # fmt: skip
    assert float(machine) == pytest.approx(4 * float(own), abs=0.3)
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


def test_the_documentation_has_two_tables() -> None:
    assert len(TABLES) == 2


@pytest.mark.parametrize("command", TABLES)
def test_the_tables_of_the_documentation_are_what_its_commands_print(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command.split()) == 0, capsys.readouterr().err
    shown = capsys.readouterr().out
    rows = [line for line in shown.splitlines() if line.startswith(("| fsdp2", "| z3"))]
    assert len(rows) == 4
    assert "\n".join(rows) in HARDWARE


def test_a_bare_configuration_needs_no_tokenizer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = stage(tmp_path, tokenizer=None, config=QWEN | {"vocab_size": 1000}, mtp_depth=2)
    assert main(["plan", "-c", path, "--memory=1MiB", "--table=[2]"]) == 0
    assert "MTP modules" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--memory=plenty", "memory: 'plenty' is no memory of a device; write 80 or 80GB for one"),
        ("--memory=80000000000", "memory: '80000000000' is no memory of a device; write 80 or 80GB"),
        ("--memory=1025", "(up to 1024 without a unit), or 80GiB, or bytes such as 80000000000B"),
        ("--memory=-80", "memory: '-80' is no memory of a device"),
        (f"--memory={'9' * 400}B", "9B' is no memory of a device"),
        ("--memory=0GiB", "memory: '0GiB' is no memory of a device"),
        ("--trainer.devices=0", "trainer.devices: 0; give how many each node has, at least 1, or their"),
        ("--trainer.devices=-3", "trainer.devices: -3; give how many each node has, at least 1, or their"),
        ("--trainer.devices=-1", "numbers such as 0,1; -1 means all, whose number a plan cannot know"),
        ("--trainer.devices=[]", "trainer.devices: []; give how many each node has"),
        ("--trainer.devices=0,-1", "trainer.devices: 0,-1; give how many each node has"),
        ("--trainer.devices=a,b", "trainer.devices: a,b; give how many each node has"),
        ("--trainer.num_nodes=0", "trainer.num_nodes: 0; give at least 1"),
        ("--trainer.num_nodes=-2", "trainer.num_nodes: -2; give at least 1"),
        ("--table=[0,8]", "table: [0, 8]; give numbers of devices, each at least 1"),
        ("--table=[]", "table: []; give numbers of devices, each at least 1"),
        ("--row_tokens=0", "row_tokens: 0; give at least 1"),
        ("--row_tokens=-5", "row_tokens: -5; give at least 1"),
        ("--rollout_tokens=0", "rollout_tokens: 0; give at least 1"),
        ("--data.init_args.batches.batch_tokens=0", "init_args.batches.batch_tokens: 0; give at least 1"),
        ("--data.init_args.batches.row_tokens=-1", "data.init_args.batches.row_tokens: -1; give at least 1"),
        ("--trainer.strategy.tensor_parallel_size=2", "tensor_parallel_size: 2 is not planned for"),
        ("--trainer.strategy=xla", "trainer.strategy: 'xla' is not planned for"),
        ("--model.init_args.backbone.init_args.model=./missing", "backbone.model: directory './missing'"),
    ],
)
def test_mistakes_are_one_line(
    option: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "-c", stage(tmp_path), option]) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert (shown.out, shown.err.count("\n")) == ("", 1)


@pytest.mark.parametrize(
    ("devices", "expected"), [(3, 3), ("3", 3), ([4, 5], 2), ("0,1", 2), ("7,", 1), ([6], 1)]
)
def test_devices_are_a_number_or_are_named(devices: object, expected: int) -> None:
    assert device_count(devices) == expected


def test_sizes() -> None:
    assert memory_size("80GiB") == 80 * 2**30
    assert memory_size("80") == memory_size("80 GB") == 79 * 2**30  # what an A100 or H100 of 80 GB has
    assert memory_size("1.5 TiB") == 1.5 * 2**40
    assert memory_size("80000000000B") == 80_000_000_000
    assert memory_size("1024") == memory_size("1024GB")
    with pytest.raises(UserError):
        memory_size("80 apples")

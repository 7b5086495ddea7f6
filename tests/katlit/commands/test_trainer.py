import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch.cli import LightningCLI
from tinystage import TinyStage

from katlit.cli import main
from katlit.commands import trainer
from katlit.parallel.meeting import named_devices

ROOT = Path(__file__).parents[3]
BASE = ["-c", str(ROOT / "configs/base.yaml"), "-c", str(ROOT / "tests/stubs/tinystage.yaml")]
KINDS = ("logger", "strategy", "debug")
OVERLAYS = sorted(path for kind in KINDS for path in (ROOT / "configs" / kind).glob("*.yaml"))


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def fit(*extra: str) -> int:
    return main(["fit", *BASE, *extra])


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["fit", *arguments, "--print_config"]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_overlay_parses_and_its_printed_form_means_the_same(
    overlay: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = printed(capsys, *BASE, "-c", str(overlay))
    (tmp_path / "printed.yaml").write_text(first)
    assert printed(capsys, "-c", str(tmp_path / "printed.yaml")) == first
    for key, value in yaml.safe_load(overlay.read_text())["trainer"].items():
        shown = yaml.safe_load(first)["trainer"][key]
        assert shown == value or shown["class_path"] == value["class_path"]


def test_interpolation_follows_the_command_line_across_files(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, *BASE, "--trainer.max_steps=7", "--trainer.default_root_dir=here")
    settings = yaml.safe_load(text)
    assert settings["model"]["init_args"]["warmup"] == 7
    assert settings["checkpoint"]["every_n_steps"] == 500


def test_callbacks_are_appended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "more.yaml").write_text(
        "trainer:\n  callbacks+:\n    - class_path: katlit.callbacks.SampleTable\n"
    )
    callbacks = yaml.safe_load(printed(capsys, *BASE, "-c", "more.yaml"))["trainer"]["callbacks"]
    assert [callback["class_path"].split(".")[-1] for callback in callbacks] == [
        "Throughput",
        "LineProgress",
        "SampleTable",
    ]


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ("trainer:\n  max_stepz: 3", ["trainer.max_stepz"]),
        ("trainer:\n  max_steps: many", ["trainer.max_steps", "many"]),
        ("trainer:\n  max_steps: ${trainer.nope}", ["trainer.nope"]),
        ("trainer:\n  max_steps: [", ["wrong.yaml", "line"]),
        ("model:\n  init_args:\n    warmupp: 3", ["warmupp", "TinyStage", "nearest is warmup"]),
        ("model:\n  init_args:\n    warmup: soon", ["model.init_args.warmup", "soon"]),
        ("model:\n  class_path: tinystage.Nope", ["tinystage", "Nope"]),
    ],
)
def test_a_wrong_setting_is_one_line_that_names_it(
    settings: str, named: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "wrong.yaml").write_text(settings)
    assert fit("-c", "wrong.yaml") == 2
    _assert_one_line(capsys.readouterr().err, named)
    assert [path.name for path in tmp_path.iterdir()] == ["wrong.yaml"]


@pytest.mark.parametrize(
    ("extra", "named"),
    [
        (["-c", "missing.yaml"], ["missing.yaml"]),
        (["--config=missing.yaml"], ["missing.yaml"]),
        (["--trainer.max_stepz=3"], ["--trainer.max_stepz"]),
        (["--trainer.default_root_dir=file/x"], ["trainer.default_root_dir", "file/x"]),
        (["--trainer.logger.init_args.tracking_uri=http://u:p@127.0.0.1:9"], ["http://***@127.0.0.1:9"]),
        (["--trainer.logger.init_args.tracking_uri=sqlite:///file/x.db"], ["tracking_uri", "file"]),
    ],
)
def test_a_wrong_argument_is_one_line_that_names_it(
    extra: list[str], named: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert fit(*extra) == 2
    _assert_one_line(capsys.readouterr().err, named)


@pytest.mark.parametrize("command", ["validate", "test"])
def test_lightnings_verbose_is_not_offered(command: str) -> None:
    """What is shown is for `-v` to say, see `ShortResults`."""
    assert "verbose" in trainer.KatCLI.subcommands()[command]


def _assert_one_line(error: str, named: list[str]) -> None:
    lines = [line for line in error.splitlines() if line.startswith("katlit: error: ")]
    assert len(lines) == 1
    assert error.endswith(f"{lines[0]}\n")
    assert "Traceback" not in error
    assert all(name in lines[0] for name in named), lines[0]


def test_help_documents_the_trainer(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help", "trainer"]) == 0
    text = capsys.readouterr().out
    assert "--trainer.gradient_clip_val" in text
    assert "--model.help" in text


def test_help_documents_the_knobs_of_a_class(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--model.help=tinystage.TinyStage"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "--model.learning_rate LEARNING_RATE Of plain SGD. (type: float, default: 0.1)" in text


def test_the_trainer_knows_which_devices_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """No device but a CPU can be relied on here, and those have no names."""
    seen: list[object] = []
    monkeypatch.setattr(trainer, "named_devices", lambda setting: [setting])
    monkeypatch.setattr(trainer.KatTrainer, "label", lambda self, **_: seen.append(self.named_devices))
    assert main(["label", *BASE, "--trainer.devices=1"]) == 0
    assert seen in ([[1]], [["1"]])


def test_a_checkpoint_never_overrides_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = ["-c", str(ROOT / "configs/logger/none.yaml"), "--trainer.callbacks=[]"]
    assert fit(*small, "--trainer.max_steps=4") == 0
    (path,) = tmp_path.rglob("*.ckpt")
    checkpoint = torch.load(path, weights_only=False)
    shutil.rmtree(path.parent)
    torch.save(checkpoint | {"hyper_parameters": {"learning_rate": 99.0}}, "old.ckpt")

    seen: list[float] = []
    monkeypatch.setattr(TinyStage, "on_fit_start", lambda stage: seen.append(stage.learning_rate))
    assert fit(*small, "--trainer.max_steps=6", "--ckpt_path=old.ckpt") == 0
    assert seen == [0.1]
    # The override is of a private method: where upstream renames it, it would silently do nothing.
    assert "_parse_ckpt_path" in vars(LightningCLI)


@pytest.mark.parametrize("command", ["fit", "test"])
@pytest.mark.parametrize(
    ("path", "problem"),
    [("last", "no checkpoint is in outputs/checkpoints"), ("gone.ckpt", "does not exist")],
)
def test_a_checkpoint_that_is_not_there_is_one_line(
    command: str, path: str, problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, *BASE, "--trainer.logger=false", f"--ckpt_path={path}"]) == 2
    _assert_one_line(capsys.readouterr().err, ["ckpt_path", path, problem])


def test_last_is_the_newest_checkpoint_of_this_run(caplog: pytest.LogCaptureFixture) -> None:
    settings = ["--trainer.logger=false", "--checkpoint.every_n_steps=2"]
    assert fit(*settings, "--trainer.max_steps=4") == 0
    assert fit(*settings, "--trainer.max_steps=6", "--ckpt_path=last") == 0
    assert "step-00000004.ckpt" in caplog.text
    assert sorted(path.name for path in Path("outputs/checkpoints").iterdir()) == [
        "step-00000004.ckpt", "step-00000006.ckpt"
    ]  # fmt: skip


def test_auto_is_the_newest_checkpoint_or_none(caplog: pytest.LogCaptureFixture) -> None:
    settings = ["--trainer.logger=false", "--ckpt_path=auto"]
    assert fit(*settings, "--trainer.max_steps=4") == 0
    assert ".ckpt" not in caplog.text
    assert fit(*settings, "--trainer.max_steps=6") == 0
    assert "step-00000004.ckpt" in caplog.text


def test_label_only_prepares_the_data(tmp_path: Path) -> None:
    assert main(["label", *BASE, "--data.init_args.cache=labels.txt"]) == 0
    assert (tmp_path / "labels.txt").read_text() == "labelled"
    assert not (tmp_path / "outputs/mlflow.db").exists()


@pytest.mark.parametrize(("devices", "visible"), [("[2]", "6"), ("1", "4,5,6")])
def test_one_process_that_labels_uses_the_devices_that_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, devices: str, visible: str
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    monkeypatch.setattr(trainer, "named_devices", lambda _: named_devices(yaml.safe_load(devices)))
    on_cpu = "--trainer.accelerator=cpu"  # what else it may be here
    assert main(["label", *BASE, on_cpu, "--data.init_args.cache=labels.txt"]) == 0
    assert (tmp_path / "labels.txt").is_file()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == visible


@pytest.fixture
def _sigint() -> Iterator[None]:
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)  # Lightning ignores it after the first


@pytest.mark.usefixtures("_sigint")
def test_ctrl_c_exits_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(stage: TinyStage) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(TinyStage, "on_train_start", interrupt)
    assert fit("-c", str(ROOT / "configs/logger/none.yaml")) == 130

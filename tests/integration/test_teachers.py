"""Stage 1 by the command line: a teacher on disk says what the live one does, whether one teacher or two."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tinymodel import QWEN, tiny_backbone, write_tokenizer

from katlit.cli import main
from katlit.datamodules.jsonl import write_rows
from katlit.datamodules.records import Record, read_records
from katlit.text.protocol import Mode

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")
RECORDS = [
    {"id": f"{i}", "messages": [{"role": "user", "content": f"{i}+1"}], "judge": "j", "answer": f"{i + 1}",
     **({"regime": "on", "think": f"{i} and {'1' * i}"} if i % 2 else {"regime": "off"})}
    for i in range(8)
]  # fmt: skip
SURE = QWEN | {"initializer_range": 0.5}
# The bytes, and words of its own; with our markers and padding these are the tokens of each teacher's model.
WORDS = {"think_off": ("but", "if", "or"), "think_on": ("and", "check", "so")}
TEACHER = "--model.init_args.teacher"
DUAL = """
data:
  init_args:
    labeller:
      class_path: katlit.datamodules.DualRegime
      init_args:
        teacher: ${model.init_args.teacher}
        ballots: 1
        epsilon: 0.5
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two teachers with tokenizers of their own, a student's tokenizer, and records."""
    root = tmp_path_factory.mktemp("teachers")
    for seed, (name, words) in enumerate(WORDS.items(), start=1):
        backbone = tiny_backbone(root / "made", SURE, seed=seed)
        backbone.tokenizer = write_tokenizer(root / "made" / name, words)
        backbone.materialize()
        backbone.export(root / name)
    write_tokenizer(root / "student")
    write_rows(root / "records.jsonl", RECORDS)
    return root


def vocabulary(folder: Path) -> int:
    """Tokens of either teacher."""
    return int(json.loads((folder / "think_on" / "config.json").read_text())["vocab_size"])


def named(folder: Path, teachers: int) -> list[str]:
    """No teacher, one, or each by its mode."""
    names = [f"{TEACHER}.{mode}={folder}/{mode}" for mode in WORDS]
    return names if teachers == 2 else [f"{TEACHER}={folder}/think_off"][:teachers]


def words_of(command: str, folder: Path, run: Path, teachers: int, *words: str) -> list[str]:
    """A command of two steps: the settings of stage 1, and `words` after them."""
    run.mkdir(exist_ok=True)
    backbone, batches = "--model.init_args.backbone.init_args", "--data.init_args.batches"
    return [
        command, "-c", f"{ROOT}/configs/base.yaml", "-c", f"{ROOT}/configs/stage/distill.yaml",
        f"{backbone}.config={json.dumps(QWEN)}", f"{backbone}.tokenizer={folder}/student",
        *named(folder, teachers),
        f"--data.init_args.student_tokenizer={folder}/student",
        f"--data.init_args.records_file={folder}/records.jsonl",
        f"{batches}.validation_share=0.0", f"{batches}.packing=true", f"{batches}.row_tokens=100",
        f"--trainer.default_root_dir={run}", "--trainer.max_steps=2", "--trainer.logger=false",
        "--trainer.accelerator=cpu", "--trainer.callbacks+=collect.Collect",
        f"--trainer.callbacks.path={run}/log.jsonl", *words,
    ]  # fmt: skip


def katlit(*arguments: Any) -> None:
    assert main(words_of(*arguments)) == 0


def cached(folder: Path, run: Path, teachers: int, k: int | None) -> list[str]:
    """The documented settings, with k tokens of each teacher, or all."""
    given = "--data.init_args.cached_teacher.init_args"
    k = k or vocabulary(folder)
    words = ["-c", f"{ROOT}/configs/teacher/cached.yaml", f"{given}.directory={run}/cached", f"{given}.k={k}"]
    return words + (
        [f"{given}.scorer.{mode}=katlit.teacher.HFScorer" for mode in WORDS] if teachers == 2 else []
    )


def logged(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def distilled(run: Path) -> list[float]:
    """`train/kd` of each step."""
    return [row["train/kd"] for row in logged(run)]


@pytest.mark.parametrize("teachers", [1, 2])
def test_a_teacher_on_disk_teaches_what_the_live_one_does(
    folder: Path, tmp_path: Path, teachers: int
) -> None:
    katlit("fit", folder, tmp_path / "live", teachers)
    live = distilled(tmp_path / "live")
    assert len(live) == 2
    for name, k in (("all", None), ("few", 8))[: 3 - teachers]:
        run = tmp_path / name
        katlit("label", folder, run, teachers, *cached(folder, run, teachers, k))
        assert not (run / "log.jsonl").exists()
        caches = sorted(path.parent.name for path in run.rglob("manifest.json"))
        assert caches == (["think_off", "think_on"] if teachers == 2 else ["cached"])
        written = {path: path.stat().st_mtime_ns for path in (run / "cached").rglob("*.safetensors")}
        katlit("fit", folder, run, teachers, *cached(folder, run, teachers, k))
        assert written == {path: path.stat().st_mtime_ns for path in written}  # nobody is asked again
    assert distilled(tmp_path / "all") == pytest.approx(live, rel=2e-4)  # log-probabilities of 16 bits
    if teachers == 1:
        assert 0 < distilled(tmp_path / "few")[0] < live[0]  # less is known of the teacher, so less differs


def test_no_teacher_is_needed_where_nothing_is_distilled(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    katlit("fit", folder, tmp_path, 0, "--model.init_args.kd=none")
    rows = logged(tmp_path)
    assert len(rows) == 2
    assert all("train/ce" in row and "train/kd" not in row for row in rows)
    bare = tmp_path / "bare.yaml"
    bare.write_text("data: {init_args: {teacher: null}}")
    given = words_of("fit", folder, tmp_path, 1)
    assert main([*given, "-c", str(bare)]) == 2
    told = "model.teacher: the stage has 1 teacher(s), the data 0; give data.init_args.teacher the same value"
    assert told in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_teachers_in_pieces_on_two_processes_change_nothing(folder: Path, tmp_path: Path) -> None:
    """A batch holds one record here, so of one teacher only; both are read on both processes all the same."""
    small = [f"--data.init_args.batches.{name}=60" for name in ("batch_tokens", "row_tokens")]
    alone = ["--trainer.accumulate_grad_batches=2", "--trainer.limit_train_batches=4"]
    katlit("fit", folder, tmp_path / "alone", 2, *small, *alone)
    files = [word for name in ("fsdp2", "cpu") for word in ("-c", f"{ROOT}/configs/strategy/{name}.yaml")]
    pieces = [*files, "--trainer.limit_train_batches=2", "--model.init_args.teacher_placement=sharded"]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "katlit.cli"]
    done = subprocess.run(
        [sys.executable, *launcher, *words_of("fit", folder, tmp_path / "two", 2, *small, *pieces)],
        env=os.environ | {"PYTHONPATH": f"{ROOT}/tests/stubs{os.pathsep}{ROOT}"},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-6000:]
    assert len(distilled(tmp_path / "two")) == 2
    assert distilled(tmp_path / "two") == pytest.approx(distilled(tmp_path / "alone"), rel=1e-4)
    (whole,), (half,) = ({row["frozen_bytes"] for row in logged(tmp_path / run)} for run in ("alone", "two"))
    assert half == pytest.approx(whole / 2, rel=0.02)  # of a table of odd length one has a row more


def noisy(source: Path, target: Path) -> Path:
    """Another teacher: what it writes differs now and then, and is right now and then."""
    shutil.copytree(source, target)
    weights = load_file(target / "model.safetensors")
    noise = torch.Generator().manual_seed(1)
    for name, value in weights.items():
        weights[name] = value + 0.25 * value.std() * torch.randn(value.shape, generator=noise)
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    return target


@pytest.mark.slow
@pytest.mark.vllm
@pytest.mark.timeout(900)
def test_vllm_has_two_teachers_write_what_transformers_has_them_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Greedily, on the demo's task; one engine after the other in this process."""
    pytest.importorskip("vllm", exc_type=ImportError)
    monkeypatch.chdir(ROOT)
    second = noisy(ROOT / "assets/teacher", tmp_path / "second")
    two = [f"{TEACHER}={{think_off: assets/teacher, think_on: {second}}}"]
    hf = ["--data.init_args.engine=katlit.engines.HFEngine"]
    dual = tmp_path / "dual.yaml"
    dual.write_text(DUAL)

    def labelled(name: str, *words: str) -> list[Record]:
        files = (*(f"configs/{name}.yaml" for name in ("base", "stage/distill", "demo/distill")), str(dual))
        status = main(
            ["label", *(word for file in files for word in ("-c", file)), *words,
             "--data.init_args.prompts.init_args.size=60", "--data.init_args.sampling.temperature=0.0",
             f"--data.init_args.cache_dir={tmp_path / name}", f"--trainer.default_root_dir={tmp_path / name}"]
        )  # fmt: skip
        assert status == 0
        (file,) = (tmp_path / name).glob("distill-*.jsonl")
        return read_records(file)

    records = labelled("vllm", *two)
    assert records == labelled("hf", *two, *hf)
    teachers = {Mode.THINK_OFF: "assets/teacher", Mode.THINK_ON: str(second)}
    assert {(record.regime, record.teacher) for record in records} == set(teachers.items())
    alone = {record.id: record for record in labelled("alone", *hf)}
    thought = [record for record in records if record.regime is Mode.THINK_ON and record.id in alone]
    assert any(record.think != alone[record.id].think for record in thought)


def test_a_cache_of_the_other_teacher_is_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    katlit("label", folder, tmp_path, 2, *cached(folder, tmp_path, 2, 8))
    caches = tmp_path / "cached"
    (caches / "think_off").rename(caches / "other")
    (caches / "think_on").rename(caches / "think_off")
    (caches / "other").rename(caches / "think_on")
    with pytest.raises(AssertionError):
        katlit("fit", folder, tmp_path, 2, *cached(folder, tmp_path, 2, 8))
    error = capsys.readouterr().err
    assert "cached/think_off: this teacher's cache has teacher '" in error
    assert "; tokenizer '" in error
    assert "; data '" in error


def test_both_teachers_are_planned(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    backbone = "--model.init_args.backbone.init_args"
    words = [
        "plan", "-c", f"{ROOT}/configs/base.yaml", "-c", f"{ROOT}/configs/stage/distill.yaml",
        f"{backbone}.config={json.dumps(QWEN)}", f"{backbone}.tokenizer={folder}/student",
        "--data.init_args.student_tokenizer=none", "--memory=1GiB",
    ]  # fmt: skip
    for number in (1, 2):
        assert main([*words, *named(folder, number)]) == 0
        assert capsys.readouterr().out.count("companion  ") == number
    assert main([*words, *named(folder, 2), f"{TEACHER}.think_on=./gone"]) == 2
    assert "model.teacher.think_on: directory './gone' does not exist" in capsys.readouterr().err
    assert main([*words, f"{TEACHER}.think_on=./gone"]) == 2
    assert capsys.readouterr().err.count(".teacher: its keys are ['think_on']; give think_on and") == 1

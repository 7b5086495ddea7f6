"""A teacher's cache: what is read is what the teacher says, and only where it belongs.

Over 300 lines because all tests share one small teacher, which takes longer to make than all of them.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from transformers import Qwen2Config, Qwen2ForCausalLM

from katlit.datamodules import CachedTeacher, DistillData
from katlit.datamodules.base import BatchSettings
from katlit.datamodules.jsonl import write_rows
from katlit.datamodules.teachers import top_k_shards
from katlit.datamodules.teachers.top_k_shards import plan_shards
from katlit.errors import UserError
from katlit.teacher.hf import HFScorer
from katlit.teacher.scorer import TeacherScorer, TopK, Transcript

TRANSCRIPTS = [Transcript(list(range(1, 4 + length)), 3) for length in (5, 2, 9, 1, 4)]


class Counter(TeacherScorer):
    """Says of the token t that the likeliest were t, t + 1, …; notes what it was asked."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.closed = 0

    def start(self, teacher: str) -> None:
        pass

    def score(self, transcripts: Sequence[Transcript], k: int) -> list[TopK]:
        self.asked.append(len(transcripts))
        tokens = [np.array(t.token_ids[t.start :])[:, None] for t in transcripts]
        log_probs = np.linspace(-1, -5, k + 1)
        return [TopK(t + np.arange(k), log_probs - 0.001 * t) for t in tokens]

    def close(self) -> None:
        self.closed += 1


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory, models_root: Path) -> str:
    """A model of random weights that has our tokenizer."""
    directory = tmp_path_factory.mktemp("teacher") / "model"
    shutil.copytree(models_root / "ours", directory)
    torch.manual_seed(0)
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Qwen2Config(vocab_size=300, num_key_value_heads=2, initializer_range=0.5, **size)
    Qwen2ForCausalLM(config).save_pretrained(directory)
    return str(directory)


def cache(directory: Path, scorer: TeacherScorer | None = None, **settings: Any) -> CachedTeacher:
    return CachedTeacher(str(directory), **({"k": 4, "shard_tokens": 6} | settings), scorer=scorer)


@pytest.fixture
def data(tmp_path: Path, models_root: Path, teacher: str) -> Callable[..., DistillData]:
    rows = [
        {"id": f"{i}", "messages": [{"role": "user", "content": f"{i}+1"}], "regime": "off", "judge": "j",
         "answer": f"{i}{'!' * (i % 4)}"}
        for i in range(12)
    ]  # fmt: skip
    write_rows(tmp_path / "records.jsonl", rows)

    def make(cached: CachedTeacher | None, packing: bool = True, student: str = "ours") -> DistillData:
        batches = BatchSettings(batch_tokens=300, packing=packing, row_tokens=150, validation_share=0.0)
        records = str(tmp_path / "records.jsonl")
        settings: dict[str, Any] = {"records_file": records, "batches": batches, "cached_teacher": cached}
        return DistillData(str(models_root / student), teacher, **settings)

    return make


@pytest.mark.parametrize(
    ("rows", "ends"), [([5, 2, 9, 1, 4], [2, 3, 5]), ([7, 7], [1, 2]), ([1], [1]), ([3, 2, 1, 1], [3, 4])]
)
def test_shards_are_of_whole_transcripts(rows: list[int], ends: list[int]) -> None:
    assert plan_shards(rows, 6) == ends


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_rows_come_back(tmp_path: Path, teacher: str, dtype: Any) -> None:
    scorer = Counter()
    cache(tmp_path / "cache", scorer, dtype=dtype).write(teacher, TRANSCRIPTS)
    assert scorer.asked == [2, 1, 2]
    assert scorer.closed > 0
    read = cache(tmp_path / "cache", dtype=dtype)
    read.open(teacher, TRANSCRIPTS)
    for number, transcript in enumerate(TRANSCRIPTS):
        places = list(range(len(transcript.token_ids) - 1, transcript.start - 1, -1))
        (expected,) = scorer.score([transcript], 4)
        top = read.read(number, places)
        assert top.ids.dtype == np.uint16
        assert top.ids.tolist() == expected.ids[::-1].tolist()
        assert top.log_probs.dtype == dtype
        np.testing.assert_allclose(top.log_probs, expected.log_probs[::-1], rtol=1e-3)


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("student", ["ours", "ours-characters"])
def test_a_batch_brings_what_the_teacher_would_say_of_its_targets(
    tmp_path: Path, teacher: str, data: Callable[..., DistillData], packing: bool, student: str
) -> None:
    ready = data(cache(tmp_path / "cache", HFScorer(device="cpu"), k=20), packing, student)
    ready.prepare_data()
    ready.setup("fit")
    model = Qwen2ForCausalLM.from_pretrained(teacher).eval()
    number = 0
    for batch in ready.train_dataloader():
        assert batch["teacher_top_ids"].dtype == torch.int32
        with torch.no_grad():
            rows = {name: batch[f"teacher_{name}"] for name in ("input_ids", "position_ids")}
            logits = model(**rows, use_cache=False).logits
        live = logits.flatten(0, 1)[batch["teacher_targets"] - 1].log_softmax(dim=-1)
        top = batch["teacher_top_log_probs"]
        kept = live.gather(-1, batch["teacher_top_ids"].long())
        torch.testing.assert_close(top[:, :20], kept, atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(top.exp().sum(dim=-1), torch.ones(len(top)), atol=1e-3, rtol=1e-3)
        assert (kept[:, :-1] >= kept[:, 1:] - 1e-4).all()
        number += len(top)
    assert number > 40


def test_bytes_a_token_are_told(tmp_path: Path, teacher: str, caplog: pytest.LogCaptureFixture) -> None:
    many = TRANSCRIPTS * 200
    with caplog.at_level("INFO", logger="katlit.datamodules"):
        cache(tmp_path / "cache", Counter(), shard_tokens=1000).write(teacher, many)
    told = caplog.messages[-1]
    assert "4200 response tokens, k 4, " in told
    each = float(told.partition("k 4, ")[2].partition(" bytes")[0])
    assert 18 <= each < 19  # 4 ids and 5 log-probabilities of 2 bytes, and the heads of the files


def test_written_once_and_without_a_scorer_afterwards(tmp_path: Path, teacher: str) -> None:
    cache(tmp_path / "cache", Counter()).write(teacher, TRANSCRIPTS)
    again = Counter()
    cache(tmp_path / "cache", again).write(teacher, TRANSCRIPTS)
    cache(tmp_path / "cache").write(teacher, TRANSCRIPTS)
    assert again.asked == []


@pytest.mark.parametrize(
    ("changes", "name"),
    [({"k": 3}, "k 4, not 3"), ({"dtype": "float32"}, "dtype 'float16', not 'float32'")],
)
def test_other_settings_are_refused(tmp_path: Path, teacher: str, changes: Any, name: str) -> None:
    cache(tmp_path / "cache", Counter()).write(teacher, TRANSCRIPTS)
    for use in (CachedTeacher.open, CachedTeacher.write):
        with pytest.raises(UserError, match=rf"this teacher's cache has {name}; name another"):
            use(cache(tmp_path / "cache", Counter(), **changes), teacher, TRANSCRIPTS)


def test_other_data_tokenizers_and_weights_are_refused(
    tmp_path: Path, teacher: str, models_root: Path
) -> None:
    cache(tmp_path / "cache", Counter()).write(teacher, TRANSCRIPTS)
    read = cache(tmp_path / "cache")
    changed = [TRANSCRIPTS[0]._replace(start=4), *TRANSCRIPTS[1:]]
    for other in (TRANSCRIPTS[:-1], TRANSCRIPTS[::-1], changed):
        with pytest.raises(UserError, match=r"this teacher's cache has data '.*', not '.*'; name"):
            read.open(teacher, other)
    for name, copied in (("tokenizer", "tokenizer.json"), ("teacher", "model.safetensors")):
        shutil.copytree(teacher, tmp_path / name)
        target = tmp_path / name / copied
        if name == "tokenizer":
            shutil.copy(models_root / "ours-characters" / copied, target)
        else:
            content = bytearray(target.read_bytes())
            content[-1] ^= 1
            target.write_bytes(content)
        with pytest.raises(UserError, match=f"this teacher's cache has {name} '.*', not '.*'; name"):
            read.open(str(tmp_path / name), TRANSCRIPTS)


def test_what_cannot_be_read_is_named(tmp_path: Path, teacher: str) -> None:
    with pytest.raises(UserError, match="k: 301, but the teacher has 300 tokens"):
        cache(tmp_path / "cache", Counter(), k=301).write(teacher, TRANSCRIPTS)
    with pytest.raises(UserError, match=r"3 of 3 shards are missing; give cached_teacher a scorer"):
        cache(tmp_path / "cache").write(teacher, TRANSCRIPTS)
    with pytest.raises(UserError, match="no teacher's cache; write it first"):
        cache(tmp_path / "cache").open(teacher, TRANSCRIPTS)
    cache(tmp_path / "cache", Counter()).write(teacher, TRANSCRIPTS)
    second = tmp_path / "cache" / "00001.safetensors"
    second.write_bytes((tmp_path / "cache" / "00000.safetensors").read_bytes())
    with pytest.raises(UserError, match=r"00001\.safetensors: has shapes .*, where 9 rows of 4 belong"):
        cache(tmp_path / "cache").open(teacher, TRANSCRIPTS)
    second.write_bytes(second.read_bytes()[:40])
    with pytest.raises(UserError, match=r"00001\.safetensors: no shard of a teacher's cache"):
        cache(tmp_path / "cache").open(teacher, TRANSCRIPTS)
    second.unlink()
    with pytest.raises(UserError, match=r"00001\.safetensors: this shard is missing"):
        cache(tmp_path / "cache").open(teacher, TRANSCRIPTS)
    (tmp_path / "cache" / "manifest.json").write_text("[]")
    with pytest.raises(UserError, match=r"manifest\.json: not a manifest of ours"):
        cache(tmp_path / "cache").open(teacher, TRANSCRIPTS)
    with pytest.raises(UserError, match="must be at least 1"):
        cache(tmp_path, k=0)


@pytest.mark.parametrize("place", [-20, -80])  # in both tensors
def test_a_damaged_shard_is_refused_until_it_is_written_again(
    tmp_path: Path, teacher: str, place: int
) -> None:
    cache(tmp_path / "cache", Counter()).write(teacher, TRANSCRIPTS)
    shard = tmp_path / "cache" / "00001.safetensors"
    content = bytearray(shard.read_bytes())
    content[place] ^= 1
    shard.write_bytes(content)
    told = (
        r"00001\.safetensors: damaged, this shard is not what was written; delete it and .* \(katlit label\)"
    )
    with pytest.raises(UserError, match=told):
        cache(tmp_path / "cache").write(teacher, TRANSCRIPTS)
    shard.unlink()
    scorer = Counter()
    cache(tmp_path / "cache", scorer).write(teacher, TRANSCRIPTS)
    assert scorer.asked == [1]


def test_shards_without_checksums_are_taken(tmp_path: Path, teacher: str) -> None:
    """As an earlier katlit wrote them."""
    cache(tmp_path / "cache", Counter()).write(teacher, TRANSCRIPTS)
    for shard in (tmp_path / "cache").glob("*.safetensors"):
        save_file(load_file(shard), shard)
    cache(tmp_path / "cache").write(teacher, TRANSCRIPTS)


KILLED = """
import os, signal, sys
sys.path[:0] = [{root!r}, {tests!r}]
import katlit.datamodules.teachers.top_k_shards as shards
from test_cached_teacher import Counter, TRANSCRIPTS, cache
from pathlib import Path

save, saved = shards.save_file, []
def killed(tensors, path, checksums):
    save(tensors, path, checksums)
    saved.append(path)
    if len(saved) == 2:
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        os.kill(os.getpid(), signal.SIGKILL)
shards.save_file = killed
cache(Path({directory!r}), Counter()).write({teacher!r}, TRANSCRIPTS)
"""


def test_two_may_write_at_once(tmp_path: Path, teacher: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = Counter(), Counter()
    save = top_k_shards.save_file

    def save_as_another_does(tensors: dict[str, Any], path: Path, checksums: dict[str, str]) -> None:
        save(tensors, path, checksums)
        if not second.asked:  # the second begins and ends while the first writes its first shard
            cache(tmp_path / "cache", second).write(teacher, TRANSCRIPTS)

    monkeypatch.setattr(top_k_shards, "save_file", save_as_another_does)
    cache(tmp_path / "cache", first).write(teacher, TRANSCRIPTS)
    assert second.asked == [2, 1, 2]
    assert first.asked == [2]  # it finds the others written
    cache(tmp_path / "cache").open(teacher, TRANSCRIPTS)
    names = sorted(path.name for path in (tmp_path / "cache").iterdir())
    assert names == [*(f"0000{number}.safetensors" for number in range(3)), "manifest.json"]


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_beside_the_whole_vocabulary_nothing_is_left(tmp_path: Path, dtype: Any) -> None:
    """Though a scorer that subtracts says so; else the loss would be infinite."""
    ids = np.arange(5)[None]
    log_probs = np.append(np.log(np.full(5, 0.2)), np.log(1e-6))[None]
    path = tmp_path / "shard"
    top_k_shards.write_shard(path, [TopK(ids, log_probs)], 5, dtype)
    found = top_k_shards.TopKShards([path], [1], [1], 5).read(0)
    assert found.log_probs[0, -1] == np.finfo(dtype).min
    top_k_shards.write_shard(path, [TopK(ids, log_probs)], 6, dtype)
    found = top_k_shards.TopKShards([path], [1], [1], 5).read(0)
    assert found.log_probs[0, -1] == pytest.approx(np.log(1e-6), rel=1e-3)


@pytest.mark.slow
def test_a_kill_loses_no_more_than_the_shard_being_written(tmp_path: Path, teacher: str) -> None:
    here = Path(__file__)
    script = KILLED.format(
        root=str(here.parents[3]), tests=str(here.parent), directory=str(tmp_path / "cache"), teacher=teacher
    )
    done = subprocess.run([sys.executable, "-c", script], check=False, env=os.environ)
    assert done.returncode == -signal.SIGKILL
    names = {path.name for path in (tmp_path / "cache").iterdir() if path.suffix != ".partial"}
    assert names == {"manifest.json", "00000.safetensors"}
    assert len(list((tmp_path / "cache").glob(".00001.safetensors.*.partial"))) == 1
    scorer = Counter()
    cache(tmp_path / "cache", scorer, shard_tokens=10**6).write(teacher, TRANSCRIPTS)
    assert scorer.asked == [1, 2]  # by the plan that was begun
    assert json.loads((tmp_path / "cache" / "manifest.json").read_text())["shards"] == [2, 3, 5]
    assert not list((tmp_path / "cache").glob(".*.partial"))

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from katlit.batch import Prompt
from katlit.datamodules.labelling import cache
from katlit.datamodules.labelling.cache import cache_file, cached_records, fingerprint, hash_model
from katlit.datamodules.records import Record
from katlit.errors import UserError
from katlit.text.protocol import Mode

RECORD = Record(
    id="a", messages=[{"role": "user", "content": "1"}], regime=Mode.THINK_OFF, judge="", answer="1"
)


def test_a_second_call_builds_nothing(tmp_path: Path) -> None:
    calls: list[int] = []

    def build() -> list[Record]:
        calls.append(1)
        return [RECORD, replace(RECORD, metadata={"key": (1, 2)})]

    path = cache_file(str(tmp_path / "cache"), "test", "f" * 64)
    first = cached_records(path, build)
    assert cached_records(path, build) == first
    assert len(calls) == 1


def test_the_first_of_two_writers_is_read_by_both(tmp_path: Path) -> None:
    """What it has written is trained on already."""
    path = tmp_path / "records.jsonl"

    def slow() -> list[Record]:
        assert cached_records(path, lambda: [RECORD]) == [RECORD]
        return [replace(RECORD, answer="2")]

    assert cached_records(path, slow) == [RECORD]


@pytest.mark.parametrize("written", ["records", "checksums"])
def test_whoever_is_killed_leaves_no_records_without_checksums(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str
) -> None:
    """Nor do those count that it leaves, or those of records that the user has deleted."""
    path = tmp_path / "records.jsonl"
    cached_records(path, lambda: [RECORD])
    path.unlink()
    killer, replace_file = Mock(side_effect=KeyboardInterrupt), cache.replace_file
    if written == "checksums":
        killer = Mock(side_effect=lambda *file: (replace_file(*file), killed()))
    monkeypatch.setattr(cache, "replace_file", killer)
    with pytest.raises(KeyboardInterrupt):
        cached_records(path, lambda: [replace(RECORD, answer="2")])
    monkeypatch.undo()
    assert not path.exists()
    assert cached_records(path, lambda: [replace(RECORD, answer="3")]) == [replace(RECORD, answer="3")]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["records.crc32", "records.jsonl"]


def killed() -> None:
    raise KeyboardInterrupt


def test_records_of_an_earlier_katlit_have_no_checksums(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    cached_records(path, lambda: [RECORD])
    path.with_suffix(".crc32").unlink()
    assert cached_records(path, list) == [RECORD]


def test_a_flipped_bit_of_the_checksums_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    cached_records(path, lambda: [RECORD])
    sums = bytearray(path.with_suffix(".crc32").read_bytes())
    sums[0] ^= 0x80  # no UTF-8 any more
    path.with_suffix(".crc32").write_bytes(sums)
    with pytest.raises(UserError, match=r"records\.jsonl:1: damaged"):
        cached_records(path, list)


def test_errors_leave_no_file_and_come_before_the_work(tmp_path: Path) -> None:
    path = tmp_path / "cache" / "records.jsonl"

    def fail() -> list[Record]:
        raise UserError("labelling kept no record")

    with pytest.raises(UserError, match="labelling kept no record"):
        cached_records(path, fail)
    assert list(path.parent.iterdir()) == []
    (tmp_path / "file").write_text("")

    def never() -> list[Record]:
        raise AssertionError("built before the folder was checked")

    with pytest.raises(UserError, match=r"^cache_dir: cannot write to"):
        cached_records(tmp_path / "file" / "records.jsonl", never)


def test_a_model_is_known_by_its_contents(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        (tmp_path / name / "model.safetensors").write_bytes(b"123")
    first = hash_model(str(tmp_path / "a"))
    assert hash_model(str(tmp_path / "b")) == first
    (tmp_path / "b" / "model.safetensors").write_bytes(b"124")
    assert hash_model(str(tmp_path / "b")) != first
    (tmp_path / "b" / "model.safetensors").rename(tmp_path / "b" / "other.safetensors")
    assert hash_model(str(tmp_path / "b")) != first
    copied = hash_model(str(tmp_path / "a"))
    (tmp_path / "a" / "README.md").write_text("A model.")
    (tmp_path / "a" / "katlit.json").write_text('{"evaluation": 1}')  # `katlit card` writes it anew
    (tmp_path / "a" / ".cache").mkdir()
    (tmp_path / "a" / ".cache" / "fetched").write_text("today")
    assert hash_model(str(tmp_path / "a")) == copied


@pytest.mark.parametrize(
    "change",
    [
        lambda inputs: (inputs[0] | {"n": 5}, *inputs[1:]),
        lambda inputs: (inputs[0], ["owner/other"], inputs[2]),
        lambda inputs: (*inputs[:2], inputs[2][1:]),
        lambda inputs: (*inputs[:2], [{**inputs[2][0], "reference": "9"}, *inputs[2][1:]]),
    ],
)
def test_every_input_changes_the_key(sums: list[Prompt], change: Callable[[Any], Any]) -> None:
    inputs: Any = ({"n": 4}, ["owner/name"], sums)
    assert fingerprint(*inputs) == fingerprint(*inputs)
    assert fingerprint(*inputs) != fingerprint(*change(inputs))

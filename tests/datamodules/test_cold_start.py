from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from katlit.batch import Prompt
from katlit.datamodules import ColdStartData, FilePrompts, MajorityVote
from katlit.datamodules.base import BatchSettings
from katlit.datamodules.cold_start import encode_record
from katlit.datamodules.jsonl import write_rows
from katlit.datamodules.records import Record, read_records, write_records
from katlit.errors import UserError
from katlit.rewards import MatchReward, Reward
from katlit.text.protocol import Mode, Protocol

RECORD = Record(
    id="t", messages=[{"role": "user", "content": "1+2"}], regime=Mode.THINK_ON, judge="two <judge> terms",
    think="1+2 = 3", answer="3",
)  # fmt: skip


@pytest.fixture
def build(tmp_path: Path, models_root: Path, sums: list[Prompt]) -> Callable[..., ColdStartData]:
    write_rows(tmp_path / "prompts.jsonl", (dict(prompt) for prompt in sums))

    def make(
        engine: Any, batches: BatchSettings | None = None, accuracy: Reward | None = None, **settings: Any
    ) -> ColdStartData:
        return ColdStartData(
            student=str(models_root / "ours"),
            labeller=MajorityVote(str(models_root / "ours"), **settings),
            prompts=FilePrompts(str(tmp_path / "prompts.jsonl")),
            engine=engine,
            accuracy=accuracy,
            cache_dir=str(tmp_path / "cache"),
            batches=batches or BatchSettings(),
        )

    return make


def test_the_whole_response_is_a_target(protocols: dict[str, Protocol]) -> None:
    protocol = protocols["byte-small"]
    document = encode_record(RECORD, protocol)
    targets = [token for token, target in zip(document.token_ids, document.loss_mask, strict=True) if target]
    parsed = protocol.parse_ids(targets, "auto")
    assert parsed.valid
    assert (parsed.judge, parsed.mode, parsed.answer) == (RECORD.judge, Mode.THINK_ON, "3")
    assert document.token_ids[: -len(targets)] == protocol.encode_prompt(RECORD.messages, "auto")


def test_tools_are_in_the_prompt_and_calls_are_targets(protocols: dict[str, Protocol]) -> None:
    protocol = protocols["byte-small"]
    call = '<tool_call>\n{"name": "add", "arguments": {}}\n</tool_call>'
    tools = [{"type": "function", "function": {"name": "add", "description": "Adds up."}}]
    for forced in (False, True):
        document = encode_record(replace(RECORD, tools=tools, answer=call, forced=forced), protocol)
        targets = document.loss_mask.index(True)
        assert "Adds up." in protocol.decode(document.token_ids[:targets])
        assert call in protocol.decode(document.token_ids[targets:])
    assert "Adds up." not in protocol.decode(encode_record(RECORD, protocol).token_ids)


def test_a_forced_judge_is_no_target(protocols: dict[str, Protocol]) -> None:
    protocol = protocols["byte-small"]
    document = encode_record(replace(RECORD, forced=True), protocol)
    prompt = protocol.encode_prompt(RECORD.messages, "on")
    assert document.token_ids[: len(prompt)] == prompt
    assert document.loss_mask == [False] * len(prompt) + [True] * (len(document.token_ids) - len(prompt))
    assert protocol.parse_ids(document.token_ids[len(prompt) :], "on").valid


def test_broken_references_are_left_out_before_anything_is_sampled(
    build: Any, make_engine: Any, sums: list[Prompt], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine = make_engine()
    data = build(engine, samples=1)
    broken: list[dict[str, Any]] = [
        {"verifier": "mtch"}, {"verifier": "code", "reference": "7"}, {"reference": "", "verifier": "mtch"}
    ]  # fmt: skip
    rows = [dict(prompt) | change for prompt, change in zip(sums, broken, strict=False)]
    write_rows(tmp_path / "prompts.jsonl", [*rows, *map(dict, sums[3:])])
    data.prepare_data()
    assert engine.requests == 18 * 2
    left_out, unverified, *_ = [one.message for one in caplog.records if "data.init_args" in one.message]
    assert "2 of 20 prompts cannot be verified" in left_out
    assert "prompts.jsonl:1: verifier: 'mtch' is unknown" in left_out
    assert "prompts.jsonl:2: " in left_out
    assert "1 of 18 prompts have no reference" in unverified


def test_a_run_goes_on_with_the_records_it_had_and_no_others(models_root: Path, tmp_path: Path) -> None:
    def data(name: str, records: list[Record]) -> ColdStartData:
        write_records(tmp_path / name, records)
        made = ColdStartData(student=str(models_root / "ours"), records_file=str(tmp_path / name))
        made.setup("fit")
        return made

    records = [replace(RECORD, id=str(number)) for number in range(4)]
    state = data("a.jsonl", records).state_dict()
    data("b.jsonl", records).load_state_dict(state)
    data("b.jsonl", records).load_state_dict({})
    other = [*records[1:], replace(RECORD, answer="4")]
    for rows, words in ((records[1:], "4 rows, now there are 3"), (other, "4 rows, and now some are others")):
        with pytest.raises(UserError, match=rf"ColdStartData \(.*c\.jsonl\): the checkpoint .* {words}"):
            data("c.jsonl", rows).load_state_dict(state)


def test_labels_become_batches_and_are_made_once(build: Any, make_engine: Any, models_root: Path) -> None:
    engine, idle = make_engine(), make_engine()
    settings = {
        "judge_writer": str(models_root / "ours-characters"),
        "samples": 2,
        "ballots": 2,
        "forced": 0.0,
        "batches": BatchSettings(batch_tokens=600, validation_share=0.25),
    }
    for each in (engine, idle):
        data = build(each, **settings)
        data.prepare_data()
        data.setup("fit")
    assert engine.started == ["ours-characters", "ours"]  # the judge writer votes first
    assert engine.requests == 20 * 2 * 2 + 20 * 2
    assert idle.requests == 0
    protocol = Protocol(AutoTokenizer.from_pretrained(models_root / "ours"))
    markers = [protocol.marker_ids[f"<think_{mode.value}>"] for mode in Mode]
    seen = 0
    for batch in [*data.train_dataloader(), *data.val_dataloader()]:
        targets = batch["input_ids"][batch["loss_mask"]].tolist()
        assert sum(token in markers for token in targets) == len(batch["input_ids"])
        seen += len(batch["input_ids"])
    assert seen == 20


def test_a_reward_that_cannot_be_written_down_is_one_line(build: Any, make_engine: Any) -> None:
    reward = MatchReward()
    reward.key = lambda text: text.lower()  # type: ignore[attr-defined]
    data = build(make_engine(), accuracy=reward)
    with pytest.raises(UserError, match=r"^data.init_args.accuracy: MatchReward cannot be pickled .*lambda"):
        data.prepare_data()


def test_judge_phrases_and_seeds_change_the_labels(build: Any, make_engine: Any) -> None:
    first = build(make_engine(), judge_off="plain sailing")
    first.prepare_data()
    records = read_records(first.records_path())
    assert "plain sailing" in {record.judge for record in records}
    assert build(make_engine()).records_path() != first.records_path()
    assert build(make_engine(), seed=1).records_path() != first.records_path()


def test_both_records_of_a_query_are_on_one_side_of_the_split(build: Any, make_engine: Any) -> None:
    data = build(
        make_engine(),
        samples=2,
        forced=1.0,
        batches=BatchSettings(batch_tokens=600, validation_share=0.25),
    )
    data.prepare_data()
    data.setup("fit")
    records = read_records(data.records_path())
    train, validation = (
        {records[index].id for index in indices} for indices in (data.train_indices, data.validation_indices)
    )
    assert len(records) == 40
    assert (len(train), len(validation)) == (15, 5)
    assert train.isdisjoint(validation)

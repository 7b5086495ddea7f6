"""Families of chat models as teachers, each through labelling, encoding and the targets of stage 1."""

import logging
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
from chatfamilies import DEFAULT_SYSTEM, FAMILIES, IF_OFF, Actor, Family, chat, save, thinks

from katlit.batch import Prompt
from katlit.datamodules import ColdStartData, DistillData, DualRegime, FilePrompts, MajorityVote
from katlit.datamodules.dialects.dialects import PlainDialect
from katlit.datamodules.jsonl import write_rows
from katlit.datamodules.labelling.engine_model import EngineModel
from katlit.datamodules.records import Record, read_records
from katlit.datamodules.teachers.thinking import TeacherThinking
from katlit.engines.base import RolloutEngine, SamplingParameters
from katlit.errors import UserError
from katlit.model.pretrained import load_tokenizer
from katlit.text.protocol import Mode

SYSTEM = "Count well."
SAID = {"switch": "thinks when", "always": "always thinks", "never": "never thinks"}
EVERY = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)


@pytest.fixture
def build(
    tmp_path: Path, models_root: Path, make_prompt: Callable[..., Prompt]
) -> Callable[..., DistillData]:
    """Data of stage 1 with a family as its teacher; every second prompt has a system turn."""
    prompts = [make_prompt(f"{left}+{right}") for left in range(1, 5) for right in (1, 2)]
    for prompt in prompts[::2]:
        prompt["messages"] = [{"role": "system", "content": SYSTEM}, *prompt["messages"]]
    write_rows(tmp_path / "prompts.jsonl", (dict(prompt) for prompt in prompts))

    def make(family: Family, engine: RolloutEngine, name: str | None = None, **thinking: Any) -> DistillData:
        teacher = name or str(tmp_path / "teacher")
        save(family, tmp_path / "teacher")
        return DistillData(
            student_tokenizer=str(models_root / "ours"),
            teacher=teacher,
            prompts=FilePrompts(str(tmp_path / "prompts.jsonl")),
            engine=engine,
            labeller=DualRegime(teacher, ballots=1),
            sampling=SamplingParameters(max_tokens=200),
            thinking=TeacherThinking(**family.settings | thinking),
            cache_dir=str(tmp_path / "cache"),
        )

    return make


def labelled(data: DistillData) -> list[Record]:
    data.prepare_data()
    return read_records(data.records_path())


@EVERY
def test_both_regimes_are_labelled(build: Any, family: Family, caplog: pytest.LogCaptureFixture) -> None:
    engine = Actor(family)
    with caplog.at_level(logging.INFO):
        records = labelled(build(family, engine))
    assert [record.regime for record in records] == 4 * [Mode.THINK_OFF] + 4 * [Mode.THINK_ON]
    for record in records:
        left, right = record.id.split("+")
        assert record.answer == record.reference
        assert record.think == ("" if record.regime is Mode.THINK_OFF else f"I add {right} to {left}.")
        assert record.votes == {"on": int(record.think != ""), "off": int(record.think == "")}
    assert len(re.findall(f"teacher: .*{SAID[family.habit]}", caplog.text)) == 1
    assert engine.starts == 1 + family.asked
    asked = [prompt for prompt in engine.prompts if SYSTEM in prompt]
    assert len(asked) == 4  # ballots are about the question alone
    if family.bos:
        assert {prompt.count(family.bos) for prompt in engine.prompts} == {1}


@EVERY
def test_the_teacher_is_asked_once(build: Any, family: Family) -> None:
    records = labelled(build(family, Actor(family)))
    idle = Actor(family)
    again = build(family, idle)
    assert labelled(again) == records
    assert idle.prompts == []


def test_what_stage_1_found_out_of_the_teacher_holds_in_stage_2(
    build: Any, tmp_path: Path, models_root: Path
) -> None:
    """Other sampling changes nothing of it, for the probe takes the likeliest tokens."""
    family = FAMILIES["always thinks, and the template says nothing"]
    labelled(build(family, Actor(family)))
    engine = Actor(family)
    data = ColdStartData(
        str(models_root / "ours"), FilePrompts(str(tmp_path / "prompts.jsonl")), engine,
        labeller=MajorityVote(str(models_root / "ours"), judge_writer=str(tmp_path / "teacher")),
        sampling=SamplingParameters(temperature=0.5, max_tokens=100), cache_dir=str(tmp_path / "cache"),
    )  # fmt: skip
    _, writer = data._require_labels().models(ask=True)
    assert isinstance(writer, EngineModel)
    assert isinstance(writer.dialect, PlainDialect)
    assert (writer.dialect.habits.habit, writer.dialect.habits.certain) == ("always", True)
    assert engine.starts == 0


@EVERY
def test_stage_1_reads_the_teacher_as_it_wrote(build: Any, family: Family) -> None:
    data = build(family, Actor(family))
    data.prepare_data()
    data.setup("fit")
    (part,) = data._parts
    teacher: Any = load_tokenizer(part.teacher.name, "teacher")
    student: Any = load_tokenizer(data.student_tokenizer, "student")
    for number, document in part.documents.items():
        text = teacher.decode(document.teacher.token_ids)
        assert text.endswith(family.end)
        left, right = document.pairs[-1]
        assert student.convert_ids_to_tokens(document.student.token_ids[left]) == "<|im_end|>"
        assert teacher.convert_ids_to_tokens(document.teacher.token_ids[right]) == family.end
        paired = {student.decode(document.student.token_ids[left]) for left, _ in document.pairs}
        assert len(paired) > (5 if "add" in text else 0)
        prompt = teacher.decode(document.teacher.token_ids[: document.teacher.start])
        reply = teacher.decode(document.teacher.token_ids[document.teacher.start :])
        assert (SYSTEM in prompt) == (number % 2 == 0)
        assert ("add" in reply) == (number >= 4)
        assert reply.count(family.end) == 1


def test_a_teacher_is_named_as_on_the_hub(
    build: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = FAMILIES["always thinks, and the template opens the thought"]
    data = build(family, Actor(family))
    (tmp_path / "teacher" / "model.safetensors").write_bytes(b"weights")
    records = labelled(data)
    cached = tmp_path / "hub" / "models--someone--teacher"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text(40 * "0")
    shutil.copytree(tmp_path / "teacher", cached / "snapshots" / (40 * "0"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    named = labelled(build(family, Actor(family), name="someone/teacher"))
    assert {record.teacher for record in named} == {"someone/teacher"}
    assert [record.answer for record in named] == [record.answer for record in records]

    (cached / "snapshots" / (40 * "0") / "model.safetensors").unlink()  # the labels are enough from now on
    idle = Actor(family)
    again = build(family, idle, name="someone/teacher")
    assert labelled(again) == named
    again.setup("fit")
    assert idle.starts == 0


def test_a_teacher_whose_turns_nothing_ends_is_one_line(build: Any) -> None:
    family = Family(chat("\n"), thinks, "always", end="<|im_end|>", eos=None)
    with pytest.raises(UserError, match=r"teacher: nothing ends its turns: .*; add one of them"):
        build(family, Actor(family)).prepare_data()


def test_a_conversation_that_the_template_refuses_is_named_before_anything_is_sampled(build: Any) -> None:
    refuses = "{% if messages | length > 1 %}{{ raise_exception('one turn only') }}{% endif %}"
    family = Family(chat("<|im_end|>", before=refuses + DEFAULT_SYSTEM, opens=IF_OFF), thinks, "switch")
    engine = Actor(family)
    data = build(family, engine)
    prompt = data._labels.prompts()[1]
    prompt["messages"] = [*prompt["messages"], {"role": "assistant", "content": "2"}, *prompt["messages"]]
    with pytest.raises(UserError, match=r"refuses the turns user, assistant, user \(one turn only\); leave"):
        data.prepare_data()
    assert engine.prompts == []


TOOL = {"type": "function", "function": {"name": "add", "parameters": {}}}
OFFERS = "{% for t in tools or [] %}{{ t | tojson }}{% endfor %}"
CALLS = (
    "{% for c in m.tool_calls or [] %}<tool_call>{{ {'name': c.function.name, "
    "'arguments': c.function.arguments} | tojson }}</tool_call>{% endfor %}END"
)


def offering(build: Any, family: Family, engine: Actor) -> Any:
    """Data whose prompts all offer a tool."""
    data = build(family, engine)
    for prompt in data._labels.prompts():
        prompt["tools"] = [TOOL]
    return data


def test_a_teacher_that_knows_tools_gets_them_and_records_keep_them(build: Any, tmp_path: Path) -> None:
    template = chat("<|im_end|>", before=OFFERS, opens=IF_OFF)
    family = Family(template.replace("<|im_end|>\n", CALLS.replace("END", "<|im_end|>\n")), thinks, "switch")
    engine = Actor(family)
    data = offering(build, family, engine)
    records = labelled(data)
    assert len(records) == 8
    assert all(record.tools == [TOOL] for record in records)
    asked = [prompt for prompt in engine.prompts if "multi-step" not in prompt]
    assert all('"name": "add"' in prompt for prompt in asked)
    data.setup("fit")
    (part,) = data._parts
    teacher: Any = load_tokenizer(part.teacher.name, "teacher")
    student: Any = load_tokenizer(data.student_tokenizer, "student")
    for document in part.documents.values():
        assert '"name": "add"' in student.decode(document.student.token_ids)
        assert '"name": "add"' in teacher.decode(document.teacher.token_ids)
    assert build(family, engine).records_path() != data.records_path()


def test_replies_with_malformed_calls_are_rejected(build: Any) -> None:
    template = chat("<|im_end|>", before=OFFERS, opens=IF_OFF)
    template = template.replace("<|im_end|>\n", CALLS.replace("END", "<|im_end|>\n"))

    def calls(prompt: str, thought: str, answer: str) -> str:
        return answer if "multi-step" in prompt else '<tool_call>{"name": "sub"}</tool_call>'

    data = offering(build, Family(template, calls, "switch"), Actor(Family(template, calls, "switch")))
    for prompt in data._labels.prompts():
        prompt["reference"] = ""
    told = "kept no record of 8 prompts; .* rejected replies (had no answer, or were not well formed|did not)"
    with pytest.raises(UserError, match=told):
        data.prepare_data()
    (file,) = data.records_path().parent.glob("rejected-*.jsonl")
    assert "malformed_tool_call" in file.read_text()


def test_a_teacher_that_knows_no_tools_is_named_before_anything_is_sampled(build: Any) -> None:
    family = FAMILIES["switched by enable_thinking"]
    engine = Actor(family)
    with pytest.raises(UserError, match="teacher: its chat template knows no tools, but prompts offer some"):
        offering(build, family, engine).prepare_data()
    assert engine.prompts == []


def test_what_is_known_of_the_teacher_is_in_the_key(build: Any) -> None:
    family = FAMILIES["switched by enable_thinking"]
    engine = Actor(family)
    paths = set()
    for habit in ("probe", "switch", "always", "never"):
        data = build(family, engine, habit=habit)
        data.prepare_data()
        paths.add(data.records_path())
    assert len(paths) == 3  # the probe finds a switch


def test_words_that_are_not_used_are_not_in_the_key(build: Any) -> None:
    def key(name: str, **thinking: Any) -> Path:
        path = build(FAMILIES[name], Actor(FAMILIES[name]), **thinking).records_path()
        assert isinstance(path, Path)
        return path

    switch = "switched by enable_thinking"
    assert key(switch) == key(switch, marker="Answer:", instruction="Then write Answer:")
    assert key(switch) != key(switch, closing="</thought>")


def test_a_switch_that_makes_no_difference_is_refused(build: Any) -> None:
    family = FAMILIES["always thinks, and the template says nothing"]
    with pytest.raises(UserError, match=r"thinking\.habit: switch, but .* all values of enable_thinking"):
        build(family, Actor(family), habit="switch").prepare_data()

import pytest

from katlit.datamodules.conversations import Turn, read_conversation
from katlit.errors import UserError

ASK: Turn = {"role": "user", "content": "1+1"}


def reply(content: str) -> Turn:
    return {"role": "assistant", "content": content}


def read(*turns: object, **settings: bool) -> list[Turn]:
    return read_conversation(list(turns), "data.jsonl:7", "messages", **settings)


def test_turns_are_kept_and_other_keys_are_not() -> None:
    system = {"role": "system", "content": ""}
    assert read(system, {**ASK, "tool_calls": None, "weight": 1}) == [system, ASK]
    parts = [{"type": "text", "text": "1+1"}, {"type": "text", "text": "?"}]
    assert read({"role": "user", "content": parts}) == [{"role": "user", "content": "1+1\n?"}]


def test_the_developer_is_the_system() -> None:
    assert read({"role": "developer", "content": "s"}, ASK) == [{"role": "system", "content": "s"}, ASK]


def test_the_form_of_share_gpt() -> None:
    pairs = [("system", "s"), ("human", "1+1"), ("gpt", "2"), ("user", "and 2+2?")]
    assert read(*({"from": name, "value": text} for name, text in pairs)) == [
        {"role": "system", "content": "s"}, ASK, reply("2"), {"role": "user", "content": "and 2+2?"}
    ]  # fmt: skip


CALL = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "add"}}]}


@pytest.mark.parametrize(
    ("content", "left"),
    [
        ("2", "2"),
        ("use <think> tags", "use <think> tags"),
        ("Close it with </think>. Then go on", "Close it with </think>. Then go on"),
        ("<think>\n1+1 = 2\n</think>\n\n2", "2"),
        ("1+1 = 2\n</think>\n\n2", "2"),  # the template wrote <think>
        ("<think></think>2", "2"),
        ("<think>a</think>b<think>c</think>\n d", " d"),
        ("<think>a</think>\n<answer>\n2\n</answer>", "2"),
        ("<judge>\nj\n</judge>\n\n<think_on>\n<think>\nt\n</think>\n\n<answer>\n2\n</answer><|im_end|>", "2"),
        ("<judge>\nj\n</judge>\n\n<think_off>\n\n<answer>\n2\n</answer>", "2"),
    ],
)
def test_what_earlier_replies_thought_is_cut(content: str, left: str) -> None:
    once = read(ASK, reply(content), ASK)
    assert once[1]["content"] == left
    assert read(*once) == once


def test_a_reply_at_the_end_can_be_cut() -> None:
    assert read(ASK, reply("2"), cut_last_reply=True) == [ASK]
    assert read(ASK, cut_last_reply=True) == [ASK]
    for unread in (CALL, reply(""), reply("<think>\nnever closed")):  # what is cut need not be readable
        assert read(ASK, unread, cut_last_reply=True) == [ASK]
    with pytest.raises(UserError, match="ends with a turn of the assistant"):
        read(ASK, reply("2"), reply("or 2"), cut_last_reply=True)


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ([], "field 'messages' must be a non-empty list"),
        (["hi"], "field 'messages' must be a non-empty list"),
        ([ASK, reply("2")], "ends with a turn of the assistant.*columns.*cut_last_reply: true"),
        ([{"role": "system", "content": "s"}], "'messages' has no turn of the user"),
        (
            [{"role": "User", "content": "hi"}],
            "turn 1 of 'messages': its role is 'User'; give one of",
        ),
        ([{"role": "human", "content": "hi"}], "turn 1 of 'messages': its role is 'human'"),
        ([ASK, {"from": "bard", "value": "2"}, ASK], "turn 2 of 'messages': its role is 'bard'"),
        ([{"role": ["user"], "content": "hi"}], "turn 1 of 'messages': its role is"),
        ([{"from": [1], "value": "hi"}], "turn 1 of 'messages': its role is"),
        ([{"content": "hi"}], "turn 1 of 'messages': its role is None"),
        ([ASK, CALL, ASK], "turn 2 of 'messages': call 1, of 'add': its arguments must be a JSON object"),
        ([{"role": "user", "content": None}], "turn 1 of 'messages': its content must be text, found None"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "turn 1 .* its content must be text"),
        ([{"role": "user", "content": " "}], "turn 1 of 'messages': it is empty"),
        ([ASK, reply("<think>\nnever closed"), ASK], "turn 2 of 'messages': its <think> is never closed"),
        ([ASK, reply("<think>\nall\n</think>\n"), ASK], "turn 2 of 'messages': it is empty"),
    ],
)
def test_what_would_be_lost_is_refused_by_file_line_and_turn(turns: list[object], message: str) -> None:
    with pytest.raises(UserError, match=rf"^data\.jsonl:7: .*{message}"):
        read(*turns)

"""Responses as text: rendering, parsing, violations."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from katlit.errors import UserError
from katlit.text.chat_template import answer_of
from katlit.text.parser import MARK_SIGN as SIGN
from katlit.text.protocol import MARKERS, Mode, ParsedResponse, Response, Violation, parse, render
from katlit.text.tool_calls import ToolCallFault

MARKS = (*MARKERS, "<|im_start|>", "<|im_end|>")
PLAIN = st.text(st.sampled_from("abc <>/_|\n\r\t😀é"), max_size=12)
TEXTS = st.lists(st.one_of(PLAIN, st.text(max_size=4), st.sampled_from(MARKS)), max_size=6).map("".join)


def responses(texts: st.SearchStrategy[str]) -> st.SearchStrategy[Response]:
    on = st.builds(Response, texts, st.just(Mode.THINK_ON), texts, texts)
    return on | st.builds(Response, texts, st.just(Mode.THINK_OFF), texts)


def fields(found: ParsedResponse | Response) -> tuple[str, Mode | None, str, str | None]:
    return found.judge, found.mode, found.think, found.answer


def test_the_two_forms() -> None:
    on = Response("J", Mode.THINK_ON, "A", "T")
    assert render(on) == (
        "<judge>\nJ\n</judge>\n\n<think_on>\n<think>\nT\n</think>\n\n<answer>\nA\n</answer><|im_end|>"
    )
    off = Response("J", Mode.THINK_OFF, "A")
    assert render(off) == "<judge>\nJ\n</judge>\n\n<think_off>\n\n<answer>\nA\n</answer><|im_end|>"


def test_think_off_cannot_think() -> None:
    with pytest.raises(UserError, match="mode 'off' with thinking 'hm'"):
        Response("J", Mode.THINK_OFF, "A", "hm")


@given(responses(TEXTS))
def test_text_round_trip_or_a_violation(response: Response) -> None:
    text = render(response)
    forged = any(
        mark in content for mark in MARKS for content in (response.judge, response.think, response.answer)
    )
    for form in (text, text.removesuffix("<|im_end|>")):
        found = parse(form)
        assert found.valid == (not forged)
        assert forged or fields(found) == fields(response)


@given(responses(PLAIN))
def test_the_opening_may_stand_in_the_prompt(response: Response) -> None:
    assert fields(parse(render(response).removeprefix("<judge>\n"))) == fields(response)


@given(TEXTS, st.booleans())
def test_the_parser_never_raises(text: str, truncated: bool) -> None:
    found = parse(text, truncated=truncated)
    assert not (truncated and found.valid)


ON = "j\n</judge>\n\n<think_on>"
OFF = "j\n</judge>\n\n<think_off>"
THINK = "\n<think>\nt\n</think>"
ANSWER = "\n\n<answer>\na\n</answer>"
V = Violation
TABLE = [
    (ON + THINK + ANSWER, None, ("j", Mode.THINK_ON, "t", "a")),
    (OFF + ANSWER, None, ("j", Mode.THINK_OFF, "", "a")),
    (OFF + " \n<answer>a</answer>\n <|im_end|>\n", None, ("j", Mode.THINK_OFF, "", "a")),
    ("", V.MISSING_JUDGE_CLOSE, ("", None, "", None)),
    ("j", V.MISSING_JUDGE_CLOSE, ("j", None, "", None)),
    ("j\n<|im_end|>", V.MISSING_JUDGE_CLOSE, ("j", None, "", None)),
    ("j\n<think_on>" + THINK + ANSWER, V.MISSING_JUDGE_CLOSE, ("j", Mode.THINK_ON, "t", "a")),
    ("j\n<think_off>" + ANSWER, V.MISSING_JUDGE_CLOSE, ("j", Mode.THINK_OFF, "", "a")),
    ("j" + THINK + ANSWER, V.MISSING_JUDGE_CLOSE, ("j", None, "t", "a")),
    ("j" + ANSWER, V.MISSING_JUDGE_CLOSE, ("j\n", None, "", "a")),
    ("j\n</judge>", V.MISSING_MODE, ("j", None, "", None)),
    ("j\n</judge>\n" + THINK + ANSWER, V.MISSING_MODE, ("j", None, "t", "a")),
    ("j\n</judge>" + ANSWER, V.MISSING_MODE, ("j", None, "", "a")),
    ("j\n</judge> so <think_off>" + ANSWER, V.TEXT_BEFORE_MODE, ("j", Mode.THINK_OFF, "", "a")),
    ("j\n</judge> so", V.TEXT_BEFORE_MODE, ("j", None, "", None)),
    (ON + "<think_off>" + THINK + ANSWER, V.DUPLICATE_MODE, ("j", Mode.THINK_ON, "t", "a")),
    (OFF + "<think_off>" + ANSWER, V.DUPLICATE_MODE, ("j", Mode.THINK_OFF, "", "a")),
    (OFF + "\n<answer>\na<think_on>\n</answer>", V.DUPLICATE_MODE, ("j", Mode.THINK_OFF, "", "a<think_on>")),
    (ON + THINK + ANSWER + "<think_on>", V.DUPLICATE_MODE, ("j", Mode.THINK_ON, "t", "a")),
    (OFF + THINK + ANSWER, V.THINK_AFTER_THINK_OFF, ("j", Mode.THINK_OFF, "t", "a")),
    (ON + ANSWER, V.MISSING_THINK, ("j", Mode.THINK_ON, "", "a")),
    (ON + "<|im_end|>", V.MISSING_THINK, ("j", Mode.THINK_ON, "", None)),
    (ON + "\n<think>\nt", V.UNCLOSED_THINK, ("j", Mode.THINK_ON, "t", None)),
    (ON + "\n<think>\nt" + ANSWER, V.UNCLOSED_THINK, ("j", Mode.THINK_ON, "t\n", "a")),
    (ON + " so" + THINK + ANSWER, V.TEXT_BETWEEN, ("j", Mode.THINK_ON, "t", "a")),
    (ON + THINK + " so" + ANSWER, V.TEXT_BETWEEN, ("j", Mode.THINK_ON, "t", "a")),
    (OFF + " so" + ANSWER, V.TEXT_BETWEEN, ("j", Mode.THINK_OFF, "", "a")),
    (OFF + "<|im_end|>", V.MISSING_ANSWER, ("j", Mode.THINK_OFF, "", None)),
    (ON + THINK, V.MISSING_ANSWER, ("j", Mode.THINK_ON, "t", None)),
    (OFF + "\n\n<answer>\na", V.UNCLOSED_ANSWER, ("j", Mode.THINK_OFF, "", "a")),
    (OFF + "\n\n<answer>\na<|im_end|>", V.UNCLOSED_ANSWER, ("j", Mode.THINK_OFF, "", "a")),
    (OFF + ANSWER + " so", V.TEXT_AFTER_ANSWER, ("j", Mode.THINK_OFF, "", "a")),
    (OFF + ANSWER + "<|im_end|> so", V.TEXT_AFTER_ANSWER, ("j", Mode.THINK_OFF, "", "a")),
    ("j <think_x></answer>\n</judge><think_off>" + ANSWER, V.UNEXPECTED_MARKER,
     ("j <think_x></answer>", Mode.THINK_OFF, "", "a")),
    (ON + "\n<think>\nt<think></think>" + ANSWER, V.UNEXPECTED_MARKER, ("j", Mode.THINK_ON, "t<think>", "a")),
    (ON + THINK + THINK + ANSWER, V.UNEXPECTED_MARKER, ("j", Mode.THINK_ON, "t", "a")),
    (OFF + "</judge>" + ANSWER, V.UNEXPECTED_MARKER, ("j", Mode.THINK_OFF, "", "a")),
    (OFF + "\n<answer><|im_start|></answer>", V.UNEXPECTED_MARKER, ("j", Mode.THINK_OFF, "", "<|im_start|>")),
    (OFF + ANSWER + ANSWER, V.UNEXPECTED_MARKER, ("j", Mode.THINK_OFF, "", "a")),
    (OFF + ANSWER + "<|im_end|><|im_end|>", V.UNEXPECTED_MARKER, ("j", Mode.THINK_OFF, "", "a")),
    # the first of several, in the order of the sequence
    ("j\n</judge> so <think_off> so" + THINK, V.TEXT_BEFORE_MODE, ("j", Mode.THINK_OFF, "t", None)),
    (OFF + " so" + THINK + ANSWER + " so", V.TEXT_BETWEEN, ("j", Mode.THINK_OFF, "t", "a")),
]  # fmt: skip


@pytest.mark.parametrize(("text", "violation", "found"), TABLE)
def test_violations(text: str, violation: Violation | None, found: tuple) -> None:
    for form in (text, "<judge>\n" + text):
        parsed = parse(form)
        assert (parsed.violation, fields(parsed)) == (violation, found)
        assert parsed.valid == (violation is None)


def test_every_violation_is_in_the_table() -> None:
    calls = {Violation(fault.value) for fault in ToolCallFault}
    assert {violation for _, violation, _ in TABLE} == {*Violation, None} - {Violation.TRUNCATED} - calls


CUTS = re.split(r"(?<=>)|(?=<)|(?<=\n)", ON + THINK + ANSWER)  # a marker is one token, never half there


@pytest.mark.parametrize("length", range(len(CUTS) + 1))
def test_what_the_limit_cut_is_truncated(length: int) -> None:
    assert parse("".join(CUTS[:length]), truncated=True).violation is V.TRUNCATED


@pytest.mark.parametrize(
    ("text", "violation"),
    [
        ("j\n</judge> so <think_off>\n<answer>", V.TEXT_BEFORE_MODE),  # before the cut
        (OFF + "<|im_end|>", V.MISSING_ANSWER),  # the model ended it, not the limit
        (OFF + ANSWER, V.TRUNCATED),
    ],
)
def test_what_comes_before_the_cut_counts_first(text: str, violation: Violation) -> None:
    assert parse(text, truncated=True).violation is violation


@pytest.mark.parametrize(
    ("turn", "answer"),
    [
        ("just text\n", "just text\n"),
        (render(Response("j", Mode.THINK_OFF, " a\n")), " a\n"),
        (render(Response("j", Mode.THINK_ON, "a", "so <answer> is\n</answer>")), "a"),
        (render(Response("j", Mode.THINK_OFF, "<answer> </answer> </think>")), "<answer> </answer> </think>"),
        (render(Response("j", Mode.THINK_OFF, ""))[:-10], ""),
        (OFF + "\n\n<answer>\ncut", "cut"),
        (f"j\n{SIGN}</judge>\n\n{SIGN}<think_off>\n\n{SIGN}<answer>\nas decoded", "as decoded"),
        # cut before the answer
        ("<think>\nt", ""),
        (ON + "\n<think>\nso <answer> is", ""),
        (ON, ""),
        ("<judge>\nj", ""),
        ("\n<think>\nt\n</think>\n\nas R1 does\n", "as R1 does"),
        # only speaks of marks
        ("Put it in <answer>, after </think>.", "Put it in <answer>, after </think>."),
    ],
)  # fmt: skip
def test_past_turns_keep_their_answer(turn: str, answer: str) -> None:
    assert answer_of(turn) == answer

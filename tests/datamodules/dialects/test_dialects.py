from pathlib import Path
from typing import Any

import pytest

from katlit.datamodules.dialects.dialects import PlainDialect, choose_dialect
from katlit.datamodules.dialects.habits import ThinkingSettings
from katlit.datamodules.dialects.ours import KatlitDialect
from katlit.errors import UserError
from katlit.model.pretrained import load_tokenizer
from katlit.text.protocol import Mode, Protocol, Response

ASK = [{"role": "user", "content": "5 - 3"}]
ON = Response(judge="hm", mode=Mode.THINK_ON, think="5 - 3 = 2\n<answer>", answer="2")
OFF = Response(judge="hm", mode=Mode.THINK_OFF, answer="2")


@pytest.fixture(scope="module")
def plain(models_root: Path) -> PlainDialect:
    dialect = choose_dialect(load_tokenizer(str(models_root / "plain"), "model"), "plain")
    assert isinstance(dialect, PlainDialect)
    return dialect


def test_dialects_are_told_apart(models_root: Path, plain: PlainDialect) -> None:
    assert isinstance(
        choose_dialect(load_tokenizer(str(models_root / "ours"), "model"), "ours"), KatlitDialect
    )
    with pytest.raises(UserError, match=r"no-template: its tokenizer has no chat template"):
        choose_dialect(load_tokenizer(str(models_root / "no-template"), "model"), "no-template")
    with pytest.raises(UserError, match="ballot_template"):
        choose_dialect(plain.tokenizer, "plain", "Is it hard?")


@pytest.mark.parametrize("name", ["byte-small", "byte-large", "characters"])
@pytest.mark.parametrize("response", [ON, OFF])
def test_pieces_add_up_to_the_protocols_encoding(
    protocols: dict[str, Protocol], name: str, response: Response
) -> None:
    dialect = KatlitDialect(protocols[name])
    pieces = dialect.lay_out(response)
    ids = [token for piece in pieces for token in piece.token_ids]
    assert ids == protocols[name].encode_response(response, response.mode.value)
    texts = {piece.name: piece.text for piece in pieces}
    assert texts["<answer> content"] == "2"
    assert texts.get("<think> content", "") == response.think
    assert all(start is not None for piece in pieces for start in piece.starts)


def test_a_vote_of_ours_is_the_mode_and_the_judge_text(protocols: dict[str, Protocol]) -> None:
    dialect = KatlitDialect(protocols["byte-small"])
    ids = protocols["byte-small"].encode_response(ON, "auto")
    stop = next(index for index, token in enumerate(ids) if token in dialect.ballot_stop_ids)
    ballot = dialect.read_ballot(ids[: stop + 1], truncated=False)
    assert ballot is not None
    assert (ballot.mode, ballot.reason) == (Mode.THINK_ON, "hm")
    assert dialect.read_ballot(ids[:2], truncated=True) is None


def test_the_plain_prompt_follows_the_template(plain: PlainDialect) -> None:
    decode = plain.tokenizer.decode
    assert decode(plain.encode_prompt(ASK, "on")) == "[user]5 - 3\n[assistant]"
    assert decode(plain.encode_prompt(ASK, "off")) == "[user]5 - 3\n[assistant]<think>\n\n</think>\n\n"


@pytest.mark.parametrize(
    ("text", "mode", "think", "answer", "valid"),
    [
        ("<think>\nhm\n</think>\n\n2[end]", Mode.THINK_ON, "hm", "2", True),
        ("hm</think>2[end]", Mode.THINK_ON, "hm", "2", True),
        ("2[end]", Mode.THINK_OFF, "", "2", True),
        ("<think>\n\n</think>\n\n2[end]", Mode.THINK_OFF, "", "2", True),
        ("<think>hm[end]", Mode.THINK_ON, "<think>hm", None, False),
        ("[end]", Mode.THINK_OFF, "", None, False),
    ],
)
def test_reading_plain_replies(
    plain: PlainDialect, text: str, mode: Mode, think: str, answer: str | None, valid: bool
) -> None:
    ids = plain.tokenizer(text)["input_ids"]
    reply = plain.read(ids, "on", truncated=False)
    assert (reply.mode, reply.think, reply.answer, reply.valid) == (mode, think, answer, valid)
    assert not plain.read(ids, "on", truncated=True).valid


@pytest.mark.parametrize(
    ("text", "vote", "reason"),
    [
        ("Yes, it has two steps.", Mode.THINK_ON, "it has two steps."),
        ("no", Mode.THINK_OFF, ""),
        ("NO: one step", Mode.THINK_OFF, "one step"),
        ("**Yes**, it has two steps.", Mode.THINK_ON, "it has two steps."),
        ("<think>\n\n</think>\n\nyes.", Mode.THINK_ON, ""),
        ("Nobody knows", None, ""),
        ("I think yes", None, ""),
        ("", None, ""),
    ],
)
def test_plain_votes_are_read_strictly(
    plain: PlainDialect, text: str, vote: Mode | None, reason: str
) -> None:
    ballot = plain.read_ballot(plain.tokenizer(text)["input_ids"], truncated=False)
    assert (None if ballot is None else ballot.mode) is vote
    assert ballot is None or ballot.reason == reason
    assert plain.read_ballot(plain.tokenizer(text)["input_ids"], truncated=True) is None


def test_the_question_reaches_the_ballot(plain: PlainDialect) -> None:
    asked = plain.tokenizer.decode(plain.encode_ballot([*ASK, {"role": "assistant", "content": "{x}"}]))
    assert "Request:\n5 - 3" in asked


def laid_out(dialect: PlainDialect, response: Response) -> str:
    return str(
        dialect.tokenizer.decode([token for piece in dialect.lay_out(response) for token in piece.token_ids])
    )


def test_plain_responses_close_what_the_prompt_opened(plain: PlainDialect) -> None:
    assert laid_out(plain, ON) == f"<think>\n{ON.think}\n</think>\n\n2[end]"
    assert laid_out(plain, OFF) == "2[end]"


@pytest.mark.parametrize(
    ("text", "mode", "think", "answer", "valid"),
    [
        ("5 - 3 = 2\n\nFinal answer:\n2[end]", Mode.THINK_ON, "5 - 3 = 2", "2", True),
        ("Final answer:\n2[end]", Mode.THINK_OFF, "", "2", True),
        ("5 - 3 = 2\n\nFinal answer:\n[end]", Mode.THINK_ON, "5 - 3 = 2", None, False),
        ("It is 2.[end]", Mode.THINK_ON, "It is 2.", None, False),
    ],
)
def test_a_model_without_thoughts_is_asked_to_reason(
    plain: PlainDialect, text: str, mode: Mode, think: str, answer: str | None, valid: bool
) -> None:
    settings = ThinkingSettings("never")
    dialect = PlainDialect(plain.tokenizer, "{question}", thinking=settings)
    ids = plain.tokenizer(text)["input_ids"]
    reply = dialect.read(ids, "on", truncated=False)
    assert (reply.mode, reply.think, reply.answer, reply.valid) == (mode, think, answer, valid)
    assert not dialect.read(ids, "on", truncated=True).valid
    assert dialect.read(ids, "off", truncated=False).mode is Mode.THINK_OFF
    prompt = plain.tokenizer.decode(dialect.encode_prompt(ASK, "on"))
    assert prompt.startswith(f"[user]5 - 3\n\n{settings.instruction}\n[assistant]")
    assert laid_out(dialect, ON) == f"{ON.think}\n\nFinal answer:\n2[end]"
    assert laid_out(dialect, OFF) == "2[end]"


def test_a_template_that_opens_the_thinking_itself(models_root: Path) -> None:
    tokenizer: Any = load_tokenizer(str(models_root / "plain"), "model")
    tokenizer.chat_template = "{{ messages[-1]['content'] }}[assistant]<think>\n"
    dialect = choose_dialect(tokenizer, "opens")
    assert isinstance(dialect, PlainDialect)
    assert laid_out(dialect, ON) == f"{ON.think}\n</think>\n\n2[end]"
    assert laid_out(dialect, OFF) == "2[end]"
    closed = "[assistant]<think>\n\n</think>\n\n"
    assert tokenizer.decode(dialect.encode_prompt(ASK, "off")) == f"5 - 3{closed}"
    assert tokenizer.decode(dialect.encode_ballot(ASK)).endswith(closed)
    assert not dialect.read(tokenizer("still at it[end]")["input_ids"], "on", truncated=False).valid


def test_the_vocabulary_is_not_listed_for_each_record(
    plain: PlainDialect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes 80 ms where it has 150k entries."""
    listed: list[bool] = []
    for kind in (type(plain.tokenizer), type(plain.tokenizer.backend_tokenizer)):
        monkeypatch.setattr(kind, "get_vocab", lambda *_, **__: listed.append(True) or {})
    laid_out(plain, ON)
    plain.encode_judged(ASK, ON)
    assert not listed


def test_of_a_judged_response_only_the_judge_is_encoded(
    protocols: dict[str, Protocol], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thought may have thousands of tokens, and is encoded once more as what follows."""
    protocol = protocols["byte-small"]
    whole = protocol.encode_prompt(ASK) + protocol.encode_response(ON)
    encoded: list[str] = []
    monkeypatch.setattr(protocol.content, "encode", lambda text: encoded.append(text) or [])
    KatlitDialect(protocol).encode_judged(ASK, ON)
    assert encoded == [ON.judge]
    monkeypatch.undo()
    ids = KatlitDialect(protocol).encode_judged(ASK, ON)
    assert ids == whole[: len(ids)]
    assert ids[-1] == protocol.marker_ids["<think_on>"]

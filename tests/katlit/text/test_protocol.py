"""Prompts and responses as token ids, on tokenizers of several kinds.

430 lines because all tests run on the nine tokenizers built here.
"""

import copy
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, processors, trainers
from tokenizers import pre_tokenizers as pre
from transformers import AutoTokenizer, ByT5Tokenizer, PreTrainedTokenizerFast

from katlit.errors import UserError
from katlit.text.chat_template import FORCED_JUDGES, PAD, answer_of
from katlit.text.parser import TURN_END
from katlit.text.protocol import (
    MARKERS,
    Mode,
    Protocol,
    Response,
    Violation,
    parse,
    prepare_tokenizer,
    render,
)

QWEN = r"(?i:'s|'t)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
UNK, BERT_UNK, EOT, MINE = "<unk>", "[UNK]", "<eot>", "<mine>"
CORPUS = [
    "The user asks for reasoning\n\nThe user asks for a direct answer\n\n",
    "user assistant system\n\n1 + 23 = 24.\n\n\nhello world. ",
    "abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ 0123456789 <judge> </judge> </s> | [CLS] é 😀",
] * 5


def train(tokenizer: Tokenizer, trainer: Any) -> Tokenizer:
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def byte_level(*steps: Any, vocabulary: int = 400) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre.Sequence(list(steps))
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre.ByteLevel.alphabet()
    settings = {"vocab_size": vocabulary, "initial_alphabet": alphabet, "show_progress": False}
    return train(tokenizer, trainers.BpeTrainer(**settings))


def unigram(scheme: str) -> Tokenizer:
    """SentencePiece's manner; the end token is an ordinary piece of the model too, as in T5."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre.Metaspace(prepend_scheme=scheme)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme=scheme)
    settings = {"vocab_size": 200, "unk_token": UNK, "show_progress": False}
    train(tokenizer, trainers.UnigramTrainer(special_tokens=[UNK, "</s>"], **settings))
    tokenizer.add_special_tokens(["|"])  # a piece of the model before
    return tokenizer


def llama() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token=UNK, byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    settings = {"vocab_size": 330, "show_progress": False}
    form = json.loads(train(tokenizer, trainers.BpeTrainer(special_tokens=special, **settings)).to_str())
    del form["added_tokens"][3:]  # bytes are ordinary tokens
    return Tokenizer.from_str(json.dumps(form))


def word_piece() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token=BERT_UNK))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    settings = {"vocab_size": 200, "special_tokens": ["[UNK]", "[CLS]", "[SEP]"], "show_progress": False}
    train(tokenizer, trainers.WordPieceTrainer(**settings))
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    return tokenizer


def characters() -> Tokenizer:
    letters = ["[UNK]", *sorted({*"".join(CORPUS)})]
    tokenizer = Tokenizer(
        models.WordLevel({letter: i for i, letter in enumerate(letters)}, unk_token=BERT_UNK)
    )
    tokenizer.pre_tokenizer = pre.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    return tokenizer


BUILDERS: dict[str, Callable[[], Tokenizer]] = {
    "gpt2": lambda: byte_level(pre.ByteLevel(add_prefix_space=False)),
    "qwen": lambda: byte_level(
        pre.Split(Regex(QWEN), "isolated"), pre.ByteLevel(add_prefix_space=False, use_regex=False)
    ),
    "joins-all": lambda: byte_level(pre.ByteLevel(add_prefix_space=False, use_regex=False), vocabulary=500),
    "prefix-space": lambda: byte_level(pre.ByteLevel(add_prefix_space=True)),
    "unigram-always": lambda: unigram("always"),
    "unigram-first": lambda: unigram("first"),
    "llama": llama,
    "word-piece": word_piece,
    "characters": characters,
}
LOSSLESS = ("gpt2", "qwen", "joins-all", "prefix-space")
ALIKE = [name for name in BUILDERS if name != "joins-all"]  # its tokens cross the borders of contents
every = pytest.mark.parametrize("name", BUILDERS)
lossless = pytest.mark.parametrize("name", LOSSLESS)
thinking_modes = pytest.mark.parametrize("thinking", ["auto", "on", "off"])


@cache
def backend(name: str) -> str:
    return BUILDERS[name]().to_str()


def fresh(name: str, **special: str) -> Any:
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(backend(name)), **special)


@cache
def protocol(name: str) -> Protocol:
    tokenizer = fresh(name)
    prepare_tokenizer(tokenizer)
    return Protocol(tokenizer)


MARKS = (*MARKERS, "<|im_start|>", "<|im_end|>", "<|pad|>", "</s>", "<unk>", "[CLS]", "|")
TEXTS = st.lists(
    st.text(max_size=5) | st.sampled_from([*MARKS, "\n", "\n\n", " ", "\r\n", "😀", "the user", "."]),
    max_size=8,
).map("".join)
ON = st.builds(Response, TEXTS, st.just(Mode.THINK_ON), TEXTS, TEXTS)
RESPONSES = ON | st.builds(Response, TEXTS, st.just(Mode.THINK_OFF), TEXTS)
CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "1 + 2"},
    {"role": "assistant", "content": render(Response("so", Mode.THINK_ON, "3", "hm"))},
    {"role": "user", "content": "hello world\n\nagain"},
]
SIMPLE = [
    Response("so it is", Mode.THINK_ON, "the answer", "hello\n\nworld"),
    Response("so it is", Mode.THINK_OFF, "the answer"),
]


def fields(found: Any) -> tuple[str, Mode | None, str, str | None]:
    return found.judge, found.mode, found.think, found.answer


# --- preparing a tokenizer


@every
def test_markers_are_single_visible_tokens(name: str) -> None:
    tokenizer = fresh(name)
    old = tokenizer.get_vocab()
    assert prepare_tokenizer(tokenizer) == 11 == len(tokenizer) - len(old)
    assert old.items() <= tokenizer.get_vocab().items()
    assert [tokenizer.eos_token, tokenizer.pad_token] == [TURN_END, PAD]
    for marker in MARKERS:
        ids = tokenizer.encode(f"x{marker}\ny<|im_end|>", add_special_tokens=False)
        assert ids.count(protocol(name).marker_ids[marker]) == 1
        shown = tokenizer.decode(ids, skip_special_tokens=True)
        assert marker in shown
        assert "<|im_end|>" not in shown


@every
def test_saved_and_loaded_is_the_same(name: str, tmp_path: Path) -> None:
    tokenizer = protocol(name).tokenizer
    before = tokenizer.backend_tokenizer.to_str()
    assert prepare_tokenizer(tokenizer) == 0
    assert tokenizer.backend_tokenizer.to_str() == before
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert prepare_tokenizer(copy.deepcopy(loaded)) == 0
    assert loaded.backend_tokenizer.to_str() == before
    again = Protocol(loaded)
    for response in SIMPLE:
        assert again.encode_response(response) == protocol(name).encode_response(response)
    assert again.encode_prompt(CHAT, "on") == protocol(name).encode_prompt(CHAT, "on")
    text = tokenizer.apply_chat_template(CHAT, add_generation_prompt=True, tokenize=False)
    assert loaded.apply_chat_template(CHAT, add_generation_prompt=True, tokenize=False) == text
    ids = protocol(name).encode_response(SIMPLE[0])
    assert loaded.decode(ids, skip_special_tokens=True) == tokenizer.decode(ids, skip_special_tokens=True)


def test_tokens_that_are_there_already_keep_their_ids(tmp_path: Path) -> None:
    tokenizer = fresh("gpt2", bos_token=EOT, eos_token=EOT, unk_token=EOT, pad_token=TURN_END)
    tokenizer.add_tokens([AddedToken("<|im_start|>", normalized=True, rstrip=True)])
    tokenizer.add_special_tokens({"extra_special_tokens": ["<think>", "<other>"]})
    old = tokenizer.get_vocab()
    added = prepare_tokenizer(tokenizer)
    assert added == 8 == len(tokenizer) - len(old)  # seven markers and a pad token of its own
    assert old.items() <= tokenizer.get_vocab().items()
    assert tokenizer.pad_token == PAD
    tokenizer.save_pretrained(tmp_path)
    for each in (tokenizer, AutoTokenizer.from_pretrained(tmp_path)):
        assert each.decode(each.encode("<think><other>"), skip_special_tokens=True) == "<think>"
        assert "<think>" not in each.all_special_tokens
    ids = tokenizer.encode("<|im_start|> \n<eot>")
    assert [tokenizer.decode(token) for token in ids] == ["<|im_start|>", " ", "\n", "<eot>"]
    assert Protocol(tokenizer).parse_ids(ids).violation is Violation.UNEXPECTED_MARKER
    assert prepare_tokenizer(tokenizer) == 0
    kept = fresh("gpt2", pad_token=MINE)
    assert prepare_tokenizer(kept) == 10
    assert kept.pad_token == MINE


def test_unprepared_tokenizers_are_refused() -> None:
    with pytest.raises(UserError, match=r"tokenizer '': <judge>, .*<\|im_end\|> missing .*prepare_tokenizer"):
        Protocol(fresh("gpt2"))
    tokenizer = copy.deepcopy(protocol("gpt2").tokenizer)
    tokenizer.chat_template = "{{ messages }}"
    with pytest.raises(UserError, match="chat template is not katlit's"):
        Protocol(tokenizer)
    tokenizer.pad_token = tokenizer.eos_token
    with pytest.raises(UserError, match=r"pad_token '<\|im_end\|>'"):
        Protocol(tokenizer)
    with pytest.raises(UserError, match="ByT5Tokenizer is no fast tokenizer"):
        prepare_tokenizer(ByT5Tokenizer())


# --- the template


@pytest.mark.parametrize(
    ("thinking", "prefill"),
    [
        ("auto", ""),
        ("on", "The user asks for reasoning\n</judge>\n\n<think_on>"),
        ("off", "The user asks for a direct answer\n</judge>\n\n<think_off>"),
    ],
)
def test_golden_prompt(thinking: str, prefill: str) -> None:
    tokenizer = protocol("gpt2").tokenizer
    text = tokenizer.apply_chat_template(
        CHAT,
        add_generation_prompt=True,
        tokenize=False,
        **({} if thinking == "auto" else {"thinking": thinking}),
    )
    assert text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n1 + 2<|im_end|>\n"
        "<|im_start|>assistant\n3<|im_end|>\n<|im_start|>user\nhello world\n\nagain<|im_end|>\n"
        f"<|im_start|>assistant\n<judge>\n{prefill}"
    )
    assert protocol("gpt2").decode(protocol("gpt2").encode_prompt(CHAT, thinking)) == text


def test_the_template_refuses_other_modes_and_can_leave_the_reply_open() -> None:
    render_chat = protocol("gpt2").tokenizer.apply_chat_template
    with pytest.raises(Exception, match="thinking must be auto, on or off"):
        render_chat(CHAT, thinking="maybe", tokenize=False)
    assert render_chat(CHAT, tokenize=False).endswith("again<|im_end|>\n")


SWITCHES: list[tuple[dict[str, Any], str]] = [
    ({}, "auto"),
    ({"thinking": None, "enable_thinking": None, "reasoning_effort": None}, "auto"),
    ({"thinking": "auto"}, "auto"),
    ({"thinking": True}, "on"),
    ({"thinking": False}, "off"),
    ({"enable_thinking": True}, "on"),
    ({"enable_thinking": False}, "off"),
    ({"reasoning_effort": "none"}, "off"),
    ({"reasoning_effort": "minimal"}, "off"),
    ({"reasoning_effort": "low"}, "on"),
    ({"reasoning_effort": "xhigh"}, "on"),
    ({"reasoning_effort": "none", "enable_thinking": False}, "off"),  # as vLLM adds the second
    ({"reasoning_effort": "minimal", "enable_thinking": True}, "off"),
    ({"reasoning_effort": "high", "enable_thinking": True}, "on"),
    ({"reasoning_effort": "high", "enable_thinking": False}, "off"),
    ({"thinking": "off", "reasoning_effort": "high", "enable_thinking": True}, "off"),
    ({"thinking": "auto", "enable_thinking": False}, "auto"),
]


@pytest.mark.parametrize(("words", "thinking"), SWITCHES, ids=str)
@pytest.mark.parametrize("chat", [CHAT, CHAT[1:]], ids=["system", "no system"])
def test_the_switches_of_every_client(chat: Any, words: dict[str, Any], thinking: str) -> None:
    tokenizer = protocol("gpt2").tokenizer
    text = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False, **words)
    assert text == protocol("gpt2").decode(protocol("gpt2").encode_prompt(chat, thinking))


@given(st.lists(st.tuples(st.sampled_from(["system", "user", "assistant", "tool"]), TEXTS), max_size=4))
def test_jinja_and_python_agree(turns: list[tuple[str, str]]) -> None:
    messages = [{"role": role, "content": content} for role, content in turns]
    text = protocol("gpt2").tokenizer.apply_chat_template(
        [messages], add_generation_prompt=True, tokenize=False, thinking="on"
    )[0]
    parts = [
        f"<|im_start|>{role}\n{answer_of(content) if role == 'assistant' else content}<|im_end|>\n"
        for role, content in turns
    ]
    opening = f"<|im_start|>assistant\n<judge>\n{FORCED_JUDGES[Mode.THINK_ON]}\n</judge>\n\n<think_on>"
    assert text == "".join(parts) + opening
    if messages:
        assert protocol("gpt2").decode(protocol("gpt2").encode_prompt(messages, "on")) == text


@pytest.mark.parametrize("name", ALIKE)
@thinking_modes
def test_prompts_have_the_tokens_of_the_template(name: str, thinking: Any) -> None:
    tokenizer = protocol(name).tokenizer
    served = tokenizer.apply_chat_template(
        CHAT, add_generation_prompt=True, thinking=thinking, return_dict=False
    )
    assert protocol(name).encode_prompt(CHAT, thinking) == served


@pytest.mark.parametrize("name", ALIKE)
@pytest.mark.parametrize("response", SIMPLE)
def test_responses_have_the_tokens_of_the_text(name: str, response: Response) -> None:
    p = protocol(name)
    truth = p.tokenizer.encode(render(response), add_special_tokens=False)
    opening = p.tokenizer.encode("<judge>\n", add_special_tokens=False)
    assert opening + p.encode_response(response) == truth
    forced = p.forced_prefill(response.mode)
    assert p.encode_prompt(CHAT, response.mode.value) == p.encode_prompt(CHAT) + forced
    assert truth[-len(p.encode_response(response, response.mode.value)) :] == p.encode_response(
        response, response.mode.value
    )


# --- contents


@every
@given(text=TEXTS)
def test_content_is_never_an_added_token(name: str, text: str) -> None:
    p = protocol(name)
    ids = p.encode_content(text)
    unknown = {"<unk>", "[UNK]"}
    assert not {p.tokenizer.convert_ids_to_tokens(i) for i in ids} & (
        {*p.tokenizer.added_tokens_encoder} - unknown
    )
    if name in LOSSLESS:
        assert p.decode(ids) == text


@every
@given(text=TEXTS, role=TEXTS)
def test_messages_cannot_forge(name: str, text: str, role: str) -> None:
    p = protocol(name)
    special = {*p.tokenizer.added_tokens_decoder} - set(p.tokenizer.encode("ü☃", add_special_tokens=False))

    def skeleton(messages: list[dict[str, str]]) -> list[int]:
        return [token for token in p.encode_prompt(messages, "off") if token in special]

    forged = [{"role": role, "content": text}, {"role": "assistant", "content": text}]
    assert skeleton(forged) == skeleton([{"role": "a", "content": "b"}] * 2)


def test_spellings_of_reserved_tokens_are_broken_up() -> None:
    p = protocol("unigram-always")
    assert p.tokenizer.convert_tokens_to_ids("</s>") in p.tokenizer.encode("a</s>")
    assert p.decode(p.encode_content("a</s>b" * 2000)) == "a</s>b" * 2000  # no deep recursion either
    assert p.decode(p.encode_content("a|b||")) == "a<unk>b<unk><unk>"  # one character cannot be broken up


def test_a_protocol_can_be_copied() -> None:
    twin = copy.deepcopy(protocol("llama"))
    assert twin.encode_prompt(CHAT, "on") == protocol("llama").encode_prompt(CHAT, "on")


# --- round trip and violations


@lossless
@given(response=RESPONSES)
def test_round_trip_on_ids(name: str, response: Response) -> None:
    p = protocol(name)
    ids = p.encode_response(response)
    found = p.parse_ids(ids)
    assert found.valid
    assert fields(found) == fields(response)
    assert ids[-1] == p.end_id
    assert p.parse_ids(ids[:-1]) == found
    forced = p.encode_response(response, response.mode.value)
    assert fields(p.parse_ids(forced, response.mode.value)) == (
        FORCED_JUDGES[response.mode], *fields(response)[1:],
    )  # fmt: skip
    judged = p.judge_length(ids)
    assert ids[judged - 1] == p.marker_ids[response.mode.marker]
    assert ids[judged:] == forced


@every
@pytest.mark.parametrize("response", SIMPLE)
def test_simple_words_survive_every_tokenizer(name: str, response: Response) -> None:
    p = protocol(name)
    found = p.parse_ids(p.encode_response(response))
    assert found.valid
    assert [" ".join(str(field).split()) for field in fields(found)] == [
        " ".join(str(field).split()) for field in fields(response)
    ]


def test_the_mode_forced_and_the_mode_given_must_agree() -> None:
    with pytest.raises(ValueError, match="thinking is 'on', but the response's mode is 'off'"):
        protocol("gpt2").encode_response(SIMPLE[1], "on")


def test_line_breaks_that_a_model_joins_are_read_alike() -> None:
    p = protocol("qwen")
    joined = p.tokenizer.encode("so it is.\n</judge>\n\n<think_off>\n\n<answer>\n\n\n7.\n</answer>")
    assert p.tokenizer.convert_tokens_to_ids("ĊĊ") in joined
    assert fields(p.parse_ids(joined)) == ("so it is.", Mode.THINK_OFF, "", "\n\n7.")


@pytest.mark.parametrize("name", ["gpt2", "qwen", "joins-all"])
@given(
    parts=st.lists(
        st.sampled_from([*MARKERS, "<|im_start|>", "<|im_end|>", "\n", " a b", "x\n"]), max_size=14
    )
)
@pytest.mark.parametrize("truncated", [False, True])
def test_ids_and_text_have_the_same_violations(name: str, parts: list[str], truncated: bool) -> None:
    p = protocol(name)
    text = "".join(parts)
    if text.lstrip().startswith("<judge>"):  # opens a text, but never what is generated
        return
    ids = p.tokenizer.encode(text, add_special_tokens=False)
    assert p.parse_ids(ids, truncated=truncated) == parse(text, truncated=truncated)


@pytest.mark.parametrize(
    ("text", "thinking", "violation"),
    [
        ("\n\n<answer>\na\n</answer><|im_end|>", "off", None),
        ("\n<think>\nt\n</think>\n\n<answer>\na\n</answer>", "on", None),
        ("\n<think>\nt\n</think>\n\n<answer>\na\n</answer>", "off", Violation.THINK_AFTER_THINK_OFF),
        ("\n\n<answer>\na\n</answer><|im_end|>", "on", Violation.MISSING_THINK),
        ("\n<think_on>\n<think>", "on", Violation.DUPLICATE_MODE),
        ("", "off", Violation.MISSING_ANSWER),
    ],
)
def test_forced_modes_are_read_from_after_the_marker(text: str, thinking: Any, violation: Any) -> None:
    found = protocol("gpt2").parse_ids(protocol("gpt2").tokenizer.encode(text), thinking)
    assert found.violation is violation
    assert (found.judge, found.mode) == (FORCED_JUDGES[Mode(thinking)], Mode(thinking))


def test_a_special_token_out_of_place_is_a_violation() -> None:
    p = protocol("gpt2")
    ids = p.encode_response(SIMPLE[1])
    found = p.parse_ids([*ids[:-3], p.pad_id, *ids[-3:]])
    assert found.violation is Violation.UNEXPECTED_MARKER
    assert found.answer == "the answer<|pad|>"


def test_the_judge_segment_without_a_mode_is_everything() -> None:
    p = protocol("gpt2")
    assert p.judge_length(p.encode_content("never comes to it")) == len(p.encode_content("never comes to it"))
    assert p.judge_length([]) == 0

"""Small tokenizers of several kinds, bare or prepared for the protocol."""

import json
from collections.abc import Callable
from functools import cache
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, processors, trainers
from tokenizers import pre_tokenizers as pre
from transformers import PreTrainedTokenizerFast

from katlit.text.protocol import Mode, Protocol, Response, prepare_tokenizer, render

QWEN = r"(?i:'s|'t)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
UNK, BERT_UNK = "<unk>", "[UNK]"
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

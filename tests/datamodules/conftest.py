"""Tokenizers of several kinds, built here, and an engine that answers by rule."""

import re
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from katlit.batch import Prompt
from katlit.datamodules.labelling.engine_model import EngineModel
from katlit.engines.base import Completion, RolloutEngine, SamplingParameters
from katlit.rewards import AccuracyReward, Reward
from katlit.text.protocol import Mode, Protocol, Response, prepare_tokenizer

UNKNOWN = "[UNK]"
CORPUS = [
    "Calculate 5 - 3 + 7.", "5 - 3 = 2\n2 + 7 = 9", "Now, how many legs are there if you have 3 bees?",
    "the answer is 9\ncheck", "café naïve 😀 über", "This needs several steps of reasoning.",
    "answer directly user",
] * 4  # fmt: skip


def byte_level(vocab_size: int, corpus: Sequence[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(corpus, trainer)
    return tokenizer


def character_level(corpus: Sequence[str]) -> Tokenizer:
    letters = sorted({*"".join(corpus), *map(chr, range(32, 127)), "\n"})
    vocabulary = {letter: index for index, letter in enumerate([UNKNOWN, *letters])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(pattern="", behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return tokenizer


def unigram(corpus: Sequence[str]) -> Tokenizer:
    """SentencePiece's manner: `▁` for spaces, one put before the text, compatibility normalisation."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    size = max(150, 2 * len({*"".join(corpus)}))
    trainer = trainers.UnigramTrainer(
        vocab_size=size, unk_token=UNKNOWN, special_tokens=[UNKNOWN], show_progress=False
    )
    tokenizer.train_from_iterator(corpus, trainer)
    return tokenizer


def words() -> Tokenizer:
    """Loses white space and case: the least faithful of all."""
    tokenizer = Tokenizer(
        models.WordLevel({UNKNOWN: 0, "the": 1, "answer": 2, "calculate": 3}, unk_token=UNKNOWN)
    )
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


def byte_level_composing(corpus: Sequence[str]) -> Tokenizer:
    """Qwen's manner: composes characters first, and reports offsets without white space."""
    tokenizer = byte_level(330, corpus)
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    return tokenizer


def byte_fallback() -> Tokenizer:
    """Llama 2's manner: `▁` put before the text by the normalizer, bytes for what it cannot spell."""
    letters = [f"<0x{value:02X}>" for value in range(256)] + sorted({*"".join(CORPUS)} - {" ", "\n"}) + ["▁"]
    vocabulary = {token: index for index, token in enumerate([UNKNOWN, *letters, "▁t", "he", "▁the", "er"])}
    merges = [("▁", "t"), ("h", "e"), ("▁t", "he"), ("e", "r")]
    tokenizer = Tokenizer(
        models.BPE(vocab=vocabulary, merges=merges, unk_token=UNKNOWN, byte_fallback=True, fuse_unk=True)
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return tokenizer


def word_piece(corpus: Sequence[str]) -> Tokenizer:
    """BERT's manner: loses white space, case and accents."""
    tokenizer = Tokenizer(models.WordPiece(unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(cleanup=False)
    letters = [chr(code) for code in range(33, 127)]
    size = max(300, 3 * len({*"".join(corpus)}))
    trainer = trainers.WordPieceTrainer(
        vocab_size=size, special_tokens=[UNKNOWN], initial_alphabet=letters, show_progress=False
    )
    tokenizer.train_from_iterator(corpus, trainer)
    return tokenizer


BUILDERS: dict[str, Callable[[Sequence[str]], Tokenizer]] = {
    "byte-small": lambda corpus: byte_level(270, corpus),
    "byte-large": lambda corpus: byte_level(400, corpus),
    "characters": character_level,
    "unigram": unigram,
    "words": lambda _: words(),
    "byte-composing": byte_level_composing,
    "byte-fallback": lambda _: byte_fallback(),
    "word-piece": word_piece,
}


@cache
def built(name: str) -> str:
    """Once a run: the trainer of WordPiece breaks ties as it likes, and the vocabulary differs each time."""
    return BUILDERS[name](CORPUS).to_str()


def build_fast(name: str) -> Any:
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(built(name)))


@pytest.fixture(scope="session")
def fast() -> Callable[[str], Any]:
    return build_fast


@pytest.fixture(scope="session")
def zoo() -> dict[str, Tokenizer]:
    return {name: Tokenizer.from_str(built(name)) for name in BUILDERS}


@pytest.fixture(scope="session")
def train() -> Callable[[str, Sequence[str]], Tokenizer]:
    """Build one of them from other texts, of whose letters none is unknown to it then."""
    return lambda name, corpus: BUILDERS[name](corpus)


def prepared(name: str) -> Any:
    tokenizer = build_fast(name)
    prepare_tokenizer(tokenizer)
    return tokenizer


@pytest.fixture(scope="session")
def protocols() -> dict[str, Protocol]:
    return {name: Protocol(prepared(name)) for name in BUILDERS}


PLAIN_TEMPLATE = (
    "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}\n{% endfor %}[assistant]"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
)


@pytest.fixture(scope="session")
def models_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directories with tokenizers: `ours`, `ours-characters`, `plain`, `no-template`."""
    root = tmp_path_factory.mktemp("models")
    prepared("byte-small").save_pretrained(root / "ours")
    prepared("characters").save_pretrained(root / "ours-characters")
    plain = build_fast("byte-large")
    plain.add_special_tokens({"eos_token": "[end]"})
    plain.save_pretrained(root / "no-template")
    plain.chat_template = PLAIN_TEMPLATE
    plain.save_pretrained(root / "plain")
    return root


class RuleEngine(RolloutEngine):
    """Adds up the numbers of the prompt, right where `right(question, mode, seed)` says so.

    Speaks our protocol with the tokenizer of whatever directory it was started with.
    """

    def __init__(
        self,
        right: Callable[[str, Mode, int], bool] = lambda question, mode, seed: True,
        wants: Callable[[str], Mode] = lambda question: Mode.THINK_OFF,
        context: int = 4096,
    ) -> None:
        self.right = right
        self.wants = wants
        self.context = context
        self.requests = 0
        self.started: list[str] = []
        self.closed = 0

    def start(self, model_directory: Path) -> None:
        from transformers import AutoTokenizer

        self.started.append(model_directory.name)
        self.protocol = Protocol(AutoTokenizer.from_pretrained(model_directory))

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: SamplingParameters,
        seeds: Sequence[int] | None = None,
        finished: Callable[[int, Completion], None] | None = None,
    ) -> list[Completion]:
        self.requests += len(prompts)
        return [
            self._one(list(prompt), sampling, seed) for prompt, seed in zip(prompts, seeds or [], strict=True)
        ]

    def _one(self, prompt: list[int], sampling: SamplingParameters, seed: int) -> Completion:
        question = re.findall(r"\d[\d+]*", self.protocol.decode(prompt))[-1]
        forced = [mode for mode in Mode if self.protocol.marker_ids[f"<think_{mode.value}>"] in prompt]
        mode = forced[0] if forced else self.wants(question)
        total = sum(map(int, question.split("+")))
        answer = str(total if self.right(question, mode, seed) else total + 1)
        think = f"{question} = {answer}" + seed % 3 * " ok" if mode is Mode.THINK_ON else ""
        reply = Response(judge=f"because of {question}", mode=mode, think=think, answer=answer)
        ids = self.protocol.encode_response(reply, mode.value if forced else "auto")
        stops = [index for index, token in enumerate(ids) if token in sampling.stop_token_ids]
        ids = ids[: stops[0] + 1]
        if len(ids) > sampling.max_tokens:
            return Completion(ids[: sampling.max_tokens], [0.0] * sampling.max_tokens, "length")
        return Completion(ids, [0.0] * len(ids), "stop")

    def sync_weights(self, named_weights: Iterable[tuple[str, Tensor]]) -> None:
        raise NotImplementedError

    def close(self) -> None:
        self.closed += 1

    @property
    def max_context(self) -> int:
        return self.context


def addition(question: str, reference: str | None = None) -> Prompt:
    total = str(sum(map(int, question.split("+"))))
    return Prompt(
        id=question,
        messages=[{"role": "user", "content": question}],
        reference=total if reference is None else reference,
        verifier="match",
        domain="sums",
        difficulty=question.count("+"),
        metadata={},
    )


@pytest.fixture
def sums() -> list[Prompt]:
    return [addition(f"{left}+{right}") for left in range(1, 6) for right in range(1, 5)]


@pytest.fixture
def make_engine() -> type[RuleEngine]:
    return RuleEngine


@pytest.fixture
def make_prompt() -> Callable[..., Prompt]:
    return addition


@pytest.fixture
def accuracy() -> Reward:
    return AccuracyReward()


@pytest.fixture
def talk(models_root: Path) -> Callable[[Any], EngineModel]:
    return lambda engine: EngineModel(str(models_root / "ours"), engine, SamplingParameters(max_tokens=200))


@pytest.fixture
def hard() -> Callable[[str], Mode]:
    return lambda question: Mode.THINK_ON if question.startswith(("4", "5")) else Mode.THINK_OFF

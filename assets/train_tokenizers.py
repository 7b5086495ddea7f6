"""Trains the two small tokenizers on the questions and solutions of the two tasks.

`python assets/train_tokenizers.py` writes `assets/tokenizers/teacher` and `assets/tokenizers/student`. Both
are byte-level BPE with one token a digit; their vocabularies and word boundaries differ on purpose.
"""

from pathlib import Path

import yaml
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from katlit.datamodules.pretraining.solutions import result, solve, thinking
from katlit.datamodules.pretraining.worked import JUDGES
from katlit.datamodules.sources.tasks import TaskFamily, task_entries
from katlit.text.protocol import FORCED_JUDGES

FOLDER = Path(__file__).parent
QUESTIONS = 2000  # a level
# A digit; an operator with its spaces; a word with the space before it (teacher) or after it (student).
PATTERNS = {"teacher": r"\d| ?[^\s\w]+ ?| ?[^\W\d]+|\s+", "student": r"\d| ?[^\s\w]+ ?|[^\W\d]+ ?|\s+"}
VOCABULARIES = {"teacher": 560, "student": 480}


def corpus() -> list[str]:
    """Questions, solutions and judge texts of the levels in `teacher.yaml`."""
    levels = yaml.safe_load((FOLDER / "teacher.yaml").read_text())["data"]["init_args"]["levels"]
    texts = ["user", "assistant", *JUDGES.values(), *FORCED_JUDGES.values()] * QUESTIONS
    for level in levels:
        task = TaskFamily(**level["task"])
        entries = task_entries(task, "tokenizer")
        for _ in range(QUESTIONS):
            entry = next(entries)
            lines = solve(task.dataset, entry["metadata"])
            texts += [entry["question"], f"Steps:\n{thinking(lines)}\nAnswer: {result(lines)}"]
    return texts


def train(texts: list[str], pattern: str, vocabulary: int) -> PreTrainedTokenizerFast:
    """Train one tokenizer that can spell any text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False)


if __name__ == "__main__":
    texts = corpus()
    for name, pattern in PATTERNS.items():
        train(texts, pattern, VOCABULARIES[name]).save_pretrained(FOLDER / "tokenizers" / name)

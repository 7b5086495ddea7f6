"""Which questions are copies of others: the rules, and no comparison left out by MinHash."""

from random import Random

import pytest

from katlit.batch import Prompt
from katlit.datamodules.cleaning.duplicates import exact_duplicates, near_duplicates
from katlit.datamodules.cleaning.leaks import leaks
from katlit.datamodules.cleaning.words import Question, common, words_of

EGGS = (
    "A farmer collects 12 eggs from each of her hens every week and sells them in boxes of 6 at the market. "
    "How many boxes does she sell in a week if she has 7 hens?"
)


def question(text: str, reference: str = "", number: int = 0, **more: object) -> Question:
    turns = [{"role": "user", "content": text}]
    known = {"verifier": "match", "domain": "", "difficulty": 0, "metadata": {}}
    prompt = {"id": f"q{number}", "messages": turns, "reference": reference} | known | more
    return Question.of(prompt)  # type: ignore[arg-type]


def near(one: str, other: str, references: tuple[str, str] = ("", "")) -> bool:
    pair = [question(text, reference) for text, reference in zip((one, other), references, strict=True)]
    return near_duplicates(pair, 0.8) != {}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("How MANY\n apples?", ("how", "many", "apples")),
        ("1,250.50 + x", ("1250.50", "+", "x")),
        ("x - 1, y", ("x", "-", "1", "y")),
        ("１２", ("12",)),
        ("何個ですか", ("何", "個", "で", "す", "か")),
        ("snake_case", ("snake", "case")),
        ("...", ()),
        (".5 + 1", (".5", "+", "1")),
        ("10² ≠ 2½", ("10", "^", "2", "≠", "2", "1", "⁄", "2")),
        ("5! + 3", ("5", "!", "+", "3")),
        ("f'(2)", ("f", "'", "(", "2", ")")),
        ("3:4", ("3", ":", "4")),
        ("x != y", ("x", "!=", "y")),
        ("17 − 5؟", ("17", "-", "5")),
    ],
)
def test_words(text: str, words: tuple[str, ...]) -> None:
    assert words_of(text) == words


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("What is 3 + 5?", "  what is 3 + 5 ", True),
        ("What is 3 + 5?", "What is 3 - 5?", False),
        ("What is 3 + 5?", "What is 3 + 6?", False),
        ("Say “hi”", "say 'HI'!", True),
    ],
)
def test_exact_duplicates(one: str, other: str, same: bool) -> None:
    assert exact_duplicates([question(one), question(other)]) == ({1: 0} if same else {})


def test_another_reference_makes_the_same_words_another_question() -> None:
    pairs = [question("Solve it", reference) for reference in ("1", "2", "", "2")]
    assert exact_duplicates(pairs) == {2: 0, 3: 1}


def test_a_system_turn_is_no_part_of_the_question_but_makes_another_prompt() -> None:
    told = question(EGGS)
    system = {"role": "system", "content": "You are a very careful tutor who always explains each step."}
    told.prompt["messages"].insert(0, system)
    asked = question(EGGS)
    assert Question.of(told.prompt).words == asked.words
    assert exact_duplicates([asked, Question.of(told.prompt)]) == {}
    assert leaks([asked], [Question.of(told.prompt)], 0.7) == {0: (0, 1.0)}


def test_a_question_with_other_tools_is_another() -> None:
    tool = {"type": "function", "function": {"name": "add", "parameters": {}}}
    assert exact_duplicates([question(EGGS), question(EGGS, tools=[tool])]) == {}


def test_the_first_of_several_stays() -> None:
    assert exact_duplicates([question(EGGS)] * 3) == {1: 0, 2: 0}
    alike = [question(f"{EGGS} {word}") for word in ("", "Please", "Thanks")]
    assert {place: of for place, (of, _) in near_duplicates(alike, 0.8).items()} == {1: 0, 2: 0}


@pytest.mark.parametrize(
    ("other", "alike"),
    [
        (f"Please answer. {EGGS}", True),
        (EGGS.replace("farmer", "woman"), True),
        (EGGS.replace("every week", "week every"), True),
        (EGGS.replace("12", "13"), False),
        (EGGS.replace("12 eggs", "12 eggs of 3"), False),
        (EGGS[: len(EGGS) // 2], False),
    ],
)
def test_near_duplicates(other: str, alike: bool) -> None:
    assert near(EGGS, other) is alike


@pytest.mark.parametrize(
    ("references", "alike"), [(("14", "14"), True), (("14", "15"), False), (("14", ""), True)]
)
def test_another_reference_is_another_question(references: tuple[str, str], alike: bool) -> None:
    assert near(EGGS, EGGS.replace("How many boxes", "How many more boxes"), references) is alike


def test_what_a_template_brings_does_not_count() -> None:
    template = "Your task is to count how many legs there are in total, given this list of animals: "
    animals = ["cow", "cat", "dog", "hen", "ant", "bee", "fly", "pig", "yak", "emu", "elk", "owl"]
    listed = [f"3 {one}, 2 {animals[n - k]}" for n, one in enumerate(animals) for k in range(1, 5)]
    pairs = [question(f"{template} {animals}") for animals in listed]
    assert near_duplicates(pairs, 0.8) == {}
    assert near_duplicates([*pairs, question(f"Please. {template} {listed[0]}")], 0.8).keys() == {len(pairs)}
    assert leaks(pairs, [question(f"{template} 3 ram, 2 emu")], 0.7) == {}
    assert leaks(pairs, [question(f"{template} {listed[-1]}")], 0.7) == {len(pairs) - 1: (0, 1.0)}


def test_common_is_what_a_hundredth_and_at_least_ten_share() -> None:
    shared = question("a b").shingles(2)
    assert len(shared) == 1
    assert common([]).tolist() == common([shared] * 9).tolist() == []
    assert common([shared] * 10).tolist() == shared.tolist()
    many = [shared] * 19 + [question(f"c {n}").shingles(2) for n in range(1981)]
    assert common(many).tolist() == []


@pytest.mark.parametrize(
    ("text", "size", "number"),
    [("", 2, 0), ("a", 2, 1), ("a b", 2, 1), ("a b a b", 2, 2), ("a b c d e", 5, 1), ("a b b a", 1, 2)],
)
def test_runs_of_words(text: str, size: int, number: int) -> None:
    assert len(question(text).shingles(size)) == number


def test_a_run_has_an_order() -> None:
    one, other = (question(text).shingles(2).tolist() for text in ("a b", "b a"))
    assert one != other


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (EGGS, True),
        (f"Solve in 2 steps.\n\n{EGGS.upper()}\n\nAnswer in a box.", True),
        (EGGS.replace("farmer", "woman"), True),
        (EGGS.replace("12", "13"), False),
        ("A farmer collects 12 eggs from each of her 7 hens and needs boxes of 6. How many?", False),
    ],
)
def test_leaks(text: str, found: bool) -> None:
    evaluation = [question("Who are you?"), question(EGGS)]
    assert {place: of for place, (of, _) in leaks([question(text)], evaluation, 0.7).items()} == (
        {0: 1} if found else {}
    )


@pytest.mark.parametrize(
    ("text", "held", "found"),
    [
        ("Compute 9 - 6 - 4.", "Compute 9 - 6.", False),
        ("Please compute 9 - 6.", "Compute 9 - 6", False),
        ("compute 9 - 6", "Compute 9 - 6!", True),
        ("Why is the sky blue?", "Why?", False),
        ("Why is the sky blue?", "...", False),
        ("What is it?", "What is it", True),
        ("", "What is it", False),
    ],
)
def test_short_questions_leak_as_a_whole(text: str, held: str, found: bool) -> None:
    assert bool(leaks([question(text)], [question(held)], 0.7)) is found


def test_min_hash_leaves_no_pair_out() -> None:
    draw = Random(0)
    vocabulary = [f"w{chr(97 + n // 26)}{chr(97 + n % 26)}" for n in range(400)]
    texts = [draw.choices(vocabulary, k=draw.randint(20, 60)) for _ in range(300)]
    copies = []
    for words in texts:
        place = draw.randrange(len(words))
        copies.append([*words[:place], draw.choice(vocabulary), *words[place + 1 :]])
    questions = [question(" ".join(words)) for words in texts + copies]
    shingles = [set(one.shingles(2).tolist()) for one in questions]
    wanted = {
        300 + n: n
        for n in range(300)
        if len(shingles[n] & shingles[300 + n]) / len(shingles[n] | shingles[300 + n]) >= 0.8
    }
    assert len(wanted) > 250
    assert {place: of for place, (of, _) in near_duplicates(questions, 0.8).items()} == wanted


def test_prompts_are_compared_by_all_their_turns() -> None:
    prompt: Prompt = question("And with 8?").prompt
    first = prompt | {"messages": [{"role": "user", "content": EGGS}, *prompt["messages"]]}
    assert exact_duplicates([Question.of(prompt), Question.of(first)]) == {}  # type: ignore[arg-type]

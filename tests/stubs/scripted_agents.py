"""Agents as an OpenAI-compatible server has them: what each says follows from its request alone."""

import json
import re
from typing import Any

from faulty_chat import content_hash

SCRIPT = {"model": "the-model"}


def role_of(body: dict[str, Any]) -> str:
    """Which agent is asked, by the words of the default templates."""
    content = body["messages"][-1]["content"]
    marks = {
        "Classify the request": "tagger", "Judge a solution": "critic", "Does this question need": "writer",
        "Below is a draft": "thinker", "Work out a solution": "solver",
    }  # fmt: skip
    return next((role for mark, role in marks.items() if mark in content), "answerer")


def question_of(body: dict[str, Any]) -> str:
    """The sum that is asked for."""
    return str(re.findall(r"\d+\+\d+", body["messages"][-1]["content"])[0])


def total(question: str) -> int:
    return sum(map(int, question.split("+")))


def reply(body: dict[str, Any]) -> dict[str, Any]:
    """Right and wrong sums, readable and other scores, by chance that the request decides."""
    role, question, chance = role_of(body), question_of(body), content_hash(body)
    if role == "tagger":
        hard = "4" in question
        tags = {"needs_reasoning": hard, "domain": "math", "difficulty": 2 + hard, "checkable": True}
        return {"content": "no tags" if chance % 5 == 0 else json.dumps(tags | {"how": "text"})}
    if role == "critic":
        judged = re.findall(r"<reasoning>.*</answer>", body["messages"][-1]["content"], re.DOTALL)
        chance = content_hash({"judged": judged, "seed": body["seed"]})  # whatever the rubric is
        score = json.dumps({"score": 3 + chance % 3, "reasons": f"No {chance % 100}."})
        return {"content": "Score: 5" if chance % 4 == 0 else score}
    if role == "writer":
        yes = 'begins with "Yes' in body["messages"][-1]["content"]
        words = ["It asks for a sum.", "It is 7 = 7.", "so"]
        return {"content": f"{'Yes' if yes else 'No'}, {words[chance % 3]}"}
    answer = total(question) + (chance % 3 == 0)
    if role == "solver":
        return {"content": f"It is {answer}."}
    if role == "thinker":
        kinds = {0: "да это сумма чисел", 1: "The draft is right."}
        thought = kinds.get(chance % 6, f"{question} is {answer}.")
        cut = {"finish_reason": "length"} if chance % 13 == 0 else {}
        if "chat_template_kwargs" in body:  # a model that thinks by itself
            return {"content": str(answer), "reasoning": thought} | cut
        return {"content": f"{thought}\nFinal answer:\n{answer}"} | cut
    return {"content": str(answer)}

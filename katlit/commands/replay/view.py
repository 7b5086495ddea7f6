"""A recorded rollout as text; whatever a model wrote is escaped and marked as its own."""

import math
from collections.abc import Iterable, Sequence

from katlit.advantages import AdvantageEstimator
from katlit.commands.replay.again import first_difference
from katlit.commands.replay.group import Explained
from katlit.engines.base import Completion
from katlit.rollout.record import RolloutRecord
from katlit.text.printable import escaped, escaped_lines
from katlit.text.protocol import Mode, Protocol

EQUAL = 1e-6  # a float32 advantage and the same one computed beside fewer others


def rollout_text(record: RolloutRecord, protocol: Protocol) -> str:
    """What the rollout is, its prompt and its tokens."""
    ids, number = record["token_ids"], record["judge_tokens"]
    forced = record["thinking"] != "auto"
    mode = "no mode" if record["mode"] is None else f"think-{record['mode']}"
    prompt = record["prompt_ids"]
    prefill = protocol.forced_prefill(Mode(record["thinking"])) if forced else []
    trained = "not trained on" if record["advantages"] is None else "trained on"
    marks = (", forced" if forced else "", ", cut" if record["truncated"] else "")
    parts = [
        f"rollout {record['step']}/{escaped(record['prompt_id'])}/{record['index']}",
        f"  {trained} after {record['step']} optimizer steps, in epoch {record['epoch']}",
        f"  sampled from the weights after {record['policy_step']}",
        f"  run seed {record['run_seed']}, request seed {record['seed']}",
        f"  {mode}{marks[0]}; {len(ids)} tokens{marks[1]}",
        f"  first violation of the protocol: {escaped(record['violation'] or 'none')}",
        "",
        f"prompt, {len(prompt)} tokens" + (f", the last {len(prefill)} force the mode" if forced else ""),
        escaped_lines(protocol.decode(prompt)),
    ]
    for name, part in (("judge", ids[:number]), ("answer", ids[number:])):
        parts += ["", f"{name} segment, {len(part)} tokens", escaped_lines(protocol.decode(part))]
    return "\n".join([*parts, "", *_token_table(record, protocol)])


def copies_text(record: RolloutRecord, copies: Sequence[RolloutRecord]) -> str:
    """Which of several it is; a prompt is repeated where ranks would have unequally many."""
    lines = [f"the step has the prompt {len(copies)} times; --copy=N shows the rollout of another one"]
    for number, one in enumerate(copies):
        mark = "*" if one is record else " "
        lines.append(f"{mark} {number:>3}  rank {one['rank']}, group {one['group']}")
    return "\n".join(lines)


def _token_table(record: RolloutRecord, protocol: Protocol) -> Iterable[str]:
    yield "tokens: place, segment, id, log-probability, text"
    log_probs: Sequence[float | None] = record["log_probs"] or [None] * len(record["token_ids"])
    for place, (token, log_prob) in enumerate(zip(record["token_ids"], log_probs, strict=True)):
        segment = "judge" if place < record["judge_tokens"] else "answer"
        shown = "-" if log_prob is None else f"{log_prob:.6f}"
        yield f"  {place:>5}  {segment:<6}  {token:>6}  {shown:>10}  {escaped(protocol.decode([token]))}"


def reward_text(record: RolloutRecord) -> str:
    """Each component of the reward with its reason, and the outcome."""
    lines = ["rewards"]
    for name, verdict in record["verdicts"].items():
        value = "unjudged" if verdict["value"] is None else f"{verdict['value']:g}"
        lines.append(f"  {escaped(name)}: {value} ({escaped(verdict['reason'])})")
    outcome = "none: it was not trained on" if record["reward"] is None else f"{record['reward']:g}"
    return "\n".join([*lines, f"  outcome: {outcome}{', correct' if record['correct'] else ''}"])


def advantage_text(
    record: RolloutRecord,
    group: Sequence[RolloutRecord],
    found: Explained | None,
    estimator: AdvantageEstimator,
) -> str:
    """The group, each term of the advantage, and whether it is the one that was trained on."""
    if found is None:
        return "advantages: none, for a reward could not judge it"
    lines = [f"group of {len(group)}: index, mode, reward"]
    lines += [_member(one) for one in group]
    lines += ["", f"advantages by {type(estimator).__name__}: {estimator.formula}"]
    lines += [f"  {words}: {_number(found.terms[name])}" for name, words in estimator.words.items()]
    differs = False
    ours = {"judge": found.judge, "answer": found.answer}
    theirs: Sequence[float | None] = record["advantages"] or [None, None]
    for (name, value), trained in zip(ours.items(), theirs, strict=True):
        same = trained is None or abs(value - trained) <= EQUAL
        differs |= not same
        verdict = "as trained on" if same else f"but {trained:.6g} was trained on"
        verdict = "not trained on" if trained is None else verdict
        reason = "" if value else _why_zero(name, record, found, estimator)
        lines.append(f"  {name} advantage: {value:.6g}, {verdict}{reason}")
    if record["left_out"]:
        lines.append("  (groups whose rewards are all equal were left out of the training: on_flat_groups)")
    if differs:
        lines.append("  (config.yaml of the run may be of later settings than this step)")
    return "\n".join(lines)


def _number(value: float) -> str:
    return "no such rollout" if math.isnan(value) else f"{value:.6g}"


def _member(record: RolloutRecord) -> str:
    marks = {
        "forced": record["thinking"] != "auto",
        "cut": record["truncated"],
        "correct": record["correct"],
    }
    named = ", ".join(word for word, holds in marks.items() if holds)
    line = f"  {record['index']:>3}  {record['mode'] or 'none':<4}  {record['reward']:g}"
    return f"{line}  ({named})" if named else line


def _why_zero(segment: str, record: RolloutRecord, found: Explained, estimator: AdvantageEstimator) -> str:
    reasons = {
        "the length limit cut it": record["truncated"],
        "the judge was forced": segment == "judge" and record["thinking"] != "auto",
        "all rewards of the group are equal": found.equal,
        "all rewards of its mode are equal": segment in estimator.within_mode and found.equal_in_mode,
    }
    return next((f" (0, for {reason})" for reason, holds in reasons.items() if holds), "")


def again_text(record: RolloutRecord, completion: Completion, weights: str, protocol: Protocol) -> str:
    """Whether sampling it once more gave the same tokens, and else where it went another way."""
    recorded, sampled = record["token_ids"], completion.token_ids
    head = f"sampled again alone, from {escaped(weights)}"
    place = first_difference(recorded, sampled)
    if place is None:
        return f"{head}\n  the same {len(recorded)} tokens{_gap(record, completion)}"
    log_probs: Sequence[float | None] = record["log_probs"] or [None] * len(record["token_ids"])
    return "\n".join(
        [
            head,
            f"  NOT the same: {place} tokens are, then",
            f"  recorded {_token(recorded, log_probs, place, protocol)}",
            f"  sampled  {_token(sampled, completion.log_probs, place, protocol)}",
        ]
    )


def _gap(record: RolloutRecord, completion: Completion) -> str:
    if not record["log_probs"]:
        return ""
    pairs = zip(record["log_probs"], completion.log_probs, strict=True)
    return f"; log-probabilities differ by at most {max(abs(a - b) for a, b in pairs):.1e}"


def _token(ids: list[int], log_probs: Sequence[float | None], place: int, protocol: Protocol) -> str:
    if place >= len(ids):
        return "ends there"
    log_prob = log_probs[place]
    shown = "" if log_prob is None else f", log-probability {log_prob:.6f}"
    return f"token {ids[place]} {escaped(protocol.decode([ids[place]]))!s}{shown}"

"""How a model thinks, found out once: from its template, from a file, or by a handful of questions."""

import hashlib
import json
import logging
from dataclasses import asdict
from pathlib import Path

from katlit.datamodules.dialects.dialects import PlainDialect
from katlit.datamodules.dialects.habits import PROBE_QUESTIONS, PROBE_TOKENS, Habit, habit_of
from katlit.datamodules.labelling.engine_model import EngineModel
from katlit.output import replace_file, require_writable

logger = logging.getLogger(__name__)

_SAID = {
    "switch": "thinks when its template is told so",
    "always": "always thinks; its thought is closed, empty, for direct answers and ballots",
    "never": "never thinks; where thought is wanted it is asked to reason step by step",
}


def settle(model: EngineModel, folder: str, contents: str, *, ask: bool) -> None:
    """Find out how a model thinks, and say so in one line.

    Args:
        model: What neither its template nor the user tells is taken from a file, or asked.
        folder: Where the answers are kept.
        contents: Hash of the model.
        ask: Start the engine where there is no file; else the guess stays.
    """
    dialect = model.dialect
    if not isinstance(dialect, PlainDialect):
        return
    why = "as its template or the setting says"
    if not dialect.habits.certain:
        tokens = min(model.sampling.max_tokens, PROBE_TOKENS)
        key = json.dumps([contents, tokens, asdict(dialect.thinking)], sort_keys=True)
        path = Path(folder) / f"probe-{hashlib.sha256(key.encode()).hexdigest()[:24]}.json"
        if ask and not path.is_file():
            require_writable(path.parent, "cache_dir")
            seen = _asked(model, dialect)
            if seen["asked"]:  # else a larger context may hold the questions the next time
                replace_file(path, json.dumps(seen, indent=1))
        if not path.is_file():
            return
        seen = json.loads(path.read_text(encoding="utf-8"))
        dialect.settle(seen["habit"])
        why = (
            f"{seen['thoughts_on']} of {seen['asked']} replies thought when they were to, "
            f"{seen['thoughts_off']} when not; {path}"
        )
    if ask:
        system = "" if dialect.habits.system else "; system turns are put before the question"
        logger.info("%s: %s%s (%s)", model.directory, _SAID[dialect.habits.habit], system, why)


def _asked(model: EngineModel, dialect: PlainDialect) -> dict[str, Habit | int]:
    """What the model did with the questions, told by its template alone to think or not."""
    guess = dialect.habits.habit
    dialect.settle("switch")
    with model:
        on = [dialect.thinks(reply, "on") for reply in model.begin(PROBE_QUESTIONS, "on", PROBE_TOKENS)]
        off = [dialect.thinks(reply, "off") for reply in model.begin(PROBE_QUESTIONS, "off", PROBE_TOKENS)]
    switches = dialect.habits.on != dialect.habits.off
    habit = habit_of(on, off, switches=switches) if on and off else guess  # none: no question fits
    return {"habit": habit, "asked": len(on), "thoughts_on": sum(on), "thoughts_off": sum(off)}

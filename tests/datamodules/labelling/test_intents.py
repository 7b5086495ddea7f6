from random import Random

import pytest

from katlit.datamodules.labelling.intents import INTENTS, Intent, draw_intent, express
from katlit.text.protocol import Mode

SYSTEM = next(intent for intent in INTENTS if intent.place == "system")
USER = next(intent for intent in INTENTS if intent.place == "user")


def test_a_wish_joins_the_system_turn_or_makes_one() -> None:
    user = {"role": "user", "content": "1+1"}
    assert express([user], SYSTEM) == [{"role": "system", "content": SYSTEM.phrase}, user]
    joined = express([{"role": "system", "content": "Be kind."}, user], SYSTEM)
    assert joined == [{"role": "system", "content": f"Be kind.\n{SYSTEM.phrase}"}, user]


def test_a_wish_joins_the_last_user_turn_and_leaves_the_original_alone() -> None:
    messages = [
        {"role": "user", "content": "1+1"},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "2+2\n"},
    ]
    spoken = express(messages, USER)
    assert [turn["content"] for turn in spoken] == ["1+1", "2", f"2+2\n{USER.phrase}"]
    assert messages[2]["content"] == "2+2\n"
    with pytest.raises(ValueError, match="no user turn"):
        express(messages[1:2], USER)


def test_the_table_offers_both_modes_in_both_places() -> None:
    assert {(intent.place, intent.mode) for intent in INTENTS} == {
        (place, mode) for place in ("system", "user") for mode in Mode
    }


def test_share_of_wishes() -> None:
    random = Random(0)
    drawn = [draw_intent(0.2, random) for _ in range(5000)]
    assert sum(isinstance(intent, Intent) for intent in drawn) / 5000 == pytest.approx(0.2, abs=0.02)
    assert draw_intent(0.0, random) is None

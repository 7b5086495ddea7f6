import json

from datamodules.history import History


def test_solved_prompts_leave_after_their_epoch_mixed_and_hopeless_ones_stay() -> None:
    history = History()
    history.record("solved", [True, True], epoch=1)
    history.record("mixed", [True, False], epoch=1)
    history.record("hopeless", [False, False], epoch=1)
    history.record("unseen", [], epoch=1)
    names = ["hopeless", "solved", "mixed", "unseen"]
    assert history.active(names, 1) == names
    assert history.active(names, 2) == ["hopeless", "mixed", "unseen"]
    assert (history.dropped(1), history.dropped(2)) == (0, 1)


def test_an_epoch_is_never_empty() -> None:
    history = History()
    history.record("a", [True], epoch=0)
    assert history.active(["a"], 1) == ["a"]


def test_state_survives_json_and_copies() -> None:
    history, other = History(), History()
    history.record("a", [True], epoch=3)
    state = history.state_dict()
    other.load_state_dict(json.loads(json.dumps(state)))
    history.record("b", [True], epoch=4)
    assert other.state_dict() == {"solved": {"a": 3}} == state


def test_merging_takes_the_earliest_epoch() -> None:
    history = History()
    history.record("a", [True], epoch=3)
    history.merge([{"solved": {"a": 2, "b": 5}}, {"solved": {"b": 4}}])
    assert history.state_dict() == {"solved": {"a": 2, "b": 4}}

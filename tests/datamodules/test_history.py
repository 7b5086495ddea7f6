import json

from katlit.datamodules.history import History


def test_solved_prompts_leave_after_their_epoch_mixed_and_hopeless_ones_stay() -> None:
    history = History()
    history.record("solved", [True, True], epoch=1)
    history.record("mixed", [True, False], epoch=1)
    history.record("hopeless", [False, False], epoch=1)
    history.record("unseen", [], epoch=1)
    names = ["hopeless", "solved", "mixed", "unseen"]
    assert history.active(names, 1) == names
    assert history.active(names, 2) == ["hopeless", "mixed", "unseen"]
    assert [history.counts(names, epoch)["dropped_solved"] for epoch in (1, 2)] == [0, 1]


def test_a_prompt_is_not_solved_where_rollouts_could_not_be_judged() -> None:
    history = History()
    history.record("one judged", [True], epoch=0, unjudged=7)
    history.record("none judged", [], epoch=0, unjudged=8)
    names = ["one judged", "none judged"]
    assert history.active(names, 1) == names
    now = history.counts(names, 0)
    assert (now["solved"], now["mixed"], now["all_wrong"], now["unseen"]) == (0, 1, 0, 1)


def test_of_an_epochs_rollouts_of_a_prompt_the_later_ones_decide() -> None:
    history = History()
    history.record("lost", [True, True], epoch=1)
    history.record("lost", [True, False], epoch=1)
    history.record("won", [True, False], epoch=1)
    history.record("won", [True, True], epoch=1)
    assert history.counts(["lost", "won"], 1)["solved"] == 1
    assert history.active(["lost", "won"], 2) == ["lost"]


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
    assert other.state_dict() == {"solved": {"a": 3}, "latest": {"a": 1.0}} == state
    other.load_state_dict({"solved": {"a": 2}})  # of a checkpoint that knew no more
    assert other.active(["a", "b"], 3) == ["b"]


def test_the_earliest_epoch_counts() -> None:
    history = History()
    for epoch in (3, 2, 4):
        history.record("a", [True], epoch)
    assert history.state_dict()["solved"] == {"a": 2}


def test_the_counts_say_why_a_prompt_is_not_drawn() -> None:
    history = History()
    names = [*"abcdef"]
    for name, correct in zip("abcd", ([True], [True, False], [False], [True, True]), strict=True):
        history.record(name, correct, epoch=0)
    now = {"prompts": 6, "active": 6, "dropped_solved": 0}
    assert history.counts(names, 0) == now | {"solved": 2, "mixed": 1, "all_wrong": 1, "unseen": 2}
    history.record("b", [True], epoch=1)
    later = {"prompts": 6, "active": 4, "dropped_solved": 2}
    assert history.counts(names, 1) == later | {"solved": 1, "mixed": 0, "all_wrong": 1, "unseen": 2}
    assert history.counts(["a", "d"], 1)["active"] == 2  # an epoch is never empty

"""How many of a prompt's rollouts are forced into a mode."""

from collections import Counter
from pathlib import Path

import pytest
import yaml

from katlit.errors import UserError
from katlit.rollout.requests import forced_modes

EACH = {
    (8, 0.25): 1, (8, 0.5): 2, (4, 0.25): 1, (3, 0.3): 1, (8, 0.1): 1, (12, 0.25): 2, (20, 0.25): 3,
    (2, 0.0): 0, (2, 1.0): 1, (3, 1.0): 1, (16, 1.0): 8,
}  # fmt: skip


def test_a_share_forces_as_many_into_each_mode_and_never_none() -> None:
    for (samples, share), each in EACH.items():
        counts = Counter(forced_modes(samples, share))
        assert counts == Counter(on=each, off=each, auto=samples - 2 * each), (samples, share)


@pytest.mark.parametrize(("samples", "share"), [(2, 0.25), (4, 0.9)])
def test_a_share_that_leaves_no_rollout_free_is_refused(samples: int, share: float) -> None:
    with pytest.raises(UserError, match=r"leaves none to decide freely: give more samples"):
        forced_modes(samples, share)


def test_the_run_that_resuming_and_replaying_are_tested_on_forces_some() -> None:
    settings = yaml.safe_load((Path(__file__).parents[2] / "stubs/resume.yaml").read_text())
    sampler = settings["trainer"]["callbacks+"][-1]["init_args"]
    assert {"on", "off", "auto"} == set(forced_modes(sampler["samples"], sampler["forced_share"]))

from pathlib import Path
from typing import Any

import pytest
from tinymodel import tiny_backbone

from katlit.engines.base import Completion
from katlit.rollout.tensors import lay_out
from katlit.rollout.types import Rollout


def test_two_modes_are_packed_without_padding(tmp_path: Path) -> None:
    protocol = tiny_backbone(tmp_path).protocol
    parsed = protocol.parse_ids([protocol.end_id], "auto")
    completions = [Completion([6] * length, [-1.0] * length, "stop") for length in [256] * 4 + [16] * 12]
    rollouts = [
        Rollout(0, "auto", [5] * 64, each, number, 0, parsed, 0.0, False, {})
        for number, each in enumerate(completions)
    ]
    batch = lay_out(rollouts, range(16), 1024, protocol)
    assert batch["input_ids"].shape == (7, 320)
    assert (batch["rollout_ids"] >= 0).all()


@pytest.mark.parametrize(
    ("ends", "probes", "probed"),
    [
        (["stop", "length"], None, None),  # the whole one is compared as it is trained on
        (["length", "length"], None, 7),
        (["length", "length"], [], 0),  # a probe is in another micro-batch
        ([], None, None),
    ],
)
def test_truncated_rollouts_are_compared_where_there_are_no_others(
    tmp_path: Path, ends: list[Any], probes: list[Any] | None, probed: int | None
) -> None:
    protocol = tiny_backbone(tmp_path).protocol
    parsed = protocol.parse_ids([protocol.end_id], "auto")
    completions = [Completion([6] * (3 + n), [-1.0] * (3 + n), end) for n, end in enumerate(ends)]
    rollouts = [
        Rollout(0, "auto", [5] * 4, each, number, 0, parsed, 0.0, False, {})
        for number, each in enumerate(completions)
    ]
    batch = lay_out(rollouts, range(len(ends)), 16, protocol, probes)
    assert (int(batch["probe_mask"].sum()) if "probe_mask" in batch else None) == probed
    assert int(batch["loss_mask"].sum()) == sum(3 + n for n in range(len(ends)))

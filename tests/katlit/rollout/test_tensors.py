from pathlib import Path

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

"""A record of a rollout."""

from typing import Any

from katlit.rollout.record import RolloutRecord


def record(index: int = 0, reward: float | None = 1.0, mode: str | None = "on", **more: Any) -> RolloutRecord:
    plain: dict[str, Any] = {
        "run_seed": 1, "rank": 0, "epoch": 0, "step": 4, "policy_step": 3, "prompt_id": "set/p", "group": 2,
        "index": index, "thinking": "auto", "seed": 7, "prompt_ids": [65, 66], "token_ids": [67, 68, 69],
        "log_probs": [-0.5, -0.25, 0.0], "truncated": False, "judge_tokens": 1, "mode": mode,
        "violation": None,
        "verdicts": {"accuracy": {"value": reward, "reason": "why", "timed_out": False}}, "reward": reward,
        "correct": reward == 1, "left_out": False, "advantages": None,
    }  # fmt: skip
    return plain | more  # type: ignore[return-value]

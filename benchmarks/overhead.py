"""What stage 3 spends outside its work.

`python benchmarks/overhead.py`, from the top of the repository.

`overhead_share`: 50 Step-SRPO steps of the demo (its settings, trackers and all, from the student as it is
checked in, vLLM in process); the share of the steps' time outside generation, rewards and forward-backward:
weight sync, packing, optimizer, callbacks, logging. The first two steps warm up and do not count.

The last line is a JSON object.
"""

import csv
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

from katlit.cli import main as katlit

STEPS = 50
WARM_UP = 2
WORK = ("rollout", "reward", "forward_backward")


def step_srpo(directory: str) -> list[dict[str, float]]:
    """Run the demo's stage 3; what was logged of each step, by name."""
    tracker = {"tracking_uri": f"sqlite:///{directory}/mlflow.db"}
    table = {"save_dir": directory, "name": "csv"}
    loggers = [
        {"class_path": "katlit.tracking.KatMLFlowLogger", "init_args": tracker},
        {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": table},
    ]
    files = ("configs/base.yaml", "configs/stage/step_srpo.yaml", "configs/demo/step_srpo.yaml")
    status = katlit(
        [
            "fit",
            *(word for name in files for word in ("-c", name)),
            "--model.init_args.backbone.init_args.init_from=assets/student",
            f"--trainer.max_steps={STEPS}",
            f"--trainer.default_root_dir={directory}",
            f"--trainer.logger={json.dumps(loggers)}",
        ]
    )
    if status:
        raise SystemExit(status)
    with (Path(directory) / "csv/version_0/metrics.csv").open(encoding="utf-8") as file:
        rows = [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]
    return [row for row in rows if "throughput/step_seconds" in row]


def overhead() -> dict[str, float]:
    """Shares of the time of all counted steps."""
    with tempfile.TemporaryDirectory() as directory:
        steps = step_srpo(directory)[WARM_UP:]
    total = sum(step["throughput/step_seconds"] for step in steps)

    def share(seconds: Callable[[dict[str, float]], float]) -> float:
        return sum(map(seconds, steps)) / total

    shares = {
        name: share(lambda s, n=name: s[f"throughput/{n}_share"] * s["throughput/step_seconds"])  # type: ignore[misc]
        for name in (*WORK, "sync")
    }
    shares["layout"] = share(lambda step: step["rollout/layout_seconds"])
    found = {f"{name}_share": value for name, value in shares.items()}
    return found | {
        "overhead_share": 1 - sum(shares[name] for name in WORK),
        "step_seconds": total / len(steps),
    }


def main() -> None:
    """Measure and print."""
    found = overhead()
    for name, value in found.items():
        print(f"{name}: {value:,.3f}")
    print(json.dumps(found))


if __name__ == "__main__":
    main()

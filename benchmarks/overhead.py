"""What stage 3 spends outside its work, and how fast weights reach the engine.

`python benchmarks/overhead.py`, from the top of the repository.

`overhead_share`: 50 Step-SRPO steps of the demo (its settings, trackers and all, from the student as it is
checked in, vLLM in process); the share of the steps' time outside generation, rewards and forward-backward:
weight sync, packing, optimizer, callbacks, logging. The first two steps warm up and do not count.

`sync_bandwidth_ratio`: bytes a second of `sync_weights` into vLLM in process, for random weights of
the shape of SmolLM-135M in float32, over those of a plain copy of as many bytes between two buffers, both
first touched before. Both are the median of several, taken in turns.

The last line is a JSON object.
"""

import csv
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from katlit.cli import main as katlit
from katlit.engines import VLLMEngine
from katlit.model.backbone import Backbone

STEPS = 50
WARM_UP = 2
REPEATS = 7
SMOL: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
    "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152, "tie_word_embeddings": True,
}  # fmt: skip
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


def seconds(action: Callable[[], object]) -> float:
    """How long a call takes."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def sync_bandwidth() -> dict[str, float]:
    """Bytes a second of a weight sync and of a plain copy."""
    backbone = Backbone(config=SMOL, tokenizer="assets/student")
    backbone.materialize()
    size = sum(weight.nbytes for _, weight in backbone.named_weights())
    source, target = torch.ones(size, dtype=torch.uint8), torch.zeros(size, dtype=torch.uint8)
    engine = VLLMEngine(max_context=512, kv_cache_gib=0.25)
    syncs, copies = [], []
    with tempfile.TemporaryDirectory() as directory:
        try:
            backbone.export(directory)
            engine.start(Path(directory))
            for _ in range(REPEATS):
                syncs.append(seconds(lambda: engine.sync_weights(backbone.named_weights())))
                copies.append(seconds(lambda: target.copy_(source)))
        finally:
            engine.close()
    rates = {"sync_bytes_per_second": size / statistics.median(syncs),
             "copy_bytes_per_second": size / statistics.median(copies)}  # fmt: skip
    return rates | {
        "sync_bandwidth_ratio": rates["sync_bytes_per_second"] / rates["copy_bytes_per_second"],
        "weight_bytes": size,
    }


def main() -> None:
    """Measure both and print them."""
    found = sync_bandwidth() | overhead()
    for name, value in found.items():
        print(f"{name}: {value:,.3f}")
    print(json.dumps(found))


if __name__ == "__main__":
    main()

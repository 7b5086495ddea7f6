"""One run of the demo's stage 1, for the ablations of it; no benchmark by itself."""

import csv
import shutil
from collections.abc import Sequence
from pathlib import Path

from _ablation import Result, katlit
from _demo import stage_command


def label(seed: int, cache: Path, log: Path, words: Sequence[str] = ()) -> Result:
    """Have the teacher label the questions of a seed; what is in the cache is not asked again."""
    katlit([*stage_command("label", "distill", seed)[1:], *_cache(cache), *words], log)
    return {}


def fit(
    folder: Path, seed: int, steps: int, cache: Path, words: Sequence[str], *variables: str
) -> dict[str, str]:
    """Train, validate on all held-out records at the last step; the metrics of this validation."""
    shutil.rmtree(folder, ignore_errors=True)
    command = [
        *stage_command("fit", "distill", seed)[1:],
        "-c", "configs/logger/csv.yaml",
        *_cache(cache),
        *words,
        f"--trainer.default_root_dir={folder}",
        f"--trainer.max_steps={steps}",
        f"--trainer.val_check_interval={steps}",
        "--trainer.check_val_every_n_epoch=null",
        "--trainer.limit_val_batches=1.0",
    ]  # fmt: skip
    katlit(command, folder.with_name(f"{folder.name}.log"), *variables)
    with (folder / "csv/version_0/metrics.csv").open(encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if row.get("val/ce")][-1]


def _cache(cache: Path) -> list[str]:
    return [f"--data.init_args.cache_dir={cache}"]

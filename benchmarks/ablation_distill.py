"""What each term of stage 1 contributes, on the demo: cross-entropy, distillation, multi-token prediction.

`python benchmarks/ablation_distill.py [--seeds 1 2 3] [--steps 500]`, from the top of the repository; hours
on two cores. For each seed the teacher labels once; each variant is then trained for as many steps on the
same records from the same student, validated on all of the held-out records and asked the demo's 800
held-out questions. The table goes to docs/ablation-distill.md; runs go to outputs/ablation/distill, and are
not repeated. The last line is a JSON object.
"""

import argparse
import csv
import json
import shutil
from functools import partial
from pathlib import Path

from _ablation import Result, all_of, katlit, mean_and_error, measured, table
from _ablation_distill import fit, label
from _demo import stage_command

OUTPUT = Path("outputs/ablation/distill")
CACHE = OUTPUT / "cache"
PAGE = Path("docs/ablation-distill.md")

WITHOUT_KD = "--model.init_args.kd=none"
WITHOUT_MTP = "--model.init_args.mtp_weight=0.0"
VARIANTS = {
    "CE": (WITHOUT_KD, WITHOUT_MTP),
    "CE + KD": (WITHOUT_MTP,),
    "CE + MTP": (WITHOUT_KD,),
    "CE + KD + MTP, with KD on both": (),
    "the same, hybrid matching": ("--model.init_args.uld_matching=hybrid",),
}
COLUMNS = {
    "ce": "held-out CE",
    "acceptance": "MTP acceptance",
    "on": "accuracy, thinking",
    "off": "accuracy, not thinking",
    "off_format": "valid format, not thinking",
}


def train(variant: str, seed: int, steps: int) -> Result:
    """Train a variant, validate it at the last step, evaluate its export."""
    folder = OUTPUT / f"{steps}-{list(VARIANTS).index(variant)}-{seed}"
    last = fit(folder, seed, steps, CACHE, VARIANTS[variant])
    found = {"ce": float(last["val/ce"])}
    if last.get("val/mtp1_acceptance"):
        found["acceptance"] = float(last["val/mtp1_acceptance"])
    return {**found, **evaluate(folder, seed)}


def evaluate(folder: Path, seed: int) -> Result:
    """Accuracy on the held-out questions, thinking and not; what the run leaves but its metrics goes."""
    words = [
        *stage_command("test", "evaluate", seed)[1:],
        f"--model.init_args.backbone.init_args.init_from={folder / 'model'}",
        f"--trainer.default_root_dir={folder / 'evaluation'}",
        "-c", "configs/logger/csv.yaml",
    ]  # fmt: skip
    katlit(words, OUTPUT / f"{folder.name}-evaluation.log")
    with next((folder / "evaluation").rglob("metrics.csv")).open(encoding="utf-8") as file:
        row = next(csv.DictReader(file))
    shutil.rmtree(folder)
    return {
        "on": float(row["test/on_accuracy"]),
        "off": float(row["test/off_accuracy"]),
        "off_format": float(row["test/off_format_valid"]),
    }


def page(found: dict[str, list[Result]], seeds: list[int], steps: int) -> str:
    """The table, means over seeds with their standard errors."""
    rows = [["loss", *COLUMNS.values()]]
    for variant, results in found.items():
        cells = []
        for name in COLUMNS:
            values = [result[name] for result in results if name in result]
            mean, error = mean_and_error(values) if values else (0.0, 0.0)
            cells.append(f"{mean:.3f} ± {error:.3f}" if values else "")
        rows.append([variant, *cells])
    return (
        "# What each term of stage 1 contributes\n\n"
        "This page says what each term of the distillation loss is worth. It was made by\n"
        f"`python benchmarks/ablation_distill.py --steps {steps}` on the demo's task and models: "
        f"{steps} steps each, the same records,\nseeds {', '.join(map(str, seeds))}; mean ± standard error "
        "over the seeds. The teacher has another vocabulary, so KD is ULD.\n[real.md](real.md) says what "
        "follows.\n\n" + table(rows)
    )


def main() -> None:
    """Run what is missing and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--at-once", type=int, default=2, help="runs at a time, one core each")
    options = parser.parse_args()
    for seed in options.seeds:
        measured(OUTPUT / f"label-{seed}.json", partial(label, seed, CACHE, OUTPUT / f"label-{seed}.log"))
    runs = [(variant, seed) for seed in options.seeds for variant in VARIANTS]
    results = all_of(
        [
            partial(
                measured,
                OUTPUT / f"{options.steps}-{list(VARIANTS).index(variant)}-{seed}.json",
                partial(train, variant, seed, options.steps),
            )
            for variant, seed in runs
        ],
        options.at_once,
    )
    found: dict[str, list[Result]] = {variant: [] for variant in VARIANTS}
    for (variant, _), result in zip(runs, results, strict=True):
        found[variant].append(result)
    text = page(found, options.seeds, options.steps)
    PAGE.write_text(text, encoding="utf-8")
    print(text)
    print(json.dumps(found))


if __name__ == "__main__":
    main()

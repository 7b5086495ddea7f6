"""Stage 1 of the demo with its teacher at hand and with one that is read from disk: held-out cross-entropy.

`python benchmarks/ablation_teacher.py [--seeds 1 2 3] [--steps 1000]`, from the top of the repository;
half an hour on two cores for three seeds. For each seed the teacher labels once; then the student is trained
on the same records in the same order, with the teacher live, with its 64 likeliest tokens in float16, and as
a control with all of its tokens in float32. The control's teacher is the live one but for the rounding of
float32, so what it differs by is how far training itself carries such a rounding. All are validated on all of
the held-out records after the last step.

`ce_ratio_64`: cross-entropy with the 64 tokens over that of the live teacher, the mean over the seeds,
`interval_64` half of its 95 % interval (not a number for one seed); `ce_ratio_all` and `interval_all` of the
control. The table goes to docs/ablation-teacher.md, runs to outputs/ablation/teacher, and are not repeated.
The last line is a JSON object.
"""

import argparse
import json
import re
from functools import partial
from pathlib import Path

from _ablation import Result, all_of, mean_and_interval, measured, table
from _ablation_distill import fit, label

OUTPUT = Path("outputs/ablation/teacher")
CACHE = OUTPUT / "cache"
PAGE = Path("docs/ablation-teacher.md")
VARIANTS = {"live": None, "64": (64, "float16"), "all": (571, "float32")}
NAMES = {"live": "at hand", "64": "on disk, k = 64, float16", "all": "on disk, all tokens, float32 (control)"}


def cached(variant: str, seed: int) -> list[str]:
    """The words that put the teacher on disk."""
    settings = VARIANTS[variant]
    if settings is None:
        return []
    k, dtype = settings
    prefix = "--data.init_args.cached_teacher.init_args"
    return [
        "-c", "configs/teacher/cached.yaml",
        f"{prefix}.directory={OUTPUT / f'teacher-{variant}-{seed}'}",
        f"{prefix}.k={k}",
        f"{prefix}.dtype={dtype}",
    ]  # fmt: skip


def write(variant: str, seed: int) -> Result:
    """Label, and write the teacher's distributions; bytes a token."""
    log = OUTPUT / f"label-{variant}-{seed}.log"
    label(seed, CACHE, log, cached(variant, seed))
    found = re.search(r"([\d.]+) bytes a token", log.read_text(encoding="utf-8"))
    return {"bytes": float(found[1])} if found else {}


def train(variant: str, seed: int, steps: int) -> Result:
    """Cross-entropy, and the distillation loss, of the held-out records after the last step."""
    folder = OUTPUT / f"{steps}-{variant}-{seed}"
    last = fit(folder, seed, steps, CACHE, cached(variant, seed))
    return {name: float(last[f"val/{name}"]) for name in ("ce", "kd")}


def ratio(results: list[Result], live: list[Result]) -> tuple[float, float]:
    """Cross-entropy over the live teacher's, mean over seeds and half of its 95 % interval."""
    ratios = [result["ce"] / other["ce"] for result, other in zip(results, live, strict=True)]
    return mean_and_interval(ratios)


def page(found: dict[str, list[Result]], seeds: list[int], steps: int) -> str:
    """The table, a row a variant."""
    rows = [["teacher", "bytes a token", *(f"CE, seed {seed}" for seed in seeds), "over live", "KD"]]
    for variant, results in found.items():
        size = f"{results[0]['bytes']:,.0f}" if "bytes" in results[0] else ""
        mean, half = ratio(results, found["live"])
        kd, error = mean_and_interval([result["kd"] for result in results])
        over = "" if variant == "live" else f"{mean:.3f} ± {half:.3f}"
        cells = [f"{result['ce']:.4f}" for result in results]
        rows.append([NAMES[variant], size, *cells, over, f"{kd:.4f} ± {error:.4f}"])
    return (
        "# A teacher on disk in place of one at hand\n\n"
        f"Made by `python benchmarks/ablation_teacher.py --steps {steps}` on the demo's stage 1: {steps} "
        f"steps, seeds {', '.join(map(str, seeds))}.\nCross-entropy (CE) and distillation loss (KD) of all "
        "held-out records after the last step; means over the seeds\n± half of their 95 % interval, by "
        "Student's t-distribution, ratios within a seed. The control's teacher is the\nlive one but for "
        "rounding in float32: what its cross-entropy differs by, training makes of a rounding.\n\n"
        + table(rows)
    )


def main() -> None:
    """Run what is missing and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--at-once", type=int, default=2, help="runs at a time, one core each")
    options = parser.parse_args()
    runs = [(variant, seed) for seed in options.seeds for variant in VARIANTS]
    sizes = [  # one after the other: the first of a seed has the teacher sample
        measured(OUTPUT / f"label-{variant}-{seed}.json", partial(write, variant, seed))
        for variant, seed in runs
    ]
    jobs = [
        partial(
            measured,
            OUTPUT / f"{options.steps}-{variant}-{seed}.json",
            partial(train, variant, seed, options.steps),
        )
        for variant, seed in runs
    ]
    found: dict[str, list[Result]] = {variant: [] for variant in VARIANTS}
    for (variant, _), size, result in zip(runs, sizes, all_of(jobs, options.at_once), strict=True):
        found[variant].append({**result, **size})
    text = page(found, options.seeds, options.steps)
    PAGE.write_text(text, encoding="utf-8")
    print(text)
    figures: dict[str, float] = {}
    for variant in ("64", "all"):
        mean, half = ratio(found[variant], found["live"])
        figures |= {f"ce_ratio_{variant}": mean, f"interval_{variant}": half}
    print(json.dumps({**figures, "runs": found}))


if __name__ == "__main__":
    main()

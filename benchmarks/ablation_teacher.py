"""Stage 1 of the demo with its teacher at hand and with one that is read from disk: held-out cross-entropy.

`python benchmarks/ablation_teacher.py [--seeds 1 2 3] [--steps 1000]`, from the top of the repository; an
hour on two cores for three seeds. For each seed the teacher labels once; then the student is trained on the
same records in the same order, with the teacher live, with its 64 likeliest tokens in float16, and as a
control with all of its tokens in float32. The control's teacher is the live one but for the rounding of
float32, so what it differs by is how far training itself carries such a rounding. Live and the 64 tokens are
compared at a tenth of the demo's learning rate too, on the first two seeds, without a control; that was added
after three seeds at the demo's rate had come out too far apart to tell. All are validated on all of the
held-out records after the last step.

For each variant but the live ones, `ce_ratio_…` is its cross-entropy over that of the live teacher at the
same rate, the mean over the seeds, and `interval_…` half of its 95 % interval (not a number for one seed).
The table goes to docs/ablation-teacher.md, runs to outputs/ablation/teacher, and are not repeated. The last
line is a JSON object.
"""

import argparse
import json
import re
from functools import partial
from pathlib import Path
from typing import NamedTuple

from _ablation import Result, all_of, mean_and_interval, measured, table
from _ablation_distill import fit, label

OUTPUT = Path("outputs/ablation/teacher")
CACHE = OUTPUT / "cache"
PAGE = Path("docs/ablation-teacher.md")
TOKENS = 571  # of the demo's teacher
RATE = 1.5e-3  # the demo's learning rate


class Variant(NamedTuple):
    """How the teacher is read, and how the student learns."""

    name: str
    k: int | None = None  # None: live
    dtype: str = "float16"
    rate: float = RATE
    live: str = "live"  # what it is compared with
    most_seeds: int | None = None  # the first ones, where not all


VARIANTS = {
    "live": Variant("at hand"),
    "64": Variant("on disk, k = 64, float16", 64),
    "all": Variant("on disk, all tokens, float32 (control)", TOKENS, "float32"),
    "slow-live": Variant(
        "at hand, a tenth of the learning rate", rate=RATE / 10, live="slow-live", most_seeds=2
    ),
    "slow-64": Variant(
        "on disk, k = 64, float16, a tenth of the rate", 64, rate=RATE / 10, live="slow-live", most_seeds=2
    ),
}


def cached(variant: Variant, seed: int) -> list[str]:
    """The words that put the teacher on disk."""
    if variant.k is None:
        return []
    prefix = "--data.init_args.cached_teacher.init_args"
    return [
        "-c", "configs/teacher/cached.yaml",
        f"{prefix}.directory={OUTPUT / f'teacher-{variant.k}-{seed}'}",
        f"{prefix}.k={variant.k}",
        f"{prefix}.dtype={variant.dtype}",
    ]  # fmt: skip


def write(variant: Variant, seed: int) -> Result:
    """Label, and write the teacher's distributions, once; bytes a token."""
    name = f"label-{variant.k or 'live'}-{seed}"
    return measured(OUTPUT / f"{name}.json", partial(_write, variant, seed, OUTPUT / f"{name}.log"))


def _write(variant: Variant, seed: int, log: Path) -> Result:
    label(seed, CACHE, log, cached(variant, seed))
    found = re.search(r"([\d.]+) bytes a token", log.read_text(encoding="utf-8"))
    return {"bytes": float(found[1])} if found else {}


def train(variant: str, seed: int, steps: int) -> Result:
    """Cross-entropy of the held-out records after the last step."""
    folder = OUTPUT / f"{steps}-{variant}-{seed}"
    rate = f"--model.init_args.optimization.learning_rate={VARIANTS[variant].rate}"
    last = fit(folder, seed, steps, CACHE, [*cached(VARIANTS[variant], seed), rate])
    return {"ce": float(last["val/ce"])}


def ratio(found: dict[str, list[Result]], variant: str) -> tuple[float, float]:
    """Cross-entropy over the live teacher's, mean over seeds and half of its 95 % interval."""
    pairs = zip(found[variant], found[VARIANTS[variant].live], strict=True)
    return mean_and_interval([result["ce"] / live["ce"] for result, live in pairs])


def page(found: dict[str, list[Result]], seeds: list[int], steps: int) -> str:
    """The table, a row a variant."""
    rows = [["teacher", "bytes a token", *(f"CE, seed {seed}" for seed in seeds), "over live"]]
    for variant, results in found.items():
        size = f"{results[0]['bytes']:,.0f}" if "bytes" in results[0] else ""
        mean, half = ratio(found, variant)
        over = "" if VARIANTS[variant].live == variant else f"{mean:.3f} ± {half:.3f}"
        cells = [f"{result['ce']:.4f}" for result in results] + [""] * (len(seeds) - len(results))
        rows.append([VARIANTS[variant].name, size, *cells, over])
    return (
        "# A teacher on disk in place of one at hand\n\n"
        f"Made by `python benchmarks/ablation_teacher.py --steps {steps}` on the demo's stage 1: {steps} "
        f"steps, seeds {', '.join(map(str, seeds))}.\nCross-entropy (CE) of all held-out records after the "
        "last step; ratios within a seed and a learning rate, their mean ±\nhalf of its 95 % interval, by "
        "Student's t-distribution. The control's teacher is the live one but for rounding in\nfloat32: what "
        "its cross-entropy differs by, training makes of a rounding. The rows at a tenth of the rate were\n"
        "added after the others had come out too far apart to tell; they have two seeds and no control. "
        "[hardware.md](hardware.md#a-teacher-on-disk) says how to use it.\n\n" + table(rows)
    )


def main() -> None:
    """Run what is missing and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--at-once", type=int, default=2, help="runs at a time, one core each")
    options = parser.parse_args()
    runs = [
        (name, seed)
        for number, seed in enumerate(options.seeds)
        for name, variant in VARIANTS.items()
        if variant.most_seeds is None or number < variant.most_seeds
    ]
    sizes = [  # one after the other: the first of a seed has the teacher sample
        write(VARIANTS[variant], seed) for variant, seed in runs
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
    for (name, _), size, result in zip(runs, sizes, all_of(jobs, options.at_once), strict=True):
        found[name].append({**result, **size})
    text = page(found, options.seeds, options.steps)
    PAGE.write_text(text, encoding="utf-8")
    print(text)
    figures: dict[str, float] = {}
    for name, variant in VARIANTS.items():
        if variant.live != name:
            figures[f"ce_ratio_{name}"], figures[f"interval_{name}"] = ratio(found, name)
    print(json.dumps({**figures, "runs": found}))


if __name__ == "__main__":
    main()

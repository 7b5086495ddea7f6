"""Stage 1 of the demo with its teacher at hand and with one that is read from disk: held-out cross-entropy.

`python benchmarks/ablation_teacher.py [--seeds 1 2 3 4] [--steps 1000]`, from the top of the repository; two
hours or more on two cores for four seeds. For each seed the teacher labels once; then the student is trained
on the same records in the same order, with the teacher live, with its 64 likeliest tokens in float16, and, as
controls, with all of its tokens in float32 and with the teacher live again, but torch's own vector
instructions off, so that sums are taken in another order. The controls' teachers are the live one but for the
rounding of float32, so what they differ by is how far training itself carries such a rounding. These runs are
at the demo's learning rate, where this is far; all but the last also at a tenth of it, where it is not. All
are validated on all of the held-out records after the last step. Over the first 20 steps, the warm-up, the
students' weights are still nearly the same, so their distillation losses tell what the teacher on disk
changes of the loss itself.

For each variant but the live ones, `ce_ratio_…` is its cross-entropy over that of the live teacher at the
same rate, the mean over the seeds, and `interval_…` half of its 95 % interval (not a number for one seed);
`kd_difference_…` is the mean relative difference of the distillation losses of the first 20 steps.
The table goes to docs/ablation-teacher.md, runs to outputs/ablation/teacher, and are not repeated. The last
line is a JSON object.
"""

import argparse
import csv
import json
import re
import statistics
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
TOGETHER = 20  # steps of warm-up, in which the students' weights are still nearly the same

HEAD = """\
# A teacher on disk in place of one at hand

This page says whether a teacher's tokens on disk teach as well as the teacher itself. It was made by
`{command}` on the demo's stage 1.
Cross-entropy (CE) of all held-out records after the last step; ratios within a seed and a learning rate,
their mean ± half of its 95 % interval, by Student's t-distribution. The controls' teachers are the live one
but for rounding in float32: what their cross-entropy differs by, training makes of a rounding. A tenth of the
rate was added when the demo's rate had turned out to make much of it, and the live teacher without vector
instructions, whose sums are taken in another order, last. KD is the distillation loss; over the first
{together} steps, the warm-up, in which the students are still nearly the same, it differs by this much
relatively, in the mean.
[hardware.md](hardware.md#a-teacher-on-disk) says how to use it.

"""


class Variant(NamedTuple):
    """How the teacher is read, and how the student learns."""

    name: str
    k: int | None = None  # None: live
    dtype: str = "float16"
    rate: float = RATE
    variables: tuple[str, ...] = ()
    live: str = "live"  # what it is compared with


VARIANTS = {
    "live": Variant("at hand"),
    "scalar": Variant(
        "at hand, torch without vector instructions (control)", variables=("ATEN_CPU_CAPABILITY=default",)
    ),
    "64": Variant("on disk, k = 64, float16", 64),
    "all": Variant("on disk, all tokens, float32 (control)", TOKENS, "float32"),
    "slow-live": Variant("a tenth of the rate: at hand", rate=RATE / 10, live="slow-live"),
    "slow-64": Variant("a tenth of the rate: on disk, k = 64, float16", 64, rate=RATE / 10, live="slow-live"),
    "slow-all": Variant(
        "a tenth of the rate: on disk, all tokens, float32 (control)",
        TOKENS,
        "float32",
        rate=RATE / 10,
        live="slow-live",
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
    chosen = VARIANTS[variant]
    rate = f"--model.init_args.optimization.learning_rate={chosen.rate}"
    last = fit(folder, seed, steps, CACHE, [*cached(chosen, seed), rate], *chosen.variables)
    return {"ce": float(last["val/ce"])}


def difference(variant: str, seeds: list[int], steps: int) -> float:
    """Mean relative difference of the first distillation losses from those with the live teacher."""
    return statistics.mean(
        abs(loss - live) / live
        for seed in seeds
        for loss, live in zip(
            first_losses(variant, seed, steps), first_losses(VARIANTS[variant].live, seed, steps), strict=True
        )
    )


def first_losses(variant: str, seed: int, steps: int) -> list[float]:
    """Distillation losses of the steps in which no run has come far from another."""
    with (OUTPUT / f"{steps}-{variant}-{seed}/csv/version_0/metrics.csv").open(encoding="utf-8") as file:
        return [float(row["train/kd"]) for row in csv.DictReader(file) if row["train/kd"]][:TOGETHER]


def ratio(found: dict[str, list[Result]], variant: str) -> tuple[float, float]:
    """Cross-entropy over the live teacher's, mean over seeds and half of its 95 % interval."""
    pairs = zip(found[variant], found[VARIANTS[variant].live], strict=True)
    return mean_and_interval([result["ce"] / live["ce"] for result, live in pairs])


def page(found: dict[str, list[Result]], seeds: list[int], steps: int) -> str:
    """The table, a row a variant."""
    rows = [
        ["teacher", "bytes a token", "KD differs by", *(f"CE, seed {seed}" for seed in seeds), "over live"]
    ]
    for variant, results in found.items():
        size, apart, over = "", "", ""
        if "bytes" in results[0]:
            size = f"{results[0]['bytes']:,.0f}"
        if VARIANTS[variant].live != variant:
            apart = f"{difference(variant, seeds, steps):.1e}"
            over = "{:.3f} ± {:.3f}".format(*ratio(found, variant))
        cells = [f"{result['ce']:.4f}" for result in results]
        rows.append([VARIANTS[variant].name, size, apart, *cells, over])
    command = f"python benchmarks/ablation_teacher.py --steps {steps} --seeds {' '.join(map(str, seeds))}"
    return HEAD.format(command=command, together=TOGETHER) + table(rows)


def main() -> None:
    """Run what is missing and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--at-once", type=int, default=2, help="runs at a time, one core each")
    options = parser.parse_args()
    runs = [(name, seed) for seed in options.seeds for name in VARIANTS]
    sizes = [write(VARIANTS[variant], seed) for variant, seed in runs]  # not at once: they share a cache
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
        found[name].append({"ce": result["ce"], **size})
    text = page(found, options.seeds, options.steps)
    PAGE.write_text(text, encoding="utf-8")
    print(text)
    figures: dict[str, float] = {}
    for name, variant in VARIANTS.items():
        if variant.live != name:
            figures[f"ce_ratio_{name}"], figures[f"interval_{name}"] = ratio(found, name)
            figures[f"kd_difference_{name}"] = difference(name, options.seeds, options.steps)
    print(json.dumps({**figures, "runs": found}))


if __name__ == "__main__":
    main()

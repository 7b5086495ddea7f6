"""Stage 1 of the demo with two layers more than the student has, beside the student as it is.

`python benchmarks/ablation_depth.py [--seeds 1 2 3] [--steps 300]`, from the top of the repository; half an
hour on two cores. For each seed the teacher labels once; each variant is then trained for as many steps on
the same records from the same student, and validated on all of the held-out records after the last step. The
table goes to docs/ablation-depth.md; runs go to outputs/ablation/depth, and are not repeated. The last line
is a JSON object.
"""

import argparse
import json
from functools import partial
from pathlib import Path

from _ablation import Result, all_of, mean_and_interval, measured, table
from _ablation_distill import fit, label

OUTPUT = Path("outputs/ablation/depth")
CACHE = OUTPUT / "cache"
PAGE = Path("docs/ablation-depth.md")

DEPTH = "--model.init_args.backbone.init_args.depth"
VARIANTS = {
    "4 layers, as it is": (),
    "6 layers, all trained": (f"{DEPTH}.layers=6",),
    "6 layers, the two new ones and the MTP module trained": (
        f"{DEPTH}.layers=6",
        f"{DEPTH}.train_only_new=true",
    ),
}

HEAD = """\
# Two layers more

Made by `{command}` on the demo's stage 1:
{steps} steps from the same student on the same records. Cross-entropy (CE) of all held-out records after the
last step; ratios within a seed, their mean ± half of its 95 % interval, by Student's t-distribution. The
demo's data are few and its models small: what deeper models gain there says little of large ones.
[hardware.md](hardware.md#deeper-models) says how to make a model deeper.

"""


def train(variant: str, seed: int, steps: int) -> Result:
    """Cross-entropy of the held-out records after the last step."""
    folder = OUTPUT / f"{steps}-{list(VARIANTS).index(variant)}-{seed}"
    return {"ce": float(fit(folder, seed, steps, CACHE, VARIANTS[variant])["val/ce"])}


def page(found: dict[str, list[Result]], seeds: list[int], steps: int) -> str:
    """The table, a row a variant."""
    rows = [["student", *(f"CE, seed {seed}" for seed in seeds), "over the first"]]
    for variant, results in found.items():
        over = "{:.3f} ± {:.3f}".format(*ratio(found, variant)) if VARIANTS[variant] else ""
        rows.append([variant, *(f"{result['ce']:.4f}" for result in results), over])
    command = f"python benchmarks/ablation_depth.py --steps {steps} --seeds {' '.join(map(str, seeds))}"
    return HEAD.format(command=command, steps=steps) + table(rows)


def ratio(found: dict[str, list[Result]], variant: str) -> tuple[float, float]:
    """Cross-entropy over that of the student as it is, mean over seeds and half of its 95 % interval."""
    pairs = zip(found[variant], found[next(iter(VARIANTS))], strict=True)
    return mean_and_interval([result["ce"] / plain["ce"] for result, plain in pairs])


def main() -> None:
    """Run what is missing and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--at-once", type=int, default=2, help="runs at a time, one core each")
    options = parser.parse_args()
    for seed in options.seeds:
        measured(OUTPUT / f"label-{seed}.json", partial(label, seed, CACHE, OUTPUT / f"label-{seed}.log"))
    runs = [(variant, seed) for seed in options.seeds for variant in VARIANTS]
    jobs = [
        partial(
            measured,
            OUTPUT / f"{options.steps}-{list(VARIANTS).index(variant)}-{seed}.json",
            partial(train, variant, seed, options.steps),
        )
        for variant, seed in runs
    ]
    found: dict[str, list[Result]] = {variant: [] for variant in VARIANTS}
    for (variant, _), result in zip(runs, all_of(jobs, options.at_once), strict=True):
        found[variant].append(result)
    text = page(found, options.seeds, options.steps)
    PAGE.write_text(text, encoding="utf-8")
    print(text)
    print(json.dumps({"ratio": {variant: ratio(found, variant) for variant in VARIANTS}, "runs": found}))


if __name__ == "__main__":
    main()

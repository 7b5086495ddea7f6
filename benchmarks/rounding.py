"""How many weights move at the learning rate of stage 3, in bfloat16 with and without a Kahan sum.

`python benchmarks/rounding.py [MODEL]`, on the CPU: a model, the demo's student by default, is trained
at 1e-6 for 400 steps on the same random tokens: in float32, all in bfloat16 (`trainer.precision: bf16-true`),
and so with `optimization.kahan_sum`. `moved_first` and `moved` are the shares of weights that are not what
they were, after one step and after all; `way` is how far they went in the direction of the float32 run, as a
share of its way. The last line is a JSON object.
"""

import json
import sys

import torch
from torch import Tensor

from katlit.model.pretrained import Dtype, load_model
from katlit.stage.optimization import Optimization, build_optimizer

RATE, STEPS, ROWS, LENGTH = 1e-6, 400, 2, 64
Weights = list[Tensor]


def moved(before: Weights, after: Weights) -> float:
    """Share of the numbers that differ."""
    return sum(int((b != a).sum()) for b, a in zip(before, after, strict=True)) / sum(
        b.numel() for b in before
    )


def run(source: str, dtype: Dtype, settings: Optimization) -> tuple[float, float, Weights]:
    """Shares of weights that moved in the first step and in all, and their ways in float32."""
    model = load_model(source, "MODEL", dtype, "sdpa")
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = build_optimizer(model, settings)
    ids = torch.randint(model.config.vocab_size, (ROWS, LENGTH), generator=torch.Generator().manual_seed(0))
    before, first = [weight.detach().clone() for weight in weights], 0.0
    for step in range(STEPS):
        optimizer.zero_grad()
        model(ids, labels=ids).loss.backward()
        optimizer.step()
        first = first if step else moved(before, weights)
    ways = [w.detach().float() - b.float() for w, b in zip(weights, before, strict=True)]
    return first, moved(before, weights), ways


def main() -> None:
    """Train the three, and print their shares."""
    source = sys.argv[1] if len(sys.argv) > 1 else "assets/student"
    torch.set_num_threads(1)
    plain, summed = Optimization(learning_rate=RATE), Optimization(learning_rate=RATE, kahan_sum=True)
    *_, truth = run(source, "float32", plain)
    length = sum(way.square().sum() for way in truth)
    shares: dict[str, float] = {}
    for name, settings in (("plain", plain), ("kahan", summed)):
        first, all_steps, ways = run(source, "bfloat16", settings)
        along = sum((way * true).sum() for way, true in zip(ways, truth, strict=True))
        shares |= {
            f"moved_first_{name}": first,
            f"moved_{name}": all_steps,
            f"way_{name}": float(along / length),
        }
    print(json.dumps(shares))


if __name__ == "__main__":
    main()

"""Whatever goes wrong on the way of the weights to the engine stops the run at the step it happens."""

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch
from tinyrollouts import Finishing, prompt, train
from torch import Tensor

from katlit.callbacks.rollout.checks import GapLimit
from katlit.engines.fingerprint import Fingerprint, SentWeights, columns, fingerprint, sampled
from katlit.errors import UserError

MATRIX = "model.layers.1.mlp.down_proj.weight"
VECTOR = "model.layers.0.input_layernorm.weight"
TWIN = "model.layers.0.mlp.down_proj.weight"
BATCHES = [[prompt(0), prompt(1)], [prompt(2), prompt(3)], [prompt(4), prompt(5)]]
Weights = dict[str, Tensor]


def left_out(new: Weights, old: Weights) -> Weights:
    return new | {MATRIX: old[MATRIX]}


def scaled(new: Weights, old: Weights) -> Weights:
    return new | {VECTOR: new[VECTOR] * 1.01}


def swapped(new: Weights, old: Weights) -> Weights:
    return new | {MATRIX: new[TWIN], TWIN: new[MATRIX]}


def not_a_number(new: Weights, old: Weights) -> Weights:
    return new | {MATRIX: torch.full_like(new[MATRIX], torch.nan)}


def skipped(new: Weights, old: Weights) -> Weights:
    return old


FAULTS: dict[Callable[[Weights, Weights], Weights], str] = {
    left_out: MATRIX,
    scaled: VECTOR,
    swapped: TWIN,
    not_a_number: MATRIX,
    skipped: "model.embed_tokens.weight",
}


class Faulty(Finishing):
    """Takes the weights of the second sync by a fault, or with `stale` always those of the sync before."""

    def __init__(self, fault: Callable[[Weights, Weights], Weights], *, stale: bool = False) -> None:
        super().__init__(max_context=128)
        self.fault, self.stale, self.syncs = fault, stale, 0
        self.before: Weights = {}

    def sync_weights(self, named_weights: Iterable[tuple[str, Tensor]]) -> None:
        self.syncs += 1
        new = {name: weight.detach().clone() for name, weight in named_weights}
        taken = self.fault(new, self.before or new) if self.stale or self.syncs == 2 else new
        self.before = new
        super().sync_weights(taken.items())


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_the_sync_stops_the_run_at_its_step(
    tmp_path: Path, fault: Callable[[Weights, Weights], Weights]
) -> None:
    with pytest.raises(
        UserError, match=rf"weight sync: at step 2 .* of \d+ of \d+ weights.*'{FAULTS[fault]}'"
    ):
        train(tmp_path, Faulty(fault), BATCHES)


def test_weights_of_the_step_before_stop_the_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"weight sync: at step 2 "):  # the first sync has none before it
        train(tmp_path, Faulty(skipped, stale=True), BATCHES)


def test_a_loader_that_leaves_out_a_weight_is_noticed_before_the_first_sample(tmp_path: Path) -> None:
    class Leaving(Finishing):
        def start(self, model_directory: Path) -> None:
            super().start(model_directory)
            with torch.no_grad():
                self._started().get_parameter(MATRIX).add_(1e-6)

    with pytest.raises(UserError, match=rf"weight sync: at step 0 .* of 1 of \d+ weights.*'{MATRIX}'"):
        train(tmp_path, Leaving(max_context=128), BATCHES)


class Closed(Faulty):
    """Cannot read its weights back."""

    def fingerprints(self) -> dict[str, Fingerprint]:
        return {}


def test_where_nothing_can_be_read_back_the_gap_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"logprob_gap is .* at step 2, above max_logprob_gap 0.0001:"):
        train(tmp_path, Closed(left_out), BATCHES)


def test_the_limit_of_the_gap() -> None:
    limit = GapLimit(0.05)
    assert limit.of(0.0, verified=False) == 0.05  # nothing was compared: no floor yet
    assert limit.of(0.002, verified=False) == pytest.approx(0.02)
    assert limit.of(0.04, verified=False) == pytest.approx(0.02)
    assert limit.of(0.04, verified=True) == 0.05
    assert GapLimit(0.05).of(1e-6, verified=False) == 1e-4
    assert GapLimit(0.05).of(0.03, verified=False) == 0.05
    assert GapLimit(None).of(0.03, verified=False) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_compared(dtype: torch.dtype) -> None:
    matrix = torch.randn(5, 64)
    sent = SentWeights()
    assert [name for name, _ in sent.watch([("m", matrix), ("v", matrix[0])])] == ["m", "v"]
    loaded = {"m": fingerprint(sampled(matrix.to(dtype)))}
    assert (sent.differing(loaded), sent.unread(loaded)) == ([], ["v"])
    units = torch.eye(64, dtype=dtype)[columns(64)]
    assert fingerprint((units @ matrix.to(dtype).T).T) == loaded["m"]  # as a kernel gives columns
    moved = matrix.to(dtype)
    moved[2, columns(64)[1]] = torch.nextafter(moved[2, columns(64)[1]], torch.tensor(9.0, dtype=dtype))
    assert sent.differing({"m": fingerprint(sampled(moved))}) == ["m"]
    assert sent.differing({"other": loaded["m"]}) == ["other"]
    zero, negative = torch.zeros(3, dtype=dtype), -torch.zeros(3, dtype=dtype)
    assert fingerprint(zero) == fingerprint(negative)
    assert fingerprint(zero) != fingerprint(zero.double())
    assert columns(3) == [0, 1, 2]
    assert columns(1) == [0]


def test_what_is_not_finite_is_never_right() -> None:
    vector = torch.tensor([1.0, torch.inf])
    sent = SentWeights()
    list(sent.watch([("v", vector)]))
    assert sent.differing({"v": fingerprint(vector)}) == ["v"]

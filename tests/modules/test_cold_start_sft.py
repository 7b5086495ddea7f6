"""Stage 2: the loss against plain cross-entropy, the segments against a walk over the tokens."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from tinymodel import fit, packed, tiny_backbone
from torch import Tensor

from katlit.errors import UserError
from katlit.modules import ColdStartSFT
from katlit.modules.cold_start_sft import judge_mask
from katlit.stage.optimization import Optimization

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")
ON, OFF = "<think_on>", "<think_off>"
# Of `batch_of`: row, start, end, mode, first target.
DOCUMENTS = [(0, 0, 9, 4, 2), (0, 9, 16, 12, 10), (1, 0, 8, 2, 3)]


def stage_of(directory: Path) -> ColdStartSFT:
    return ColdStartSFT(tiny_backbone(directory), Optimization(learning_rate=1e-2))


def batch_of(stage: ColdStartSFT) -> dict[str, Tensor]:
    """Three documents and padding; the modes are on, off, and on by a forced prefill, which is no target."""
    batch = packed([[9, 7], [8]])
    ids = stage.backbone.protocol.marker_ids
    batch["input_ids"][0, 4], batch["input_ids"][0, 12], batch["input_ids"][1, 2] = ids[ON], ids[OFF], ids[ON]
    batch["loss_mask"][0, :2] = False
    batch["loss_mask"][1, :3] = False
    return batch


def test_judge_segment_ends_with_the_mode() -> None:
    ids = torch.tensor([[5, 5, 1, 5, 1, 5, 5, 2, 5, 5, 5], [2, 5, 5, 1, 5, 5, 5, 5, 0, 0, 0]])
    positions = torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2, 3, 0, 1], [0, 1, 0, 1, 2, 3, 0, 1, 0, 1, 2]])
    truth = [[1, 1, 1, 0, 0, 1, 1, 1, 0, 1, 1], [1, 0, 1, 1, 0, 0, 1, 1, 1, 1, 1]]
    assert judge_mask(ids, positions, torch.tensor([1, 2])).long().tolist() == truth


def test_validation(tmp_path: Path) -> None:
    stage = stage_of(tmp_path)
    stage.configure_model()
    batch = batch_of(stage)
    metrics = fit(stage, [batch, batch], max_steps=2, limit_train_batches=1).callback_metrics
    stage.eval()
    with torch.no_grad():
        hidden = stage.backbone(batch["input_ids"], batch["position_ids"]).main
        logits = stage.backbone.logits(hidden)
    judge, answer = [], []
    for row, _, end, mode, first in DOCUMENTS:
        for t in range(first, end):
            loss = F.cross_entropy(logits[row, t - 1], batch["input_ids"][row, t])
            (judge if t <= mode else answer).append(loss)
    truth = {"judge_ce": judge, "answer_ce": answer, "ce": judge + answer, "loss": judge + answer}
    for name, values in truth.items():
        torch.testing.assert_close(metrics[f"val/{name}"], torch.stack(values).mean())
    torch.testing.assert_close(metrics["val/judge_perplexity"], torch.stack(judge).mean().exp())
    ids = stage.backbone.protocol.marker_ids
    hits = [logits[0, 3, ids[ON]] > logits[0, 3, ids[OFF]], logits[0, 11, ids[OFF]] > logits[0, 11, ids[ON]]]
    assert metrics["val/mode_accuracy"] == sum(map(float, hits)) / 2


def test_mode_hits_are_those_of_the_marker_itself(tmp_path: Path) -> None:
    stage = stage_of(tmp_path)
    stage.configure_model()
    ids = stage.backbone.protocol.marker_ids
    batch = packed([[5] * 8])
    modes = torch.tensor([ids[ON], ids[OFF]])[torch.randint(2, (8,))]
    batch["input_ids"][0, 3::5] = modes
    hidden = stage.backbone(batch["input_ids"], batch["position_ids"]).main.flatten(0, 1)
    logits = stage.backbone.logits(hidden)[2::5]  # what predicts the fourth token of each document
    truth = (logits[:, ids[ON]] > logits[:, ids[OFF]]) == (modes == ids[ON])
    targets = batch["loss_mask"].flatten().nonzero()[:, 0]
    assert stage._mode_hits(batch, hidden, targets).tolist() == truth.float().tolist()
    assert 0 < truth.sum() < 8


def test_judge_tokens_weigh_as_told(tmp_path: Path) -> None:
    stage = ColdStartSFT(tiny_backbone(tmp_path), judge_weight=4.0)
    stage.configure_model()
    stage.log_training = lambda values: None
    batch = batch_of(stage)
    with torch.no_grad():
        logits = stage.backbone.logits(stage.backbone(batch["input_ids"], batch["position_ids"]).main)
    losses, weights = [], []
    for row, _, end, mode, first in DOCUMENTS:
        for t in range(first, end):
            losses.append(F.cross_entropy(logits[row, t - 1], batch["input_ids"][row, t]))
            weights.append(4.0 if t <= mode else 1.0)
    truth = torch.dot(torch.stack(losses), torch.tensor(weights)) / sum(weights)
    torch.testing.assert_close(stage.training_step(batch, 0).detach(), truth)


def test_mtp_modules_learn_from_what_they_can_reach(tmp_path: Path) -> None:
    stage = ColdStartSFT(tiny_backbone(tmp_path, mtp_depth=2), judge_weight=4.0, mtp_weight=0.3)
    stage.configure_model()
    stage.log_training = lambda values: None
    batch = batch_of(stage)
    loss = stage.training_step(batch, 0)
    stage.mtp_weight = 0.0
    plain = stage.training_step(batch, 0)
    with torch.no_grad():
        hidden = stage.backbone(batch["input_ids"], batch["position_ids"], with_mtp=True)
    means = []
    for k, states in enumerate(hidden.mtp, start=1):
        logits = stage.backbone.logits(states)
        losses = [
            F.cross_entropy(logits[row, t - k - 1], batch["input_ids"][row, t])
            for row, start, end, _, first in DOCUMENTS
            for t in range(max(first, start + k + 1), end)
        ]
        means.append(torch.stack(losses).mean())
    torch.testing.assert_close((loss - plain).detach(), 0.3 * (means[0] + means[1]) / 2)


@pytest.mark.parametrize("mtp_weight", [0.0, 0.3])
def test_mtp_modules_move_only_where_told(tmp_path: Path, mtp_weight: float) -> None:
    stage = ColdStartSFT(tiny_backbone(tmp_path, mtp_depth=1), mtp_weight=mtp_weight)
    stage.configure_model()
    before = [weight.clone() for weight in stage.backbone.mtp.parameters()]
    metrics = fit(stage, [batch_of(stage)] * 2, max_steps=2).callback_metrics
    moved = {not torch.equal(a, b) for a, b in zip(before, stage.backbone.mtp.parameters(), strict=True)}
    assert moved == {mtp_weight > 0}
    assert ("val/mtp1_perplexity" in metrics) == (mtp_weight > 0)


def test_a_judge_without_weight_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="judge_weight: 0"):
        ColdStartSFT(tiny_backbone(tmp_path), judge_weight=0)


def test_it_learns_the_modes(tmp_path: Path) -> None:
    stage = stage_of(tmp_path)
    batch = batch_of(stage)
    metrics = fit(stage, [batch], max_steps=20).callback_metrics
    assert metrics["val/mode_accuracy"] == 1
    assert metrics["val/ce"] < 2


def test_nothing_to_learn_gives_zero_and_finite_gradients(tmp_path: Path) -> None:
    stage = stage_of(tmp_path)
    stage.configure_model()
    stage.log_training = lambda values: None
    batch = batch_of(stage)
    loss = stage.training_step(batch | {"loss_mask": torch.zeros_like(batch["loss_mask"])}, 0)
    loss.backward()
    assert loss == 0
    assert all((parameter.grad == 0).all() for parameter in stage.parameters())

"""Stage 1: identities that hold whatever the losses are made of, and the sum of recipe §3 written out."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tinymodel import LLAMA, QWEN, fit, packed, tiny_backbone
from torch import Tensor

from katlit.errors import UserError
from katlit.model.backbone import Backbone
from katlit.modules import DistillMTP
from katlit.stage.optimization import Optimization
from katlit.teacher.comparison import ToldTeacher

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")
FAST = Optimization(learning_rate=1e-2)


def teacher(directory: Path, config: dict[str, Any] = QWEN, seed: int = 7) -> str:
    backbone = tiny_backbone(directory / "made", config, seed=seed)
    backbone.materialize()
    backbone.export(directory / "teacher")
    return str(directory / "teacher")


def batch_of(lengths: list[list[int]]) -> dict[str, Tensor]:
    """The teacher reads the same tokens; every target is paired with itself."""
    batch = packed(lengths)
    targets = batch["loss_mask"].flatten().nonzero()[:, 0]
    theirs = {f"teacher_{name}": batch[name] for name in ("input_ids", "position_ids")}
    return batch | theirs | {"student_targets": targets, "teacher_targets": targets}


@pytest.mark.parametrize("kd", ["jsd", "uld"])
def test_a_student_equal_to_its_teacher_has_no_distillation_loss(tmp_path: Path, kd: Any) -> None:
    source = teacher(tmp_path)
    stage = DistillMTP(Backbone(init_from=source), source, kd=kd, temperature=2.0)
    stage.configure_model()
    batch = batch_of([[5, 3], [6]])
    terms = stage._terms(batch, stage._hidden(batch)[0])
    assert set(terms) == {"ce", "kd"}
    assert terms["kd"].abs().max() < 1e-6
    assert terms["ce"].mean() > 1


@pytest.mark.parametrize("kd", ["jsd", "uld"])
def test_the_teacher_stays_as_it_was_and_out_of_sight(tmp_path: Path, kd: Any) -> None:
    source = teacher(tmp_path)
    stage = DistillMTP(tiny_backbone(tmp_path, mtp_depth=1), source, FAST, kd=kd)
    assert list(stage.parameters()) == []
    stage.configure_model()
    model = stage._teachers[0].frozen.model
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    trainer = fit(stage, [batch_of([[5, 3], [6]])], enable_checkpointing=True, default_root_dir=tmp_path)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())
    assert not model.training
    assert not any(weight.requires_grad for weight in model.parameters())
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    assert all(name.startswith("backbone.") for name in saved)
    assert len(saved) == len(dict(stage.backbone.named_weights(include_mtp=True)))
    trained = {id(p) for group in trainer.optimizers[0].param_groups for p in group["params"]}
    assert trained == {id(p) for p in stage.backbone.parameters()}


@pytest.mark.parametrize("kd", ["jsd", "uld", "none"])
def test_nothing_to_learn_gives_zero_and_finite_gradients(tmp_path: Path, kd: Any) -> None:
    stage = DistillMTP(tiny_backbone(tmp_path, mtp_depth=2), teacher(tmp_path), kd=kd)
    stage.configure_model()
    batch = batch_of([[5, 3], [6]])
    none = torch.zeros(0, dtype=torch.long)
    batch |= {"student_targets": none, "teacher_targets": none}
    batch["loss_mask"] = torch.zeros_like(batch["loss_mask"])
    stage.log_training = lambda values: None
    loss = stage.training_step(batch, 0)
    loss.backward()
    assert loss == 0
    for parameter in stage.parameters():
        assert parameter.grad is not None
        assert (parameter.grad == 0).all()


def test_the_loss_is_the_sum_of_the_recipe(tmp_path: Path) -> None:
    """Every target of every depth found by walking over documents, one at a time."""
    kd_weight, mtp_weight, lengths = 0.7, 0.4, [[6, 2, 3], [8, 1]]
    source = teacher(tmp_path, LLAMA)
    stage = DistillMTP(
        tiny_backbone(tmp_path, mtp_depth=2), source, kd="uld", kd_weight=kd_weight, mtp_weight=mtp_weight
    )
    stage.configure_model()
    stage.log_training = lambda values: None
    batch = batch_of(lengths)
    ce: dict[int, list[Tensor]] = {0: [], 1: [], 2: []}
    kd: dict[int, list[Tensor]] = {0: [], 1: [], 2: []}
    for row, row_lengths in enumerate(lengths):
        start = 0
        for length in row_lengths:
            ids = batch["input_ids"][row : row + 1, start : start + length]
            start += length
            positions = torch.arange(length).unsqueeze(0)
            hidden = stage.backbone(ids, positions, with_mtp=True)
            probabilities = stage._teachers[0].frozen.model(ids).logits[0].softmax(dim=-1)
            for k, states in enumerate((hidden.main, *hidden.mtp)):
                logits = stage.backbone.logits(states[0])
                for t in range(length - k - 1):
                    ce[k].append(F.cross_entropy(logits[t], ids[0, t + k + 1]))
                    pair = logits[t].softmax(dim=-1), probabilities[t + k]  # shifted by k
                    first, second = (p.sort(descending=True).values for p in pair)
                    kd[k].append((first - second).abs().sum())
    means = [(torch.stack(ce[k]).mean() + kd_weight * torch.stack(kd[k]).mean()) for k in range(3)]
    truth = means[0] + mtp_weight / 2 * (means[1] + means[2])
    torch.testing.assert_close(stage.training_step(batch, 0), truth)


@pytest.mark.parametrize("kd", ["jsd", "uld", "none"])
def test_it_learns(tmp_path: Path, kd: Any) -> None:
    stage = DistillMTP(tiny_backbone(tmp_path, mtp_depth=1), teacher(tmp_path), FAST, kd=kd)
    batch = batch_of([[9, 6], [14]])
    first = fit(stage, [batch], max_steps=1).callback_metrics["val/loss"]
    metrics = fit(stage, [batch], max_steps=20).callback_metrics
    assert metrics["val/loss"] < 0.75 * first
    depth = {f"val/mtp1_{name}" for name in ("ce", "perplexity", "acceptance")}
    assert {"val/loss", "val/ce", "val/perplexity"} | depth <= set(metrics)
    assert ("val/kd" in metrics) == ("val/mtp1_kd" in metrics) == (kd != "none")
    torch.testing.assert_close(metrics["val/perplexity"], metrics["val/ce"].exp())
    assert 0 <= metrics["val/mtp1_acceptance"] <= 1


def test_the_hybrid_of_one_vocabulary_is_the_distance_of_probabilities(tmp_path: Path) -> None:
    source = teacher(tmp_path)
    stage = DistillMTP(tiny_backbone(tmp_path), source, uld_matching="hybrid")
    stage.configure_model()
    batch = batch_of([[5, 3], [6]])
    targets = batch["student_targets"]
    rows = {name: batch[name] for name in ("input_ids", "position_ids")}
    ours, theirs = (
        model(**rows, use_cache=False).logits.flatten(0, 1)
        for model in (stage.backbone.causal_lm, stage._teachers[0].frozen.model)
    )
    truth = (ours.softmax(-1) - theirs.softmax(-1))[targets - 1].abs().sum(-1)
    hidden, _ = stage._hidden(batch)
    torch.testing.assert_close(stage._terms(batch, hidden)["kd"], truth)
    assert "student_shared" not in " ".join(stage.state_dict())
    assert fit(stage, [batch]).callback_metrics["val/kd"] > 0


def test_the_share_of_paired_targets_is_that_of_the_whole_step(tmp_path: Path) -> None:
    stage = DistillMTP(tiny_backbone(tmp_path, mtp_depth=1), teacher(tmp_path))
    stage.configure_model()
    parts = [batch_of([[5, 3], [6]]), batch_of([[9, 4], [2, 2]]), batch_of([[3]])]  # 11, 13 and 2 targets
    for part, kept in zip(parts, (4, 13, 0), strict=True):
        for side in ("student_targets", "teacher_targets"):
            part[side] = part[side][:kept]
    logged: dict[str, Tensor] = {}
    stage.log_dict = lambda rows, **_: logged.update(rows)
    for part, window in zip(parts, (parts, [], []), strict=True):
        stage.training_step(part | {"window": window}, 0)
    torch.testing.assert_close(logged["uld/paired_share"], torch.tensor(17 / 26))
    assert "train/loss" in logged
    del stage.log_dict
    metrics = fit(stage, parts).callback_metrics
    torch.testing.assert_close(metrics["val/paired_share"], torch.tensor(17 / 26))


def test_acceptance_compares_the_same_target(tmp_path: Path) -> None:
    stage = DistillMTP(tiny_backbone(tmp_path, mtp_depth=1), kd="none")
    stage.configure_model()
    batch = batch_of([[5, 4]])
    size = stage.backbone.head_weight.shape[0]
    with torch.no_grad():
        stage.backbone.head_weight.copy_(torch.eye(size, 32))
    # main head: greedy token of position t is t; module: its position t says t + 1, the main head's next word
    main, module = torch.eye(9, 32), torch.eye(10, 32)[1:]
    module[6] = torch.eye(32)[20]  # one disagreement, at t = 6: the target at 8
    accepted = stage._accepted(batch, [main, module])["mtp1_acceptance"]
    assert accepted.tolist() == [1, 1, 1, 1, 0]  # targets 2, 3, 4 and 7, 8


def with_top(batch: dict[str, Tensor], stage: DistillMTP, k: int) -> dict[str, Tensor]:
    """What a cache would say of the paired targets, from a stage that has the teacher."""
    with torch.no_grad():
        rows = {name: batch[f"teacher_{name}"] for name in ("input_ids", "position_ids")}
        logits = stage._teachers[0].frozen.model(**rows, use_cache=False).logits.flatten(0, 1)
    p, ids = logits[batch["teacher_targets"] - 1].double().softmax(dim=-1).sort(dim=-1, descending=True)
    top = torch.cat([p[:, :k], p[:, k:].sum(dim=-1, keepdim=True)], dim=-1).log().float()
    return batch | {"teacher_top_ids": ids[:, :k].int(), "teacher_top_log_probs": top}


@pytest.mark.parametrize("kd", ["jsd", "uld"])
def test_a_cache_of_all_tokens_is_the_teacher_at_every_depth(tmp_path: Path, kd: Any) -> None:
    source = teacher(tmp_path)
    stages = [
        DistillMTP(tiny_backbone(tmp_path, mtp_depth=2), source, FAST, kd=kd, teacher_placement=placement)
        for placement in ("device", "cached")
    ]
    for stage in stages:
        torch.manual_seed(0)
        stage.configure_model()
        stage.log_training = lambda values: None
    live, cached = stages
    assert [type(teacher) for teacher in cached._teachers] == [ToldTeacher]
    batch = batch_of([[6, 2, 3], [8, 1]])
    batch["student_targets"], batch["teacher_targets"] = (
        batch[f"{side}_targets"][::2] for side in ("student", "teacher")
    )
    size = len(live.backbone.head_weight)
    losses = [live.training_step(batch, 0), cached.training_step(with_top(batch, live, size), 0)]
    torch.testing.assert_close(*losses)
    for loss in losses:
        loss.backward()
    for ours, theirs in zip(live.parameters(), cached.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, atol=2e-6, rtol=1e-4)
    few = with_top(batch, live, 3)
    assert cached.training_step(few, 0) < losses[0]  # less is known of the teacher, so less differs
    metrics = fit(cached, [few], max_steps=10).callback_metrics
    assert metrics["val/kd"] >= 0
    assert metrics["val/mtp2_kd"] >= 0


def test_what_a_cache_does_not_tell_is_refused(tmp_path: Path) -> None:
    source = teacher(tmp_path)
    for settings, message in (
        ({"temperature": 2.0}, r"model\.temperature: 2\.0, but a cached teacher is known at 1\.0 only"),
        ({"uld_matching": "hybrid"}, r"model\.uld_matching: hybrid needs all tokens"),
    ):
        with pytest.raises(UserError, match=message):
            DistillMTP(
                tiny_backbone(tmp_path), source, teacher_placement="cached", **settings
            ).configure_model()
    larger = tiny_backbone(tmp_path / "other", QWEN | {"vocab_size": 300})
    larger.materialize()
    larger.export(tmp_path / "larger")
    with pytest.raises(UserError, match=r"jsd needs one vocabulary.*300 logits"):
        DistillMTP(
            tiny_backbone(tmp_path), str(tmp_path / "larger"), kd="jsd", teacher_placement="cached"
        ).configure_model()
    stage = DistillMTP(tiny_backbone(tmp_path), source, teacher_placement="cached")
    stage.configure_model()
    with pytest.raises(UserError, match=r"teacher_placement: cached, but the data have no teacher"):
        stage.training_step(batch_of([[5]]), 0)


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model\.teacher: not given; kd 'uld' needs one"):
        DistillMTP(tiny_backbone(tmp_path)).configure_model()
    with pytest.raises(UserError, match=r"model\.teacher: directory './gone' does not exist"):
        DistillMTP(tiny_backbone(tmp_path), "./gone").configure_model()
    other = tiny_backbone(tmp_path / "other", QWEN | {"vocab_size": 300})
    other.materialize()
    other.export(tmp_path / "larger")
    size = len(other.protocol.tokenizer)
    with pytest.raises(UserError, match=rf"jsd needs one vocabulary.*300 logits.*{size} \({size}\)"):
        DistillMTP(tiny_backbone(tmp_path), str(tmp_path / "larger"), kd="jsd").configure_model()


def test_of_a_teacher_that_only_an_endpoint_has_there_is_no_distillation(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("WARNING", "katlit"):
        stage = DistillMTP(tiny_backbone(tmp_path), "endpoint:the-model", kd="jsd")
        two = DistillMTP(
            tiny_backbone(tmp_path), {"think_off": "endpoint:the-model", "think_on": teacher(tmp_path)}
        )
        DistillMTP(tiny_backbone(tmp_path), "endpoint:the-model", kd="none")
    assert (stage.kd, two.kd, stage.needs().losses) == ("none", "none", ("log_probs",))
    assert caplog.messages[0] == (
        "model.teacher: only an endpoint has endpoint:the-model, so nothing is known of it but text: kd is "
        "none, not jsd"
    )
    assert len(caplog.messages) == 2
    stage.configure_model()
    stage.load_companions()
    batch = batch_of([[6, 5]])
    assert {"ce"} == set(stage._terms(batch, stage._hidden(batch)[0]))

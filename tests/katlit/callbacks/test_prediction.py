"""`katlit predict` on a tiny model: what is written of the answers."""

import json
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Trainer
from tinymodel import tiny_backbone

from katlit.batch import Prompt
from katlit.callbacks.prediction import Prediction
from katlit.datamodules.loader import EpochLoader
from katlit.engines import HFEngine
from katlit.engines.base import Completion, SamplingParameters
from katlit.errors import UserError
from katlit.modules import StepSRPO
from katlit.text.protocol import Mode, Response


def prompt(number: int, words: int = 1) -> Prompt:
    return Prompt(
        id=f"p{number}", messages=[{"role": "user", "content": f"{number} " * words}], reference="",
        verifier="match", domain="", difficulty=0, metadata={},
    )  # fmt: skip


class Script(HFEngine):
    """Answers the first prompt well; the others run into the limit."""

    protocol: Any
    closed = False

    def start(self, model_directory: Path) -> None:
        assert (model_directory / "config.json").is_file()

    def generate(
        self, prompts: Any, sampling: SamplingParameters, seeds: Any = None, finished: Any = None
    ) -> list[Completion]:
        assert sampling.stop_token_ids == [self.protocol.end_id]
        ids = self.protocol.encode_response(Response("j", Mode.THINK_ON, "seven", "é so"), "auto")
        cut = self.protocol.encode_content("hm")
        rest = [Completion(cut, [0.0, 0.0], "length") for _ in prompts[1:]]
        return [Completion(ids, [0.0] * len(ids), "stop"), *rest]

    def close(self) -> None:
        self.closed = True


def predict(root: Path, engine: Any, prompts: list[Prompt], **settings: Any) -> list[dict[str, Any]]:
    stage = StepSRPO(tiny_backbone(root))
    engine.protocol = stage.backbone.protocol
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=root, callbacks=[Prediction(engine, SamplingParameters(max_tokens=40), **settings)],
    )  # fmt: skip
    batches = [prompts[start : start + 2] for start in range(0, len(prompts), 2)]
    loader = EpochLoader(lambda _: batches, lambda batch: {"prompts": batch})
    trainer.predict(stage, loader, return_predictions=False)
    return [json.loads(line) for line in (root / "answers.jsonl").read_text().splitlines()]


def test_each_answer_is_kept_with_its_parts(tmp_path: Path) -> None:
    engine = Script(max_context=128)
    good, cut = predict(tmp_path, engine, [prompt(0), prompt(1, 80), prompt(2)])
    assert good.pop("tokens") > 10
    assert good == {
        "id": "p0", "question": "0 ", "mode": "on", "judge": "j", "think": "é so", "answer": "seven",
        "violation": None,
    }  # fmt: skip
    assert (cut["id"], cut["violation"], cut["tokens"]) == ("p2", "truncated", 2)
    assert engine.closed


def test_a_real_engine_and_a_forced_mode(tmp_path: Path) -> None:
    (answer,) = predict(tmp_path, HFEngine(max_context=128), [prompt(0)], thinking="off")
    assert answer["mode"] == "off"


def test_nothing_to_answer_is_an_error_and_leaves_no_file(tmp_path: Path) -> None:
    engine = Script(max_context=64)
    with pytest.raises(UserError, match="none of 2 prompts fits into a context of 64 tokens"):
        predict(tmp_path, engine, [prompt(0, 60), prompt(1, 60)])
    assert not (tmp_path / "answers.jsonl").exists()
    assert engine.closed

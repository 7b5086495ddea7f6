"""`katlit test` on a tiny model: what is written, and how responses are counted."""

import json
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Trainer
from tinymodel import tiny_backbone
from torch.utils.data import DataLoader

from katlit.batch import Prompt
from katlit.callbacks.evaluation import Evaluation
from katlit.engines import HFEngine
from katlit.engines.base import Completion, SamplingParameters
from katlit.errors import UserError
from katlit.model.backbone import Backbone
from katlit.model.fingerprint import sample_model
from katlit.modules import StepSRPO
from katlit.text.protocol import Mode

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")


def prompt(number: int, words: int = 1) -> Prompt:
    return Prompt(
        id=f"p{number}", messages=[{"role": "user", "content": f"{number} " * words}], reference="7",
        verifier="match", domain="sums", difficulty=number % 2, metadata={},
    )  # fmt: skip


class Script(HFEngine):
    """Answers by rule: right where the mode is forced on, wrong else; thinking costs."""

    protocol: Any
    closed = False

    def start(self, model_directory: Path) -> None:
        assert (model_directory / "config.json").is_file()

    def generate(
        self, prompts: Any, sampling: SamplingParameters, seeds: Any = None, finished: Any = None
    ) -> list[Completion]:
        self.sampling = sampling
        return [Completion(ids, [0.0] * len(ids), "stop") for ids in map(self.respond, prompts)]

    def respond(self, ids: list[int]) -> list[int]:
        from katlit.text.protocol import Response

        on = ids[-1] == self.protocol.marker_ids["<think_on>"]
        forced: Any = "on" if on else "off" if ids[-1] == self.protocol.marker_ids["<think_off>"] else "auto"
        mode = Mode.THINK_ON if on else Mode.THINK_OFF
        return self.protocol.encode_response(
            Response("j", mode, "7" if on else "8", "t" * 9 if on else ""), forced
        )

    def close(self) -> None:
        self.closed = True


def run(
    root: Path, engine: Any, prompts: list[Prompt], backbone: Backbone | None = None, **settings: Any
) -> tuple[Any, dict[str, float]]:
    stage = StepSRPO(backbone or tiny_backbone(root))
    engine.protocol = stage.backbone.protocol
    settings = {"sampling": SamplingParameters(temperature=0, max_tokens=40)} | settings
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=root, callbacks=[Evaluation(engine, **settings)],
    )  # fmt: skip
    batches = [{"prompts": prompts[start : start + 2]} for start in range(0, len(prompts), 2)]
    (logged,) = trainer.test(stage, DataLoader(batches, batch_size=None), verbose=False)
    return stage, logged


def test_counts_and_files(tmp_path: Path) -> None:
    engine = Script(max_context=128)
    stage, logged = run(tmp_path, engine, [prompt(0), prompt(1), prompt(2), prompt(3, 80)])
    protocol = stage.backbone.protocol
    results = json.loads((tmp_path / "evaluation.json").read_text())
    assert results["num_prompts"] == 3
    assert results["skipped"] == 1
    assert results["versions"]["torch"]
    assert results["sampling"].keys() == {"temperature", "top_p", "top_k", "max_tokens"}
    assert {name: figures["accuracy"] for name, figures in results["policies"].items()} == {
        "auto": 0, "on": 1, "off": 0,
    }  # fmt: skip
    off = results["policies"]["off"]
    reply = engine.respond(protocol.encode_prompt(prompt(0)["messages"], "off"))
    assert off["mean_tokens"] == len(protocol.forced_prefill(Mode.THINK_OFF)) + len(reply)
    auto = engine.respond(protocol.encode_prompt(prompt(0)["messages"]))
    assert results["policies"]["auto"]["mean_tokens"] == len(auto)
    assert results["policies"]["on"]["think_rate"] == 1
    assert results["headline"]["accuracy_gap"] == -1
    assert logged["test/on_accuracy"] == 1
    lines = [json.loads(line) for line in (tmp_path / "responses.jsonl").read_text().splitlines()]
    assert len(lines) == 9
    assert {line["prompt_id"] for line in lines} == {"p0", "p1", "p2"}
    on = next(line for line in lines if line["policy"] == "on")
    assert on["text"].count("<think_on>") == 1
    assert (on["question"], on["reference"], on["thinking"], on["answer"]) == ("0 ", "7", "t" * 9, "7")
    assert engine.sampling.stop_token_ids == [protocol.end_id]
    assert engine.closed
    assert not list(tmp_path.glob(".*"))


def test_it_says_of_which_weights_it_is(tmp_path: Path) -> None:
    stage, _ = run(tmp_path, Script(max_context=128), [prompt(0)])
    file = tmp_path / "evaluation.json"
    assert json.loads(file.read_text())["model"] is None  # fresh weights are no directory's
    stage.backbone.export(tmp_path / "out")
    run(tmp_path, Script(max_context=128), [prompt(0)], Backbone(init_from=str(tmp_path / "out")))
    assert json.loads(file.read_text())["model"] == sample_model(str(tmp_path / "out"))


def test_weights_that_cannot_be_told_are_refused_before_the_sampling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(directory: str) -> str:
        raise UserError("no such weights")

    stage, _ = run(tmp_path, Script(max_context=128), [prompt(0)])
    stage.backbone.export(tmp_path / "out")
    monkeypatch.setattr("katlit.callbacks.evaluation.sample_model", refuse)
    engine = Script(max_context=128)
    with pytest.raises(UserError, match="no such weights"):
        run(tmp_path, engine, [prompt(0)], Backbone(init_from=str(tmp_path / "out")))
    assert not hasattr(engine, "sampling")


def test_a_real_engine(tmp_path: Path) -> None:
    run(tmp_path, HFEngine(max_context=128), [prompt(0), prompt(1)], policies=["auto"])
    results = json.loads((tmp_path / "evaluation.json").read_text())
    assert results["engine"] == "hf"
    assert results["headline"] is None
    assert set(results["policies"]) == {"auto"}


def test_nothing_to_sample_is_an_error_and_leaves_no_file(tmp_path: Path) -> None:
    engine = Script(max_context=64)
    with pytest.raises(UserError, match=r"none of 2 prompts could be sampled \(2 too long"):
        run(tmp_path, engine, [prompt(0, 60), prompt(1, 60)])
    assert not (tmp_path / "evaluation.json").exists()
    assert engine.closed


def test_a_folder_that_cannot_be_written_is_found_out_first(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    engine = Script()
    with pytest.raises(UserError, match="cannot write"):
        run(tmp_path, engine, [prompt(0)], directory=str(tmp_path / "file" / "inside"))

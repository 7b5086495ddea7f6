import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard, metadata_load
from huggingface_hub.repocard import model_index_to_eval_results
from tinymodel import LLAMA, QWEN, tiny_backbone

from katlit.cli import main
from katlit.errors import UserError
from katlit.model.backbone import Backbone
from katlit.model.card import CARD, RECORD, base_record, read_record, write_card
from katlit.model.fingerprint import sample_model

STAGE: dict[str, Any] = {
    "stage": "DistillMTP",
    "steps": 7,
    "data": ["FilePrompts: path data/`x`\n# Head <script>"],
    "datasets": ["owner/questions"],
    "settings": {"model.kd_weight": 1.0, "model.note": "[a](b) | `c` \x1b[2J"},
    "versions": {"katlit": "0.1.0"},
}
FIGURES = {"accuracy": 0.855, "accuracy_ci": [0.8321, 0.8768], "mean_tokens": 41.25,
           "mean_tokens_ci": [39.9, 42.6], "think_rate": 0.4, "format_valid": 0.995}  # fmt: skip
EVALUATION: dict[str, Any] = {
    "policies": {"auto": FIGURES, "on": FIGURES | {"accuracy": 0.86}, "off": FIGURES},
    "headline": {}, "by_difficulty": [], "seed": 1, "num_prompts": 1000, "engine": "vllm", "versions": {},
    "sampling": {"temperature": 1.0, "max_tokens": 200},
}  # fmt: skip


def exported(directory: Path, stage: dict[str, Any] | None = STAGE, **settings: Any) -> Path:
    backbone = tiny_backbone(directory, **settings)
    backbone.materialize()
    backbone.export(directory / "out", stage=stage)
    return directory / "out"


def again(source: Path, target: Path, stage: dict[str, Any], **settings: Any) -> Path:
    """What a stage after it exports."""
    backbone = Backbone(**({"init_from": str(source)} | settings))
    backbone.materialize()
    backbone.export(target, stage=stage)
    return target


def test_the_hub_reads_the_card(tmp_path: Path) -> None:
    out = exported(tmp_path)
    card = ModelCard.load(out / CARD)
    assert card.data.to_dict() == {
        "datasets": ["owner/questions"],
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["katlit", "reasoning", "conversational"],
    }
    assert "started fresh" in card.text
    assert "DistillMTP`, 7 steps" in card.text
    assert "vllm serve DIR --reasoning-parser hf" in card.text
    assert "The weights are `float32`" in card.text
    assert "mtp" not in card.text


def test_each_stage_hands_on_what_was_before(tmp_path: Path) -> None:
    first = exported(tmp_path)
    second = again(first, tmp_path / "two", STAGE | {"stage": "ColdStartSFT", "datasets": ["a/b"]})
    third = again(second, tmp_path / "three", STAGE | {"stage": "StepSRPO"})
    text = (third / CARD).read_text()
    places = [text.index(name) for name in ("DistillMTP", "ColdStartSFT", "StepSRPO")]
    assert places == sorted(places)
    assert metadata_load(third / CARD)["datasets"] == ["a/b", "owner/questions"]
    assert [stage["stage"] for stage in read_record(first)["stages"]] == ["DistillMTP"]


def test_users_texts_are_no_markup(tmp_path: Path) -> None:
    text = (exported(tmp_path) / CARD).read_text()
    assert "- data: `FilePrompts: path data/'x'\\n# Head <script>`\n" in text
    assert r"`model.note`: `[a](b) | 'c' \x1b[2J`" in text
    assert "\n# Head" not in text


@pytest.mark.parametrize(
    ("card", "license_"),
    [
        ("---\nlicense: apache-2.0\n---\n# Base", {"license": "apache-2.0"}),
        ("---\nlicense: other\nlicense_name: own\n---\n", {"license": "other", "license_name": "own"}),
        ("# Base", {}),
        ("---\nlicense: [\n---\n", {}),
        ("---\n- a\n---\n", {}),
        (None, {}),
    ],
)
def test_the_licence_is_the_bases_own(tmp_path: Path, card: str | None, license_: dict[str, str]) -> None:
    base = tmp_path / "a base"
    base.mkdir()
    if card is not None:
        (base / CARD).write_text(card)
    found = {"base": {"name": "a base", "on_hub": False} | license_, "stages": []}
    assert base_record(str(base), "backbone.model") == found


@pytest.mark.parametrize("license_", ["mit", None])
def test_the_licence_is_handed_on_or_said_to_be_missing(tmp_path: Path, license_: str | None) -> None:
    base = exported(tmp_path)
    (base / RECORD).unlink()
    (base / CARD).write_text("" if license_ is None else f"---\nlicense: {license_}\n---\n")
    second = again(base, tmp_path / "two", STAGE, init_from=None, model=str(base))
    third = again(second, tmp_path / "three", STAGE)
    assert metadata_load(third / CARD).get("license") == license_
    text = (third / CARD).read_text()
    assert ("states no licence" if license_ is None else "states the licence `mit`") in text
    assert str(tmp_path) not in text
    assert "started from `out`" in text


def test_a_base_on_the_hub_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / CARD).write_text("---\nlicense: mit\n---\n")
    monkeypatch.setattr("katlit.model.card.local_directory", lambda *_: tmp_path)
    base = {"name": "owner/model", "on_hub": True, "license": "mit"}
    assert base_record("owner/model", "backbone.model") == {"base": base, "stages": []}


def test_a_record_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    strange = ['{"base": null, "stages": [{"stage": 3}]}', '{"base": {}, "stages": []}']
    strange += ['{"base": 3, "stages": ["x"]}']
    for content in ("{", "{}", "[]", '{"base": null, "stages": 3}', *strange):
        (tmp_path / RECORD).write_text(content)
        with pytest.raises(UserError, match=r"no record of an export .* export the model again"):
            base_record(str(tmp_path), "backbone.init_from")


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (QWEN, "a temperature above 0 gives garbage there"),
        (LLAMA, "no drafter for `llama` models"),
    ],
)
def test_the_folder_of_mtp_is_explained(tmp_path: Path, config: dict[str, Any], said: str) -> None:
    text = (exported(tmp_path, config=config, mtp_depth=1) / CARD).read_text()
    assert said in text
    assert ("--speculative-config" in text) == (config is QWEN)


def test_an_evaluation_is_added_by_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = exported(tmp_path)
    (tmp_path / "evaluation.json").write_text(json.dumps(EVALUATION | {"secret": "model's words"}))
    words = ["card", str(out), "--evaluation", str(tmp_path / "evaluation.json")]
    assert main(words) == 0
    assert main(words) == 0  # as often as one likes
    front = metadata_load(out / CARD)
    name, results = model_index_to_eval_results(front["model-index"])
    assert name == "katlit"
    assert [(r.metric_value, r.metric_args["thinking"]) for r in results] == [
        (0.855, "auto"), (0.86, "on"), (0.855, "off")
    ]  # fmt: skip
    assert results[0].metric_args["interval_95"] == [0.8321, 0.8768]
    text = (out / CARD).read_text()
    row = "| the model decides | 0.855 (0.832 to 0.877) | 41.2 (39.9 to 42.6) | 0.40 | 0.995 |"
    assert row in text
    assert "by engine `vllm`, sampled with `temperature 1.0, max_tokens 200`." in text
    assert "model's words" not in text + (out / RECORD).read_text()
    # It is of this model, not of the next stage's.
    assert "None is recorded" in (again(out, tmp_path / "two", STAGE) / CARD).read_text()
    (out / CARD).write_text(text + "My words.\n")
    assert main(words) == 2
    assert "README.md: was changed by hand; keep a copy of it and give --overwrite" in capsys.readouterr().err
    assert main([*words, "--overwrite"]) == 0
    assert (out / CARD).read_text() == text


def test_an_evaluation_of_other_weights_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = exported(tmp_path)
    other = again(one, tmp_path / "two", STAGE)
    file = tmp_path / "evaluation.json"
    words = ["card", str(other), "--evaluation", str(file)]
    capsys.readouterr()
    file.write_text(json.dumps(EVALUATION | {"model": sample_model(str(one))}))
    assert main(words) == 0  # the same weights in another directory
    assert capsys.readouterr().err == ""
    weights = other / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    before = (other / RECORD).read_bytes()
    assert main([*words, "--overwrite"]) == 2
    assert f"{file}: is of another model than {other}" in capsys.readouterr().err
    assert (other / RECORD).read_bytes() == before
    file.write_text(json.dumps(EVALUATION))
    assert main(words) == 0
    assert capsys.readouterr().err == f"{file}: does not say of which model it is; taken for this one's\n"


def drop(name: str) -> Any:
    return lambda folder: (folder / name).unlink()


@pytest.mark.parametrize(
    ("harm", "policies", "message"),
    [
        (lambda folder: (folder / CARD).write_bytes(b"\xff"), {}, "README.md: was changed by hand; keep"),
        (drop("config.json"), {}, "no whole export (.*config.json.*); export the model again"),
        (lambda folder: (folder / "config.json").write_text("{}"), {}, "no whole export ('dtype')"),
        (drop("katlit.json"), {}, "katlit.json: no record of an export"),
        (lambda _: None, {"on": {"accuracy": 1}}, "evaluation.json: lacks what a card shows ('accuracy_ci')"),
        (lambda _: None, {"maybe": FIGURES}, "lacks what a card shows ('maybe'); evaluate the model again"),
    ],
)
def test_what_is_not_whole_is_one_line(
    tmp_path: Path, harm: Any, policies: Any, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "config.json").write_text('{"dtype": "float32"}')
    (out / "tokenizer_config.json").write_text('{"response_template": {"fields": {}}}')
    write_card(out, {"base": None, "stages": [STAGE]})
    before = (out / RECORD).read_bytes()
    harm(out)
    changed = {"policies": EVALUATION["policies"] | policies}
    (tmp_path / "evaluation.json").write_text(json.dumps(EVALUATION | changed))
    assert main(["card", str(out), "--evaluation", str(tmp_path / "evaluation.json")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert all(part in error for part in message.split(".*"))
    assert not (out / RECORD).exists() or (out / RECORD).read_bytes() == before


def test_what_cannot_be_added_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["card", str(tmp_path), "--evaluation", "none.json"]) == 2
    assert "katlit.json: no record of an export" in capsys.readouterr().err
    out = exported(tmp_path)
    assert main(["card", str(out), "--evaluation", "none.json"]) == 2
    assert "none.json: no such evaluation" in capsys.readouterr().err
    assert yaml.safe_load((out / CARD).read_text().split("---")[1])["library_name"] == "transformers"

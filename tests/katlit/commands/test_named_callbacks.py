"""The section `callbacks`: one field of one callback, by its name, in later files and words."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from katlit.cli import main
from katlit.commands.named_callbacks import changed, split
from katlit.errors import UserError

SETTINGS: dict[str, Any] = {
    "seed_everything": 3,
    "trainer": {
        "callbacks": [
            {"class_path": "a.Sampler", "init_args": {
                "samples": 8, "engine": {"class_path": "b.VLLM", "init_args": {"options": {"x": 1, "y": 2}}},
            }},
            {"class_path": "a.Watch"},
        ]
    },
}  # fmt: skip

FIVE = {"engine": {"class_path": "b.VLLM", "init_args": {"options": {"x": 5, "y": 2}}}}


def after(changes: dict[str, Any]) -> list[dict[str, Any]]:
    return yaml.safe_load(changed(SETTINGS, changes).partition("=")[2])


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"samples": 16}, {"samples": 16}),
        ({"seed": "${seed_everything}"}, {"samples": 8, "seed": 3}),
        ({"engine": {"options": {"x": 5}}}, FIVE),
        ({"engine": {"init_args": {"options": {"x": 5}}}}, FIVE),
        ({"engine": {"class_path": "b.HF"}}, {"engine": {"class_path": "b.HF"}}),
        ({"engine": "b.HF"}, {"engine": "b.HF"}),
    ],
)  # fmt: skip
def test_a_field_is_changed(changes: dict[str, Any], wanted: dict[str, Any]) -> None:
    sampler, watch = after({"Sampler": changes})
    assert sampler["init_args"] == SETTINGS["trainer"]["callbacks"][0]["init_args"] | wanted
    assert watch == {"class_path": "a.Watch"}
    assert after({"Watch": {"steps": 1}})[1] == {"class_path": "a.Watch", "init_args": {"steps": 1}}


def test_later_files_and_words_win(tmp_path: Path) -> None:
    files = [tmp_path / "a.yaml", tmp_path / "b.yaml"]
    files[0].write_text("callbacks: {A: {x: 1, y: 1}, B: {z: 1}}\n")
    files[1].write_text("callbacks: {A: {y: 2}}\n")
    words = ["fit", "-c", str(files[0]), "--callbacks.A.e=b.HF", "--callbacks.A.e.n=4", "-c", str(files[1])]
    rest, changes = split([*words, "--x=1"])
    assert rest == ["fit", "-c", str(files[0]), "-c", str(files[1]), "--x=1"]
    engine = {"class_path": "b.HF", "init_args": {"n": 4}}
    assert changes == {"A": {"x": 1, "y": 2, "e": engine}, "B": {"z": 1}}


@pytest.mark.parametrize("words", [["-c", "{}"], ["-c={}"], ["-c{}"], ["--config={}"]])
def test_no_spelling_of_a_file_is_passed_over(words: list[str], tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("callbacks: {A: {x: 1}}\n")
    given = [word.format(file) for word in words]
    assert split(["fit", *given]) == (["fit", *given], {"A": {"x": 1}})


def test_the_section_can_be_a_word() -> None:
    words = ["fit", '--callbacks={"A": {"x": 1}}', "--callbacks.A.y=2"]
    assert split(words) == (["fit"], {"A": {"x": 1, "y": 2}})
    with pytest.raises(UserError, match="is no mapping of names"):
        split(["fit", "--callbacks=[A]"])


def test_the_settings_that_are_printed_hold_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.yaml").write_text("callbacks: {ModeWatch: {patience: 7}}\n")
    files = ["-c", "base.yaml", "-c", "stage/step_srpo.yaml", "-c", str(tmp_path / "mine.yaml")]
    assert main(["fit", *files, "--print_config"]) == 0, capsys.readouterr().err
    printed = yaml.safe_load(capsys.readouterr().out)
    (watch,) = [one for one in printed["trainer"]["callbacks"] if one["class_path"].endswith("ModeWatch")]
    assert watch["init_args"]["patience"] == 7
    assert printed["callbacks"] == {}


@pytest.mark.parametrize(
    ("text", "words", "told"),
    [
        ("callbacks: {ModeWach: {patience: 7}}", [], "ModeWach: trainer.callbacks has no such one"),
        ("callbacks: [ModeWatch]", [], "no mapping of names to settings"),
        ("seed_everything: 1", ["--callbacks.ModeWatch=3"], "give --callbacks.NAME.KEY=VALUE"),
        ("seed_everything: 1", ["--callbacks.ModeWatch.patience=[1"], "is not YAML"),
    ],
)  # fmt: skip
def test_mistakes_are_named(
    text: str, words: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    files = ["-c", "base.yaml", "-c", "stage/step_srpo.yaml", "-c", str(tmp_path / "mine.yaml")]
    assert main(["fit", *files, *words, "--print_config"]) == 2
    assert told in capsys.readouterr().err

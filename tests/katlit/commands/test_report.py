"""The report: right figures, a picture, and one clear error for bad input."""

import json
import shutil
import subprocess
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib.image
import pytest

from katlit.cli import main
from katlit.metrics.evaluation import Answered, summarize


def evaluation(tokens: int, correct: bool) -> dict[str, Any]:
    responses = [
        Answered(f"p{n}", "sums", n % 2, policy, "on" if policy == "on" else "off", correct or n == 0,
                 2 * tokens if policy == "on" else tokens, True, False)
        for n in range(4) for policy in ("auto", "on", "off")
    ]  # fmt: skip
    about = {"seed": 1, "num_prompts": 4, "skipped": 0, "engine": "hf", "versions": {"torch": "2"}}
    return summarize(responses, resamples=50) | about  # type: ignore[arg-type]


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    for name, content in {"a": evaluation(20, False), "b": evaluation(10, True)}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    return [f"--stage=cold_start={tmp_path}/a.json", f"--stage=step_srpo={tmp_path}/b.json"]


def test_the_report(tmp_path: Path, files: list[str]) -> None:
    output = tmp_path / "report"
    assert main(["report", f"--output={output}", *files, "--seconds=label=12.5", "--seed=3"]) == 0
    results = json.loads((output / "report.json").read_text())
    assert results["policies"]["auto"]["accuracy"] == 1
    assert results["before_rl"]["auto"]["accuracy"] == 0.25
    assert results["headline"]["token_ratio"] == 0.5
    assert results["stages"] == {"label": 12.5, "distill": 0, "cold_start": 0, "step_srpo": 0, "evaluate": 0}
    assert results["seed"] == 3
    assert [(row["family"], row["difficulty"], row["policy"]) for row in results["by_difficulty"]] == [
        ("sums", 0, "auto"),
        ("sums", 1, "auto"),
    ]
    assert list(results["history"]) == ["cold_start", "step_srpo"]
    assert (output / "pareto.png").read_bytes().startswith(b"\x89PNG")
    text = (output / "report.md").read_text()
    assert "uses **50%** of the tokens" in text
    assert "| step_srpo | auto | 1.000 (1.000 to 1.000) | 10.0 | 0.00 | 1.000 |" in text
    assert "| label | 12 |" in text


EVIL = "<script>document.write('taken')</script><img onerror>$x_$"
TAGS = {
    "html", "head", "meta", "title", "style", "body", "h1", "h2", "h3", "p", "ul", "li", "b", "figure", "div",
    "table", "tr", "th", "td", "details", "summary", "pre", "svg", "defs", "g", "path", "text", "tspan",
    "use", "clippath", "rect",
}  # fmt: skip
WORDS = ("question", "reference", "judge", "thinking", "answer", "text", "family")


def evil_report(folder: Path) -> Path:
    """A report whose every text and name tries to be more than a text."""
    evil, stages = folder / f"{EVIL.replace('/', '_')}.d", []
    for name, tokens in (("before", 20), (EVIL, 10)):
        place = evil / ("1" if name == "before" else "2")
        place.mkdir(parents=True)
        content = evaluation(tokens, True) | {"engine": EVIL, "versions": {EVIL: EVIL}}
        content["by_difficulty"] = [row | {"family": EVIL} for row in content["by_difficulty"]]
        (place / "evaluation.json").write_text(json.dumps(content))
        words = dict.fromkeys(
            ["question", "reference", "judge", "thinking", "answer", "text", "family"], EVIL
        )
        rows = [
            {"prompt_id": f"{EVIL}{n}", "difficulty": n % 3, "policy": policy, "mode": "on", "correct": True,
             "tokens": 3, "unjudged": False} | words
            for n in range(12) for policy in ("auto", "on", "off")
        ]  # fmt: skip
        rows[0]["answer"] = None
        (place / "responses.jsonl").write_text("\n".join(map(json.dumps, rows)))
        stages.append(f"--stage={name}={place}/evaluation.json")
    steps = [{"step": n, "rollout/reward": n, f"modes/think_rate/difficulty-{EVIL}": 0.5} for n in range(9)]
    lines = [*map(json.dumps, steps), '{"step": 9, "ro']
    (folder / "metrics.jsonl").write_text("\n".join(lines))
    example = dict.fromkeys(("reason", "asked", "why", "prompt", "model", "reply"), EVIL)
    rejected = {"model": EVIL, "asked": "on", "reason": EVIL, "count": 2}
    labels = {"prompts": 9, "labelled": 8, "records": {"on": 4, "off": 5}}
    (folder / "labels.json").write_text(json.dumps(labels | {"rejected": [rejected], "examples": [example]}))
    parts = [f"--metrics={EVIL}={folder}/metrics.jsonl", f"--labels={EVIL}={folder}/labels.json"]
    assert main(["report", f"--output={folder}/report", *stages, *parts]) == 0
    return folder / "report/report.html"


class Tags(HTMLParser):
    """Collects the elements of a page and what their attributes say."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]


def test_what_a_model_writes_is_text_in_the_page(tmp_path: Path) -> None:
    page = evil_report(tmp_path).read_text()
    read = Tags(page)
    assert read.tags <= TAGS
    assert unescape(page).count(EVIL) > 60
    assert not [name for name, _ in read.attributes if name.startswith("on")]
    links = [value for name, value in read.attributes if name in ("src", "href", "xlink:href")]
    assert all(link.startswith("#") for link in links)
    assert all(value.count("url(") == value.count("url(#") for _, value in read.attributes)
    assert "://" not in page
    policy = next(value for name, value in read.attributes if "default-src" in value)
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline';")
    assert "script-src" not in policy


def test_the_same_ten_questions_of_all_levels(tmp_path: Path) -> None:
    page = evil_report(tmp_path).read_text()
    assert page.count("reference answer: ") == 10
    assert [page.count(f", difficulty {level}: ") for level in range(3)] == [4, 3, 3]
    assert page.count('<div class="answer right">') == 10 * 2 * 3
    assert page.count("all that it wrote, which has no answer") == 2
    assert "8 of 9 questions got a label" in page
    assert page.count("<svg") == 3  # accuracy over tokens, reward, think rate


@pytest.mark.parametrize("lost", ["responses.jsonl", "metrics.jsonl", "labels.json"])
def test_what_an_earlier_run_did_not_keep_is_left_out(lost: str, tmp_path: Path, files: list[str]) -> None:
    parts = [f"--metrics=a={tmp_path}/metrics.jsonl", f"--labels=a={tmp_path}/labels.json"]
    if lost == "responses.jsonl":
        (tmp_path / lost).write_text('{"prompt_id": "a", "text": "b"}\n')
    assert main(["report", f"--output={tmp_path}/r", *files, *parts]) == 0
    page = (tmp_path / "r/report.html").read_text()
    assert "The same questions" not in page
    assert "What labelling" not in page
    assert "Training:" not in page


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
def test_a_browser_runs_nothing_of_it_and_shows_it(tmp_path: Path) -> None:
    page = evil_report(tmp_path)
    words = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
             "--disable-background-networking", "--disable-component-update", "--disable-sync"]  # fmt: skip
    own = [f"--user-data-dir={tmp_path}/profile", "--window-size=390,4000", "--dump-dom",
           f"--screenshot={tmp_path}/page.png", page.as_uri()]  # fmt: skip
    done = subprocess.run([*words, *own], capture_output=True, text=True, check=True, timeout=120)
    assert "<title>katlit: what the model learnt about thinking</title>" in done.stdout
    assert Tags(done.stdout).tags <= TAGS | {"tbody"}
    image = matplotlib.image.imread(tmp_path / "page.png")
    assert image.shape[:2] == (4000, 390)
    blue = abs(image[:, :, :3] - [0x0B / 255, 0x5C / 255, 0xAD / 255]).max(axis=2) < 0.05
    assert blue.sum() > 200  # the path of auto is drawn
    assert (image[:, -1, :3] > 0.9).all()  # nothing is wider than a phone


def test_a_curve_of_each_difficulty_by_number_after_that_of_all(tmp_path: Path, files: list[str]) -> None:
    row = {"step": 1, "rollout/think_rate": 0.5} | {
        f"modes/think_rate/difficulty-{n}": 0.5 for n in range(12)
    }
    (tmp_path / "metrics.jsonl").write_text(json.dumps(row))
    assert main(["report", f"--output={tmp_path}/r", *files, f"--metrics=a={tmp_path}/metrics.jsonl"]) == 0
    page = (tmp_path / "r/report.html").read_text()
    places = [page.index(f">{words}<") for words in ("all", *(f"difficulty {n}" for n in range(12)))]
    assert places == sorted(places)


@pytest.mark.parametrize("name", ["responses.jsonl", "labels.json"])
def test_what_is_not_utf8_gets_a_line(
    name: str, tmp_path: Path, files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_bytes(b"\xff")
    assert main(["report", f"--output={tmp_path}/r", *files, f"--labels=a={tmp_path}/labels.json"]) == 2
    assert f"{tmp_path / name}: not UTF-8" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such evaluation"),
        ('{\n"a": ', "line 2: not JSON"),
        ("[]", "lacks policies, headline"),
        (json.dumps(evaluation(3, True) | {"headline": None}), "lacks headline"),
        (json.dumps(evaluation(3, True) | {"policies": {"auto": 1, "on": 1}}), "lacks off"),
        ("\udcff", "not UTF-8"),
    ],
)
def test_bad_evaluations(
    tmp_path: Path, files: list[str], capsys: pytest.CaptureFixture[str], content: str | None, message: str
) -> None:
    path = tmp_path / "bad.json"
    if content is not None:
        path.write_text(content, errors="surrogateescape")
    output = tmp_path / "report"
    assert main(["report", f"--output={output}", *files, f"--stage=last={path}"]) == 2
    error = capsys.readouterr().err
    assert str(path) in error
    assert message in error
    assert error.count("\n") == 1
    assert not output.exists()


def test_seconds_must_be_numbers(
    tmp_path: Path, files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", f"--output={tmp_path}/r", *files, "--seconds=label=soon"]) == 2
    assert "--seconds label=soon: not a number" in capsys.readouterr().err

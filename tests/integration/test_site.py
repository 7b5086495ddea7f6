"""The documentation as a site: its pages, its reference of settings, its script without the command line."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from katlit.commands.class_catalogue import KINDS, entries
from katlit.commands.overview import COMMANDS

ROOT = Path(__file__).parents[2]
NAV = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
CHECKED_ELSEWHERE = {
    "real",
    "rewards",
    "stage3",
    "data",
    "hardware",
    "serving",
    "protocol",
    "benchmarks",
    "factory",
}


def pages(nav: Any) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    inside = nav.values() if isinstance(nav, dict) else nav
    return [page for one in inside for page in pages(one)]


def blocks(page: str) -> list[tuple[str, str]]:
    text = (ROOT / f"docs/{page}").read_text()
    return re.findall(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def test_every_page_is_in_its_place() -> None:
    assert sorted(pages(NAV)) == sorted(path.name for path in (ROOT / "docs").glob("*.md"))
    order = [page for page in pages(NAV) if page in (
        "index.md", "first-run.md", "real.md", "hardware.md", "serving.md", "rewards.md", "python-api.md",
        "reference.md", "glossary.md", "faq.md",
    )]  # fmt: skip
    assert order == [
        "index.md", "first-run.md", "real.md", "hardware.md", "serving.md", "rewards.md", "python-api.md",
        "reference.md", "glossary.md", "faq.md",
    ]  # fmt: skip


def test_every_block_of_the_other_pages_is_known() -> None:
    for page in pages(NAV):
        for language, text in blocks(page) if page.removesuffix(".md") not in CHECKED_ELSEWHERE else []:
            if language == "python":
                assert page == "python-api.md"  # run below
                continue
            assert language == "sh", page
            targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
            for line in text.splitlines():
                program, word, *_ = line.split()
                assert word in {"make": targets, "katlit": COMMANDS}[program], line


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) < 120


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*val_dataloader")
def test_the_script_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ((_, script),) = blocks("python-api.md")
    assert len(script.splitlines()) <= 24
    records = next(text for language, text in blocks("data.md") if language == "json" and '"regime"' in text)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "assets").symlink_to(ROOT / "assets")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/records.jsonl").write_text(records)
    exec(compile(script, "python-api.md", "exec"), {})  # noqa: S102 (our own page)
    assert (tmp_path / "outputs/model/model.safetensors").is_file()


@pytest.mark.slow
def test_the_site_is_built_without_a_complaint_and_asks_nothing_of_the_network() -> None:
    pytest.importorskip("mkdocs", reason="make docs installs it")
    subprocess.run(["make", "docs"], cwd=ROOT, check=True)
    for page in (ROOT / "build/site").rglob("*.html"):
        asked = re.findall(r'<(?:script|link|img)[^>]*(?:src|href)="(http[^"]*)"', page.read_text())
        assert asked == [], page
    reference = (ROOT / "build/site/reference/index.html").read_text()
    paths = [entry.path for kind in KINDS for entry in entries(kind)]
    assert [path for path in paths if f'id="{path}"' not in reference] == []
    assert "clip_low" in reference

"""What MLflow's own pages show of a run, in a browser."""

import math
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib.image
import pytest

from katlit.callbacks.samples import COLUMNS
from katlit.engines.vllm.server.process import free_port
from katlit.tracking import KatMLFlowLogger
from katlit.tracking.parent_run import page_of, start_parent_run

pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium"),
]
GLANCE = ["1 reward", "2 accuracy", "3 think rate", "4 tokens"]
EVIL = "<script>document.title = 'taken'</script><img src=x onerror=\"document.title = 'taken'\">"
BLUE = [33 / 255, 114 / 255, 180 / 255]  # of a curve


def write_run(uri: str) -> tuple[str, str]:
    """A run of stage 3 and its parent, as training logs it; their ids."""
    parent = start_parent_run(uri, "katlit", "demo seed 1", {"seed": "1"})
    logger = KatMLFlowLogger("katlit", "step_srpo", uri, parent_run_id=parent)
    names = ("rollout/reward", "rollout/accuracy", "rollout/think_rate", "rollout/mean_tokens", "train/loss")
    for step in range(1, 21):
        logger.log_metrics({name: math.sin(step * n) for n, name in enumerate(names, start=1)}, step)
    row = dict.fromkeys(COLUMNS, "x") | {"question": f"3 + 4 {EVIL}"}
    logger.log_table({name: [value] * 3 for name, value in ({"step": 1} | row).items()}, "rollouts.json")
    run = logger.run_id
    logger.finalize("success")
    assert run is not None
    return run, parent


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str, str]]:
    """MLflow's server on such a run: its address, the path of the charts, the run's id."""
    folder = tmp_path_factory.mktemp("pages")
    uri = f"sqlite:///{folder}/mlflow.db"
    run, parent = write_run(uri)
    address = f"http://127.0.0.1:{(port := free_port('127.0.0.1'))}"
    words = [sys.executable, "-m", "mlflow", "server", f"--backend-store-uri={uri}", f"--port={port}"]
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen([*words, "--workers=1"], stdout=log, stderr=log, env=dict(os.environ)) as process,
    ):
        try:
            deadline = time.monotonic() + 120
            while not answers(f"{address}/health"):
                assert time.monotonic() < deadline, (folder / "log").read_text()
                time.sleep(0.2)
            yield address, page_of(uri, parent), run
        finally:
            process.terminate()


def answers(url: str) -> bool:
    """Whether a server is there."""
    try:
        with urllib.request.urlopen(url, timeout=5):  # noqa: S310 (our own)
            return True
    except OSError:
        return False


def looked_at(url: str, folder: Path, awaited: str, width: int = 1500) -> tuple[str, Any]:
    """The text of a page as a browser has built it, and its picture.

    The browser's clock stands still while it loads, but not while it compiles, so it may be done too early.
    """
    words = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
             "--disable-background-networking", "--disable-component-update", "--disable-sync",
             f"--user-data-dir={folder}/profile", f"--window-size={width},1400",
             "--virtual-time-budget=15000", "--dump-dom", f"--screenshot={folder}/page.png", url]  # fmt: skip
    text = ""
    for _ in range(5):
        if awaited not in text:
            text = subprocess.run(words, capture_output=True, text=True, check=True, timeout=120).stdout
    return text, matplotlib.image.imread(folder / "page.png")


def in_order(text: str, *words: str) -> bool:
    """Whether the words are in the text one after the other."""
    places = [text.find(word) for word in words]
    return -1 not in places and places == sorted(places)


def test_the_charts_begin_with_reward_accuracy_think_rate_and_tokens(server: Any, tmp_path: Path) -> None:
    address, charts, run = server
    assert f"/runs/{run}/model-metrics?" in charts
    text, image = looked_at(f"{address}{charts}", tmp_path, awaited=f">{GLANCE[-1]}<")
    assert in_order(text, "a glance", *(f">{words}<" for words in GLANCE), ">rollout<")
    blue = abs(image[:, :, :3] - BLUE).max(axis=2) < 0.02
    assert blue.sum() > 4 * 500  # a curve in each


def test_the_table_of_rollouts_shows_its_columns_and_runs_nothing(server: Any, tmp_path: Path) -> None:
    address, _, run = server
    page = f"/#/experiments/1/runs/{run}/artifacts/rollouts.json?workflowType=machine_learning"
    text, _ = looked_at(f"{address}{page}", tmp_path, ">tokens<", width=4300)  # else one has to scroll
    table = text[text.index(">rollouts.json<") :]
    assert in_order(table, *(f">{name}<" for name in ("step", *COLUMNS)))
    assert "3 + 4 &lt;script&gt;" in table
    assert "taken</title>" not in text
    assert "MLflow</title>" in text


def test_the_page_of_a_run_names_its_parent_and_its_metrics(server: Any, tmp_path: Path) -> None:
    address, _, run = server
    page = f"/#/experiments/1/runs/{run}?workflowType=machine_learning"
    text, _ = looked_at(f"{address}{page}", tmp_path, awaited=">demo seed 1<")
    assert in_order(text, ">rollout/reward<", ">rollout/accuracy<", ">Finished<", ">demo seed 1<")

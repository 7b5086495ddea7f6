"""`katlit label` with real engines, killed five times at random: the same bytes as undisturbed.

By hand: each start of vLLM takes a minute.
"""

import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from killable import ROOT, finish, kill, launch, on_two_processes
from serving import answers, end

DATA = "--data.init_args"
pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]
HF = [
    f"{DATA}.engine=katlit.engines.HFEngine",
    f"{DATA}.engine.batch_size=8",
    f"{DATA}.engine.max_context=512",
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`katlit serve` of the demo's teacher."""
    pytest.importorskip("vllm", exc_type=ImportError)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = ["serve", "assets/teacher", f"--port={port}", "--max-model-len=512", "--", "--max-num-seqs=32"]
    log = tmp_path_factory.mktemp("server") / "log"
    with log.open("w") as file:
        running = subprocess.Popen(
            [sys.executable, "-m", "katlit.cli", *words], cwd=ROOT, stdout=file, stderr=file,
            start_new_session=True,
        )  # fmt: skip
    try:
        while not answers(f"http://127.0.0.1:{port}/health"):
            assert running.poll() is None, log.read_text()[-4000:]
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        end(running)


@pytest.fixture(params=["endpoint", "vllm", "hf"])
def engine(request: pytest.FixtureRequest) -> list[str]:
    """How the demo's teacher is reached: a vLLM server, vLLM or transformers in each process."""
    if request.param == "endpoint":
        url, switch = request.getfixturevalue("server"), f"{DATA}.engine.think"
        return [
            f"{DATA}.engine=katlit.engines.ChatEndpoint", f"{DATA}.engine.url={url}",
            "--model.init_args.teacher=endpoint:kat", "--model.init_args.kd=none",
            f"{DATA}.labeller.teacher=endpoint:kat", f"{DATA}.engine.key_variable=NONE_NEEDED",
            f"{switch}_on={{reasoning_effort: high}}", f"{switch}_off={{reasoning_effort: none}}",
            f"{DATA}.engine.limits.concurrency=16",
        ]  # fmt: skip
    if request.param == "vllm":
        pytest.importorskip("vllm", exc_type=ImportError)
        return []
    return HF


def label(folder: Path, *words: str) -> subprocess.Popen[str]:
    files = ["base", "stage/distill", "demo/distill", "logger/none"]
    settings = [
        f"{DATA}.prompts.init_args.size=240", f"{DATA}.labeller=katlit.datamodules.DualRegime",
        f"{DATA}.labeller.teacher=assets/teacher", f"{DATA}.labeller.ballots=0",
        f"{DATA}.labeller.epsilon=1.0", f"{DATA}.cache_dir={folder}/cache",
        f"--trainer.default_root_dir={folder}", "--trainer.accelerator=cpu",
    ]  # fmt: skip
    command = [sys.executable, "-m", "katlit.cli", "label"]
    files = [word for name in files for word in ("-c", f"configs/{name}.yaml")]
    return launch([*command, *files, *settings, *words], {"NONE_NEEDED": "none"})


def keys(folder: Path) -> list[str]:
    """Requests that were replied to, by the whole lines of all files."""
    files = sorted(folder.glob("cache/replies-*/*.jsonl"))
    lines = [line for file in files for line in file.read_text().split("\n")[:-1]]
    return [line.split('"')[1] for line in lines]


def written(folder: Path) -> bytes:
    (file,) = (folder / "cache").glob("distill-*.jsonl")
    return file.read_bytes()


def test_five_kills_at_random_change_nothing(engine: list[str], tmp_path: Path) -> None:
    whole, killed, two = tmp_path / "whole", tmp_path / "killed", on_two_processes("ddp")
    finish(label(whole, *engine))
    chance, asked = random.Random(19), len(keys(whole))
    for _ in range(5):
        before, more = len(keys(killed)), chance.randrange(1, asked // 6)
        run = label(killed, *engine, *two)
        while len(keys(killed)) < before + more:
            assert run.poll() is None, finish(run)
            time.sleep(0.005)
        kill(run)
    finish(label(killed, *engine, *two))
    assert written(killed) == written(whole)
    assert sorted(keys(killed)) == sorted(keys(whole))  # what was replied to was not asked again

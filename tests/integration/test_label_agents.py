"""`katlit label` with agents behind a server, killed with -9 at random: the same bytes as undisturbed."""

import hashlib
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from faulty_chat import FaultyChat, faulty_chat
from killable import finish, kill, launch, on_two_processes
from scripted_agents import reply, total

IN_FLIGHT = 8
DATA = "--data.init_args"
MOST = max(2, min(4, os.cpu_count() or 1))  # no more devices than cores
ROLES = ("tagger", "solver", "thinker", "critic", "writer")


def label(folder: Path, server: FaultyChat, processes: int = 1) -> subprocess.Popen[str]:
    """Start to label the sums that the scripted agents can do."""
    sums = [f"{left}+{right}" for left in range(1, 8) for right in range(1, 10)]
    rows = [{"id": sum_, "prompt": f"What is {sum_}?", "reference": str(total(sum_))} for sum_ in sums]
    prompts = folder.parent / "prompts.jsonl"
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = [
        "-c=configs/base.yaml", "-c=configs/stage/distill.yaml",
        "--model.init_args.teacher=endpoint:the-model", "--model.init_args.kd=none",
        "--model.init_args.backbone.init_args.model=assets/teacher",
        f"{DATA}.engine=katlit.engines.ChatEndpoint", f"{DATA}.engine.url={server.url}",
        f"{DATA}.engine.key_variable=PATH", f"{DATA}.engine.limits.concurrency={IN_FLIGHT}",
        f"{DATA}.labeller=katlit.datamodules.ThreeAgents", f"{DATA}.labeller.votes=3",
        f"{DATA}.labeller.epsilon=0.3", f"{DATA}.labeller.json_share=0.5",
        *(f"{DATA}.labeller.{role}.model=endpoint:the-model" for role in ROLES),
        f"{DATA}.prompts=katlit.datamodules.FilePrompts", f"{DATA}.prompts.path={prompts}",
        f"{DATA}.prompts.verifier=match", f"{DATA}.cache_dir={folder}", "--trainer.logger=false",
        "--trainer.accelerator=cpu", f"--trainer.default_root_dir={folder.parent / 'run'}",
    ]  # fmt: skip
    words = [*on_two_processes("ddp"), f"--trainer.devices={processes}"] if processes > 1 else []
    return launch([sys.executable, "-m", "katlit.cli", "label", *settings, *words], {})


def written(folder: Path) -> dict[str, str]:
    """The hashes of the records, the traces, the counts and what was rejected."""
    files = {path.name.partition("distill-")[0]: path for path in folder.glob("*distill-*.jsonl")}
    assert set(files) == {"", "traces-", "agents-", "rejected-"}
    return {kind: hashlib.sha256(path.read_bytes()).hexdigest() for kind, path in files.items()}


def after_a_while(body: dict[str, Any]) -> dict[str, Any]:
    time.sleep(0.02)
    return reply(body)


@pytest.mark.parametrize(
    ("kills", "processes"),
    [
        pytest.param(1, 1, marks=[pytest.mark.slow, pytest.mark.timeout(300)]),
        pytest.param(20, 1, marks=[pytest.mark.soak, pytest.mark.timeout(1200)]),
        pytest.param(20, MOST, marks=[pytest.mark.soak, pytest.mark.timeout(3600)]),
    ],
)
def test_kills_at_random_moments_change_no_byte(tmp_path: Path, kills: int, processes: int) -> None:
    chance, killed = random.Random(time.time_ns()), tmp_path / "killed"
    with faulty_chat(after_a_while) as server:
        finish(label(tmp_path / "whole", server))
        asked = server.attempts.copy()
        server.attempts.clear()
        for _ in range(kills):
            until = server.attempts.total() + chance.randrange(asked.total() // (kills + 1))
            run = label(killed, server, processes)
            while server.attempts.total() <= until:
                assert run.poll() is None, finish(run)
                time.sleep(0.001)
            kill(run)
        finish(label(killed, server, processes))
    assert written(killed) == written(tmp_path / "whole")
    assert server.attempts.keys() == asked.keys()
    assert server.attempts.total() <= asked.total() + kills * processes * IN_FLIGHT

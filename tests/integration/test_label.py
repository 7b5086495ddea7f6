"""`katlit label` on several processes: the same bytes as on one, and after any number of kills."""

import hashlib
import json
import random
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from faulty_chat import content_hash, faulty_chat
from killable import finish, kill, launch, on_two_processes

ROOT = Path(__file__).parents[2]
PROMPTS = 60
DATA, ENGINE = "--data.init_args", "--data.init_args.engine"
pytestmark = [pytest.mark.soak, pytest.mark.timeout(900)]


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """Questions whose references some of the scripted replies meet, and some no reply does."""
    path = tmp_path / "prompts.jsonl"
    rows = [
        {"id": str(number), "prompt": f"{number} - {number - number % 9}?", "reference": str(number % 9)}
        for number in range(PROMPTS)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def label(
    folder: Path,
    prompts: Path,
    *words: str,
    starter: Sequence[str] = (sys.executable,),
    engine: Sequence[str] | None = None,
) -> subprocess.Popen[str]:
    """Start labelling, with an engine that takes 20 ms a reply and notes what it is asked, unless told."""
    folder.mkdir(exist_ok=True)
    files = ["configs/base.yaml", "configs/stage/distill.yaml"]
    scripted = [
        f"{ENGINE}=scripted_engine.ScriptedEngine", f"{ENGINE}.asked={folder}/asked", f"{ENGINE}.seconds=0.02"
    ]  # fmt: skip
    settings = [
        *(engine or scripted), "--model.init_args.teacher=assets/teacher",
        "--model.init_args.backbone.init_args.model=assets/teacher",
        f"{DATA}.prompts=katlit.datamodules.FilePrompts", f"{DATA}.prompts.path={prompts}",
        f"{DATA}.prompts.verifier=match", f"{DATA}.sampling.max_tokens=100",
        f"{DATA}.cache_dir={folder}/cache", f"--trainer.default_root_dir={folder}",
        "--trainer.logger=false", "--trainer.accelerator=cpu",
    ]  # fmt: skip
    command = [*starter, "-m", "katlit.cli", "label"]
    return launch([*command, *(word for name in files for word in ("-c", name)), *settings, *words], {})


def records(folder: Path) -> str:
    (file,) = (folder / "cache").glob("distill-*.jsonl")
    return hashlib.sha256(file.read_bytes()).hexdigest()


def asked(folder: Path) -> list[list[str]]:
    """The requests in their order: what, and by which process."""
    return [line.split() for line in (folder / "asked").read_text().splitlines()]


def assert_shared(folder: Path, whole: Path, number: int) -> None:
    """The bytes and the requests of one process, divided among some."""
    assert records(folder) == records(whole)
    by_process = Counter(process for _, process in asked(folder))
    assert len(by_process) == number
    assert min(by_process.values()) > max(by_process.values()) / 2
    assert Counter(what for what, _ in asked(folder)) == Counter(what for what, _ in asked(whole))


def test_as_many_processes_as_the_strategy_has_share_the_work(tmp_path: Path, prompts: Path) -> None:
    """Two that Lightning starts, four that torchrun does, as if on two machines."""
    finish(label(tmp_path / "one", prompts))
    finish(label(tmp_path / "two", prompts, *on_two_processes("ddp")))
    assert_shared(tmp_path / "two", tmp_path / "one", 2)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    words = ["--nnodes=2", "--nproc-per-node=2", "--rdzv-backend=c10d", f"--rdzv-endpoint={address}"]
    starter = (sys.executable, "-m", "torch.distributed.run", *words)
    settings = [*on_two_processes("fsdp2"), "--trainer.num_nodes=2"]
    nodes = [label(tmp_path / "four", prompts, *settings, starter=starter) for _ in range(2)]
    for node in nodes:
        finish(node)
    assert_shared(tmp_path / "four", tmp_path / "one", 4)


def test_five_kills_at_random_lose_only_what_was_in_flight(tmp_path: Path, prompts: Path) -> None:
    finish(label(tmp_path / "whole", prompts))
    chance = random.Random(19)
    folder = tmp_path / "killed"
    for _ in range(5):
        before = len(asked(folder)) if (folder / "asked").exists() else 0
        run = label(folder, prompts, *on_two_processes("fsdp2"))
        more = chance.randrange(10, 40)
        while not (folder / "asked").exists() or len(asked(folder)) < before + more:
            assert run.poll() is None, finish(run)
            time.sleep(0.01)
        kill(run)
    finish(label(folder, prompts, *on_two_processes("fsdp2")))
    assert records(folder) == records(tmp_path / "whole")
    again = len(asked(folder)) - len({what for what, _ in asked(folder)})
    assert again <= 5 * 2  # kills times processes, each with one request in flight
    assert len(asked(folder)) - again == len(asked(tmp_path / "whole"))


def reply(body: dict[str, Any]) -> dict[str, Any]:
    """What a scripted server says, after a while."""
    time.sleep(0.05)
    chance = content_hash(body)
    if body["messages"][0]["content"].startswith("Does"):
        return {"content": f"{'yes' if chance % 2 else 'no'}, as {chance % 100}"}
    return {"content": str(chance % 7), "reasoning": "so" if "reasoning_effort" in body else ""}


def test_five_kills_of_the_clients_of_a_server(tmp_path: Path, prompts: Path) -> None:
    """Of a server that is busy, breaks or hangs up now and then; eight requests of each process in flight."""
    two = on_two_processes("ddp")
    faults = [(), (), ("busy",), ("broken",), ("dropped",), ("garbage",)]
    with faulty_chat(reply, lambda body: faults[content_hash(body) % len(faults)]) as server:
        engine = [
            f"{ENGINE}=katlit.engines.ChatEndpoint", f"{ENGINE}.url={server.url}",
            f"{ENGINE}.key_variable=PATH", f"{ENGINE}.think_on={{reasoning_effort: high}}",
            f"{ENGINE}.limits.concurrency=8",
        ]  # fmt: skip
        teacher = "--model.init_args.teacher=endpoint:the-model"
        finish(label(tmp_path / "whole", prompts, teacher, engine=engine))
        attempts = server.attempts.copy()
        whole, chance = attempts.total(), random.Random(19)
        server.attempts.clear()
        for _ in range(5):
            before, more = server.attempts.total(), chance.randrange(20, whole // 6)
            run = label(tmp_path / "killed", prompts, teacher, *two, engine=engine)
            while server.attempts.total() < before + more:
                assert run.poll() is None, finish(run)
                time.sleep(0.01)
            kill(run)
        finish(label(tmp_path / "killed", prompts, teacher, *two, engine=engine))
    assert records(tmp_path / "killed") == records(tmp_path / "whole")
    assert server.attempts.keys() == attempts.keys()
    # One that was in flight has had its faults, and is asked again for its reply.
    assert server.attempts.total() <= whole + 5 * 2 * 8


def test_one_process_that_fails_ends_all(tmp_path: Path, prompts: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    run = label(tmp_path, prompts, *on_two_processes("ddp"))
    assert "katlit: error: data.cache_dir: cannot write to" in finish(run, 2)

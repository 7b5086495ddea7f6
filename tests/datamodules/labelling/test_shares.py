"""The same labels whatever the number of processes, the order of replies and the number of kills."""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest

from katlit.batch import Prompt
from katlit.datamodules import DistillData, DualRegime, FilePrompts, MajorityVote
from katlit.datamodules.cold_start import ColdStartData
from katlit.datamodules.jsonl import write_rows
from katlit.engines import VLLMServer
from katlit.engines.base import Completion, SamplingParameters
from katlit.errors import UserError
from katlit.text.protocol import Mode


class KilledError(BaseException):
    """As if the process had ended."""


@pytest.fixture
def unsteady(make_engine: Any) -> Callable[..., Any]:
    """An engine whose replies come in any order, wrong ones among them, and that may be killed."""

    class Unsteady(make_engine):  # type: ignore[misc]
        dies_after = 10**9

        def generate(
            self,
            prompts: Sequence[Sequence[int]],
            sampling: SamplingParameters,
            seeds: Sequence[int] | None = None,
            finished: Callable[[int, Completion], None] | None = None,
        ) -> list[Completion]:
            assert seeds is not None
            assert finished is not None
            completions: dict[int, Completion] = {}
            for place in Random(self.requests).sample(range(len(prompts)), len(prompts)):
                if self.requests == self.dies_after:
                    raise KilledError
                self.requests += 1
                completions[place] = self._one(list(prompts[place]), sampling, seeds[place])
                finished(place, completions[place])
            return [completions[place] for place in range(len(prompts))]

    def make(dies_after: int = 10**9) -> Any:
        engine = Unsteady(
            right=lambda question, mode, seed: seed % 3 > 0,
            wants=lambda question: Mode.THINK_ON if "4" in question else Mode.THINK_OFF,
        )
        engine.dies_after = dies_after
        return engine

    return make


@pytest.fixture(params=["distill", "cold_start"])
def make(
    request: pytest.FixtureRequest, tmp_path: Path, models_root: Path, sums: list[Prompt]
) -> Callable[[str, Any], Any]:
    """Data of a stage with a cache and an engine."""
    write_rows(tmp_path / "prompts.jsonl", (dict(prompt) for prompt in sums))

    def make(cache: str, engine: Any) -> Any:
        ours, prompts = str(models_root / "ours"), FilePrompts(str(tmp_path / "prompts.jsonl"))
        folder = str(tmp_path / cache)
        if request.param == "distill":
            dual = DualRegime(ours, ballots=3, think_share=0.4)
            return DistillData(ours, ours, prompts, engine, labeller=dual, cache_dir=folder)
        vote = MajorityVote(ours, ours)
        return ColdStartData(ours, prompts, engine, labeller=vote, cache_dir=folder)

    return make


def label(make: Callable[[str, Any], Any], cache: str, engines: list[Any]) -> tuple[str, bytes]:
    """Label by several processes, one after the other here, of which the first makes the records."""
    processes = [make(cache, engine) for engine in engines]
    processes[0].settle_models()
    for number, data in enumerate(processes):
        data.label_share(number, len(engines))
    asked = engines[0].requests
    processes[0].prepare_data()
    assert engines[0].requests == asked  # all was in the shares
    return written(processes[0])


def written(data: Any) -> tuple[str, bytes]:
    """The hash of the records, and what was rejected."""
    path = data.records_path()
    rejected = path.with_name(f"rejected-{path.name}").read_bytes()
    return hashlib.sha256(path.read_bytes()).hexdigest(), rejected


def test_the_records_are_the_same_for_any_number_of_processes(
    make: Callable[[str, Any], Any], unsteady: Callable[..., Any]
) -> None:
    alone = unsteady()
    data = make("alone", alone)
    data.prepare_data()
    for shares in (1, 2, 4):
        engines = [unsteady() for _ in range(shares)]
        assert label(make, f"cache-{shares}", engines) == written(data)
        assert sum(engine.requests for engine in engines) == alone.requests  # nothing twice
        assert all(engine.requests >= alone.requests // (2 * shares) for engine in engines)


def test_what_was_answered_before_a_kill_is_not_asked_again(
    make: Callable[[str, Any], Any], unsteady: Callable[..., Any]
) -> None:
    alone = unsteady()
    data = make("alone", alone)
    data.prepare_data()
    asked = 0
    for kill in (1, 5, 10, 11, 20):
        engine = unsteady(dies_after=kill)
        with pytest.raises(KilledError):
            make("killed", engine).prepare_data()
        asked += engine.requests
    engine = unsteady()
    resumed = make("killed", engine)
    resumed.prepare_data()
    assert resumed.records_path().read_bytes() == data.records_path().read_bytes()
    assert asked + engine.requests == alone.requests
    assert engine.closed >= 1
    idle = unsteady()
    resumed.records_path().unlink()
    make("killed", idle).prepare_data()
    assert (idle.requests, idle.started) == (0, [])
    assert resumed.records_path().read_bytes() == data.records_path().read_bytes()


def test_damaged_records_are_named_by_their_line(
    make: Callable[[str, Any], Any], unsteady: Callable[..., Any]
) -> None:
    data = make("cache", unsteady())
    data.prepare_data()
    path, whole = data.records_path(), data.records_path().read_bytes()
    lines = whole.splitlines(keepends=True)
    flipped = lines[1].replace(b'"', b"#", 1)
    truths = {2: [lines[0], flipped, *lines[2:]], len(lines): lines[:-1], 3: [*lines[:2], lines[2][:-9]]}
    for number, damaged in truths.items():
        path.write_bytes(b"".join(damaged))
        for read in (make("cache", unsteady()).prepare_data, lambda: make("cache", unsteady()).setup("fit")):
            with pytest.raises(
                UserError, match=rf"^{path}:{number}: damaged, .* delete {path.name} and label"
            ):
                read()
    path.unlink()
    idle = unsteady()
    make("cache", idle).prepare_data()
    assert path.read_bytes() == whole
    assert idle.requests == 0
    assert json.loads(lines[0])


def test_one_process_only_joins_a_server(make: Callable[[str, Any], Any]) -> None:
    with pytest.raises(UserError, match=r"^data\.engine\.url: 2 processes label, but one only can join"):
        make("cache", VLLMServer("http://host:1")).label_share(0, 2)

"""An engine that takes its time, answers by the content of a request, and notes what it is asked."""

import hashlib
import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from torch import Tensor

from katlit.engines.base import Completion, RolloutEngine, SamplingParameters
from katlit.model.pretrained import load_tokenizer
from katlit.text.protocol import Mode, Protocol, Response


class ScriptedEngine(RolloutEngine):
    """Says something of either mode, some of it wrong; one request after the other.

    Args:
        asked: File to append a line to for each request, `<hash> <process>`.
        seconds: Time for a reply.
    """

    def __init__(self, asked: Path, seconds: float = 0.0) -> None:
        self.asked = asked
        self.seconds = seconds

    def start(self, model_directory: Path) -> None:
        self.protocol = Protocol(load_tokenizer(str(model_directory), "model"))

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: SamplingParameters,
        seeds: Sequence[int] | None = None,
        finished: Callable[[int, Completion], None] | None = None,
    ) -> list[Completion]:
        assert seeds is not None
        completions = []
        for place, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True)):
            content = hashlib.sha256(f"{list(prompt)} {sampling} {seed}".encode()).hexdigest()
            with self.asked.open("a") as file:
                file.write(f"{content} {os.getpid()}\n")
            time.sleep(self.seconds)
            completions.append(self._reply(list(prompt), sampling, int(content, 16)))
            if finished is not None:
                finished(place, completions[-1])
        return completions

    def _reply(self, prompt: list[int], sampling: SamplingParameters, chance: int) -> Completion:
        marks = self.protocol.marker_ids
        forced = [mode for mode in Mode if marks[f"<think_{mode.value}>"] in prompt]
        mode = forced[0] if forced else list(Mode)[chance % 2]
        think = f"so {chance % 1000}" if mode is Mode.THINK_ON else ""
        reply = Response(judge=f"because {chance % 100}", mode=mode, think=think, answer=str(chance % 7))
        ids = self.protocol.encode_response(reply, mode.value if forced else "auto")
        stops = [place for place, token in enumerate(ids) if token in sampling.stop_token_ids]
        return Completion(ids[: stops[0] + 1], [0.0] * (stops[0] + 1), "stop")

    def sync_weights(self, named_weights: Iterable[tuple[str, Tensor]]) -> None:
        raise NotImplementedError

    def close(self) -> None:
        pass

    @property
    def max_context(self) -> int:
        return 512

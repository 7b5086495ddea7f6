"""A teacher behind a vLLM server, asked for its `prompt_logprobs` over the OpenAI-compatible interface."""

import asyncio
import json
import math
from collections.abc import Sequence
from typing import Any

import aiohttp
import numpy as np

from katlit.errors import UserError
from katlit.teacher.scorer import TeacherScorer, TopK, Transcript

_PATH = "/v1/completions"
_LEAST_REST = 1.0e-6
_ROUNDING = 1.0e-3


class VLLMServerScorer(TeacherScorer):
    """Scores with a server that runs already: `vllm serve TEACHER --max-logprobs 64`.

    It must serve the teacher under the name that the settings give it, and take a token more than the longest
    text. What all others have together is `1 - Σ` of float32 probabilities: below about 1e-6 it is noise, so
    that is the least it is taken for.

    Args:
        url: Address of the server, for instance `http://node1:8000`.
        requests: Texts that the server has at once.
        timeout: Seconds for one text.
    """

    def __init__(self, url: str, requests: int = 16, timeout: float = 600.0) -> None:
        if requests < 1:
            raise UserError(f"requests: {requests}; give at least 1")
        self.url = url.rstrip("/")
        self.requests = requests
        self.timeout = timeout
        self._teacher: str | None = None

    def start(self, teacher: str) -> None:
        """Keep the name; the server refuses a model that it does not have."""
        self._teacher = teacher

    def score(self, transcripts: Sequence[Transcript], k: int) -> list[TopK]:
        """Send each text by itself, several at a time; see `TeacherScorer.score`.

        Raises:
            UserError: where the server does not answer, refuses, or answers what vLLM would not.
        """
        try:
            return asyncio.run(self._score_all(transcripts, k))
        except ExceptionGroup as group:
            raise group.exceptions[0] from None

    def close(self) -> None:
        """Nothing: the server goes on."""

    async def _score_all(self, transcripts: Sequence[Transcript], k: int) -> list[TopK]:
        gate = asyncio.Semaphore(self.requests)
        timeout = aiohttp.ClientTimeout(total=None)

        async def score(session: aiohttp.ClientSession, transcript: Transcript) -> TopK:
            async with gate:
                return self._top(await self._ask(session, transcript.token_ids, k), transcript, k)

        async with aiohttp.ClientSession(timeout=timeout) as session, asyncio.TaskGroup() as group:
            tasks = [group.create_task(score(session, transcript)) for transcript in transcripts]
        return [task.result() for task in tasks]

    async def _ask(self, session: aiohttp.ClientSession, token_ids: list[int], k: int) -> str:
        body = {
            "model": self._teacher,
            "prompt": token_ids,
            "prompt_logprobs": k,
            "max_tokens": 1,  # the least that vLLM takes
            "temperature": 0.0,
        }
        try:
            async with (
                asyncio.timeout(self.timeout),
                session.post(self.url + _PATH, json=body) as answer,
            ):
                status, text = answer.status, await answer.text(errors="replace")
        except TimeoutError:
            raise UserError(f"{self.url}: no answer within {self.timeout:g} s (timeout)") from None
        except aiohttp.ClientError as error:
            raise UserError(f"{self.url}: {type(error).__name__} {error}; does the server run?") from None
        if status != 200:
            raise UserError(
                f"{self.url}{_PATH} answers status {status}: {_start(text)}; it must serve {self._teacher!r} "
                f"with --max-logprobs {k}"
            )
        return text

    def _top(self, text: str, transcript: Transcript, k: int) -> TopK:
        """From the answer: for each token of the prompt a mapping of ids to log-probability and rank."""
        try:
            places = json.loads(text)["choices"][0]["prompt_logprobs"]
            rows = [
                _ranked(place, k)
                for place, _ in zip(places, transcript.token_ids, strict=True)
                if place is not None  # the first token is not predicted
            ][transcript.start - 1 :]
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise UserError(
                f"{self.url}{_PATH} answers {_start(text)!r}, which vLLM would not ({error}); check the url"
            ) from None
        ids = np.array([row[0] for row in rows], dtype=np.int64).reshape(-1, k)
        top = np.array([row[1] for row in rows], dtype=np.float64).reshape(-1, k)
        rest = np.log(np.maximum(1.0 - np.exp(top).sum(axis=-1, keepdims=True), _LEAST_REST))
        return TopK(ids, np.concatenate([top, rest], axis=-1).astype(np.float32))


def _ranked(place: dict[str, dict[str, Any]], k: int) -> tuple[list[int], list[float]]:
    """The k likeliest; the token of the prompt comes along whatever its rank."""
    entries = sorted((int(e["rank"]), int(token), float(e["logprob"])) for token, e in place.items())[:k]
    log_probs = [log_prob for *_, log_prob in entries]
    if sum(map(math.exp, log_probs)) > 1 + _ROUNDING:
        raise ValueError("probabilities above 1; serve with --logprobs-mode raw_logprobs")
    if len(entries) != k or entries[-1][0] > k or not all(map(math.isfinite, log_probs)):
        raise ValueError(f"not the {k} likeliest tokens")
    return [token for _, token, _ in entries], log_probs


def _start(text: str) -> str:
    return " ".join(text.split())[:200]

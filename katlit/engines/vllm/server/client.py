"""What is said to a vLLM server over HTTP: token ids in, token ids and log-probabilities out."""

import asyncio
import json
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp

from katlit.engines.base import Completion, SamplingParameters
from katlit.engines.vllm.load import Load
from katlit.engines.vllm.speculation import Drafts
from katlit.errors import UserError

_GENERATE = "/inference/v1/generate"
_PROBE_SECONDS = 2.0  # between two questions whether the server is alive
_FIRST_PROBE_SECONDS = 0.05  # before the first one; twice as long before each that follows
_CLOSING_SECONDS = 0.1  # between two looks at whether we are closing


class ServerDownError(Exception):
    """The server does not answer, or says itself that it is broken; its message says how."""


@dataclass(frozen=True, slots=True)
class SeededPrompt:
    """A prompt and the seed of its completion."""

    prompt: Sequence[int]
    seed: int


@dataclass(frozen=True, slots=True)
class ServerClient:
    """Talks to one server.

    Args:
        url: Address of the server.
        hang_timeout: Seconds that a living server may take to answer the question whether it is alive; vLLM
            answers between two forward passes.
        request_timeout: Seconds for one completion.
        control_timeout: Seconds for each step of a weight update.
        max_concurrent_requests: Completions in flight.
    """

    url: str
    hang_timeout: float
    request_timeout: float
    control_timeout: float
    max_concurrent_requests: int

    def get(self, path: str, key: str, timeout: float | None = None) -> Any:
        """Ask for something; what the server answers under the key.

        Raises:
            ServerDownError: where it does not answer.
            UserError: where it answers something else.
        """
        answer = asyncio.run(self._alone("GET", path, None, timeout or self.hang_timeout))
        if not isinstance(answer, dict) or key not in answer:
            raise self._garbage(path, json.dumps(answer))
        return answer[key]

    def post(self, path: str, body: Mapping[str, Any] | None = None) -> None:
        """Tell the server to do something, and wait until it is done; raises as `get` does."""
        asyncio.run(self._alone("POST", path, body, self.control_timeout))

    def call(self, method: str, arguments: Mapping[str, Any] | None = None) -> list[Any]:
        """Call a method of the server's workers; what each returns; raises as `get` does."""
        body = {"method": method, "kwargs": arguments or {}}
        answer = asyncio.run(self._alone("POST", "/collective_rpc", body, self.control_timeout))
        if not isinstance(answer, dict) or not isinstance(answer.get("results"), list):
            raise self._garbage("/collective_rpc", json.dumps(answer))
        return list(answer["results"])

    def probe(self) -> None:
        """Ask the server's inner loop whether it is alive.

        Raises:
            ServerDownError: where it does not answer.
        """
        self.get("/is_paused", "is_paused")

    def generate(
        self,
        requests: Mapping[int, SeededPrompt],
        sampling: SamplingParameters,
        weight_version: str,
        done: Callable[[int, Completion, Drafts], None],
        closing: threading.Event,
        load: Load,
    ) -> None:
        """Complete all requests, several at a time; `done` receives each completion and its drafts once.

        Meanwhile `load` sees how busy the server is.

        Raises:
            ServerDownError: where the server stops answering, or has other weights than `weight_version`, or
                another thread sets `closing`.
            UserError: where its answers are not those of a vLLM server, or a request is refused.
        """
        try:
            asyncio.run(self._generate(requests, sampling, weight_version, done, closing, load))
        except ExceptionGroup as group:  # several tasks may fail at once; a wrong answer says more than none
            raise min(group.exceptions, key=lambda error: isinstance(error, ServerDownError)) from None

    async def _generate(
        self,
        requests: Mapping[int, SeededPrompt],
        sampling: SamplingParameters,
        weight_version: str,
        done: Callable[[int, Completion, Drafts], None],
        closing: threading.Event,
        load: Load,
    ) -> None:
        queue = iter(requests.items())  # all workers draw from it

        async def work(session: aiohttp.ClientSession) -> None:
            for index, request in queue:
                answer = await self._ask(
                    session, "POST", _GENERATE, _body(request, sampling), self.request_timeout
                )
                completion = self._completion(answer, weight_version, sampling.max_tokens)
                done(index, completion, self._drafts(answer))

        async with _session() as session, asyncio.TaskGroup() as tasks:
            watches = [tasks.create_task(self._watch(session, load)), tasks.create_task(_until(closing))]
            workers = [
                tasks.create_task(work(session))
                for _ in range(min(self.max_concurrent_requests, len(requests)))
            ]
            await asyncio.wait(workers, return_when=asyncio.FIRST_EXCEPTION)
            for watch in watches:
                watch.cancel()

    async def _watch(self, session: aiohttp.ClientSession, load: Load) -> None:
        pause = _FIRST_PROBE_SECONDS
        while True:
            await asyncio.sleep(pause)
            pause = min(2 * pause, _PROBE_SECONDS, self.hang_timeout)
            await self._ask(session, "GET", "/is_paused", None, self.hang_timeout)
            status, text = await self._text(session, "GET", "/metrics", None, self.hang_timeout)
            if status == 200:
                load.see_metrics(text)

    async def _alone(self, method: str, path: str, body: Mapping[str, Any] | None, timeout: float) -> Any:
        async with _session() as session:
            return await self._ask(session, method, path, body, timeout)

    async def _ask(
        self,
        session: aiohttp.ClientSession,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        timeout: float,
    ) -> Any:
        """One question and its answer, from JSON."""
        status, text = await self._text(session, method, path, body, timeout)
        if status >= 500:
            raise ServerDownError(f"{self.url}{path} answers status {status}: {_start(text)}")
        if status != 200:
            hint = "; it needs vLLM 0.32 with VLLM_SERVER_DEV_MODE=1" if status == 404 else ""
            raise UserError(f"vLLM server: {self.url}{path} answers status {status}: {_start(text)}{hint}")
        try:
            return json.loads(text) if text else None  # some orders are confirmed by nothing
        except json.JSONDecodeError:
            raise self._garbage(path, text) from None

    async def _text(
        self,
        session: aiohttp.ClientSession,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        timeout: float,
    ) -> tuple[int, str]:
        """One question; status and text of its answer."""
        try:
            async with (
                asyncio.timeout(timeout),
                session.request(method, self.url + path, json=body) as answer,
            ):
                return answer.status, await answer.text(errors="replace")
        except TimeoutError:
            what = f"{self.url}{path} did not answer within {timeout:g} s"
            if path == _GENERATE:
                raise UserError(f"vLLM server: {what} (request_timeout); it is too slow, or hangs") from None
            raise ServerDownError(what) from None
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError) as error:
            raise ServerDownError(f"{self.url}{path}: {type(error).__name__} {error}") from None
        except aiohttp.ClientError as error:
            raise self._garbage(path, str(error)) from None

    def _completion(self, answer: Any, weight_version: str, max_tokens: int) -> Completion:
        try:
            (choice,) = answer["choices"]
            reason, tokens = choice["finish_reason"], choice["token_ids"]
            versions = {span["version"] for span in choice["weight_versions"] or []}
            content = (choice["logprobs"] or {"content": []})["content"]
            sampled = [(entry["token_id"], float(entry["logprob"])) for entry in content]
        except (KeyError, TypeError, ValueError):
            raise self._garbage(_GENERATE, json.dumps(answer)) from None
        if reason in ("abort", "error") or not versions <= {weight_version}:
            raise ServerDownError(
                f"{self.url}: a completion ended by {reason!r} with weights {sorted(versions)}, "
                f"not {weight_version!r}"
            )
        log_probs = [log_prob for _, log_prob in sampled]
        whole = [token for token, _ in sampled] == tokens and 0 < len(tokens) <= max_tokens
        whole = whole and all(isinstance(token, int) for token in tokens)
        if not (versions and whole and reason in ("stop", "length") and all(map(math.isfinite, log_probs))):
            raise self._garbage(_GENERATE, json.dumps(answer))
        return Completion(tokens, log_probs, reason)

    def _drafts(self, answer: Any) -> Drafts:
        """What became of the drafts of a completion; a server that drafts nothing says nothing of them."""
        names = ("num_draft_tokens", "num_accepted_draft_tokens", "num_spec_steps")
        try:
            found = (answer.get("metrics") or {}).get("speculative_decoding")
            return Drafts(*(int(found[name]) for name in names)) if found else Drafts()
        except (AttributeError, KeyError, TypeError, ValueError):
            raise self._garbage(_GENERATE, json.dumps(answer)) from None

    def _garbage(self, path: str, text: str) -> UserError:
        return UserError(
            f"vLLM server: {self.url}{path} answers {_start(text)!r}, which no vLLM 0.32 would; check the url"
        )


async def _until(closing: threading.Event) -> None:
    while not closing.is_set():  # a thread's event cannot be awaited
        await asyncio.sleep(_CLOSING_SECONDS)
    raise ServerDownError("closed while it sampled")


def _session() -> aiohttp.ClientSession:
    # Our own limits: on connections by the number of workers, on time for each question.
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=None)
    )


def _body(request: SeededPrompt, sampling: SamplingParameters) -> dict[str, Any]:
    return {
        "token_ids": list(request.prompt),
        "sampling_params": {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "max_tokens": sampling.max_tokens,
            "stop_token_ids": list(sampling.stop_token_ids),
            "ignore_eos": True,
            "seed": request.seed,
            "logprobs": 0,
            "detokenize": False,
        },
    }


def _start(text: str) -> str:
    return " ".join(text.split())[:200]

"""What the loop of solver, thinker and critic is worth, and whether it keeps a server busy.

`python benchmarks/agents.py`, from the top of the repository. First, agents with known error rates answer
3,000 queries without a reference in three ways: `single` chains kept as they are, `filtered` chains (up to
three fresh ones, until the critic approves) and the `loop`. Of each: the right responses of a million tokens,
read and written, and the share of right ones among those kept, with 95 % intervals. Then 2,000 queries go
through `ThreeAgents` to a server of another process that answers after 50 ms, and their replies are kept.

The last line is a JSON object: the arms by setting, and by requests `allowed` in flight `in_flight` (the mean
share, as the server sees it, without start and end), and milliseconds of CPU a request, `cpu_ms` of the
agents and `server_cpu_ms` of the server.
"""

import asyncio
import json
import re
import sys
import time
from dataclasses import asdict
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

from _agents import ARMS, CHAIN, Errors, arm, summary

from katlit.batch import Prompt
from katlit.datamodules import ThreeAgents
from katlit.datamodules.agents import Role
from katlit.datamodules.dialects.habits import ThinkingSettings
from katlit.datamodules.labelling.endpoint_model import EndpointModel
from katlit.datamodules.labelling.reply_cache import ReplyCache
from katlit.engines import ChatEndpoint, EndpointLimits
from katlit.engines.base import SamplingParameters
from katlit.rewards import MatchReward

SETTINGS = {
    "good critic": Errors(solves=0.6, mends=0.5, spoils=0.05, accepts=0.1, rejects=0.1),
    "poor critic": Errors(solves=0.6, mends=0.5, spoils=0.05, accepts=0.5, rejects=0.2),
    "weak thinker": Errors(solves=0.6, mends=0.1, spoils=0.05, accepts=0.1, rejects=0.1),
    "hard queries": Errors(solves=0.2, mends=0.3, spoils=0.1, accepts=0.1, rejects=0.1),
}
SENT, ALLOWED, DELAY = 2000, (16, 64), 0.05
DRAFT = {"content": "It is 4."}
ANSWERS = {  # by the words of the templates
    b"Judge a solution": {"content": '{"score": 5, "reasons": "so"}'},
    b"Below is a draft": {"content": "4", "reasoning": "Two and two make four, as counting shows. " * 55},
}


class Stub(asyncio.Protocol):
    """A connection to a server that answers after a while; bare, for it shares the processors.

    Args:
        events: Gets the time of each request and of each answer, with the change of their number.
    """

    def __init__(self, events: list[tuple[float, int]]) -> None:
        self._events = events
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep what answers go to."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Take a request, of which there is one at a time."""
        self._received += data
        head, _, body = self._received.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", head)
        if length is None or len(body) < int(length[1]):
            return
        self._received = b""
        self._events.append((time.perf_counter(), 1))
        answer = next((said for mark, said in ANSWERS.items() if mark in body), DRAFT)
        asyncio.get_running_loop().call_later(DELAY, self._answer, answer)

    def _answer(self, said: dict[str, str]) -> None:
        choice = {"message": {"role": "assistant"} | said, "finish_reason": "stop"}
        usage = {"prompt_tokens": CHAIN, "completion_tokens": CHAIN}
        body = json.dumps({"choices": [choice], "usage": usage}).encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        self._transport.write(head.encode() + body)
        self._events.append((time.perf_counter(), -1))


def serve(pipe: Connection) -> None:
    """Serve, and when asked tell the mean of the requests in flight, and the server's own seconds of CPU."""
    events: list[tuple[float, int]] = []

    def tell() -> None:
        pipe.recv()
        pipe.send((mean_in_flight(events), time.process_time()))
        events.clear()

    async def run() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Stub(events), "127.0.0.1", 0, backlog=512)
        loop.add_reader(pipe.fileno(), tell)
        pipe.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(run())


def mean_in_flight(events: list[tuple[float, int]]) -> float:
    """The mean over the middle of the time that there were any."""
    if not events:
        return 0.0
    ordered = sorted(events)
    first, last = (ordered[round(share * (len(ordered) - 1))][0] for share in (0.2, 0.8))
    area, number, before = 0.0, 0, first
    for at, change in ordered:
        if first < at <= last:
            area += number * (at - before)
            before = at
        number += change
    return area / (before - first)


def throughput(port: int, server: Connection, allowed: int, folder: Path) -> dict[str, float]:
    """Have agents answer over HTTP, and keep what they say."""
    endpoint = ChatEndpoint(
        f"http://127.0.0.1:{port}/v1",
        None,
        {"reasoning_effort": "high"},
        {"reasoning_effort": "none"},
        limits=EndpointLimits(concurrency=allowed),
    )
    sampling, replies = SamplingParameters(), ReplyCache(folder)
    model = EndpointModel("m", endpoint, sampling, 64, "{question}", ThinkingSettings(), replies)
    role = Role("m")
    agents = ThreeAgents(thinker=role, solver=role, critic=role, think_share=1.0)
    prompts = [
        Prompt(
            id=f"q{n}", messages=[{"role": "user", "content": f"What is 2 + 2, in case {n}?"}], reference="4",
            verifier="match", domain="sums", difficulty=1, metadata={},
        )
        for n in range(SENT)
    ]  # fmt: skip
    reward = MatchReward()
    agents.survey(prompts[:100], [model], reward)  # what is made once
    _, before = told(server)
    begun, cpu = time.perf_counter(), time.process_time()
    agents.survey(prompts, [model], reward)
    records = agents.label(prompts, [model], reward)
    spent, seconds = time.process_time() - cpu, time.perf_counter() - begun
    in_flight, after = told(server)
    requests = 3 * SENT
    if len(records) != SENT:
        sys.exit(f"{len(records)} of {SENT} queries have a record")
    return {
        "in_flight": round(in_flight / allowed, 3),
        "cpu_ms": round(spent / requests * 1000, 3),
        "server_cpu_ms": round((after - before) / requests * 1000, 3),
        "requests_per_second": round(requests / seconds),
    }


def told(server: Connection) -> tuple[float, float]:
    """Requests in flight since the last time, and the CPU of the server so far."""
    server.send("tell")
    in_flight, cpu = server.recv()
    return in_flight, cpu


def main() -> None:
    """Measure, and print."""
    found: dict[str, Any] = {}
    for setting, errors in SETTINGS.items():
        found[setting] = asdict(errors) | {name: summary(asyncio.run(arm(name, errors))) for name in ARMS}
        print(setting, json.dumps(found[setting], indent=1))
    ours, theirs = get_context("spawn").Pipe()
    server = get_context("spawn").Process(target=serve, args=(theirs,), daemon=True)
    server.start()
    try:
        port = ours.recv()
        with TemporaryDirectory() as folder:
            found["allowed"] = {
                allowed: throughput(port, ours, allowed, Path(folder, str(allowed))) for allowed in ALLOWED
            }
    finally:
        server.terminate()
    print(json.dumps(found))


if __name__ == "__main__":
    main()

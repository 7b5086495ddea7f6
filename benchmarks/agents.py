"""What the loop of solver, thinker and critic is worth, and whether it keeps a server busy.

`python benchmarks/agents.py`, from the top of the repository. First, agents with known error rates answer
3,000 queries without a reference in three ways: `single` chains kept as they are, `filtered` chains (up to
three fresh ones, until the critic approves) and the `loop`. Of each: the right responses of a million tokens,
read and written, and the share of right ones among those kept, with 95 % intervals. Then 2,000 queries go
through `ThreeAgents` to a server of another process that answers after 50 ms.

The last line is a JSON object: the arms by setting, and by requests `allowed` in flight `in_flight` (the mean
share, as the server sees it, without start and end) and `cpu_ms`, milliseconds of CPU a request.
"""

import asyncio
import json
import sys
import time
from dataclasses import asdict
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

from _agents import ARMS, CHAIN, Errors, arm, summary

from katlit.batch import Prompt
from katlit.datamodules import ThreeAgents
from katlit.datamodules.agents import Role
from katlit.datamodules.dialects.habits import ThinkingSettings
from katlit.datamodules.labelling.endpoint_model import EndpointModel
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


def serve(pipe: Connection) -> None:
    """A server that answers after a while, and tells how many requests it had at once."""
    from aiohttp import web

    events: list[tuple[float, int]] = []

    async def chat(request: web.Request) -> web.Response:
        events.append((time.perf_counter(), 1))
        content = (await request.json())["messages"][-1]["content"]
        await asyncio.sleep(DELAY)
        text = "Step.\nFinal answer:\n4"
        if "Judge a solution" in content:
            text = '{"score": 5, "reasons": "so"}'
        choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        events.append((time.perf_counter(), -1))
        usage = {"prompt_tokens": CHAIN, "completion_tokens": CHAIN}
        return web.json_response({"choices": [choice], "usage": usage})

    async def busy(_: web.Request) -> web.Response:
        """Mean of the requests in flight over the middle of the time that there were any."""
        ordered = sorted(events)
        events.clear()
        first, last = (ordered[round(share * (len(ordered) - 1))][0] for share in (0.2, 0.8))
        area, number, before = 0.0, 0, first
        for at, change in ordered:
            if first < at <= last:
                area += number * (at - before)
                before = at
            number += change
        return web.json_response(area / (before - first))

    async def run() -> None:
        app = web.Application()
        app.add_routes([web.post("/v1/chat/completions", chat), web.get("/busy", busy)])
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        pipe.send(runner.addresses[0][1])
        await asyncio.Event().wait()

    asyncio.run(run())


async def busy(port: int) -> float:
    """What the server says of its requests."""
    import aiohttp

    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/busy") as reply:
        return float(await reply.json())


def throughput(port: int, allowed: int) -> dict[str, float]:
    """Have agents answer over HTTP."""
    endpoint = ChatEndpoint(
        f"http://127.0.0.1:{port}/v1", key_variable=None, limits=EndpointLimits(concurrency=allowed)
    )
    model = EndpointModel("m", endpoint, SamplingParameters(), 64, "{question}", ThinkingSettings(), None)
    role = Role("m")
    agents = ThreeAgents(role, role, role, think_share=1.0)
    prompts = [
        Prompt(
            id=f"q{n}", messages=[{"role": "user", "content": f"What is 2 + 2, in case {n}?"}], reference="4",
            verifier="match", domain="sums", difficulty=1, metadata={},
        )
        for n in range(SENT)
    ]  # fmt: skip
    reward = MatchReward()
    begun, cpu = time.perf_counter(), time.process_time()
    agents.survey(prompts, [model], reward)
    records = agents.label(prompts, [model], reward)
    spent, seconds = time.process_time() - cpu, time.perf_counter() - begun
    requests = 3 * (SENT + 100)  # the first hundred are answered once more, for the estimate
    if len(records) != SENT:
        sys.exit(f"{len(records)} of {SENT} queries have a record")
    return {
        "in_flight": round(asyncio.run(busy(port)) / allowed, 3),
        "cpu_ms": round(spent / requests * 1000, 3),
        "requests_per_second": round(requests / seconds),
    }


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
        found["allowed"] = {allowed: throughput(port, allowed) for allowed in ALLOWED}
    finally:
        server.terminate()
    print(json.dumps(found))


if __name__ == "__main__":
    main()

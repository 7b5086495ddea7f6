"""All queries at once: while one agent waits for another, the engine has the requests of other queries."""

import asyncio
import gc
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from katlit.batch import Prompt
from katlit.datamodules.labelling.chat_model import ChatModel, Reply
from katlit.errors import UserError
from katlit.progress import Progress
from katlit.rewards import Reward, Sample, Verdict, patient_verdicts_of

logger = logging.getLogger(__name__)

_AT_WORK = 4096  # queries; each has one request at most on its way
ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


async def run_all(
    items: Sequence[ItemT], work: Callable[[ItemT], Awaitable[ResultT]], name: str | None
) -> list[ResultT]:
    """Work on all queries at once, but for the bound of `_AT_WORK`.

    Args:
        items: The queries.
        work: What is done with each.
        name: What the lines in the log are about; None: there are none.

    Returns:
        The results, in the order of the queries.

    Raises:
        UserError: the first one that `work` raises.
    """
    results: dict[int, ResultT] = {}
    progress = None
    if name is not None:
        progress = Progress()
        progress.begin(name, len(items), 0, "queries")
    numbers = iter(range(len(items)))

    async def worker() -> None:
        for number in numbers:
            results[number] = await work(items[number])
            if progress is not None:
                progress.step()

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(_AT_WORK, len(items))):
                group.create_task(worker())
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [results[number] for number in range(len(items))]


def require_all(models: Sequence[ChatModel], failed: Sequence[str]) -> None:
    """End the run where agents gave no reply that may give one another time; else chance has a say.

    Args:
        models: All models; where another pass asks for what is missing, a warning does.
        failed: Why each query is not finished; empty where it is.

    Raises:
        UserError: naming the most frequent reason.
    """
    reasons = Counter(filter(None, failed))
    if not reasons:
        return
    ((reason, count),) = reasons.most_common(1)
    told = f"{reasons.total()} of {len(failed)} queries are not finished, {count} for {reason}"
    if not any(model.partial for model in models):
        raise UserError(f"{told}; run again, which asks only for what is missing")
    logger.warning("%s; what is missing is asked for again when the records are made", told)


@contextmanager
def settled() -> Iterator[None]:
    """Spare the collector of garbage all that exists: to look at torch stops the work for half a second."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


class Verifier:
    """Judges answers by references, all that wait at a time, beside the requests; a context manager.

    Args:
        accuracy: Gives 1 to a correct answer.
    """

    def __init__(self, accuracy: Reward) -> None:
        self._accuracy = accuracy
        self._thread = ThreadPoolExecutor(1)
        self._waiting: list[tuple[Sample, asyncio.Future[Verdict]]] = []
        self._work: asyncio.Task[None] | None = None

    def __enter__(self) -> "Verifier":
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown()

    async def verify(self, prompt: Prompt, reply: Reply) -> Verdict:
        """Return the verdict on a reply."""
        found: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        sample = Sample(prompt, reply.parsed, reply.truncated, tokens=reply.tokens)
        self._waiting.append((sample, found))
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._run())
        return await found

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch, self._waiting = self._waiting, []
            samples = [sample for sample, _ in batch]
            try:
                verdicts = await loop.run_in_executor(
                    self._thread, patient_verdicts_of, self._accuracy, samples
                )
            except Exception as error:  # noqa: BLE001 (whoever waits for it raises it)
                for _, found in batch:
                    found.set_exception(error)
                continue
            for (_, found), verdict in zip(batch, verdicts, strict=True):
                if not found.done():
                    found.set_result(verdict)

"""Variants of a stage on several seeds, each an ordinary `katlit` command; no benchmark by itself.

What has been measured stays in a JSON file a run, so that a stopped ablation goes on where it was.
"""

import json
import math
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from scipy.stats import t

from katlit.output import replace_file

Result = Mapping[str, float]
Found = TypeVar("Found")  # what a run has found, as JSON can hold it


def katlit(words: Sequence[str], log: Path, *variables: str) -> None:
    """Run `katlit words…` on one core, with more variables (`NAME=value`); what it prints goes to `log`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    program = ["env", "OMP_NUM_THREADS=1", *variables, sys.executable, "-m", "katlit.cli", *words]
    with log.open("w", encoding="utf-8") as file:
        status = subprocess.run(program, check=False, stdout=file, stderr=file).returncode  # noqa: S603
    if status:
        raise SystemExit(f"katlit {words[0]} ended with status {status}; {log} says why")


def measured(file: Path, measure: Callable[[], Found]) -> Found:
    """What an earlier run has found, or what `measure` finds now."""
    if not file.is_file():
        found = json.dumps(measure())
        file.parent.mkdir(parents=True, exist_ok=True)
        replace_file(file, found)
    result: Found = json.loads(file.read_text(encoding="utf-8"))
    return result


def all_of(jobs: Sequence[Callable[[], Found]], at_once: int) -> list[Found]:
    """Results in the order of the jobs, several of them running at once."""
    with ThreadPoolExecutor(at_once) as pool:
        return [future.result() for future in [pool.submit(job) for job in jobs]]


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Mean over seeds and its standard error."""
    if len(values) < 2:
        return values[0], math.nan
    return statistics.mean(values), statistics.stdev(values) / math.sqrt(len(values))


def mean_and_interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean over seeds and half the width of its 95 % confidence interval, by Student's t-distribution."""
    mean, error = mean_and_error(values)
    return mean, error * float(t.ppf(0.975, len(values) - 1))


def table(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first row is its head."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]]) + "\n"

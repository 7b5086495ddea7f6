"""`katlit trace`: what each agent said about a query, when a stage was labelled by agents."""

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from katlit.commands.chat import EXIT_READER_LEFT
from katlit.errors import UserError
from katlit.text.printable import escaped, escaped_lines

_FOLDER = Path("outputs")
_FILES = "cache/traces-*.jsonl"
_DAMAGED = (KeyError, TypeError, AttributeError, ValueError)


def main(arguments: Sequence[str]) -> int:
    """Show what each agent said about a query, and what became of it.

    Args:
        arguments: What follows `katlit trace`; `--help` lists them.

    Returns:
        The exit status.

    Raises:
        UserError: where there is no such file or query.
    """
    parser = argparse.ArgumentParser(prog="katlit trace", description=main.__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("id", metavar="ID", help="id of the query, as in the records")
    parser.add_argument("--traces", metavar="FILE", type=Path,
                        help=f"traces beside the records; default: the newest under {_FOLDER}")  # fmt: skip
    parser.add_argument("--mlflow", metavar="URI", help="also keep it as a trace at this tracking server")
    parser.add_argument("--experiment", metavar="NAME", default="katlit", help="of MLflow; default: katlit")
    given = parser.parse_args(list(arguments))
    path = given.traces or _newest()
    trace = find_trace(path, given.id)
    try:
        text = written(trace)
    except _DAMAGED as error:
        raise UserError(
            f"{path}: the trace of {given.id!r} is not what labelling wrote; label again"
        ) from error
    status = _show(text)
    if given.mlflow is not None:
        send(trace, given.mlflow, given.experiment)
    return status


def _show(text: str) -> int:
    """Write to standard output, in whatever characters it has, until nobody reads it."""
    encoding = sys.stdout.encoding or "utf-8"
    try:
        sys.stdout.write(f"{text}\n".encode(encoding, "backslashreplace").decode(encoding))
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_READER_LEFT
    return 0


def _newest() -> Path:
    files = [*_FOLDER.glob(_FILES), *_FOLDER.glob(f"*/{_FILES}")]
    if not files:
        raise UserError(
            f"{_FOLDER}: no cache/traces-….jsonl; label with katlit.datamodules.ThreeAgents, or give --traces"
        )
    return max(files, key=lambda path: path.stat().st_mtime)


def find_trace(path: Path, name: str) -> dict[str, Any]:
    """Return the trace of a query.

    Args:
        path: File of traces.
        name: Id of the query.

    Raises:
        UserError: where there is no such file, or no such query in it.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; give a file traces-….jsonl from beside the records")
    wanted, count, first = json.dumps(name, ensure_ascii=False), 0, ""
    with path.open(encoding="utf-8", errors="replace") as lines:
        for count, line in enumerate(lines, start=1):
            first = first or line
            if wanted in line and (trace := _read(line, path, count))["id"] == name:
                return trace
    example = _read(first, path, 1)["id"] if count else None
    hint = f"; the first id is {example!r}" if count else ""
    raise UserError(f"{path}: none of its {count} traces is of {name!r}{hint}")


def _read(line: str, path: Path, number: int) -> dict[str, Any]:
    try:
        trace = json.loads(line)
        if isinstance(trace["id"], str):
            return dict(trace)
    except (ValueError, RecursionError, *_DAMAGED):
        pass
    raise UserError(f"{path}:{number}: no trace; give a file traces-….jsonl from beside the records")


def written(trace: dict[str, Any]) -> str:
    """Write a trace for a terminal; whatever a model said, it stands behind marks and can move nothing."""
    tags, source = trace["tags"], trace["source"] or "no source"
    became = "kept" if trace["kept"] else f"dropped: {trace['dropped']} {trace['lost']}".strip()
    score = "" if trace["score"] is None else f", score {trace['score']}"
    verified = ", verified" if trace["verified"] else ""
    reasoning = "needs reasoning" if tags["needs_reasoning"] else "needs no reasoning"
    kinds = ", ".join(sorted(set(tags["lost"])))
    lost = f", {len(tags['lost'])} votes lost ({kinds})" if kinds else ""
    checked = f"checked by {tags['how']}, spread {tags['spread']:.2f}{lost}"
    lines = [
        escaped(f"{trace['id']} ({source}): think-{trace['mode']}, {became}{score}{verified}"),
        escaped(f"tags: {tags['domain']}, difficulty {tags['difficulty']}, {reasoning}, {checked}"),
    ]
    for step in trace["steps"]:
        lines += _step(step)
    return "\n".join([*lines, f"judge: {escaped(trace['judge'])}"] if trace["judge"] else lines)


def _step(step: dict[str, Any]) -> Iterator[str]:
    fault = f", {step['fault']}" if step["fault"] else ""
    yield ""
    yield escaped(
        f"{step['role']} {step['round'] + 1}{fault} ({step['model']}, seed {step['seed']}, "
        f"{step['prompt_tokens']} prompt and {step['tokens']} reply tokens)"
    )
    if step["note"]:
        yield f"  {escaped(step['note'])}"
    if step["think"]:
        yield escaped_lines(step["think"], "  : ")
    yield escaped_lines(step["text"])


def send(trace: dict[str, Any], uri: str, experiment: str) -> None:
    """Keep a trace at an MLflow server, with a span for each reply.

    Args:
        trace: The trace.
        uri: Address of the server, or of a database.
        experiment: Name of the experiment.

    Raises:
        UserError: where the server does not take it.
    """
    import mlflow
    from mlflow.entities.span import NoOpSpan

    mlflow.set_tracking_uri(uri)
    try:
        mlflow.set_experiment(experiment)
    except mlflow.exceptions.MlflowException as error:
        raise UserError(
            f"--mlflow: {uri}: {str(error).splitlines()[0]}; give a server that answers"
        ) from error
    told = {name: value for name, value in trace.items() if name != "steps"}
    root = mlflow.start_span_no_context("query", "CHAIN", inputs={"id": trace["id"]}, attributes=told)
    if isinstance(root, NoOpSpan):
        raise UserError(f"--mlflow: {uri}: MLflow takes no traces, and says why above")
    for step in trace["steps"]:
        said = {name: step[name] for name in ("think", "text")}
        about = {name: value for name, value in step.items() if name not in said}
        span = mlflow.start_span_no_context(step["role"], "AGENT", parent_span=root, attributes=about)
        span.set_outputs(said)
        span.end()
    root.set_outputs({"kept": trace["kept"], "judge": trace["judge"]})
    root.end()
    mlflow.flush_trace_async_logging()

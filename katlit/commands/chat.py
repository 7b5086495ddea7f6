"""`katlit chat`: a conversation in the terminal with an export, or with any server of one."""

import argparse
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from io import TextIOWrapper
from typing import TextIO

from katlit.commands.chat_client import ChatClient, Part
from katlit.commands.chat_server import started
from katlit.errors import UserError
from katlit.text.parser import Thinking
from katlit.text.printable import harmless

_SWITCHES: dict[str, Thinking] = {"/think": "on", "/no_think": "off", "/auto": "auto"}
_HELP = "/think, /no_think, /auto decide the mode; /system TEXT, /reset, /exit"
_DIM, _PLAIN = "\x1b[2m", "\x1b[0m"
EXIT_READER_LEFT = 141  # what a shell reports of a program whose output nobody reads: 128 + SIGPIPE


def main(arguments: Sequence[str]) -> int:
    """Talk to a model that katlit exported.

    Args:
        arguments: What follows `katlit chat`; `--help` lists them.

    Returns:
        The exit status.

    Raises:
        UserError: where there is no such model or server, or it refuses.
    """
    parser = argparse.ArgumentParser(
        prog="katlit chat",
        description=main.__doc__.splitlines()[0],  # type: ignore[union-attr]
        epilog=f"In the conversation: {_HELP}. What comes from a pipe is one question: its answer goes to "
        "standard output, all else to standard error. VLLM_API_KEY is sent as the key, where it is set.",
    )
    parser.add_argument("model", metavar="DIR|URL", help="an export, for which vLLM is started, or a server")
    parser.add_argument("--thinking", choices=["auto", "on", "off"], default="auto", help="the mode at first")
    parser.add_argument("--system", metavar="TEXT", help="a system turn")
    parser.add_argument("--max-model-len", type=int, metavar="TOKENS", help="as `katlit serve` takes it")
    given = parser.parse_args(list(arguments))
    with started(given.model, given.max_model_len) as url:
        client = ChatClient(url, os.environ.get("VLLM_API_KEY"))
        if sys.stdin.isatty():
            screen = Screen(sys.stdout, sys.stdout, styled=_is_styled(sys.stdout))
            chat = Chat(client, screen, given.thinking, given.system)
            screen.note(f"{chat.model}; {_HELP}")
            chat.converse(_typed())
        else:
            chat = Chat(client, Screen(sys.stdout, sys.stderr), given.thinking, given.system)
            try:
                chat.ask(_piped())
            except BrokenPipeError:  # whoever reads the answer has enough of it
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                return EXIT_READER_LEFT
    return 0


def _piped() -> str:
    """The question in standard input."""
    if isinstance(sys.stdin, TextIOWrapper):
        sys.stdin.reconfigure(errors="strict")
    try:
        question = sys.stdin.read().strip()
    except UnicodeDecodeError as error:
        raise UserError(f"standard input: it is no {error.encoding} text; convert it") from error
    if not question:
        raise UserError("standard input: no question in it")
    return question


def _is_styled(stream: TextIO) -> bool:
    return stream.isatty() and "NO_COLOR" not in os.environ


def _typed() -> Iterator[str]:
    """Lines that are typed, until ctrl-D or ctrl-C."""
    with suppress(ImportError):
        import readline  # noqa: F401 (gives `input` its editing)
    if isinstance(sys.stdin, TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")  # a wrong key ends no conversation
    with suppress(EOFError, KeyboardInterrupt):
        while True:
            yield input("> ")
    sys.stdout.write("\n")


class Screen:
    """Where a reply is shown; no character of a model's can move the cursor or recolour.

    Args:
        answers: Takes answers.
        notes: Takes thinking, and lines of ours.
        styled: Whether thinking and notes are dimmed.
    """

    def __init__(self, answers: TextIO, notes: TextIO, styled: bool = False) -> None:
        self._answers, self._notes = answers, notes
        self._before, self._after = (_DIM, _PLAIN) if styled else ("", "")

    def answer(self, text: str) -> None:
        """Show a part of an answer."""
        self._write(self._answers, harmless(text))

    def thinking(self, text: str) -> None:
        """Show a part of the thinking."""
        self._write(self._notes, f"{self._before}{harmless(text)}{self._after}")

    def note(self, text: str) -> None:
        """Show a line of ours."""
        self._write(self._notes, f"{self._before}({harmless(text)}){self._after}\n")

    def end_line(self, *, of_answer: bool) -> None:
        """End the line of an answer, or of the thinking."""
        self._write(self._answers if of_answer else self._notes, "\n")

    @staticmethod
    def _write(stream: TextIO, text: str) -> None:
        encoding = stream.encoding or "utf-8"
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        stream.flush()


class Chat:
    """A conversation.

    Args:
        client: Client of the server.
        screen: Where replies are shown.
        thinking: Leave the mode to the model (auto) or force it, until a switch is typed.
        system: A system turn; None: none.

    Raises:
        UserError: where the server does not answer.
    """

    def __init__(
        self, client: ChatClient, screen: Screen, thinking: Thinking = "auto", system: str | None = None
    ) -> None:
        self.model = client.model()
        self._client = client
        self._screen = screen
        self._thinking: Thinking = thinking
        self._system = system
        self._turns: list[dict[str, str]] = []

    def converse(self, lines: Iterable[str]) -> None:
        """Follow commands and answer questions, a line each; what fails is said, and the next line read."""
        for line in lines:
            question = line.strip()
            command, _, rest = question.partition(" ")
            if command == "/exit":
                return
            if command in _SWITCHES:
                self._thinking = _SWITCHES[command]
                self._screen.note(f"mode: {self._thinking}")
                question = rest.strip()
            elif command.startswith("/"):
                self._obey(command, rest.strip())
                question = ""
            if question:
                self._try(question)

    def _try(self, question: str) -> None:
        try:
            self.ask(question)
        except UserError as error:
            self._screen.note(f"{error}; the question is forgotten")
        except KeyboardInterrupt:
            self._screen.note("stopped; the question is forgotten")

    def _obey(self, command: str, rest: str) -> None:
        if command == "/system":
            self._system = rest or None
            self._screen.note("system turn set" if rest else "no system turn")
        elif command == "/reset":
            self._turns = []
            self._screen.note("the conversation starts anew")
        else:
            self._screen.note(f"no command {command}; {_HELP}")

    def ask(self, question: str) -> None:
        """Show the reply to a question, and keep both; a reply that fails leaves no trace.

        Raises:
            UserError: where the server does not answer, refuses, or breaks off.
        """
        system = [] if self._system is None else [{"role": "system", "content": self._system}]
        turns = [*self._turns, {"role": "user", "content": question}]
        thought, answer, finish, tokens = "", "", None, None
        try:
            for part in self._client.reply(self.model, [*system, *turns], self._thinking):
                self._show(part, starts_answer=bool(thought) and not answer)
                thought, answer = thought + part.reasoning, answer + part.content
                finish, tokens = part.finish_reason or finish, part.tokens or tokens
        finally:
            if thought or answer:
                self._screen.end_line(of_answer=bool(answer))
        self._turns = [*turns, {"role": "assistant", "content": answer}]
        # A reply that was cut in the judge has no mode yet.
        found = "on" if thought else "off" if answer else self._thinking
        self._screen.note(self._summary(found, finish, tokens))

    def _show(self, part: Part, *, starts_answer: bool) -> None:
        if part.reasoning:
            self._screen.thinking(part.reasoning)
        if part.content:
            if starts_answer:
                self._screen.end_line(of_answer=False)
            self._screen.answer(part.content)

    def _summary(self, found: Thinking, finish: str | None, tokens: int | None) -> str:
        """The mode, as it was asked for and as it became, and the tokens of a reply."""
        words = [found if self._thinking == found else f"{self._thinking} → {found}"]
        words += [] if tokens is None else [f"{tokens} tokens"]
        words += ["cut at the limit"] if finish == "length" else []
        return ", ".join(words)

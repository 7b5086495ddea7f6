"""Runs Python programs that a model wrote.

A program runs in a process of its own, `sandboxed.py`, which gives up before it begins, for good:

- starting processes, running other programs, sockets, signals to others, tracing (`seccomp.py`);
- reading files other than Python's own library and the system's, and writing any outside an empty scratch
  directory (Landlock);
- capabilities, and more than its share of processor time, memory, file sizes and open files (limits).

So nothing is left when its one process is killed. What it prints is cut at a limit while it prints; threads,
files and the time by the clock are watched from outside. Its environment is empty. Which means, and not name
spaces or control groups: these two need no root and work inside containers.
"""

import os
import platform
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from katlit.errors import UserError
from katlit.rewards.code.sandboxed_process import SandboxedProcess, SandboxError, watch
from katlit.rewards.code.seccomp import ARCHITECTURES, seccomp_filter

_MIB = 1 << 20
_FILE_BYTES = 16 * _MIB
_OPEN_FILES = 64
_STACK_BYTES = 64 * _MIB
_TRIAL_SECONDS = 120.0  # to find out what the machine offers, though it may be busy
_READABLE = (
    f"{sys.base_prefix}/lib", "/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib",
    "/etc/ld.so.cache", "/usr/share/zoneinfo", "/etc/localtime", "/dev/urandom",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Limits:
    """What one program may use.

    Args:
        cpu_seconds: Processor time, of all threads together.
        wall_seconds: Time by the clock, for programs that wait; generous, for the sake of busy machines.
        memory_mib: Address space.
    """

    cpu_seconds: int = 5
    wall_seconds: float = 30.0
    memory_mib: int = 1024

    def __post_init__(self) -> None:
        for name, least in (("cpu_seconds", 1), ("wall_seconds", 1), ("memory_mib", 128)):
            if getattr(self, name) < least:
                raise UserError(f"{name}: {getattr(self, name)}; give at least {least}")


class Sandbox:
    """Starts programs within limits; finds out at first use what the machine offers.

    Args:
        limits: What each program may use.
        allow_weaker: Whether to go on, with a warning, where the kernel lacks Landlock or seccomp. A program
            can then read the trainer's files or leave processes behind.
    """

    def __init__(self, limits: Limits, *, allow_weaker: bool = False) -> None:
        self._limits = limits
        self._allow_weaker = allow_weaker

    def __getstate__(self) -> dict[str, Any]:
        """The settings: another machine may offer something else."""
        return {name: value for name, value in self.__dict__.items() if name != "_means"}

    def start(
        self,
        source: str,
        names: Mapping[str, Any],
        *,
        standard_input: bytes = b"",
        output_bytes: int = 1 << 16,
        descriptors: Sequence[int] = (),
        modules: Mapping[str, str] | None = None,
    ) -> SandboxedProcess:
        """Start a program.

        Args:
            source: The program.
            names: What it finds defined, `__name__` among it; plain data.
            standard_input: What it reads.
            output_bytes: It is killed where it prints more.
            descriptors: Numbers of open files that it inherits.
            modules: Modules that it may import beside the library's, by name, as text; none if not given.

        Raises:
            UserError: where the machine lacks a means of isolation.
            SandboxError: where no process can be started.
        """
        return SandboxedProcess(
            self._task(source, names, self._means) | {"modules": dict(modules or {})},
            self._limits.wall_seconds,
            standard_input=standard_input,
            output_bytes=output_bytes,
            descriptors=descriptors,
        )

    @cached_property
    def _means(self) -> tuple[str, ...]:
        if sys.platform != "linux":
            raise UserError(f"CodeReward: the sandbox needs Linux, this is {sys.platform}; run on Linux")
        found, missing = [], []
        for means in ("landlock", "seccomp"):
            why = self._missing(means)
            missing += [f"{means} ({why})"] if why else []
            found += [] if why else [means]
        if missing and not self._allow_weaker:
            raise UserError(
                f"CodeReward: this machine's kernel lacks {' and '.join(missing)}, so programs could not be "
                "confined; use Linux 5.13 or newer with Landlock and seccomp on x86_64 or aarch64, or accept "
                "the risk with allow_weaker_sandbox: true"
            )
        if missing:
            warnings.warn(f"the sandbox is weaker without {' and '.join(missing)}", stacklevel=2)
        return tuple(found)

    def _missing(self, means: str) -> str:
        if means == "seccomp" and platform.machine() not in ARCHITECTURES:
            return f"no filter for {platform.machine()}"
        process = SandboxedProcess(self._task("", {}, (means,)), _TRIAL_SECONDS)
        with process:
            watch(process)
            try:
                return process.ending().failure
            except SandboxError as error:
                return str(error)

    def _task(self, source: str, names: Mapping[str, Any], means: Sequence[str]) -> dict[str, Any]:
        machine = platform.machine()
        return {
            "source": source,
            "names": dict(names),
            "modules": {},
            "parent": os.getpid(),
            "machine": machine,
            "means": list(means),
            "filter": seccomp_filter(machine).hex() if "seccomp" in means else "",
            "readable": list(_READABLE),
            "limits": self._resource_limits(),
        }

    def _resource_limits(self) -> dict[str, tuple[int, int]]:
        """Soft and hard limits by name."""
        seconds, memory = self._limits.cpu_seconds, self._limits.memory_mib * _MIB
        return {
            "RLIMIT_CPU": (seconds, seconds + 1),  # SIGXCPU, then SIGKILL
            "RLIMIT_AS": (memory, memory),
            "RLIMIT_FSIZE": (_FILE_BYTES, _FILE_BYTES),
            "RLIMIT_NOFILE": (_OPEN_FILES, _OPEN_FILES),
            "RLIMIT_CORE": (0, 0),
            "RLIMIT_MEMLOCK": (0, 0),
            "RLIMIT_STACK": (_STACK_BYTES, -1),  # for deep recursion; programs may ask for more
        }

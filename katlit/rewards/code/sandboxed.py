"""What runs inside the sandbox: takes every right from itself, then runs the program it was given.

Started by its path; it imports nothing but the standard library. Its argument is the descriptor of a file
with the task, see `katlit.rewards.code.sandbox`. A zero byte on standard error says that all rights are gone
and the program begins; text without it says why it does not.
"""

import ctypes
import marshal
import os
import resource
import site
import struct
import sys
from types import ModuleType
from typing import Any

_SIGKILL = 9
_LIBC = ctypes.CDLL(None, use_errno=True)
_SET_PARENT_DEATH_SIGNAL, _SET_SECCOMP, _SET_NO_NEW_PRIVILEGES = 1, 22, 38  # prctl(2)
_CAPSET = {"x86_64": 126, "aarch64": 91}
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # landlock(7), the same on all architectures

# Rights of Landlock's first version by bit; REFER, TRUNCATE and IOCTL_DEV came in versions 2, 3 and 5.
_WRITE_FILE, _READ_FILE, _READ_DIRECTORY, _REMOVE_FILE, _MAKE_FILE, _TRUNCATE = (
    1 << bit for bit in (1, 2, 3, 5, 8, 14)
)
_RIGHTS_BY_VERSION = {1: (1 << 13) - 1, 2: 1 << 13, 3: _TRUNCATE, 5: 1 << 15}
_NO_NETWORK, _NO_OUTSIDE = 0b11, 0b11  # TCP bind and connect; abstract sockets and signals


class MissingError(Exception):
    """The kernel refuses a means of isolation."""


def main() -> None:
    """Read the task, confine this process, run the program."""
    with os.fdopen(int(sys.argv[1]), "rb") as file:
        task = marshal.load(file)  # noqa: S302 (from the trainer, and without json it starts sooner)
    try:
        _confine(task)
    except MissingError as error:
        sys.exit(str(error))
    os.write(2, b"\0")
    _run(task)


def _confine(task: dict[str, Any]) -> None:
    _prctl(_SET_PARENT_DEATH_SIGNAL, _SIGKILL)
    if os.getppid() != task["parent"]:
        sys.exit("started by a process that has died")
    _be_the_first_that_memory_pressure_kills()
    for name, (soft, hard) in task["limits"].items():
        _limit(getattr(resource, name), soft, hard)
    _drop_capabilities(task["machine"])
    for name, means in (("landlock", _landlock), ("seccomp", _seccomp)):
        if name in task["means"]:
            try:
                means(task)
            except OSError as error:
                raise MissingError(f"{name}: {error.strerror}") from error
    os.environ.clear()


def _limit(kind: int, soft: int, hard: int) -> None:
    present = resource.getrlimit(kind)[1]
    if present != resource.RLIM_INFINITY:
        hard = present if hard == resource.RLIM_INFINITY else min(hard, present)
        soft = min(soft, hard)
    resource.setrlimit(kind, (soft, hard))


def _be_the_first_that_memory_pressure_kills() -> None:
    with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:  # noqa: PTH123 (pathlib costs start-up)
        file.write("1000")


def _drop_capabilities(machine: str) -> None:
    # Before `prctl(NO_NEW_PRIVS)` so that root, too, is bound by limits and by the owners of files.
    header = struct.pack("<Ii", 0x20080522, 0)
    if machine in _CAPSET:
        _checked(_LIBC.syscall(_CAPSET[machine], header, struct.pack("<6I", *[0] * 6)))
    _prctl(_SET_NO_NEW_PRIVILEGES, 1)


def _landlock(task: dict[str, Any]) -> None:
    version = _checked(_LIBC.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), 1))
    handled = sum(bits for since, bits in _RIGHTS_BY_VERSION.items() if since <= version)
    size = 8 if version < 4 else 16 if version < 6 else 24
    attributes = struct.pack("<QQQ", handled, _NO_NETWORK, _NO_OUTSIDE)[:size]
    rules = _checked(_LIBC.syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(size), 0))
    read = _READ_FILE | _READ_DIRECTORY
    for path in [*sys.path, *task["readable"]]:
        _permit(rules, path, read)
    _permit(rules, "/dev/null", _READ_FILE | _WRITE_FILE)
    own = read | _WRITE_FILE | _REMOVE_FILE | _MAKE_FILE | (_TRUNCATE & handled)
    _permit(rules, os.getcwd(), own)  # noqa: PTH109 (pathlib costs start-up)
    _checked(_LIBC.syscall(_RESTRICT_SELF, rules, 0))
    os.close(rules)


def _permit(rules: int, path: str, rights: int) -> None:
    try:
        opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    if not os.path.isdir(path):  # noqa: PTH112 (pathlib costs start-up)
        rights &= _READ_FILE | _WRITE_FILE
    _checked(_LIBC.syscall(_ADD_RULE, rules, 1, struct.pack("<Qi", rights, opened), 0))
    os.close(opened)


def _seccomp(task: dict[str, Any]) -> None:
    code = ctypes.create_string_buffer(bytes.fromhex(task["filter"]))
    program = struct.pack("@HP", len(code.raw) // 8, ctypes.addressof(code))
    _prctl(_SET_SECCOMP, 2, program)


def _prctl(option: int, value: int, pointer: bytes | None = None) -> None:
    _checked(_LIBC.prctl(option, ctypes.c_ulong(value), pointer or ctypes.c_ulong(0), 0, 0))


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def _run(task: dict[str, Any]) -> None:
    for name, source in task["modules"].items():
        sys.modules[name] = module = ModuleType(name)
        exec(compile(source, name, "exec"), module.__dict__)  # noqa: S102
    main_module = ModuleType("__main__")
    main_module.__dict__.update(task["names"])
    sys.modules["__main__"] = main_module
    sys.argv = ["program.py"]
    # `python program.py` has these too; they come with `site`, which we leave out for its packages.
    for offer in (site.setquit, site.setcopyright, site.sethelper):
        offer()
    main_module.__file__ = sys.argv[0]
    exec(compile(task["source"], "program.py", "exec"), main_module.__dict__)  # noqa: S102


if __name__ == "__main__":
    main()

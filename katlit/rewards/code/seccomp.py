"""The system calls that a sandboxed program may make, as a filter for the kernel (Linux, seccomp).

What is not listed fails with EPERM. So a program can start threads but no process, run no other program, open
no socket, signal nobody, trace nobody, change no file's owner, mode or times, and raise no limit.

See seccomp(2); numbers from Linux's `unistd.h`.
"""

import errno
import struct
from typing import NamedTuple

ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # `AUDIT_ARCH_…` by `platform.machine()`

# Name: numbers on x86_64 and aarch64; None where there is no such call.
_ALLOWED: dict[str, tuple[int, int | None]] = {
    # files: which ones is Landlock's business
    "read": (0, 63), "write": (1, 64), "readv": (19, 65), "writev": (20, 66), "pread64": (17, 67),
    "pwrite64": (18, 68), "close": (3, 57), "close_range": (436, 436), "lseek": (8, 62), "fstat": (5, 80),
    "newfstatat": (262, 79), "stat": (4, None), "lstat": (6, None), "statx": (332, 291), "access": (21, None),
    "faccessat": (269, 48), "faccessat2": (439, 439), "readlink": (89, None), "readlinkat": (267, 78),
    "getcwd": (79, 17), "getdents64": (217, 61), "dup": (32, 23), "dup2": (33, None), "dup3": (292, 24),
    "pipe": (22, None), "pipe2": (293, 59), "fsync": (74, 82), "fdatasync": (75, 83), "ftruncate": (77, 46),
    "unlink": (87, None), "unlinkat": (263, 35), "rename": (82, None), "renameat": (264, 38),
    "renameat2": (316, 276), "statfs": (137, 43), "fstatfs": (138, 44), "umask": (95, 166),
    "fadvise64": (221, 223),
    # waiting
    "poll": (7, None), "ppoll": (271, 73), "select": (23, None), "pselect6": (270, 72),
    "epoll_create": (213, None), "epoll_create1": (291, 20), "epoll_ctl": (233, 21),
    "epoll_wait": (232, None),
    "epoll_pwait": (281, 22), "eventfd2": (290, 19), "pause": (34, None), "nanosleep": (35, 101),
    "clock_nanosleep": (230, 115), "restart_syscall": (219, 128),
    # memory
    "mmap": (9, 222), "munmap": (11, 215), "mremap": (25, 216), "mprotect": (10, 226), "madvise": (28, 233),
    "brk": (12, 214),
    # its own signals and timers
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139),
    "rt_sigpending": (127, 136), "rt_sigtimedwait": (128, 137), "rt_sigsuspend": (130, 133),
    "sigaltstack": (131, 132), "alarm": (37, None), "setitimer": (38, 103), "getitimer": (36, 102),
    # time, identity, machine
    "clock_gettime": (228, 113), "clock_getres": (229, 114), "gettimeofday": (96, 169), "time": (201, None),
    "times": (100, 153), "getrusage": (98, 165), "sysinfo": (99, 179), "uname": (63, 160),
    "getpid": (39, 172), "getppid": (110, 173), "gettid": (186, 178), "getuid": (102, 174),
    "geteuid": (107, 175), "getgid": (104, 176), "getegid": (108, 177), "getgroups": (115, 158),
    "getpgid": (121, 155), "getsid": (124, 156), "getpgrp": (111, None), "getrandom": (318, 278),
    "getrlimit": (97, 163), "getpriority": (140, 141),
    # threads and the end
    "futex": (202, 98), "get_robust_list": (274, 100), "set_robust_list": (273, 99),
    "set_tid_address": (218, 96), "rseq": (334, 293), "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123), "sched_getparam": (143, 121), "sched_getscheduler": (145, 120),
    "sched_get_priority_max": (146, 125), "sched_get_priority_min": (147, 126), "getcpu": (309, 168),
    "arch_prctl": (158, None), "exit": (60, 93), "exit_group": (231, 94),
    # the ends of a socket pair, by which asyncio wakes itself
    "sendto": (44, 206), "recvfrom": (45, 207), "getsockname": (51, 204), "getsockopt": (55, 209),
    "shutdown": (48, 210),
}  # fmt: skip


class _Argument(NamedTuple):
    """Holds where the lower half of an argument, masked, has the value."""

    position: int
    mask: int
    value: int


_ALL = 0xFFFFFFFF
_O_ACCMODE, _O_TRUNC = 0o3, 0o1000
_THREAD = 0x3D0F00  # the flags of `pthread_create`; musl adds CLONE_DETACHED
_CLONE_DETACHED = 0x400000
_AF_UNIX, _SOCK_STREAM = 1, 1

# Name: numbers, and the alternatives of which one must hold, each a list of conditions that all must.
_CONDITIONAL: dict[str, tuple[tuple[int, int], list[list[_Argument]]]] = {
    # Old Landlock lets a file be emptied by opening it for reading.
    "openat": (
        (257, 56),
        [[_Argument(2, _O_TRUNC, 0)], [_Argument(2, _O_ACCMODE, 1)], [_Argument(2, _O_ACCMODE, 2)]],
    ),
    "clone": ((56, 220), [[_Argument(0, _ALL & ~_CLONE_DETACHED, _THREAD)]]),
    # Not F_SETOWN and F_SETSIG, by which the kernel can be made to signal others: F_DUPFD to F_SETLKW only.
    "fcntl": ((72, 25), [[_Argument(1, _ALL & ~7, 0)], [_Argument(1, _ALL, 1030)]]),  # F_DUPFD_CLOEXEC
    # Not FIOSETOWN. TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX.
    "ioctl": (
        (16, 29),
        [[_Argument(1, _ALL, code)] for code in (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)],
    ),
    "socketpair": ((53, 199), [[_Argument(0, _ALL, _AF_UNIX), _Argument(1, 0xF, _SOCK_STREAM)]]),
    "prlimit64": ((302, 261), [[_Argument(0, _ALL, 0)]]),  # its own, which it can only lower
}
_CLONE3 = 435  # its flags lie in memory, where no filter can read them: libraries fall back to `clone`

_LOAD, _AND, _EQUAL, _RETURN = 0x20, 0x54, 0x15, 0x06  # BPF, see linux/bpf_common.h
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # offsets in `struct seccomp_data`


def seccomp_filter(machine: str) -> bytes:
    """The filter: an array of `struct sock_filter`.

    Args:
        machine: One of `ARCHITECTURES`.
    """
    column = list(ARCHITECTURES).index(machine)
    code = [
        _instruction(_LOAD, _ARCHITECTURE),
        _instruction(_EQUAL, ARCHITECTURES[machine], 1, 0),
        _instruction(_RETURN, _KILL),
        _instruction(_LOAD, _NUMBER),
    ]
    for numbers in _ALLOWED.values():
        number = numbers[column]
        if number is not None:
            code += [_instruction(_EQUAL, number, 0, 1), _instruction(_RETURN, _ALLOW)]
    for both, alternatives in _CONDITIONAL.values():
        block = [line for alternative in alternatives for line in _alternative(alternative)]
        block.append(_instruction(_RETURN, _ERRNO | errno.EPERM))
        code += [_instruction(_EQUAL, both[column], 0, len(block)), *block]
    code += [
        _instruction(_EQUAL, _CLONE3, 0, 1),
        _instruction(_RETURN, _ERRNO | errno.ENOSYS),
        _instruction(_RETURN, _ERRNO | errno.EPERM),
    ]
    return b"".join(code)


def _alternative(conditions: list[_Argument]) -> list[bytes]:
    code: list[bytes] = []
    for left, condition in zip(range(len(conditions) - 1, -1, -1), conditions, strict=True):
        code += [
            _instruction(_LOAD, _ARGUMENTS + 8 * condition.position),
            _instruction(_AND, condition.mask),
            _instruction(_EQUAL, condition.value, 0, 3 * left + 1),
        ]
    return [*code, _instruction(_RETURN, _ALLOW)]


def _instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("<HBBI", code, if_true, if_false, value)

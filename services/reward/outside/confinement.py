"""What a program may ask of the kernel: memory, time, random bytes, and to read and write what is open already.

A seccomp filter (seccomp(2), `SECCOMP_MODE_FILTER`) refuses every other call: no file, process, signal to anybody,
socket, limit or priority of another process. It needs no privilege, so it holds in a container too, where the engine's
default profile gives no namespace, and `os.kill(-1, 9)` would reach all processes of the service's user.
"""

import ctypes
import errno
import os
import platform
import struct
import sys

_X86_64 = {
    **{"read": 0, "write": 1, "close": 3, "mmap": 9, "mprotect": 10, "munmap": 11, "brk": 12, "rt_sigaction": 13},
    **{"rt_sigprocmask": 14, "rt_sigreturn": 15, "sched_yield": 24, "mremap": 25, "madvise": 28, "nanosleep": 35},
    **{"getpid": 39, "exit": 60, "uname": 63, "gettimeofday": 96, "getrusage": 98, "times": 100, "getuid": 102},
    **{"getgid": 104, "geteuid": 107, "getegid": 108, "getppid": 110, "sigaltstack": 131, "gettid": 186, "time": 201},
    **{"futex": 202, "restart_syscall": 219, "clock_gettime": 228, "clock_getres": 229, "clock_nanosleep": 230},
    **{"exit_group": 231, "getrandom": 318},
}
_AARCH64 = {
    **{"close": 57, "read": 63, "write": 64, "exit": 93, "exit_group": 94, "futex": 98, "nanosleep": 101},
    **{"clock_gettime": 113, "clock_getres": 114, "clock_nanosleep": 115, "sched_yield": 124, "restart_syscall": 128},
    **{"sigaltstack": 132, "rt_sigaction": 134, "rt_sigprocmask": 135, "rt_sigreturn": 139, "times": 153, "uname": 160},
    **{"getrusage": 165, "gettimeofday": 169, "getpid": 172, "getppid": 173, "getuid": 174, "geteuid": 175},
    **{"getgid": 176, "getegid": 177, "gettid": 178, "brk": 214, "munmap": 215, "mremap": 216, "mmap": 222},
    **{"mprotect": 226, "madvise": 233, "getrandom": 278},
}
CALLS = {"x86_64": _X86_64, "aarch64": _AARCH64}
"""The calls that are allowed and their numbers, by machine (the kernel's `asm/unistd_64.h`, `asm-generic/unistd.h`)."""
_AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # linux/audit.h
_PR_GET_SECCOMP, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 21, 22, 38
_FILTER = 2
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06  # BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_RET|K
_ALLOW, _REFUSE, _KILL = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x80000000
_NUMBER_AT, _MACHINE_AT = 0, 4  # in struct seccomp_data


class _Program(ctypes.Structure):
    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def why_unconfined() -> str | None:
    """Why no program may run here; None where the kernel can confine one."""
    if sys.platform == "linux" and platform.machine() in CALLS and _prctl(_PR_GET_SECCOMP) >= 0:
        return None
    return (
        f"nothing keeps a program from other processes here ({sys.platform}, {platform.machine()}); "
        f"expected Linux with seccomp on {' or '.join(CALLS)}"
    )


def confine() -> None:
    """From now on this process, and whatever it might become, may do what `CALLS` lists alone; all else is EPERM.

    Raises OSError where the kernel does not take the filter.
    """
    code = _code(platform.machine())
    held = ctypes.create_string_buffer(code, len(code))
    program = _Program(len(code) // 8, ctypes.addressof(held))
    if _prctl(_PR_SET_NO_NEW_PRIVS, 1) or _prctl(_PR_SET_SECCOMP, _FILTER, ctypes.addressof(program)):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _code(machine: str) -> bytes:
    """The filter, in classic BPF: a call in the list jumps to the end, which allows it."""
    numbers = sorted(CALLS[machine].values())
    steps = [
        (_LOAD, 0, 0, _MACHINE_AT),
        (_JUMP_IF_EQUAL, 1, 0, _AUDIT[machine]),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER_AT),
        *((_JUMP_IF_EQUAL, len(numbers) - place, 0, number) for place, number in enumerate(numbers)),
        (_RETURN, 0, 0, _REFUSE),
        (_RETURN, 0, 0, _ALLOW),
    ]
    return b"".join(struct.pack("=HBBI", *step) for step in steps)


def _prctl(option: int, *arguments: int) -> int:
    padded = [*arguments, 0, 0, 0, 0][:4]
    return int(ctypes.CDLL(None, use_errno=True).prctl(option, *map(ctypes.c_ulong, padded)))

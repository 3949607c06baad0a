"""What a verifier worker may do: compute. Completions are hostile text, and verifiers may be a third party's.

No secret in its environment, no new privileges, no network (where the kernel allows a namespace), no other process, no
file written, few files open, limits on memory and on the CPU time of each batch.
"""

import ctypes
import os
import resource
import signal
import sys
from collections.abc import Mapping

_KEPT = ("PATH", "PYTHONPATH", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "HOME")
"""Variables that a worker needs to start; nothing else of its parent's environment reaches it."""
_SET = {
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"),  # one thread can leave the network
    "PYTHONDONTWRITEBYTECODE": "1",
    "MALLOC_MMAP_THRESHOLD_": "131072",  # glibc: long texts go back to the system as they are freed, all life long
}
_OPEN_FILES = 128
_SPARE_CPU_S = 10.0
"""CPU time of a batch beyond its samples' deadlines."""
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_LINUX = sys.platform == "linux"
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000


def clean_environment(parent: Mapping[str, str]) -> dict[str, str]:
    """Of `parent` what a worker needs, and `_SET`."""
    return {name: parent[name] for name in _KEPT if name in parent} | _SET


def isolate() -> bool:
    """First thing in a worker: no new privileges, no network. False where the kernel does not allow the latter."""
    if _LINUX:
        _libc().prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    return any(_unshare(flags) for flags in (_CLONE_NEWUSER | _CLONE_NEWNET, _CLONE_NEWNET))


def die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent ends, however that ends."""
    if _LINUX:
        _libc().prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(1)


def _unshare(flags: int) -> bool:
    return _LINUX and _libc().unshare(flags) == 0


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def limit(memory_bytes: int) -> None:
    """Once everything is imported: memory, and no other process, thread, file or core dump."""
    for what, most in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_NPROC, 0),  # the kernel does not hold root to it
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, _OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (most, most))


def allow_cpu(seconds: float) -> None:
    """From now on the process may compute for `seconds` and a little more; past that the kernel ends it."""
    times = os.times()
    until = int(times.user + times.system + seconds + _SPARE_CPU_S) + 1
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (until, hard))

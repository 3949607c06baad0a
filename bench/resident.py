"""Memory of this process by the kernel's account, for benchmarks; import it with `python bench/<name>.py`."""

from pathlib import Path

MIB = 1024**2
GIVEN_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
"""Environment of a process whose every large tensor is given back to the system when it is freed."""


def now() -> int:
    """Bytes that are resident."""
    return _bytes("VmRSS")


def count_peak() -> None:
    """The peak is counted from here."""
    Path("/proc/self/clear_refs").write_text("5")


def peak() -> int:
    """Bytes that were resident at most since the count began."""
    return _bytes("VmHWM")


def _bytes(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) * 1024

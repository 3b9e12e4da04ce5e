"""The available memory of the machine."""

import os
from pathlib import Path


def available_memory() -> int | None:
    """Bytes that can be used without swapping, or None if the system does not report it.

    On Linux it is the smaller of the kernel's available memory and the control group's limit;
    elsewhere it is the physical memory.
    """
    amounts = [_meminfo_available(), _group_left(Path("/sys/fs/cgroup"))]
    known = [amount for amount in amounts if amount is not None]
    return min(known) if known else _physical()


def _meminfo_available() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    kilobytes = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return 1024 * int(kilobytes[0]) if kilobytes else None


def _group_left(group: Path) -> int | None:
    """The bytes that a control group (version 2) may still allocate; page cache counts as free."""
    try:
        most = (group / "memory.max").read_text().strip()
        current = int((group / "memory.current").read_text())
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    if most == "max":
        return None
    return int(most) - current + int(stat.get("file", 0))


def _physical() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None

"""Variables of the environment, each checked. An empty one counts as none."""

import math
import os
import re
from collections.abc import Collection
from ipaddress import ip_address
from pathlib import Path

QUOTA = Path("/sys/fs/cgroup/cpu.max")


def env_text(name: str, default: str = "") -> str:
    return os.environ.get(name, "").strip() or default


def env_int(name: str, default: int, *, least: int = 1, most: int = 10**9) -> int:
    value = env_text(name, str(default))
    if not re.fullmatch("[0-9]{1,10}", value) or not least <= int(value) <= most:
        raise SystemExit(f"{name} must be a whole number from {least} to {most}, not {value!r}")
    return int(value)


def env_capitals(name: str, default: str, pattern: str) -> str:
    value = env_text(name, default).upper()
    if not re.fullmatch(pattern, value):
        raise SystemExit(f"{name} must match {pattern}, not {value!r}")
    return value


def env_matching(name: str, default: str, pattern: str) -> str:
    value = env_text(name, default)
    if not re.fullmatch(pattern, value):
        raise SystemExit(f"{name} must match {pattern}")  # and may hold a password
    return value


def env_choice(name: str, default: str, choices: Collection[str]) -> str:
    value = env_text(name, default)
    if value not in choices:
        raise SystemExit(f"{name} must be one that there is, not {value!r}")
    return value


def env_flag(name: str, default: bool) -> bool:
    value = env_text(name, str(default)).lower()
    if value not in ("true", "false", "1", "0"):
        raise SystemExit(f"{name} must be true or false, not {value!r}")
    return value in ("true", "1")


def env_address(name: str, default: str) -> str:
    """An address of this machine, of either version of IP."""
    value = env_text(name, default)
    try:
        return str(ip_address(value.removeprefix("[").removesuffix("]")))
    except ValueError:
        raise SystemExit(f"{name} must be an address such as 0.0.0.0, 127.0.0.1 or ::, not {value!r}") from None


def processors() -> int:
    """How many this process may use, which may be fewer than the machine has: in a container, its quota."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = QUOTA.read_text().split()
        return min(allowed, math.ceil(int(quota) / int(period)))
    except (OSError, ValueError):  # no cgroup, or no quota in it
        return allowed

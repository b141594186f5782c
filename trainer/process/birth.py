"""When the process began."""

from __future__ import annotations

import os
import sys
import time


def process_age() -> float:
    """Seconds since the process began, before Python itself had started; 0 where the system does not tell."""
    if sys.platform != "linux":
        return 0.0
    with open("/proc/self/stat", "rb") as file:
        # After the name of the program, in brackets, which may hold anything: proc(5) counts from 1, this is the 22nd.
        ticks = int(file.read().rpartition(b")")[2].split()[19])
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK"))

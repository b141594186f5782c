"""What every command shares: how it ends."""

from __future__ import annotations

import subprocess
import sys
import textwrap

LAST_MOMENTS = """
    import os, signal, time
    from trainer import command

    class Late:
        def __del__(self):
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
                os.kill(os.getpid(), number)
            print("signalled", flush=True)
            {then}

    def main(argv):
        late = Late()
        late.itself = late
        return 3

    command._LET_GO_S = 0.5
    command.run_command(main)
"""


def ended(then: str) -> subprocess.CompletedProcess[str]:
    program = textwrap.dedent(LAST_MOMENTS).format(then=then)
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)


def test_a_signal_in_the_last_moments_changes_no_exit_code() -> None:
    process = ended("pass")
    assert (process.returncode, process.stdout, process.stderr) == (3, "signalled\n", "")


def test_what_does_not_let_go_is_left() -> None:
    process = ended("time.sleep(600)")
    assert (process.returncode, process.stdout, process.stderr) == (3, "signalled\n", "")

"""The Python that knows Orbit too, in an environment of its own."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

from bench.workers import ROOT

PLACE = ROOT / ".venv-bench"
PACKAGES = ("tf-models-official>=2.19,<2.21", "tf_keras>=2.21,<2.22")
"""Orbit, without all that its distribution depends on."""
_SITE = "import sysconfig; print(sysconfig.get_path('purelib'))"


def python_with_peers(tell: Callable[[str], None]) -> str:
    """The Python that sees what this one does and `PACKAGES`, which are installed where they are not there.

    Args:
      tell: receives a line where that is done, and one where it fails; then it is this Python.
    """
    python, installed, wanted = PLACE / "bin" / "python", PLACE / "installed", " ".join(PACKAGES)
    if python.exists() and installed.exists() and installed.read_text().strip() == wanted:
        return str(python)
    tell(f"Setting up {PLACE} …")
    pip = ["pip", "install", "--quiet", "--quiet", "--disable-pip-version-check", "--no-deps"]
    try:
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(PLACE)], check=True, stdout=sys.stderr)
        site = subprocess.run([python, "-c", _SITE], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
        beside = f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n"
        (Path(site) / "trainer.pth").write_text(beside)
        subprocess.run([python, "-m", *pip, *PACKAGES], check=True, stdout=sys.stderr)
        installed.write_text(f"{wanted}\n")
    except (OSError, subprocess.CalledProcessError) as error:
        tell(f"warning: Orbit could not be installed, so that its rows will fail: {error}")
        return sys.executable
    return str(python)

"""The views do without TensorFlow, and plain lines without rich."""

from __future__ import annotations

import subprocess
import sys


def run(program: str) -> None:
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_views_import_without_tensorflow() -> None:
    run(
        "import sys; sys.modules['tensorflow'] = None\n"
        "import importlib, pkgutil, trainer.views\n"
        "for module in pkgutil.iter_modules(trainer.views.__path__, 'trainer.views.'):\n"
        "    importlib.import_module(module.name)"
    )


def test_plain_lines_do_not_import_rich() -> None:
    run(
        "import sys; sys.modules['rich'] = None\n"
        "from trainer.views.progress import make_progress\n"
        "make_progress('plain').message('here')"
    )

"""`python -m trainer.report RUN_DIR…`: one page of curves, windows, checkpoints and attempts."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from absl import flags

from trainer.command import new_flags, parse, run_command
from trainer.errors import EXIT_DONE, EXIT_INTERRUPTED
from trainer.views.formatting import print_json, print_line, size

USAGE = "python -m trainer.report RUN_DIR… [-o report.html] [--plot=run.png] [--json]"
ABOUT = """Makes one page of HTML of one or several run directories, which needs no network and no other file: curves
over the steps that they cover, checkpoints, attempts, learning rate, speed, stalls, and what trainer.explain has found.
It only reads them, also beside a running trainer. Needs matplotlib: pip install checkpoint-trainer[report]."""


def main(argv: Sequence[str]) -> int:
    """Makes the report that the command line asks for; returns the exit code."""
    values = new_flags()
    flags.DEFINE_string("output", "report.html", "the page to write", short_name="o", flag_values=values)
    flags.DEFINE_string("plot", None, "also draw one picture: .png, .svg or .pdf", flag_values=values)
    flags.DEFINE_boolean("json", False, "print one JSON object, for scripts", flag_values=values)
    run_dirs = parse(argv, values, usage=USAGE, about=ABOUT, positional=1, or_more=True)
    if run_dirs is None:
        return EXIT_DONE
    plot = None if values["plot"].value is None else str(values["plot"].value)
    try:
        return _report(run_dirs, str(values["output"].value), plot, as_json=bool(values["json"].value))
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def _report(run_dirs: Sequence[str], output: str, plot: str | None, *, as_json: bool) -> int:
    # NumPy and matplotlib take a while, and help needs neither.
    from trainer.storage.whole import write_whole
    from trainer.views.drawing import check_matplotlib, check_plot
    from trainer.views.page.output import check_page

    check_page(output)
    format_name = "" if plot is None else check_plot(plot)
    check_matplotlib(output)
    from trainer.views.page.document import picture_of, report
    from trainer.views.page.history import read_histories

    histories = read_histories(run_dirs)
    for history in histories:
        for line in history.warnings:
            print(f"warning: {history.name}: {line}", file=sys.stderr)
    page = report(histories).encode()
    write_whole(output, page)
    if plot is not None:
        write_whole(plot, picture_of(histories, format_name))
    if as_json:
        told = [history.to_json() for history in histories]
        print_json({"report": output, "bytes": len(page), "plot": plot, "runs": told})
    else:
        print_line(f"reported  {output}  {size(len(page))}", sys.stdout)
        if plot is not None:
            print_line(f"drawn     {plot}", sys.stdout)
    return EXIT_DONE


if __name__ == "__main__":
    run_command(main)

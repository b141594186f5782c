"""What the page looks like, and the few lines that read out the numbers under the pointer."""

from __future__ import annotations

from string import Template

from trainer.views.drawing import BLUE, FAINT, INK, PAPER, QUIET, VERMILION

STYLE = Template("""
:root { color-scheme: light; --ink: $ink; --quiet: $quiet; --faint: $faint; --link: $link; --bad: $bad; }
* { box-sizing: border-box; }
body { margin: 0; background: $paper; color: var(--ink); font: 16px/1.5 system-ui, -apple-system, sans-serif; }
main { max-width: 68rem; margin: 0 auto; padding: 1rem 1rem 4rem; }
h1, h2, nav a, dd { overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; margin: .5rem 0 1rem; }
h2 { font-size: 1.3rem; margin: 3rem 0 .5rem; padding-top: 1rem; border-top: 2px solid var(--faint); }
h3 { font-size: 1.05rem; margin: 2rem 0 .5rem; }
a, summary { color: var(--link); }
summary { cursor: pointer; }
nav a { margin-right: 1rem; }
dl { display: flex; flex-wrap: wrap; gap: .5rem 2rem; margin: 1rem 0; }
dt { color: var(--quiet); font-size: .8rem; }
dd { margin: 0; }
figure { margin: 1rem 0 .5rem; }
figcaption, .readout { color: var(--quiet); font-size: .85rem; margin: .25rem 0; }
.readout { min-height: 1.3em; font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; }
.picture { position: relative; min-width: 40rem; }
.picture svg { display: block; width: 100%; height: auto; }
.picture svg text { font-family: inherit !important; }
.pointer { position: absolute; top: 0; bottom: 0; width: 1px; background: var(--ink); opacity: .5; }
.pointer { display: none; pointer-events: none; }
.table { max-height: 32rem; overflow: auto; margin: .5rem 0 1rem; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--quiet); padding-bottom: .25rem; }
th, td { padding: .2rem .7rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--faint); }
th { color: var(--quiet); font-weight: 600; }
th[scope=colgroup] { text-align: center; }
th.left, td.left { text-align: left; }
td.wraps, td.bad { white-space: normal; min-width: 5rem; max-width: 28rem; overflow-wrap: break-word; }
td.bad, .warnings { color: var(--bad); }
""").substitute(ink=INK, quiet=QUIET, faint=FAINT, paper=PAPER, link=BLUE, bad=VERMILION)

SCRIPT = """
for (const figure of document.querySelectorAll("figure")) {
  const known = JSON.parse(figure.querySelector("script").textContent);
  const picture = figure.querySelector(".picture"), line = figure.querySelector(".pointer");
  const readout = figure.querySelector(".readout");
  if (!known.curves.length) { readout.remove(); continue; }
  // The first window that ends at the step or later; the last evaluation up to the step.
  const valueAt = (curve, step) => {
    let low = 0, high = curve.steps.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (curve.window ? curve.steps[middle] < step : curve.steps[middle] <= step) low = middle + 1; else high = middle;
    }
    const at = curve.window ? low : low - 1;
    if (at < 0 || at >= curve.steps.length) return null;
    const value = curve.values[at] === null ? "not finite" : curve.values[at];
    return curve.name + " " + value + (curve.steps[at] === step ? "" : " (" + curve.steps[at] + ")");
  };
  picture.addEventListener("pointermove", event => {
    const box = picture.getBoundingClientRect(), share = (event.clientX - box.left) / box.width;
    const along = (share - known.left) / (known.right - known.left);
    const step = Math.round(known.low + along * (known.high - known.low));
    const inside = step >= 0 && step <= known.last;
    line.style.display = inside ? "block" : "none";
    line.style.left = share * 100 + "%";
    const values = known.curves.map(curve => valueAt(curve, step)).filter(Boolean);
    readout.textContent = inside ? ["step " + step, ...values].join("  ·  ") : "";
  });
  picture.addEventListener("pointerleave", () => { line.style.display = "none"; readout.textContent = ""; });
}
"""
"""Moves a line with the pointer and tells the numbers there. Without it the page is whole, and still."""

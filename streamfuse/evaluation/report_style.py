"""The look of the HTML report: one style sheet, light and dark, nothing loaded from elsewhere."""

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #ffffff; --panel: #f6f7f9; --ink: #1b1f24; --soft: #667080; --line: #dfe3e8;
  --good: 22, 140, 90; --accent: #c4501b;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14171b; --panel: #1c2026; --ink: #e6e9ed; --soft: #97a1af; --line: #2e353e;
    --good: 60, 190, 130; --accent: #ff8a4c;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 14px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 1500px; margin: 0 auto; padding: 28px 32px 64px; }
h1 { font-size: 26px; margin: 0 0 4px; letter-spacing: -.01em; }
h2 { font-size: 19px; margin: 44px 0 4px; padding-top: 14px; border-top: 2px solid var(--accent); }
h3 { font-size: 15px; margin: 26px 0 8px; }
p { margin: 4px 0 12px; max-width: 90ch; color: var(--soft); }
p b { color: var(--ink); }
nav a { color: var(--accent); text-decoration: none; margin-right: 16px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 4px 12px; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
thead th { position: sticky; top: 0; background: var(--paper); border-bottom: 2px solid var(--line); }
th.metric, td.what { text-align: left; }
td.what { color: var(--soft); font-size: 12.5px; }
.trivial { color: var(--soft); font-weight: 400; }
td.best { font-weight: 700; color: var(--ink); }
.direction { color: var(--soft); font-weight: 400; }
.swatch { display: inline-block; width: 9px; height: 9px; border-radius: 2px; margin-right: 6px; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(320px, 1fr)); gap: 14px; }
.card { background: var(--panel); border: 1px solid var(--line); border-radius: 8px; padding: 8px 10px 4px; }
.card h4 { margin: 0 0 2px; font-size: 13px; }
svg { display: block; width: 100%; height: auto; }
svg .label { font-size: 10.5px; fill: var(--ink); }
svg .tick { font-size: 9.5px; fill: var(--soft); }
svg .axis { stroke: var(--line); }
svg .whisker { stroke-width: 1; opacity: .6; }
svg .box { fill-opacity: .22; stroke-opacity: .7; stroke-width: 1; }
svg .point { stroke: none; fill-opacity: .55; }
svg .median { stroke-width: 2.2; }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(270px, 1fr)); gap: 12px; }
figure { margin: 0; background: var(--panel); border: 1px solid var(--line); border-radius: 8px;
  overflow: hidden; }
figure img { display: block; width: 100%; height: auto; }
figcaption { padding: 5px 9px 7px; font-size: 12.5px; }
figcaption span { color: var(--soft); display: block; font-size: 11.5px; }
figure.method { border-color: var(--accent); }
details > summary { cursor: pointer; color: var(--accent); margin: 14px 0; }
footer { margin-top: 48px; color: var(--soft); font-size: 12.5px; }
"""

METHOD_COLOURS = ("#c4501b", "#2b7bba", "#2f9e63", "#8b5fbf", "#c2902a", "#c43d75", "#3a9ca6", "#7a8b2f")
"""Methods under test, in order; they repeat after the eighth."""
TRIVIAL_COLOUR = "#8a94a3"

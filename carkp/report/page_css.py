"""The style sheet of every page: light and dark, narrow and wide, screen and paper."""

LIGHT: dict[str, str] = {
    "ink": "#222222",
    "muted": "#5c5c5c",
    "paper": "#ffffff",
    "panel": "#f5f6f7",
    "grid": "#dddddd",
    "axis": "#888888",
    "s0": "#0072b2",
    "s1": "#d55e00",
    "s2": "#009e73",
    "s3": "#cc79a7",
    "s4": "#e69f00",
    "s5": "#56b4e9",
    "s6": "#000000",
}
"""CSS variable -> colour. ``s0`` to ``s6`` are the series of :mod:`carkp.report.style`."""

DARK: dict[str, str] = {
    "ink": "#e6e6e6",
    "muted": "#a8a8a8",
    "paper": "#16181b",
    "panel": "#202327",
    "grid": "#3a3d42",
    "axis": "#8d9096",
    "s0": "#4aa8e8",
    "s1": "#ff8a3d",
    "s2": "#2cc596",
    "s3": "#e39bc4",
    "s4": "#f0b83c",
    "s5": "#8accf2",
    "s6": "#ffffff",
}
"""The same variables for a dark page."""


def _variables(colours: dict[str, str]) -> str:
    return " ".join(f"--{name}: {colour};" for name, colour in colours.items())


COLOURS_CSS = f"""
:root {{ color-scheme: light dark; {_variables(LIGHT)} }}
@media (prefers-color-scheme: dark) {{ :root {{ {_variables(DARK)} }} }}
"""
"""Only the variables, for the reader's colour scheme."""

CSS = f"""{COLOURS_CSS}
* {{ box-sizing: border-box; }}
html {{ -webkit-text-size-adjust: 100%; }}
body {{ font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; color: var(--ink);
  background: var(--paper); max-width: 76rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; overflow-wrap: break-word; }}
h1 {{ font-size: 1.7rem; line-height: 1.25; margin: 0 0 .6rem; }}
h2 {{ font-size: 1.25rem; margin: 2.6rem 0 .5rem; padding-top: .7rem; border-top: 1px solid var(--grid); }}
h3 {{ font-size: 1.02rem; margin: 1.6rem 0 .4rem; }}
p {{ max-width: 52rem; margin: .5rem 0; }}
a {{ color: var(--s0); }}
code, pre {{ font: 13px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; }}
code {{ background: var(--panel); padding: .08em .3em; border-radius: 3px; }}
pre {{ background: var(--panel); padding: .7rem .9rem; border-radius: 5px; overflow-x: auto; margin: .6rem 0; }}
pre code {{ background: none; padding: 0; }}
summary {{ cursor: pointer; margin: .6rem 0; }}
nav {{ display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; margin: .8rem 0 0; font-size: 14px; }}
.note {{ border-left: 4px solid var(--s4); background: var(--panel); padding: .45rem .8rem; }}
.verdict {{ border-left: 4px solid var(--s0); background: var(--panel); padding: .6rem .9rem; font-size: 1.03rem; }}
.wide {{ overflow-x: auto; margin: .7rem 0; }}
.tall {{ max-height: 32rem; overflow: auto; }}
table {{ border-collapse: collapse; font-size: 13.5px; font-variant-numeric: tabular-nums; }}
th {{ text-align: left; vertical-align: bottom; border-bottom: 2px solid var(--axis); position: sticky; top: 0;
  background: var(--paper); }}
th, td {{ padding: .28rem .9rem .28rem 0; }}
.wide td:last-child:not(.number) {{ min-width: 11rem; }}
td {{ vertical-align: top; border-bottom: 1px solid var(--grid); }}
td:nth-child(-n+2) {{ white-space: nowrap; }}
.number {{ text-align: right; white-space: nowrap; }}
.interval {{ display: block; color: var(--muted); font-size: 12px; }}
.wrap td {{ white-space: normal; overflow-wrap: anywhere; min-width: 7rem; }}
figure {{ margin: 1rem 0; }}
figcaption {{ color: var(--muted); font-size: 13.5px; max-width: 52rem; }}
.chart {{ overflow-x: auto; }}
.chart svg {{ display: block; width: 100%; height: auto; }}
.chart svg text {{ fill: var(--ink); }}
img {{ max-width: 100%; height: auto; }}
.gallery {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 17rem), 1fr)); gap: .9rem; }}
.gallery figure {{ margin: 0; }}
.gallery img {{ display: block; width: 100%; }}
.gallery figcaption {{ font-size: 12.5px; line-height: 1.4; }}
@media print {{
  :root {{ color-scheme: light; {_variables(LIGHT)} }}
  @page {{ margin: 14mm 12mm; }}
  body {{ max-width: none; padding: 0; font-size: 10pt; }}
  nav {{ display: none; }}
  h2, h3, h2 + p, h3 + p {{ break-after: avoid; }}
  figure, tr, .note, .verdict {{ break-inside: avoid; }}
  figure:has(table) {{ break-inside: auto; }}
  thead {{ display: table-header-group; }}
  .wide, .tall, .chart {{ overflow: visible; max-height: none; }}
  .chart svg {{ min-width: 0 !important; width: auto; max-width: 100%; height: auto; max-height: 88mm; }}
  figure > img {{ max-height: 150mm; }}
  th {{ position: static; }}
  table {{ font-size: 7.5pt; max-width: 100%; }}
  th, td {{ padding-right: .5rem; }}
  td, td:nth-child(-n+2) {{ white-space: normal; overflow-wrap: anywhere; }}
  .wide td:last-child {{ min-width: 0 !important; }}
  td.number, td.number:nth-child(-n+2) {{ white-space: nowrap; }}
  th.number {{ white-space: normal; }}
  .interval {{ font-size: 6.5pt; }}
  pre {{ white-space: pre-wrap; overflow-wrap: anywhere; }}
  .gallery {{ grid-template-columns: repeat(4, 1fr); gap: .5rem; }}
  .gallery figcaption {{ font-size: 7pt; }}
  details pre {{ columns: 2; font-size: 7.5pt; }}
  details::details-content {{ content-visibility: visible; block-size: auto; }}
}}
"""

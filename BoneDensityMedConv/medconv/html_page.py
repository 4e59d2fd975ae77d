"""The frame of every page that the command line writes: one file that stands alone, light or dark, fit to print."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape

from medconv import RESEARCH_USE_ONLY, __version__

STYLE = """
:root{color-scheme:light dark;--ink:#1b1f24;--soft:#5b6570;--line:#d4dae0;--card:#fff;--page:#f4f6f8;--bar:#2f6fb0;
--warn:#8a5a00;--warnbg:#fff4db}
@media(prefers-color-scheme:dark){:root{--ink:#e7ebef;--soft:#a3adb7;--line:#39424b;--card:#1d2329;--page:#14181c;
--bar:#6aa7e2;--warn:#ffcf7a;--warnbg:#3a2e14}}
*{box-sizing:border-box}body{margin:0;background:var(--page);color:var(--ink);font:16px/1.45 system-ui,sans-serif}
main{max-width:1080px;margin:0 auto;padding:20px}h1{font-size:1.05rem;color:var(--soft);font-weight:600;margin:0 0 4px}
h2{font-size:1rem;margin:0 0 8px}.class{font-size:1.9rem;font-weight:700;margin:0 0 12px}
.card{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:16px;margin:0 0 14px}
.banner{background:var(--warnbg);color:var(--warn);border:1px solid currentColor;border-radius:8px;padding:8px 14px;
margin:0 0 14px;font-weight:600}.planes{display:grid;grid-template-columns:repeat(3,1fr);gap:10px}
.planes img{width:100%;display:block;border-radius:4px;background:#000}figure{margin:0}
figcaption{color:var(--soft);font-size:.85rem;text-align:center;padding-top:4px}
.two{display:grid;grid-template-columns:1fr 1fr;gap:14px;margin:0 0 14px}.two .card{margin:0}
.row{display:grid;grid-template-columns:8.5rem 1fr 3.6rem;gap:10px;align-items:center;margin:6px 0}
.track{background:var(--line);height:16px;border-radius:4px;overflow:hidden}
.fill{background:var(--bar);height:100%}.value{text-align:right;font-variant-numeric:tabular-nums}
ul{margin:0;padding-left:1.2rem}.warning{color:var(--warn);font-weight:600}.soft{color:var(--soft);font-size:.9rem}
table{border-collapse:collapse;width:100%}td,th{padding:3px 8px 3px 0;vertical-align:top;text-align:left}
td:first-child,th{color:var(--soft);font-weight:400}.facts td:first-child{white-space:nowrap}
.figures td,.figures th{text-align:right;font-variant-numeric:tabular-nums}
.figures td:first-child,.figures th:first-child{text-align:left}.figures tr.target td{font-weight:700;color:var(--ink)}
.level{display:flex;flex-wrap:wrap;gap:18px}.level .picture{flex:0 1 auto}
.level .words{flex:1 1 260px}.words table{max-width:380px}
.picture svg{max-width:100%;height:auto;border-radius:4px;display:block}
svg text{fill:var(--ink);font:11px system-ui,sans-serif}
@media(max-width:760px){.two,.planes{grid-template-columns:1fr}}
@media print{body{background:#fff}.card{break-inside:avoid}}
"""


def page(title: str, body: str, versions: Mapping[str, str]) -> str:
    """A whole page. `body` is HTML; `versions` are told at its foot."""
    others = ", ".join(f"{name} {number}" for name, number in versions.items() if name != "medconv")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><main>"
        f'<p class="banner" role="note">{escape(RESEARCH_USE_ONLY)}</p>{body}'
        f'<p class="soft">MedConv {escape(__version__)} · {escape(others)}</p></main></body></html>'
    )


def banner(text: str) -> str:
    """A line that must not be overlooked."""
    return f'<p class="banner">{escape(text)}</p>'


def notes_list(notes: Iterable[Mapping[str, str]], empty: str) -> str:
    """Notes as a list, warnings first; a sentence where there are none."""
    ordered = sorted(notes, key=lambda note: note["severity"] != "warning")
    if not ordered:
        return f"<p>{escape(empty)}</p>"
    return "<ul>" + "".join(f'<li class="{n["severity"]}">{escape(n["message"])}</li>' for n in ordered) + "</ul>"


def facts_table(rows: Mapping[str, str]) -> str:
    """Two columns: what, and its value."""
    cells = "".join(f"<tr><td>{escape(k)}</td><td>{escape(v)}</td></tr>" for k, v in rows.items())
    return f'<table class="facts">{cells}</table>'

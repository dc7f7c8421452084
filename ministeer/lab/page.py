"""The pieces of the report's page, as HTML: claims as a forest plot, sampled text, tables, figures, folds. No script and no other file.

What it says folds: the first screen shows what was found, each fold what that rests on. It suits light and dark, 360 pixels, and paper.
"""

from __future__ import annotations

import html
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ministeer.files import read_text
from ministeer.lab.claims import CANNOT, INCONCLUSIVE, NOT_SUPPORTED, SUPPORTED, Claim, Verdict

LINE = 30.0  # where the number to exceed stands, in hundredths of a row's track
SIGNS = {SUPPORTED: "yes", NOT_SUPPORTED: "no", INCONCLUSIVE: "open", CANNOT: "void"}  # classes of the style
COLOURS = {"yes": ("#0072b2", "#56b4e9"), "no": ("#c24e00", "#ff9248"), "open": ("#7a6100", "#e3c04a"), "void": ("#5b5b5b", "#b0b0b0")}  # fmt: skip

STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1b; --ground: #fff; --soft: #f3f3f1; --line: #d5d5d2; --faint: #6b6b6b; --link: #00629b; LIGHT }
@media (prefers-color-scheme: dark) {
 :root { --ink: #e8e8e8; --ground: #16181c; --soft: #22252b; --line: #3b3f47; --faint: #a0a4ab; --link: #7cc4f4; DARK } }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--ground); max-width: 70rem; margin: 0 auto; padding: .75rem; overflow-wrap: break-word; }
h1, h2 { line-height: 1.2; margin: 1.5rem 0 .5rem; } h1 { margin-top: .5rem; } h2 { font-size: 1.25rem; }
p, figcaption { max-width: 46rem; } p { margin: .5rem 0; } a { color: var(--link); }
.small, figcaption, .caption { max-width: 60rem; font-size: .875rem; color: var(--faint); margin: .3rem 0 .6rem; }
.yes { color: var(--yes); } .no { color: var(--no); } .open { color: var(--open); } .void { color: var(--void); }
.forest { list-style: none; margin: 0; padding: 0; border-bottom: 1px solid var(--line); }
.forest li { display: grid; grid-template-columns: minmax(11rem, 1.1fr) minmax(10rem, 1.1fr) 12.5rem 11.25rem; gap: 0 1rem; align-items: center; border-top: 1px solid var(--line); padding: .3rem 0; }
.forest .why { grid-column: span 2; margin: 0; } .forest .word { white-space: nowrap; } .forest a { color: inherit; text-decoration: none; } .forest a:hover { text-decoration: underline; }
.forest .number { font-size: .8125rem; line-height: 1.3; font-variant-numeric: tabular-nums; color: var(--ink); } .forest .number i { color: var(--faint); font-style: normal; }
.track { position: relative; height: 2.1rem; font-size: .75rem; } .track span { position: absolute; }
.track .limit { left: 30%; top: 0; height: 1.2rem; border-left: 2px solid var(--ink); }
.track .zero { top: .3rem; height: .65rem; border-left: 1px dotted var(--ink); }
.track .at { top: 1.3rem; transform: translateX(-50%); color: var(--faint); line-height: 1; }
.track .bar { top: .5rem; height: .25rem; min-width: 2px; background: currentColor; }
.track .dot { top: .25rem; width: .75rem; height: .75rem; margin-left: -.375rem; border-radius: 50%; background: currentColor; border: 2px solid currentColor; }
.no .dot { border-radius: 0; } .open .dot { background: var(--ground); }
.track .seed { top: .3rem; height: .65rem; border-left: 1px solid var(--ink); }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: .875rem; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line); font-variant-numeric: tabular-nums; }
th { font-weight: 600; } td:first-child, th:first-child { min-width: 8rem; } td, th { min-width: 3.5rem; }
.samples td { width: 28%; } .samples td:first-child { width: auto; font-weight: 600; }
details { border-top: 1px solid var(--line); padding: .5rem 0; } details details { padding: .35rem 0; }
summary { cursor: pointer; } summary h2 { display: inline; font-size: 1.1rem; } summary .question { display: block; color: var(--faint); padding-left: 1.1rem; max-width: 46rem; }
.finding { background: var(--soft); padding: .6rem .9rem; border-left: 4px solid var(--link); max-width: 60rem; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); gap: 1rem 2rem; } figure { margin: .5rem 0; max-width: 30rem; }
.wide { grid-column: 1 / -1; max-width: 52rem; } figure svg { display: block; width: 100%; height: auto; } code { font-size: .9em; background: var(--soft); padding: .1em .3em; overflow-wrap: anywhere; }
@media (max-width: 46rem) {
 .scroll table { width: max-content; } .scroll td { max-width: 14rem; }
 .forest li { grid-template-columns: 1fr auto; } .forest .claim, .forest .track, .forest .why { grid-column: 1 / -1; } .forest .word { grid-column: 2; } .forest .why { grid-column: span 2; margin: 0; } .forest .word { text-align: right; }
 .samples thead { display: none; } .samples, .samples tbody, .samples tr, .samples td { display: block; width: auto; }
 .samples tr { border-bottom: 1px solid var(--line); padding: .4rem 0; } .samples td { border: 0; padding: .1rem 0; }
 .samples td[data-at]::before { content: attr(data-at) ": "; color: var(--faint); } }
@media print {
 details::details-content { content-visibility: visible; display: block; height: auto; } body { max-width: none; font-size: 11px; }
 figure, .forest li, tr { break-inside: avoid; } .scroll { overflow: visible; } }
"""  # fmt: skip


def document(title: str, body: Sequence[str]) -> str:
    """A whole page."""
    style = STYLE
    for i, name in enumerate(("LIGHT", "DARK")):
        style = style.replace(name, " ".join(f"--{word}: {colours[i]};" for word, colours in COLOURS.items()), 1)
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'><meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{html.escape(title)}</title><style>{style}</style></head><body><h1>{html.escape(title)}</h1>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def sign(verdict: Verdict) -> str:
    """The class of a verdict's word in the style."""
    return SIGNS[verdict.word]


def number(verdict: Verdict) -> str:
    """The effect with its interval, as text; nothing where nothing can be told."""
    return "" if sign(verdict) == "void" else "{:+.3f} [{:+.3f}, {:+.3f}]".format(*verdict.effect)


FOREST = (
    "How to read it: a row is a claim. Its dot is the effect and its bar the interval, on a scale of its own, in its own unit. The upright line, in every row at the same place, is "
    "the number that was fixed before: a bar wholly to its right supports the claim, where random vectors do not do as much, and one wholly to its left does not. The dotted tick is 0; "
    "small ticks are the seeds, each alone."
)


def places(verdict: Verdict) -> dict[str, Any]:
    """Where on a row's track, in hundredths of its width, its parts stand: the number to exceed always at `LINE`, all others in the track."""
    above, effects = verdict.claim.above, [*verdict.effects.values()]
    seen = [0.0, *effects[0], *(mean for mean, _, _ in effects[1:])]
    unit = max((max(seen) - above) / (97 - LINE), (above - min(seen)) / (LINE - 3)) or 1.0

    def at(value: float) -> float:
        return round(LINE + (value - above) / unit, 2)

    mean, low, high = map(at, effects[0])
    return {"mean": mean, "low": low, "high": high, "zero": at(0.0), "seeds": [at(m) for m, _, _ in effects[1:]]}


def forest(found: Sequence[Verdict], missing: Sequence[Claim] = ()) -> str:
    """The claims in a row each: sentence, effect and interval beside the number to exceed, verdict. Missing: not measured yet."""
    rows = []
    for v in found:
        said = f"{number(v)} {v.claim.unit}, must exceed {v.claim.above:g}"
        if sign(v) != "void":
            track = f"<span class='track' role='img' aria-label='{html.escape(said, quote=True)}'>{_track(v)}</span>"
            why = "" if v.word == _by_place(v) else f"<br>{html.escape(v.reason)}"
            told = f"<span class='number'>{number(v)}<br><i>{html.escape(v.claim.unit)}{why}</i></span>"
        else:
            track, told = f"<span class='small why'>{html.escape(v.reason)}</span>", ""
        rows.append(
            f"<li class='{sign(v)}'><span class='claim'><a href='#{v.claim.experiment}'>{_black(v.claim.sentence)}</a></span>"
            f"{track}{told}<b class='word'>{html.escape(v.word)}</b></li>"
        )
    shown = f"<p class='caption'>{html.escape(FOREST)}</p><ul class='forest'>{''.join(rows)}</ul>" if rows else ""
    waiting = "; ".join(claim.sentence for claim in missing)
    return shown + (f"<p class='small'>Not measured yet: {html.escape(waiting)}.</p>" if missing else "")


def _by_place(verdict: Verdict) -> str:
    """The word that the place of the bar alone would give."""
    _, low, high = verdict.effect
    return SUPPORTED if low > verdict.claim.above else NOT_SUPPORTED if high <= verdict.claim.above else INCONCLUSIVE


def _track(verdict: Verdict) -> str:
    where = places(verdict)
    parts = [
        f"<span class='zero' style='left:{where['zero']:g}%'></span>",
        "<span class='limit'></span>",
        f"<span class='at' style='left:{LINE:g}%'>{verdict.claim.above:g}</span>",
        *(f"<span class='seed' style='left:{at:g}%'></span>" for at in where["seeds"]),
        f"<span class='bar' style='left:{where['low']:g}%;width:{where['high'] - where['low']:.2f}%'></span>",
        f"<span class='dot' style='left:{where['mean']:g}%'></span>",
    ]
    if abs(where["zero"] - LINE) > 8:
        parts.append(f"<span class='at' style='left:{where['zero']:g}%'>0</span>")
    return "".join(parts)


def _black(sentence: str) -> str:
    return f"<span style='color:var(--ink)'>{html.escape(sentence)}</span>"


def forest_svg(found: Sequence[Verdict]) -> str:
    """The same as a file of its own, for a page that can only show pictures; 960 wide, colours of light and of dark pages."""
    rule = " ".join(f".{word}{{fill:{light};stroke:{light}}}" for word, (light, _) in COLOURS.items())
    dark = " ".join(f".{word}{{fill:{other};stroke:{other}}}" for word, (_, other) in COLOURS.items())
    parts, left, width, step = [], 545.0, 230.0, 30
    for i, v in enumerate(found):
        y = 18 + i * step
        lines = textwrap.wrap(v.claim.sentence, 70)
        first = y + 5 - 8 * (len(lines) - 1)
        parts += [f"<text x='0' y='{first + 16 * k}'>{html.escape(line)}</text>" for k, line in enumerate(lines)]
        parts.append(f"<text x='790' y='{y + 5}' class='{sign(v)}'>{html.escape(v.word)}</text>")
        if sign(v) == "void":
            continue
        where = {name: left + width * at / 100 for name, at in places(v).items() if name != "seeds"}
        x = left + width * LINE / 100
        fill = " fill-opacity='0'" if sign(v) == "open" else ""
        parts += [
            f"<path d='M{x:g} {y - 10}v20' class='ink' stroke-width='1.5'/>",
            f"<path d='M{where['low']:.1f} {y}H{where['high']:.1f}' class='{sign(v)}' stroke-width='4'/>",
            f"<circle cx='{where['mean']:.1f}' cy='{y}' r='5.5' class='{sign(v)}' stroke-width='2'{fill}/>",
        ]
    height = 10 + len(found) * step
    alt = html.escape("; ".join(f"{v.claim.sentence}: {v.word}" for v in found))
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 960 {height}' width='960' height='{height}' role='img'><title>{alt}</title><style>text{{font:15px system-ui,sans-serif;fill:#1b1b1b}}"
        f".ink{{stroke:#1b1b1b}}{rule} text.yes,text.no,text.open,text.void{{stroke:none}}@media(prefers-color-scheme:dark){{text{{fill:#e8e8e8}}.ink{{stroke:#e8e8e8}}{dark}}}</style>{''.join(parts)}</svg>\n"
    )


def samples(shown: dict[str, Any]) -> str:
    """Steered texts side by side, a prompt a row and a strength a column; on a phone below each other."""
    head = "".join(f"<th scope='col'>{html.escape(c)}</th>" for c in shown["columns"])
    rows = []
    for prompt, *texts in shown["rows"]:
        cells = "".join(
            f"<td data-at='{html.escape(c, quote=True)}'>{html.escape(t)}</td>"
            for c, t in zip(shown["columns"][1:], texts, strict=True)
        )
        rows.append(f"<tr><td>{html.escape(prompt)}</td>{cells}</tr>")
    return (
        f"<p class='caption'>{html.escape(shown['caption'])}</p><table class='samples'><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]], caption: str = "") -> str:
    """Rows under columns. It scrolls where it is wider than the page; its caption does not."""
    head = "".join(f"<th scope='col'>{html.escape(c)}</th>" for c in columns)
    lines = "".join("<tr>" + "".join(f"<td>{html.escape(str(v))}</td>" for v in row) + "</tr>" for row in rows)
    above = f"<p class='caption'>{html.escape(caption)}</p>" if caption else ""
    return f"{above}<div class='scroll'><table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>"


def fold(summary: str, *body: str) -> str:
    """What is shown when its summary, which is text, is clicked."""
    return f"<details><summary>{html.escape(summary)}</summary>{''.join(body)}</details>"


def section(folder: Path, experiment: dict[str, Any]) -> str:
    """An experiment, folded: question, figures, finding, and in folds of their own how it was measured and its tables."""
    page, name = experiment["page"], experiment["name"]
    measured = (
        f"<p>{html.escape(page['protocol'])}</p><p class='small'>What was done: {html.escape(page['receipt'])}</p>"
        f"<p class='small'>Command: <code>{html.escape(page['command'])}</code></p>"
    )
    title = f"<h2>{html.escape(page['title'])}</h2><span class='question'>{html.escape(page['question'])}</span>"
    parts = [
        f"<details><summary>{title}</summary><div id='{name}'>",
        f"<div class='figures'>{''.join(picture(folder, shown) for shown in page.get('figures', []))}</div>",
        f"<p class='finding'>{html.escape(page['finding'])}</p>",
        fold("How it was measured", measured),
        *(fold(t["caption"], table(t["columns"], t["rows"])) for t in page.get("tables", [])),
        "</div></details>",
    ]
    return "\n".join(parts)


def picture(folder: Path, shown: dict[str, str]) -> str:
    """A figure: the SVG itself, so that the page needs no other file; where it is wider than a phone it scrolls and does not shrink."""
    svg = read_text(folder / shown["file"])
    width = float(svg.partition('width="')[2].partition("pt")[0])
    label = html.escape(shown["alt"], quote=True)
    svg = svg.replace("<svg ", f"<svg role='img' aria-label='{label}' style='min-width:{0.92 * width:.0f}px' ", 1)
    kind = " class='wide'" if width > 400 else ""
    return f"<figure{kind}><div class='scroll'>{svg}</div><figcaption>{html.escape(shown['caption'])}</figcaption></figure>"

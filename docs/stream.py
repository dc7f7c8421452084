"""The picture of README, course and playground: the residual stream, the one place at which a vector is added, and what the model then says.

python docs/stream.py     (writes ministeer/play/stream.svg; needs `make weights MODEL=smollm2-135m-instruct`)
"""

from __future__ import annotations

import html
import textwrap
from pathlib import Path

import ministeer
from ministeer import Steer, extract, say
from ministeer.files import write_text

MODEL, LAYER = "smollm2-135m-instruct", 15
ASKED, PLUS, MINUS = "How was your day?", "I feel very happy", "I feel very sad"
COEFFS = {-0.4: "minus", 0.0: "none", 0.4: "plus"}  # with the class of the style
WIDTH, SHOWN, LINE = 640, 58, 22  # of the picture, in pixels; letters to a line; height of a line

STYLE = """
text{font:16px system-ui,sans-serif;fill:#1b1b1b}.code{font:14px ui-monospace,monospace}.faint{fill:#6b6b6b}
.ink{stroke:#1b1b1b}.box{fill:#f3f3f1;stroke:#8a8a8a}.minus{fill:#c24e00}.plus{fill:#00629b}.bold{font-weight:600}
.add{stroke:#00629b;fill:none}.point{fill:#1b1b1b}
@media(prefers-color-scheme:dark){text,.point{fill:#e8e8e8}.faint{fill:#a0a4ab}.ink{stroke:#e8e8e8}.box{fill:#22252b;stroke:#777}
.minus{fill:#ff9248}.plus{fill:#7cc4f4}.add{stroke:#7cc4f4}}
"""


def said() -> dict[float, str]:
    """What the model answers at each coefficient, its likeliest words."""
    model, tok = ministeer.load(MODEL)
    vector = extract.contrastive(model, tok, [(PLUS, MINUS)], ("pre", LAYER), token="last")
    return {
        c: say(model, tok, ASKED, chat=True, max_new_tokens=32, steer=Steer(vector, ("pre", LAYER), c) if c else None)
        for c in COEFFS
    }


def sentences(text: str) -> str:
    """Up to the last full stop, or with dots where there is none."""
    return text[: text.rindex(".") + 1] if "." in text else f"{text} ..."


def draw(answers: dict[float, str]) -> str:
    """The picture as SVG, for light and dark pages."""
    stream, left, right = 62, 92, WIDTH - 104
    step = (right - left) / 6
    parts = [
        f'<line class="ink" x1="{left}" y1="{stream}" x2="{right}" y2="{stream}" stroke-width="3"/>',
        f'<rect class="box" x="8" y="{stream - 18}" width="{left - 8}" height="36" rx="6"/><text x="{left / 2 + 4}" y="{stream + 5}" text-anchor="middle">embed</text>',
        f'<rect class="box" x="{right}" y="{stream - 18}" width="96" height="36" rx="6"/><text x="{right + 48}" y="{stream + 5}" text-anchor="middle">unembed</text>',
    ]
    for i, name in enumerate(["block 0", "...", f"block {LAYER - 1}", f"block {LAYER}", "...", "block 29"]):
        x = left + step * i
        middle = x + step / 2
        if name == "...":
            parts.append(f'<text x="{middle}" y="{stream - 28}" text-anchor="middle">...</text>')
            continue
        parts.append(
            f'<path class="ink" fill="none" d="M{x + 12:.0f} {stream}V{stream - 24}M{x + step - 12:.0f} {stream - 24}V{stream - 3}"/>'
        )
        parts.append(
            f'<rect class="box" x="{x + 6:.0f}" y="{stream - 48}" width="{step - 12:.0f}" height="26" rx="5"/><text class="code" x="{middle:.0f}" y="{stream - 30}" text-anchor="middle" style="font-size:12px">{name}</text>'
        )
        parts.append(f'<circle class="point" cx="{x + 4:.0f}" cy="{stream}" r="4"/>')
    site = left + step * 3 + 4
    parts += [
        f'<path class="add" stroke-width="3" d="M{site:.0f} {stream + 44}V{stream + 9}m-6 8l6 -8l6 8"/>',
        f'<text class="code plus bold" x="{site + 14:.0f}" y="{stream + 42}">x = x + c * v</text>',
        f'<text class="code faint" x="{site - 14:.0f}" y="{stream + 42}" text-anchor="end">site ("pre", {LAYER})</text>',
    ]
    y = stream + 78
    parts.append(f'<text x="8" y="{y}" class="faint">v = “{PLUS}” − “{MINUS}”. Asked: “{html.escape(ASKED)}”</text>')
    y += 12
    for c, kind in COEFFS.items():
        y += LINE + 4
        parts.append(f'<text class="code bold {kind}" x="8" y="{y}">c = {c:+.1f}</text>'.replace("+0.0", "&#160;0"))
        for line in textwrap.wrap(sentences(answers[c]), SHOWN):
            parts.append(f'<text class="{kind}" x="{left + 8}" y="{y}">{html.escape(line)}</text>')
            y += LINE
        y -= LINE
    told = f"What {MODEL} answers to “{ASKED}” with the vector subtracted, without it, and with it added"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y + 14}" role="img"><title>{html.escape(told)}</title>'
        f"<style>{STYLE.strip()}</style>{''.join(parts)}</svg>\n"
    )


if __name__ == "__main__":
    write_text(Path(__file__).parents[1] / "ministeer/play/stream.svg", draw(said()))

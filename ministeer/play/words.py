"""A run in words: what was done, as sentences, and the lines of Python that do the same."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ministeer.model import Site
from ministeer.play.asked import Asked, Push
from ministeer.receipt import Receipt
from ministeer.steer import Steer


def receipt_words(receipt: Receipt, layers: int) -> str:
    """What a run of one row did, read off its receipt, as sentences."""
    said = []
    for (_, layer), t in receipt.sites.items():
        place = f"the input of layer {layer}" if layer < layers else "the output of the last layer"
        if not t.positions:
            said.append(f"At {place} nothing was added.")
            continue
        share = f"{t.total / t.positions:.2g} of the length of the model's own state there"
        most = f" on average, at most {t.largest:.2g}" if t.positions > 1 else ""
        which = f"token {t.first}" if t.first == t.last else f"tokens {t.first} to {t.last}"
        were = "was" if t.positions == 1 else "were"
        said.append(f"At {place}, {t.positions} of the {receipt.positions} tokens read ({which}, counted from 0) {were} pushed by {share}{most}.")  # fmt: skip
    return " ".join(said) or "Nothing was added."


def lines(name: str, want: Asked, pushes: Sequence[Push], steers: Sequence[Steer]) -> str:
    """Python that prints both texts. A vector from a file is loaded from where the lines are run."""
    names = ["vector"] if len(steers) == 1 else [f"vector_{i}" for i in range(1, len(steers) + 1)]
    made = [f"{v} = {_made(push.recipe, push.where, steer.site)}" for v, push, steer in zip(names, pushes, steers, strict=True)]  # fmt: skip
    used = [
        f"Steer({v}, {_site(s.site)}, {s.coeffs[0]!r}, where={_text(s.where)})"
        for v, s in zip(names, steers, strict=True)
    ]
    how = f"max_new_tokens={want.tokens}" + (", chat=True" if want.chat else "")
    draw = f", temperature={want.temperature!r}, generator=torch.Generator().manual_seed({want.seed})"
    how += draw if want.temperature else ""
    body = "\n".join(made)
    imports = ["Steer"] if steers else []
    imports += [word for word in ("SteeringVector", "extract", "formats") if f"{word}." in body]
    wanted = ", ".join(sorted([*imports, "load", "say"]))
    top = ["import torch", ""] if want.temperature else []
    say = f"say(model, tok, {_text(want.prompt)}, {how}"
    steer = [f"steer = {used[0]}" if len(used) == 1 else "steer = [\n    " + ",\n    ".join(used) + ",\n]"] if used else []  # fmt: skip
    found = [
        *top,
        f"from ministeer import {wanted}",
        "",
        f"model, tok = load({_text(name)})",
        *made,
        *steer,
        f"print({say}))",
    ]
    return "\n".join([*found, *([f"print({say}, steer=steer))"] if used else [])]) + "\n"


def _made(recipe: Mapping[str, Any], where: Any, site: Site) -> str:
    """The expression that makes a vector at one site."""
    if "file" in recipe:
        kind = "formats.load_gguf" if recipe["name"].lower().endswith(".gguf") else "SteeringVector.load"
        return f"{kind}({_text(recipe['name'])}, model)"
    if "plus" in recipe and where == "front":
        return (
            f"extract.activation_addition(model, tok, {_text(recipe['plus'])}, {_text(recipe['minus'])}, {_site(site)})"
        )
    pairs = [(recipe["plus"], recipe["minus"])] if "plus" in recipe else recipe["pairs"]
    each = [f"({_text(plus)}, {_text(minus)})" for plus, minus in pairs]
    shown = f"[{each[0]}]" if len(each) == 1 else "[\n    " + ",\n    ".join(each) + ",\n]"
    return f"extract.contrastive(model, tok, {shown}, {_site(site)}, token={_text(recipe.get('token', 'last'))})"


def _text(text: Any) -> str:
    """A text between double quotes, as Python reads it too."""
    return json.dumps(text, ensure_ascii=False)


def _site(site: Site) -> str:
    return f'("{site[0]}", {site[1]})'

"""What the command does with files of vectors, pairs and prompts: a function for each verb, from its options to the text it prints."""

from __future__ import annotations

import argparse
import json
import math
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ministeer import extract as methods
from ministeer import formats
from ministeer.calibrate import calibrate
from ministeer.checkpoint import load
from ministeer.hub import NAMES, here
from ministeer.model import Site, Transformer, expect
from ministeer.options import add_model, contents, lines, number, several, some
from ministeer.pairs import parsed, prompted
from ministeer.prompts import check_room, warn_of_prompts
from ministeer.steer import WHERES, Steer
from ministeer.sweep import sweep
from ministeer.tokenizer import Tokenizer
from ministeer.vectors import SteeringVector

METHODS = ("contrastive", "pca", "probe")
FAINT, HALF = 0.02, 0.5  # of the stream's norm: below the one few things move, and the other moves most
BAR = 20  # characters, of an agreement of 1


def add(commands: Any) -> None:
    """The verbs' own parsers."""

    def verb(name: str, told: str, model: bool = True) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = commands.add_parser(name, help=told, description=told)
        if model:
            add_model(made)
            made.add_argument("--device", default="cpu", help="cpu (by default), cuda, cuda:1, ...")
        return made

    def vector(made: argparse.ArgumentParser) -> None:
        made.add_argument("vector", type=some, metavar="FILE", help="a vector: what `extract` wrote, or a .gguf file")

    def asked(made: argparse.ArgumentParser) -> None:
        made.add_argument("--prompts", type=some, required=True, metavar="FILE", help='a prompt on each line, in JSON\'s quotes if it has lines of its own, "Q: yes?\\nA:"; - reads standard input')  # fmt: skip
        made.add_argument("--chat", action="store_true", help="put each into the model's chat template, as the user's words")  # fmt: skip

    made = verb("extract", "make a vector from text pairs, and say how sound it is at each layer")
    rows = (
        'lines of JSON, ["text with it", "text without"] or {"positive": ..., "negative": ...}, a "prompt" before both'
    )
    made.add_argument("pairs", type=some, metavar="FILE", help=f"{rows} if there is one; - reads standard input")
    made.add_argument(
        "--out", type=some, required=True, metavar="FILE", help="where it is written, a .safetensors file"
    )
    made.add_argument("--layers", type=several(number(int, 0)), metavar="I,J", help="blocks whose inputs are read (by default all)")  # fmt: skip
    made.add_argument("--method", choices=METHODS, default=METHODS[0], help="contrastive, the mean difference, by default")  # fmt: skip
    made.add_argument("--token", choices=("answer", "last"), help='which is read: "answer" (by default), the first in which the two texts differ, or "last"')  # fmt: skip
    made.add_argument("--chat", action="store_true", help="put each prompt into the model's chat template as the user's words and the two texts as the answers; texts without a prompt are the user's words, read where the answer begins")  # fmt: skip
    made.add_argument("--json", action="store_true", help="print JSON")

    made = verb("show", "say what a vector is: where it is from, and how sound it is at each layer", model=False)
    vector(made)
    made.add_argument("--json", action="store_true", help="print JSON")

    made = verb("sweep", "by how much a vector moves the odds of the first answer, at each layer and coefficient")
    vector(made)
    asked(made)
    made.add_argument("--answers", type=several(str), required=True, metavar="A,B", help='what may come next, " yes, no"; most words begin with their space')  # fmt: skip
    made.add_argument("--layers", type=several(number(int, 0)), metavar="I,J", help="blocks whose inputs are steered (by default all that the vector has)")  # fmt: skip
    made.add_argument("--coeffs", type=several(number(float)), default=[-1.0, 0.0, 1.0], metavar="C,D", help="times the vector (by default -1,0,1)")  # fmt: skip
    made.add_argument("--where", choices=WHERES, default="all", help="the steered positions (by default all)")
    made.add_argument(
        "--json", "--jsonl", action="store_true", help="print a row of JSON for each layer, coefficient and prompt"
    )

    made = verb("calibrate", "find the coefficient that changes predictions on some texts by a set amount")
    vector(made)
    asked(made)
    made.add_argument("--layer", type=number(int, 0), required=True, help="the block whose input is steered")
    budget = made.add_mutually_exclusive_group()
    budget.add_argument("--kl", type=number(float, 0), help="KL nats per token (by default 0.5)")
    budget.add_argument("--damage", type=number(float, 0), help="or rise of the prompts' loss, in nats per token")
    made.add_argument("--where", choices=WHERES, default="all", help="the steered positions (by default all)")
    made.add_argument("--json", action="store_true", help="print JSON")

    made = verb("export", "write a vector for llama.cpp or lm-evaluation-harness, or print the hook for transformers", model=False)  # fmt: skip
    vector(made)
    target = made.add_mutually_exclusive_group(required=True)
    target.add_argument("--gguf", type=some, metavar="FILE", help="a control vector, of all layers from 2 up")
    target.add_argument("--lm-eval", type=some, metavar="FILE", help="a steer file (.pt) for `lm_eval --model steered`")
    target.add_argument("--hook", action="store_true", help="print lines that steer a transformers model")
    made.add_argument("--layer", type=number(int, 0), help="this layer only; --gguf defaults to all")
    made.add_argument("--coeff", type=number(float), default=1.0, help="times the vector (by default 1)")
    made.add_argument("--type", choices=[*formats.MODULES], default=next(iter(formats.MODULES)), help="the architecture it is for (by default %(default)s)")  # fmt: skip

    made = verb("models", "which models are known by name, and which are here", model=False)
    made.add_argument("--json", action="store_true", help="print JSON")


def extracted(options: argparse.Namespace) -> str:
    token = options.token
    pairs: Any = (prompted if options.chat else parsed)(contents(options.pairs))
    model, tokenizer = load(options.model, device=options.device, dtype="float32")
    sites = None if options.layers is None else _sites(model, options.layers)
    if options.chat:
        asked = sum(bool(prompt) for prompt, _ in pairs)
        expect(asked in (0, len(pairs)), "a prompt in every row, or in none, for --chat", f"{asked} in {len(pairs)}")
        if not asked:
            expect(token in (None, "last"), "--token last for --chat", token, "leave it out, or give prompts")
            token = "last"
        pairs = [[_turns(tokenizer, prompt, text) for text in pair] for prompt, pair in pairs]
    vector = getattr(methods, options.method)(model, tokenizer, pairs, sites, token=token)
    vector.save(options.out)
    return shown_vector(vector, options.json, options.out)


def shown(options: argparse.Namespace) -> str:
    return shown_vector(read_vector(options.vector), options.json, options.vector)


def shown_vector(vector: SteeringVector, as_json: bool, name: str) -> str:
    """What a vector is, in words: a line for each site, with a bar for how much of it the items share."""
    norms = vector.norm()
    rows = []
    for site in vector.sites:
        health = vector.health.get(site)
        numbers = {} if health is None else asdict(health)
        rows.append({"site": list(site), "length": norms[site], **numbers, "weak": health.weak if health else []})
    from_ = asdict(vector.provenance)
    if as_json:
        return json.dumps({"file": name, "width": vector.width, "provenance": from_, "sites": rows})
    told = [
        f"{name}: width {vector.width}, {', '.join(f'{key} {value}' for key, value in from_.items() if value is not None)}"
    ]
    for row, site in zip(rows, vector.sites, strict=True):
        share = row.get("agreement")
        bar = "#" * round(BAR * max(0.0, share)) if share is not None else ""
        health = vector.health.get(site)
        told.append(
            f"{site[0]} {site[1]:>3}  |{bar:<{BAR}}| length {row['length']:.3g}; {health or 'no health is known'}"
        )
    return "\n".join([*told, "the bar is the agreement: the mean cosine between two items' differences, from 0 to 1"])


def swept(options: argparse.Namespace) -> str:
    prompts, answers = lines(options.prompts), options.answers
    expect(len(answers) > 1 and all(a.strip() for a in answers), "two answers or more, A,B", ",".join(answers))
    expect(len({*answers}) == len(answers), "answers that differ", repr(",".join(answers)), "give each once")
    behind = [answer for answer in answers if answer != answer.rstrip()]
    expect(not behind, "answers without a space at their end", repr(behind)[1:-1], "a word begins with its space")
    spaced = {a[0].isspace() for a in answers if a.strip()[0].isalnum()}
    expect(
        len(spaced) < 2,
        "words that all begin with a space, or none",
        ",".join(answers),
        "with a space they are other tokens",
    )
    model, tokenizer, vector = _loaded(options)
    layers = (
        [site for site in vector.sites if site[0] == "pre"] if options.layers is None else _sites(model, options.layers)
    )
    for site in layers:
        _at(vector, site, options.vector)
    ids = [_ids(tokenizer, prompt, options.chat) for prompt in prompts]
    choices = [[tokenizer.continuation(answer) for answer in answers]] * len(ids)
    for row in ids:
        check_room(model, [row], max(len(choice) for choice in choices[0]))
    warn_of_prompts(tokenizer, prompts, options.chat, options.where)
    rows = sweep(model, ids, choices, {"vector": vector}, layers, options.coeffs, where=options.where)
    most = max(map(abs, options.coeffs))
    shares = [health.relative_norm for site in layers if (health := vector.health.get(site)) and health.relative_norm]
    if shares and 0 < most * max(shares) < FAINT:
        warnings.warn(
            f"the largest coefficient, {most:g}, adds at most {most * max(shares):.2g} of the stream's norm, as the vector is short; "
            f"give --coeffs up to {HALF / max(shares):.2g}",
            stacklevel=2,
        )
    found = [
        {"layer": row["site"][1], "coefficient": row["coeff"], "prompt": prompts[row["prompt"]],
         "log p": dict(zip(answers, row["score"], strict=True))}
        for row in rows
    ]  # fmt: skip
    if options.json:
        return "\n".join(json.dumps(row) for row in found)
    told = [f"log p({answers[0]!r}) - log p({' or '.join(map(repr, answers[1:]))}), nats, mean of {len(ids)} prompts"]
    told.append("layer" + "".join(f"{c:>9g}" for c in options.coeffs))
    for _, layer in layers:
        means = []
        for c in options.coeffs:
            some = [
                _odds(list(row["log p"].values())) for row in found if (row["layer"], row["coefficient"]) == (layer, c)
            ]
            means.append(sum(some) / len(some))
        told.append(f"{layer:>5}" + "".join(f"{mean:>+9.2f}" for mean in means))
    # which is the same at every layer
    plain = sweep(model, ids, choices, {"vector": vector}, layers[:1], [0.0], where=options.where)
    together = sum(math.exp(score) for row in plain for score in row["score"]) / len(plain)
    told.append(
        f"without the vector the answers have {together:.2g} of the probability; little may mean a space too many or too few"
    )
    return "\n".join(told)


def calibrated(options: argparse.Namespace) -> str:
    prompts = lines(options.prompts)
    budget = {name: given for name in ("kl", "damage") if (given := getattr(options, name)) is not None}
    for name, given in budget.items():
        expect(given > 0, f"--{name} above 0", f"{given:g}")
    model, tokenizer, vector = _loaded(options)
    (site,) = _sites(model, [options.layer])
    _at(vector, site, options.vector)
    ids = [_ids(tokenizer, prompt, options.chat) for prompt in prompts]
    warn_of_prompts(tokenizer, prompts, options.chat, options.where)
    found = calibrate(model, ids, Steer(vector, site, 1.0, options.where), **budget)
    measured = not math.isnan(found.damage)
    if options.json:
        return json.dumps(asdict(found) | ({} if measured else {"damage": None}))
    loss = f"and {found.damage:+.3g} of loss a token" if measured else "a token (no token follows to measure loss on)"
    did = f"{found.kl:.3g} nats of KL {loss}"
    return f"coefficient {found.coeff:.4g}: {did} over {len(ids)} texts, at layer {options.layer}"


def exported(options: argparse.Namespace) -> str:
    vector, name = read_vector(options.vector), options.vector
    if options.layer is not None:
        vector = vector.only(_at(vector, ("pre", options.layer), name))
    if options.gguf:
        if options.layer is None:
            vector = vector.only([site for site in vector.sites if site[0] == "pre" and site[1] > 1])
        formats.save_gguf(vector, options.gguf, coeff=options.coeff, model_hint=options.type)
        return f"{options.gguf}: {len(vector.sites)} layers, for llama.cpp's --control-vector, for a {options.type} (--type changes it)"
    expect(len(vector.sites) == 1, "one layer, --layer I", f"{len(vector.sites)} in {name}", "say which")
    (site,) = vector.sites
    if options.lm_eval:
        formats.save_lm_eval(vector, site, options.lm_eval, coeff=options.coeff, model_type=options.type)
        return (
            f"{options.lm_eval}: for a {options.type} (--type changes it), for lm_eval --model steered --model_args "
            f"pretrained=...,steer_path={options.lm_eval}"
        )
    module = formats.module_name(site, options.type)
    reader = "formats.load_gguf" if name.endswith(".gguf") else "SteeringVector.load"
    return "\n".join([
        "from ministeer import SteeringVector, formats",
        "",
        f"vector = {reader}({str(Path(name))!r})",
        f"# model: a transformers {options.type}, as AutoModelForCausalLM.from_pretrained gives it (--type changes it)",
        f"module = model.base_model.get_submodule({module!r})",
        f"handle = module.register_forward_hook(vector.hook({site!r}, {options.coeff!r}))  # handle.remove() ends it",
    ])  # fmt: skip


def listed(options: argparse.Namespace) -> str:
    places = {"nano": "bundled", **{name: here(name) for name in NAMES}}
    if options.json:
        return json.dumps({name: place and str(place) for name, place in places.items()})
    width = max(map(len, places))
    known = [f"{name:<{width}}  {place or 'not here; make weights MODEL=' + name}" for name, place in places.items()]
    return "\n".join([*known, "and any owner/name on the hub, a folder, or a .gguf file"])


VERBS = {
    "extract": extracted,
    "show": shown,
    "sweep": swept,
    "calibrate": calibrated,
    "export": exported,
    "models": listed,
}


def _odds(scores: Sequence[float]) -> float:
    """log p of the first less that of any of the others."""
    first, *others = scores
    top = max(others)
    return first - top - math.log(sum(math.exp(other - top) for other in others))


def read_vector(file: str, model: Transformer | None = None) -> SteeringVector:
    return formats.load_gguf(file, model) if file.endswith(".gguf") else SteeringVector.load(file, model)


def _loaded(options: argparse.Namespace) -> tuple[Transformer, Tokenizer, SteeringVector]:
    model, tokenizer = load(options.model, device=options.device, dtype="float32")
    check_chat(options, tokenizer)
    return model, tokenizer, read_vector(options.vector, model)


def check_chat(options: argparse.Namespace, tokenizer: Tokenizer) -> None:
    template = f"{options.model}, without a template"
    expect(not options.chat or tokenizer.chat_template is not None, "a chat model for --chat", template, "leave out --chat")  # fmt: skip


def _ids(tokenizer: Tokenizer, prompt: str, chat: bool) -> list[int]:
    return tokenizer.chat([{"role": "user", "content": prompt}]) if chat else tokenizer.prompt(prompt)


def _turns(tokenizer: Tokenizer, prompt: str, text: str) -> list[int]:
    """A text as the model's answer to a prompt, without the space that it would need after it in plain text, and up to its last word; or,
    without a prompt, as the user's words, which nobody has answered yet."""
    if not prompt:
        return _ids(tokenizer, text, chat=True)
    turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": text.removeprefix(" ")}]
    ids = tokenizer.chat(turns, generation=False)
    ends = {*tokenizer.special.values()}
    while ids and (ids[-1] in ends or not tokenizer.decode(ids[-1:]).strip()):  # what the template has after an answer
        ids.pop()
    return ids


def _sites(model: Transformer, layers: Sequence[int]) -> list[Site]:
    most = model.config.n_layer
    wrong = [layer for layer in layers if layer > most]
    expect(not wrong, f"layers from 0 to {most}, the model's", wrong[:1])
    return [("pre", layer) for layer in layers]


def _at(vector: SteeringVector, site: Site, name: str) -> Site:
    there = ", ".join(str(layer) for kind, layer in vector.sites if kind == "pre")
    expect(site in vector.sites, f"a layer that {name} has a vector for, {there}", site[1], "take one of these")
    return site

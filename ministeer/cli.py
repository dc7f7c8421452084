"""The `ministeer` command.

ministeer play
ministeer steer "I feel" --plus Love --minus Hate --layer 1
ministeer steer "Grace was asked and" --vector honesty.safetensors --layer 5 --coeff 1.5 --where last
ministeer steer "How was your day?" --chat --model smollm2-135m-instruct --plus "I feel very happy" --minus "I feel very sad" --layer 15 --coeff 0.5
ministeer extract pairs.jsonl --out kindness.safetensors
ministeer show kindness.safetensors
ministeer sweep kindness.safetensors --prompts prompts.txt --answers " yes, no" --layers 4,5,6 --coeffs -2,0,2
ministeer calibrate kindness.safetensors --layer 5 --prompts prompts.txt --kl 0.1
ministeer export kindness.safetensors --gguf kindness.gguf
ministeer models
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from ministeer import hub, verbs
from ministeer.checkpoint import load
from ministeer.extract import activation_addition, contrastive
from ministeer.generate import generate
from ministeer.model import Site, Transformer, expect
from ministeer.options import Parser, add_model, contents, joined, number, several, some, text, warn_of_backslashes
from ministeer.prompts import check_room, warn_of_prompts
from ministeer.receipt import Receipt
from ministeer.steer import WHERES, Steer, Where
from ministeer.strength import NOISE, SHARE, fitting
from ministeer.tokenizer import Tokenizer
from ministeer.vectors import SteeringVector

ALONE = {  # which read their words themselves
    "download": "fetch the weights of a model",
    "estimate": "how long `make reproduce` takes with a model here",
    "report": "write the page of a run again",
}


def parser() -> argparse.ArgumentParser:
    top = Parser(prog="ministeer", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    top.add_argument("--version", action="version", version=f"ministeer {sys.modules[__package__].__version__}")
    commands = top.add_subparsers(dest="command")
    steer = commands.add_parser("steer", help="continue a prompt without and with a vector")
    steer.add_argument("prompt", type=some, help="the text to continue, between quotes; - reads standard input")
    add_model(steer)
    steer.add_argument("--chat", action="store_true", help="put the prompt into the model's chat template, as the user's words")  # fmt: skip
    steer.add_argument("--dtype", default="float32", help="float32 (by default), bfloat16 or float16")
    steer.add_argument("--device", default="cpu", help="cpu (by default), cuda, cuda:1, ...")
    steer.add_argument("--vector", type=some, action="append", metavar="FILE[:COEFF][@LAYER]", help="a file that SteeringVector.save or `ministeer extract` wrote, or a control vector in a .gguf file; repeat it for several")  # fmt: skip
    steer.add_argument("--plus", type=text, metavar="TEXT", help="the stream over this text ...")
    steer.add_argument("--minus", type=text, metavar="TEXT", help="... minus the stream over this one")
    steer.add_argument("--layer", type=number(int, 0), help="the block whose input is steered (by default half way up, for activation addition an eighth, or the file's layer nearest to that)")  # fmt: skip
    steer.add_argument("--site", choices=("pre", "mid"), default="pre", help="the block's input (pre, by default), or the stream between its attention and its MLP (mid)")  # fmt: skip
    steer.add_argument("--coeff", type=several(number(float)), metavar="C", help=f"times the vector; -1,0,1 shows several side by side; by default, one that adds at most {SHARE:g} of the stream's norm to any token of the unsteered text")  # fmt: skip
    steer.add_argument("--where", choices=WHERES, help='by default "front", position by position, for activation addition (--plus and --minus without --chat, or a file of such a vector), else "all"; elsewhere --plus and --minus are read at their last tokens')  # fmt: skip
    steer.add_argument("--tokens", type=number(int, 1), default=20, help="how many to generate (by default 20)")
    steer.add_argument("--temperature", type=number(float, 0), default=0.0, help="0 (by default) takes the likeliest token")  # fmt: skip
    steer.add_argument("--json", action="store_true", help="print JSON")
    steer.add_argument("--seed", type=number(int, 0, 2**64 - 1), default=0, help="for sampling (by default 0)")
    play = commands.add_parser("play", help="steer in a page on this machine: sliders, both texts side by side, what changed")  # fmt: skip
    add_model(play)
    play.add_argument("--port", type=number(int, 0, 65535), default=8765, help="by default 8765; 0 takes a free one")
    play.add_argument("--no-browser", action="store_true", help="only print the address")
    verbs.add(commands)
    for name, told in ALONE.items():
        commands.add_parser(name, help=told, add_help=False)
    return top


def steered(options: argparse.Namespace) -> str:
    """The prompt continued without and with what is added, at each coefficient, and the receipts, a line each; or these as JSON."""
    given = [f"--{name}" for name in ("vector", "plus", "minus") if getattr(options, name)]
    wanted, fine = "--vector FILE, or --plus TEXT and --minus TEXT", given in (["--vector"], ["--plus", "--minus"])
    lacking = {"--plus": "--minus", "--minus": "--plus"}.get(given[0], "") if len(given) == 1 else ""
    expect(fine, wanted, " and ".join(given) or "neither", f"add {lacking} TEXT" if lacking else "give one of the two")
    pushes = _pushes(options)
    prompt = contents("-").removesuffix("\n") if options.prompt == "-" else options.prompt
    expect(bool(prompt), "a prompt on standard input", "nothing", "write one into the pipe, or in place of the -")
    model, tokenizer = load(options.model, device=options.device, dtype=options.dtype)
    last, unplaced = _last(options, model), [push for push in pushes if push.layer is None]
    for push in pushes:
        push.read = None if push.vector is None else verbs.read_vector(push.vector, model)
        push.layer = _usual_layer(push, model) if push.layer is None else push.layer
        expect(push.layer <= last, f"--layer from 0 to {last}, the model's layers", push.layer)
    verbs.check_chat(options, tokenizer)
    ids = tokenizer.prompt(prompt)
    expect(len(ids) > 1, "a prompt in characters that the model has tokens for", repr(prompt))
    if options.chat:
        ids = tokenizer.chat([{"role": "user", "content": prompt}])
    check_room(model, [ids], options.tokens)
    steers = [_steer(push, model, tokenizer, ids) for push in pushes]
    warn_of_prompts(tokenizer, [prompt], options.chat, *(steer.where for steer in steers))
    warn_of_backslashes(prompt)

    def continued(name: str, **given: Any) -> list[int]:
        with _live(name, tokenizer, shown=not options.json) as on_token:
            return generate(
                model,
                ids,
                max_new_tokens=options.tokens,
                temperature=options.temperature,
                generator=torch.Generator().manual_seed(options.seed),
                stop=tokenizer.stop,
                on_token=on_token,
                **given,
            )

    def said(text: list[int]) -> str:
        end = len(text) - (text[-1] in tokenizer.stop)  # without the token that ends the answer, which is not text
        begun = len(ids) if options.chat else len(ids) - len(tokenizer.encode(prompt, special=True))  # what was added
        return tokenizer.decode(text[begun:end])

    def named(push: argparse.Namespace, value: object) -> str:
        return str(value) if len(pushes) == 1 else f"{value} for {push.source}"

    plain, runs, taken = continued("unsteered"), [], ""
    if unplaced:
        taken = f"layer {' and '.join(named(push, push.layer) for push in unplaced)}, as no --layer was given; "
    fitted = [i for i, push in enumerate(pushes) if options.coeff is None and push.coeff is None]
    for i in fitted:
        steers[i] = replace(steers[i], coeff=fitting(model, plain, len(ids), steers[i]))
    if fitted:
        found = " and ".join(named(pushes[i], f"{steers[i].coeff:g}") for i in fitted)
        taken += f"coefficient {found}, as no --coeff was given; "
    for c in options.coeff or [1.0]:
        scaled, receipt = [replace(steer, coeff=c * steer.coeff) for steer in steers], Receipt()
        coeffs = [steer.coeffs[0] for steer in scaled]
        run: dict[str, Any] = {"coefficient": coeffs if len(coeffs) > 1 else coeffs[0]}
        if c == 0 and len(options.coeff) > 1:  # beside others it shows the text without
            runs.append({**run, "text": said(plain), "done": "nothing was added"})
            continue
        for steer, push in zip(scaled, pushes, strict=True):
            added: Any = steer.coeffs[0] * steer.content  # type: ignore[operator]
            finite = bool(added.to(model.dtype).isfinite().all())
            wanted, got = (
                f"a --coeff whose vector {model.dtype} can hold",
                f"{steer.coeff:g} times that of {push.source}",
            )
            expect(finite or options.coeff is None, wanted, got, "take a smaller one")
        new = continued("steered" if options.coeff is None else f"x {c:g}", steer=scaled, receipt=receipt)
        runs.append({**run, "text": said(new), "done": f"{taken}{receipt}"})
        most, layer = max((receipt.sites[steer.site].largest, steer.site[1]) for steer in scaled)
        if most > NOISE:
            warnings.warn(
                f"what was added is up to {most:.3g} times as long as the stream at --layer {layer}, and beyond {NOISE:g} "
                f"what follows is often noise; take a smaller {'coefficient' if options.coeff is None else '--coeff'}",
                stacklevel=2,
            )
    if options.json:
        return json.dumps({"unsteered": said(plain), "steered": runs})
    names = ["steered"] if len(runs) == 1 else [f"x {c:g}" for c in options.coeff]
    shown = [
        ("unsteered", repr(said(plain))),
        *((name, repr(run["text"])) for name, run in zip(names, runs, strict=True)),
    ]
    shown += [
        ("done" if len(runs) == 1 else f"done {name}", str(run["done"])) for name, run in zip(names, runs, strict=True)
    ]
    width = max(len(name) for name, _ in shown) + 2
    return "\n".join(f"{name + ':':<{width}}{text}" for name, text in shown)


@contextmanager
def _live(name: str, tokenizer: Tokenizer, *, shown: bool) -> Iterator[Callable[[int, int], None] | None]:
    """What is called with each token: on a terminal the end of the text grows in a line of its own, which is gone afterwards."""
    if not shown or not sys.stderr.isatty():
        yield None
        return
    new: list[int] = []

    def on_token(_row: int, token: int) -> None:
        new.append(token)
        text = repr(tokenizer.decode(new))[1:-1]
        room = shutil.get_terminal_size().columns - len(name) - 3
        print(f"\r\x1b[K{name}: {text[-room:]}", end="", file=sys.stderr, flush=True)

    try:
        yield on_token
    finally:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _pushes(options: argparse.Namespace) -> list[argparse.Namespace]:
    """The options of each vector by itself: its file or None for texts, its coefficient or None, its layer or None."""
    found = []
    for given in options.vector or [None]:
        file, coeff, layer = given, None, None
        if given is not None and not os.path.exists(given):
            match = re.fullmatch(r"(.+?)(?::([-+]?[0-9.]+(?:e[-+]?[0-9]+)?))?(?:@([0-9]+))?", given)
            file, coeff, layer = match.groups() if match else (given, None, None)
        layer = options.layer if layer is None else int(layer)
        own = {"vector": file, "coeff": None if coeff is None else number(float)(coeff), "layer": layer}
        found.append(argparse.Namespace(**{**vars(options), **own, "source": file or "--plus and --minus"}))
    return found


def _last(options: argparse.Namespace, model: Transformer) -> int:
    """The highest --layer: of "pre" it is the stream that leaves the last block."""
    last: int = model.config.n_layer - (options.site == "mid")
    return last


def _usual_layer(options: argparse.Namespace, model: Transformer) -> int:
    """The layer where none is given: half of the depth, or for activation addition an eighth, as in its paper, and of a file's the nearest
    to it."""
    found = options.read
    front = not options.chat and options.where in (None, "front") if found is None else found[found.sites[0]].ndim == 2
    usual: int = model.config.n_layer // (8 if front else 2)
    sites = [] if found is None else found.sites
    return min((i for name, i in sites if name == options.site), key=lambda i: abs(i - usual), default=usual)


def _steer(options: argparse.Namespace, model: Transformer, tokenizer: Tokenizer, ids: Sequence[int]) -> Steer:
    """What the words ask for on this prompt; what does not fit it is refused in their terms."""
    site: Site = (options.site, options.layer)
    if options.vector is None:
        source, (vector, where) = "--plus and --minus", _of_texts(options, model, tokenizer, site)
    else:
        source, (vector, where) = options.vector, _of_file(options, model, site)
    v = vector[site]  # (D,) or (P, D)
    expect(bool(v.any()), "a vector that is not zero", f"that of {source}", "do its two texts differ?")
    if where == "front":
        last, got = _last(options, model), options.layer
        wanted = f"--layer below {last} for --where front: after the last attention"
        fine = got < last or len(v) == len(ids)
        expect(fine, f"{wanted} only the prompt's last token is read", got, "take one of these")
        remedy = "lengthen the prompt" + (", or add --where all" if options.vector is None else "")
        expect(len(v) <= len(ids), f"a prompt of {len(v)} tokens or more, as {source} have", len(ids), remedy)
    return Steer(vector, site, 1.0 if options.coeff is None else options.coeff, where)


def _of_file(options: argparse.Namespace, model: Transformer, site: Site) -> tuple[SteeringVector, Where]:
    file, vector = options.vector, options.read
    wanted = f"a vector of the model's width {model.config.width} in {file}"
    expect(vector.width == model.config.width, wanted, vector.width, "it was read from another model")
    words = {
        (name, i): f"--layer {i}" if name == "pre" else f"--site {name} --layer {i}"
        for name, i in [*vector.sites, site]
    }
    there = ", ".join(words[known] for known in vector.sites)
    expect(site in vector.sites, f"a site that {file} has a vector for, {there}", words[site], "take one of these")
    front = vector[site].ndim == 2
    where: Where = options.where or ("front" if front else "all")
    kind = "one for each position (activation addition)" if front else "one for every position"
    wanted = f"--where {'front' if front else 'other than front'} for the vector in {file}, {kind}"
    expect((where == "front") == front, wanted, where, "leave out --where")
    return vector, where


def _of_texts(
    options: argparse.Namespace, model: Transformer, tokenizer: Tokenizer, site: Site
) -> tuple[SteeringVector, Where]:
    plus, minus, context = options.plus, options.minus, model.config.context
    longest = max(len(tokenizer.prompt(text)) for text in (plus, minus))
    wanted = f"--plus and --minus of at most {context - 1} tokens, the model's context after the one that begins a text"
    expect(longest <= context, wanted, longest - 1, "shorten them")
    where: Where = options.where or ("all" if options.chat else "front")
    if where == "front":
        return activation_addition(model, tokenizer, plus, minus, site), where
    return contrastive(model, tokenizer, [(plus, minus)], site, token="last"), where


def played(options: argparse.Namespace) -> None:
    """Serve the page until Ctrl-C."""
    try:
        from ministeer.play import server, session
    except ImportError as error:
        there, remedy = error.name not in ("starlette", "uvicorn", "anyio"), "pip install 'ministeer[play]'"
        expect(there, "starlette and uvicorn, which serve the page", f"no {error.name}", remedy)
        raise
    at = server.listening(options.port)  # refused before a model is loaded
    server.serve(session.Session(*load(options.model), options.model), at, browser=not options.no_browser)


def _alone(command: str, words: Sequence[str]) -> None:
    """Run what has a command line of its own."""
    sys.argv = [f"ministeer {command}", *words]
    if command == "download":
        hub.main()
    elif command == "estimate":
        from ministeer.lab import estimate

        estimate.main()
    else:
        from ministeer.lab import report

        report.main()


def _say(text: str) -> None:
    """Print what the terminal has no letters for as `repr` writes it, \\xe9."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding))


def _flush() -> None:
    try:
        print(end="", flush=True)
    except OSError:  # what is left would be tried again, and complained of, when Python ends
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        raise


def _one_line(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"ministeer: {' '.join(str(message).split())}", file=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> None:
    """Raises `SystemExit` with one sentence for wrong words and for what does not work, and with 130 after Ctrl-C."""
    try:
        try:
            words = list(sys.argv[1:] if arguments is None else arguments)
            if words and words[0] in ALONE:
                _alone(words[0], words[1:])
                return
            options = parser().parse_args(joined(words))
            if options.command is None:
                parser().print_help()
                return
            with warnings.catch_warnings():
                warnings.simplefilter("always", UserWarning)
                warnings.showwarning = _one_line
                if options.command == "play":
                    played(options)
                else:
                    _say({"steer": steered, **verbs.VERBS}[options.command](options))
        finally:
            _flush()
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # who reads has what they want: `| head -1`
        pass
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"ministeer: {' '.join(str(error).split())}")

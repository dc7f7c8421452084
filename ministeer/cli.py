"""The `ministeer` command: steer a prompt, and say in one line what was done.

ministeer steer "I feel" --plus Love --minus Hate --layer 1 --coeff 2
ministeer steer "Grace was asked and" --vector honesty.safetensors --layer 5 --coeff 1.5 --where last
ministeer steer "How was your day?" --chat --model smollm2-135m-instruct --plus "I feel very happy" --minus "I feel very sad" --layer 15 --coeff 0.5
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import torch

from ministeer.checkpoint import load
from ministeer.extract import activation_addition, contrastive
from ministeer.generate import generate
from ministeer.hub import NAMES
from ministeer.receipt import Receipt
from ministeer.steer import WHERES, Steer
from ministeer.vectors import SteeringVector


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="ministeer", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = top.add_subparsers(dest="command", required=True)
    steer = commands.add_parser("steer", help="continue a prompt without and with a vector", formatter_class=argparse.ArgumentDefaultsHelpFormatter)  # fmt: skip
    steer.add_argument("prompt")
    steer.add_argument("--model", default="nano", help=f"nano, {', '.join(NAMES)}, owner/name on the hub, or a path")
    steer.add_argument("--chat", action="store_true", help="put the prompt into the model's chat template, as the user's words")  # fmt: skip
    steer.add_argument("--dtype", default="float32", help="float32, bfloat16 or float16")
    steer.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ...")
    steer.add_argument("--vector", help="a file that SteeringVector.save wrote")
    steer.add_argument("--plus", help="the stream over this text ...")
    steer.add_argument("--minus", help="... minus the stream over this one")
    steer.add_argument("--layer", type=int, required=True, help='the block whose input is steered, ("pre", LAYER)')
    steer.add_argument("--coeff", type=float, default=1.0)
    steer.add_argument("--where", choices=WHERES, help='"all" by default; of --plus and --minus without --chat "front", position by position (activation addition), else their last tokens differ')  # fmt: skip
    steer.add_argument("--tokens", type=int, default=20, help="how many to generate")
    steer.add_argument("--temperature", type=float, default=0.0, help="0 takes the likeliest token")
    steer.add_argument("--seed", type=int, default=0, help="of the sampling")
    return top


def steered(options: argparse.Namespace) -> str:
    """The prompt continued without and with the vector, and the receipt, a line each."""
    if (options.vector is None) == (options.plus is None) or (options.plus is None) != (options.minus is None):
        raise ValueError("expected --vector FILE, or --plus TEXT and --minus TEXT; give one of the two")
    model, tokenizer = load(options.model, device=options.device, dtype=options.dtype)
    if not 0 <= options.layer <= model.config.n_layer:
        raise ValueError(f"expected --layer from 0 to {model.config.n_layer}, the model's layers, got {options.layer}")
    if options.chat and tokenizer.chat_template is None:
        raise ValueError(f"expected a chat model for --chat, got {options.model}, without a template; leave out --chat")
    site = ("pre", options.layer)
    where = options.where or ("all" if options.chat or options.vector is not None else "front")
    if options.vector is not None:
        vector = SteeringVector.load(options.vector, model)
    elif where == "front":
        vector = activation_addition(model, tokenizer, options.plus, options.minus, site)
    else:
        begin = tokenizer.decode([tokenizer.bos])
        vector = contrastive(model, tokenizer, [(begin + options.plus, begin + options.minus)], site, token="last")
    ids = [tokenizer.bos, *tokenizer.encode(options.prompt)]
    if options.chat:
        ids = tokenizer.chat([{"role": "user", "content": options.prompt}])
    steer, receipt = Steer(vector, site, options.coeff, where), Receipt()
    texts = [
        generate(
            model,
            ids,
            max_new_tokens=options.tokens,
            temperature=options.temperature,
            generator=torch.Generator().manual_seed(options.seed),
            stop=tokenizer.stop,
            steer=steers,
            receipt=receipt if steers else None,
        )
        for steers in ([], [steer])
    ]
    shown = len(ids) if options.chat else 1
    plain, changed = (repr(tokenizer.decode(text[shown:])) for text in texts)
    return f"unsteered: {plain}\nsteered:   {changed}\ndone:      {receipt}"


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    try:
        print(steered(options))
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"ministeer: {error}")

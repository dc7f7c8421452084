"""Published numbers: what others measured on GPT-2 checkpoints, measured again and set beside theirs.

    python examples/11_published_numbers.py --model gpt2-xl     (needs a GPT-2 checkpoint; does nothing on nano)

Activation addition of " weddings": the perplexity of a text about weddings and of one about shipping, by layer and coefficient, and how many of
200 completions speak of weddings (Turner et al. 2023). The total effect of gender on the pronoun after occupations (Vig et al. 2020).
Their texts are their own; those measured here are this project's, so agreement is one of shape and size, not of digits.
"""

# %% What is measured: perplexity without the injected positions, and sampled text
import json
import re
import sys
from pathlib import Path

import numpy as np
import torch

from ministeer import Steer, extract, generate, metrics
from ministeer.lab import data, figures, pronouns, protocol
from ministeer.lab.experiment import Experiment
from ministeer.prompts import pad
from ministeer.steer import resolve

DATA = Path(data.__file__).parent
TOPICS = ("weddings", "shipping")
WORDS = ("wedding", "weddings", "wed", "bride", "groom", "marry", "married", "marriage", "bridesmaid", "honeymoon")
COEFFICIENTS, PROMPT = [-1.0, 0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0], "I went up to my friend and said"
# Vig et al. 2020, table 1, templates of Winogender with the shares of the Bureau of Labor Statistics: total effect by size
VIG = {"gpt2": 0.020, "gpt2-medium": 0.128, "gpt2-large": 0.173, "gpt2-xl": 0.168}


def perplexities(model, tokenizer, *, vector, layer, coefficients, texts):
    """Perplexity of each text at each coefficient; the first tokens, where the vector lies, do not count."""
    prompts = [[tokenizer.bos, *tokenizer.encode(text)] for text in texts]
    ids, positions = pad(prompts)
    counted = positions >= len(vector["pre", layer])
    rows = [{"perplexity": []} for _ in texts]
    for c in coefficients:
        steer = Steer(vector, ("pre", layer), c, where="front")
        adds = resolve(model, steer, prompts).adds(positions)
        with torch.no_grad():
            logits = model(ids.to(model.wte.weight.device), adds=adds)
        for row, p in zip(rows, metrics.perplexity(logits, ids.to(logits.device), counted).tolist(), strict=True):
            row["perplexity"].append(p)
    return rows


def completions(model, tokenizer, *, vector, layer, coefficient, prompt, count, seed):
    """Texts sampled as in the paper, 50 at a time."""
    rows, ids = [], [tokenizer.bos, *tokenizer.encode(prompt)]
    for first in range(0, count, 50):
        some = range(first, min(first + 50, count))
        steer = [Steer(vector, ("pre", layer), coefficient, where="front")] if coefficient else None
        texts = generate(model, [ids for _ in some], max_new_tokens=40, steer=steer, top_p=0.3, frequency_penalty=1.0,
                         generator=[torch.Generator().manual_seed(seed + i) for i in some], stop=tokenizer.stop)  # fmt: skip
        rows += [{"text": tokenizer.decode(text[len(ids) :])} for text in texts]
    return rows


# %% Measure it
lab = Experiment.from_command_line("11_published_numbers")
if lab.model.config.vocab_size < 50257:
    print(f"{lab.name}: not run, it needs GPT-2's vocabulary, which {lab.model_name} does not have")
    sys.exit()
published = json.loads((DATA / "published_actadd_perplexity.json").read_text("utf-8"))
texts = [(DATA / f"passage_{topic}.txt").read_text("utf-8") for topic in TOPICS]
depth = lab.model.config.n_layer
theirs = [0, 2, 4, 6, 10, 16, 20, 30, 40]  # of 48
layers = [round(i * depth / 48) for i in theirs]
vector = lab.vector(
    extract.activation_addition, positive=" weddings", negative="", sites=sorted({("pre", i) for i in layers})
)
ratios = {}  # (layer, topic) -> of each coefficient
for i in lab.progress(sorted(set(layers)), "layers"):
    for topic, row in zip(
        TOPICS, lab.cell(perplexities, vector=vector, layer=i, coefficients=COEFFICIENTS, texts=texts), strict=True
    ):
        ratios[i, topic] = np.array(row["perplexity"]) / row["perplexity"][COEFFICIENTS.index(0.0)]
six, sixteen, count = layers[theirs.index(6)], layers[theirs.index(16)], len(lab.part(range(200)))
settings = {"vector": vector, "layer": six, "prompt": PROMPT, "count": count, "seed": 0}
spoken = {c: lab.cell(completions, coefficient=c, **settings) for c in lab.progress((0.0, 1.0), "completions")}
success = {
    c: np.mean([bool(re.search(rf"\b({'|'.join(WORDS)})\b", row["text"].lower())) for row in rows])
    for c, rows in spoken.items()
}
effect = np.exp(pronouns.total_effect(lab)) - 1

# %% Show it
one, line = COEFFICIENTS.index(1.0), "by_layer_at_coeff_1"
table = []  # (what, published, here)
for topic in TOPICS:
    told = [(at, i, 1.0, published[line][topic][at]) for at, i in zip(theirs, layers, strict=True)]
    for at, i in ((6, six), (16, sixteen)):
        curve = published["by_coeff"][f"layer_{at}"][topic]
        by_coefficient = dict(zip(curve["coeff"], curve["ratio"], strict=True))
        told += [(at, i, c, by_coefficient[c]) for c in (-1.0, 2.0, 3.0, 4.0)]
    for at, i, c, value in told:
        what = f"perplexity ratio, {topic}, layer {i} (theirs {at}), c {c:g}"
        table.append((what, value, ratios[i, topic][COEFFICIENTS.index(c)]))
table += [
    (f"completions about weddings, layer {six} (theirs 6), c 1", 0.90, success[1.0]),
    ("completions about weddings, unsteered", 0.02, success[0.0]),
    ("total effect of gender (theirs on Winogender's templates)", VIG.get(lab.model_name, float("nan")), effect.mean()),
]
figure = figures.dots(
    lab.folder / "11_perplexity",
    {f"{topic}, {whose}": (x, y) for topic in TOPICS for whose, x, y in (
        ("published for GPT-2 XL", np.arange(48) / 48, published[line][topic]),
        ("here", np.array(layers) / depth, [ratios[i, topic][one] for i in layers]),
    )},
    xlabel="relative depth of the layer", ylabel="perplexity, steered / unsteered", joined=True,
    caption='" weddings" less "", coefficient 1. The published texts are other texts on the same topics.',
)  # fmt: skip
asked = [{"prompt": PROMPT}]
lab.save(
    title="11. Published numbers",
    question="Does this code measure on GPT-2 checkpoints what others published?",
    protocol=f"Perplexity of two texts of this project, the injected positions left out; {count} completions of {PROMPT!r}, T 1, top-p .3, frequency penalty 1. Published "
    "values are of GPT-2 XL (Turner et al. 2023; Vig et al. 2020 by size); for another size layers are matched by relative depth.",
    finding=f"Completions about weddings: {success[1.0]:.0%} with the vector, {success[0.0]:.0%} without (published: over 90 %, about 2 %). Largest difference of a perplexity ratio "
    f"from the published: {max(abs(ours - theirs) for name, theirs, ours in table if name.startswith('perplexity')):.3f}.",
    receipt=protocol.receipt(lab, asked, vector, six, where="front"),
    figures=[figure],
    tables=[{
        "caption": "Published, here, and the difference.",
        "columns": ["what", "published", "here", "difference"],
        "rows": [[name, f"{theirs:.3f}", f"{ours:.3f}", f"{ours - theirs:+.3f}"] for name, theirs, ours in table],
    }, {
        "caption": "Completions without and with the vector.",
        "columns": ["without", "with"],
        "rows": [[a["text"], b["text"]] for a, b in zip(spoken[0.0][:8], spoken[1.0][:8], strict=True)],
    }],
)  # fmt: skip

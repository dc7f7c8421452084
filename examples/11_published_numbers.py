"""Published numbers: what others measured on GPT-2 checkpoints, measured again and set beside theirs.

    python examples/11_published_numbers.py --model gpt2-xl     (needs a GPT-2 checkpoint; does nothing on nano)

Activation addition of " weddings": the perplexity of a text about weddings and of one about shipping, by layer and coefficient, and how many of
200 completions speak of weddings (Turner et al. 2023). The texts measured here are this project's, so agreement is one of shape and size, not
of digits.
"""

# %% What is measured: perplexity without the injected positions, and sampled text
import json
import re
import sys
from pathlib import Path

import numpy as np
import torch

from ministeer import Steer, extract, generate, metrics
from ministeer.lab import data, figures, protocol
from ministeer.lab.experiment import Experiment
from ministeer.prompts import pad
from ministeer.steer import resolve

DATA, TOPICS = Path(data.__file__).parent, ("weddings", "shipping")
WORDS = ("wedding", "weddings", "wed", "bride", "groom", "marry", "married", "marriage", "bridesmaid", "honeymoon")
COEFFICIENTS, PROMPT = [-1.0, 0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0], "I went up to my friend and said"
THEIRS = [0, 2, 4, 6, 10, 16, 20, 30, 40]  # layers, of 48
SAMPLED = {"max_new_tokens": 40, "top_p": 0.3, "frequency_penalty": 1.0}


@torch.no_grad()
def perplexities(model, tokenizer, *, vector, layer, texts):
    """Perplexity of each text at each coefficient; the first tokens, where the vector lies, do not count."""
    prompts = [tokenizer.prompt(text) for text in texts]
    ids, positions = pad(prompts)
    ids, counted, found = ids.to(model.device), positions >= len(vector["pre", layer]), []
    for c in COEFFICIENTS:
        adds = resolve(model, Steer(vector, ("pre", layer), c, "front"), prompts).adds(positions)
        found.append(metrics.perplexity(model(ids, adds=adds), ids, counted.to(ids.device)).tolist())
    return [{"perplexity": list(of_text)} for of_text in zip(*found, strict=True)]


def completions(model, tokenizer, *, vector, layer, coefficient, prompt, seeds):
    """Texts sampled as in the paper, one a seed, 50 at a time."""
    rows, ids, steer = [], tokenizer.prompt(prompt), Steer(vector, ("pre", layer), coefficient, "front")
    for some in (seeds[i : i + 50] for i in range(0, len(seeds), 50)):
        draws = [torch.Generator().manual_seed(seed) for seed in some]
        texts = generate(model, [ids] * len(some), steer=steer, generator=draws, stop=tokenizer.stop, **SAMPLED)
        rows += [{"text": tokenizer.decode(text[len(ids) :])} for text in texts]
    return rows


# %% Measure it, and set each number beside the published one of the layer at the same depth: a row each
lab = Experiment.from_command_line("11_published_numbers")
if lab.model.config.vocab_size < 50257:
    print(f"{lab.name}: not run, it needs GPT-2's vocabulary, which {lab.model_name} does not have")
    sys.exit()
published = json.loads((DATA / "published_actadd_perplexity.json").read_text("utf-8"))
texts = [(DATA / f"passage_{topic}.txt").read_text("utf-8") for topic in TOPICS]
layers = {at: round(at * lab.model.config.n_layer / 48) for at in THEIRS}
vector = lab.vector(extract.activation_addition, positive=" weddings", negative="", sites=sorted({("pre", i) for i in layers.values()}))  # fmt: skip
rows = []
for at, i in lab.progress(layers.items(), "layers"):
    curves = published["by_coeff"].get(f"layer_{at}", {})
    for topic, found in zip(TOPICS, lab.cell(perplexities, vector=vector, layer=i, texts=texts), strict=True):
        by_coefficient = dict(zip(*(curves[topic][k] for k in ("coeff", "ratio")), strict=True)) if curves else {}
        by_coefficient[1.0] = published["by_layer_at_coeff_1"][topic][at]
        for c, p in zip(COEFFICIENTS, found["perplexity"], strict=True):
            here = {
                "topic": topic,
                "layer": i,
                "theirs": at,
                "coefficient": c,
                "here": p / found["perplexity"][COEFFICIENTS.index(0.0)],
            }
            rows += [here | {"published": by_coefficient[c]}] if c and c in by_coefficient else []
settings = {"vector": vector, "layer": layers[6], "prompt": PROMPT, "seeds": [*lab.part(range(200))]}
spoken = {c: lab.cell(completions, coefficient=c, **settings) for c in lab.progress((0.0, 1.0), "completions")}
told = re.compile(rf"\b({'|'.join(WORDS)})\b")
share = {c: np.mean([bool(told.search(row["text"].lower())) for row in some]) for c, some in spoken.items()}

# %% Show it
dots = [
    {"line": f"{row['topic']}, here", "depth": row["theirs"] / 48, "ratio": row["here"]}
    for row in rows
    if row["coefficient"] == 1
]
dots += [{"line": f"{topic}, published for GPT-2 XL", "depth": at / 48, "ratio": ratio}
         for topic in TOPICS for at, ratio in enumerate(published["by_layer_at_coeff_1"][topic])]  # fmt: skip
numbers = [
    (
        f"perplexity ratio, {r['topic']}, layer {r['layer']} (theirs {r['theirs']}), c {r['coefficient']:g}",
        r["published"],
        r["here"],
    )
    for r in rows
]
numbers += [
    (f"completions about weddings, layer {layers[6]} (theirs 6), c {c:g}", theirs, share[c])
    for c, theirs in ((1.0, 0.90), (0.0, 0.02))
]
lab.save(
    title="11. Published numbers",
    question="Does this code measure on GPT-2 checkpoints what others published?",
    protocol=f"Perplexity of two texts of this project, the injected positions left out; {len(spoken[1.0])} completions of {PROMPT!r}, T 1, top-p .3, frequency penalty 1. "
    "Published values are of GPT-2 XL (Turner et al. 2023); for another size layers are matched by relative depth.",
    finding=f"Completions about weddings: {share[1.0]:.0%} with the vector, {share[0.0]:.0%} without (published: over 90 %, about 2 %). Largest difference of a perplexity ratio "
    f"from the published: {max(abs(row['here'] - row['published']) for row in rows):.3f}.",
    receipt=protocol.receipt(lab, [{"prompt": PROMPT}], vector, layers[6], where="front"),
    figures=[figures.dots(lab.folder / "11_perplexity", dots, x="depth", y="ratio", by="line", joined=True, xlabel="relative depth of the layer", ylabel="perplexity, steered / unsteered",
                          caption='" weddings" less "", coefficient 1. The published texts are other texts on the same topics.')],
    tables=[{"caption": "Published, here, and the difference.", "columns": ["what", "published", "here", "difference"],
             "rows": [[name, f"{theirs:.3f}", f"{ours:.3f}", f"{ours - theirs:+.3f}"] for name, theirs, ours in numbers]},
            {"caption": "Completions without and with the vector.", "columns": ["without", "with"], "rows": [[a["text"], b["text"]] for a, b in zip(*(some[:8] for some in spoken.values()))]}],
)  # fmt: skip

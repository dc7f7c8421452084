"""Published numbers: what others measured on GPT-2 checkpoints, measured again and set beside theirs.

    python examples/11_published_numbers.py --model gpt2-xl     (needs a GPT-2 checkpoint; does nothing on nano)

Activation addition of " weddings": the perplexity of a text about weddings and of one about shipping, by layer and coefficient, and how many of
200 completions speak of weddings (Turner et al. 2023). The texts measured here are this project's, so they can agree in shape and size, not
in digits.
"""

# %% The vector, at the layers that lie as deep as the published ones
import sys

import numpy as np

from ministeer import extract
from ministeer.lab import figures, protocol, published, texts
from ministeer.lab.experiment import Experiment

COEFFICIENTS, PROMPT = [-1.0, 0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0], "I went up to my friend and said"
THEIRS, DEPTH = [0, 2, 4, 6, 10, 16, 20, 30, 40], 48  # layers of GPT-2 XL, of so many

lab = Experiment.from_command_line("11_published_numbers")
if lab.model.config.vocab_size < 50257:
    print(f"{lab.name}: not run, it needs GPT-2's vocabulary, which {lab.model_name} does not have")
    sys.exit()
layers = {theirs: round(theirs * lab.model.config.n_layer / DEPTH) for theirs in THEIRS}
sites = sorted({("pre", i) for i in layers.values()})
vector = lab.vector(extract.activation_addition, positive=" weddings", negative="", sites=sites)

# %% Perplexity by layer and coefficient, a row for each that was published too
rows, settings = [], {"vector": vector, "texts": published.texts(), "coefficients": COEFFICIENTS}
for theirs, i in lab.progress(layers.items(), "layers"):
    measured = lab.cell(published.perplexities, layer=i, **settings)
    for topic, found in zip(published.TOPICS, measured, strict=True):
        known, here = published.ratios(topic, theirs), dict(zip(COEFFICIENTS, found["perplexity"], strict=True))
        at = {"topic": topic, "layer": i, "theirs": theirs}
        rows += [
            {**at, "coefficient": c, "published": known[c], "here": p / here[0.0]}
            for c, p in here.items() if c and c in known
        ]  # fmt: skip

# %% How many completions speak of weddings
asked = [[PROMPT, seed] for seed in lab.part(range(200))]
fifties = [{"vector": vector, "layer": layers[6], "asked": asked[i : i + 50]} for i in range(0, len(asked), 50)]
spoken = {
    c: [row for some in fifties for row in lab.cell(texts.completions, coefficient=c, **some)]
    for c in lab.progress((0.0, 1.0), "completions")
}
share = {c: np.mean([published.about_weddings(row["text"]) for row in some]) for c, some in spoken.items()}

# %% Show it
dots = [{"line": f"{r['topic']}, here", "depth": r["theirs"] / DEPTH, "ratio": r["here"]} for r in rows if r["coefficient"] == 1]  # fmt: skip
dots += [{"line": f"{topic}, published for GPT-2 XL", "depth": at / DEPTH, "ratio": ratio}
         for topic in published.TOPICS for at, ratio in published.ratios(topic).items()]  # fmt: skip
table = [{"what": f"perplexity ratio, {r['topic']}, layer {r['layer']} (theirs {r['theirs']}), c {r['coefficient']:g}", "published": r["published"], "here": r["here"]} for r in rows]  # fmt: skip
table += [{"what": f"completions about weddings, layer {layers[6]} (theirs 6), c {c:g}", "published": theirs, "here": share[c]} for c, theirs in published.SPOKEN.items()]  # fmt: skip
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
    tables=[
        figures.table([{**row, "difference": float(row["here"] - row["published"])} for row in table], digits=3, caption="Published, here, and the difference."),
        {"caption": "Completions without and with the vector.", "columns": ["without", "with"], "rows": [[a["text"], b["text"]] for a, b in zip(*(some[:8] for some in spoken.values()))]},
    ],
)  # fmt: skip

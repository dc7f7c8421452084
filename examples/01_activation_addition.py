"""Activation addition: does "Love" - "Hate", added to the stream at the start of a prompt, make what follows kinder?

    python examples/01_activation_addition.py --model nano        (`make reproduce` runs it; seconds on nano)

Expected: in early and middle layers the valence of the next word rises with the coefficient so long as that is small, and random
vectors of equal norm do nothing of the kind.
"""

# %% What is read: the valence of the next word, and sampled text
import torch

from ministeer import Steer, extract, generate, metrics, prefill
from ministeer.lab import data, figures, protocol
from ministeer.lab.experiment import Experiment

PROMPTS = [f"{thing} is" for thing in ("The world", "My life", "Our home", "This garden", "This letter", "My job")]
PROMPTS += ["Today I am", "I feel", "We are", "You are", "I think you are", "I went to the school and it was"]
COEFFICIENTS = [-10.0, -5.0, -2.0, 0.0, 2.0, 5.0, 10.0]


def valence(model, tokenizer, *, vector, layer, coefficients, prompts, pleasant, unpleasant):
    """log p(the next word is pleasant) - log p(it is unpleasant) after each prompt, in nats, for each coefficient."""
    words = [[i[0] for w in group if len(i := tokenizer.encode(f" {w}")) == 1] for group in (pleasant, unpleasant)]
    ids = [[tokenizer.bos, *tokenizer.encode(prompt)] for prompt in prompts]
    steers = [Steer(vector, ("pre", layer), c, where="front") for c in coefficients]
    return [{"valence": metrics.log_odds(prefill(model, ids, None, [s]), *words).tolist()} for s in steers]


def completions(model, tokenizer, *, vector, layer, coefficients, prompts, seed, max_new_tokens):
    """Of each prompt, a text sampled as in the ActAdd paper at each coefficient: one batch, a coefficient a row."""
    ids = [[tokenizer.bos, *tokenizer.encode(prompt)] for prompt in prompts for _ in coefficients]
    steer = Steer(vector, ("pre", layer), [c for _ in prompts for c in coefficients], where="front")
    texts = generate(
        model, ids, steer=steer, max_new_tokens=max_new_tokens, top_p=0.3, frequency_penalty=1.0,
        generator=[torch.Generator().manual_seed(seed) for _ in ids], stop=tokenizer.stop,
    )  # fmt: skip
    found = iter(tokenizer.decode(text[len(i) :]) for text, i in zip(texts, ids, strict=True))
    return [{"prompt": prompt, "texts": [next(found) for _ in coefficients]} for prompt in prompts]


# %% Measure it
lab = Experiment.from_command_line("01_activation_addition")
depth = lab.model.config.n_layer
layer = max(1, depth // 8)  # 6 of GPT-2 XL's 48, as published
layers = sorted({*range(0, depth, max(1, depth // 12)), layer})
prompts, seeds = lab.part(PROMPTS), lab.part(range(5))
vector = lab.vector(extract.activation_addition, positive="Love", negative="Hate", sites=[("pre", i) for i in layers])
vectors = {"Love - Hate": vector, **{f"random {s}": extract.random_like(vector, seed=s) for s in seeds}}
pleasant, unpleasant = ([w["word"] for w in data.read("valence.tsv", sign=sign)] for sign in ("1", "-1"))
settings = {"coefficients": COEFFICIENTS, "prompts": prompts, "pleasant": pleasant, "unpleasant": unpleasant}
measured = {}  # (vector, layer) -> one list of valences, a prompt each, for each coefficient
for i in lab.progress(layers, "layers"):
    for name, v in vectors.items():
        measured[name, i] = [r["valence"] for r in lab.cell(valence, vector=v, layer=i, **settings)]
shown = {"coefficients": [-5.0, -2.0, 0.0, 2.0, 5.0], "prompts": prompts[-5:]}
samples = lab.cell(completions, vector=vector, layer=layer, seed=0, max_new_tokens=20, **shown)

# %% Show it
plus, minus = COEFFICIENTS.index(5.0), COEFFICIENTS.index(-5.0)
effects = {key: [a - b for a, b in zip(v[plus], v[minus], strict=True)] for key, v in measured.items()}
real = [metrics.bootstrap(effects["Love - Hate", i], seed=0) for i in layers]
chance = [figures.spread([sum(effects[f"random {s}", i]) / len(prompts) for s in seeds]) for i in layers]
(mean, low, high), random = real[layers.index(layer)], chance[layers.index(layer)]
curves = {name: [metrics.bootstrap(x, seed=0) for x in measured[name, layer]] for name in ("Love - Hate", "random 0")}
coefficients = figures.lines(
    lab.folder / "01_coefficients", COEFFICIENTS, curves, xlabel="coefficient", ylabel="valence of the next word (nats)",
    caption=f"Layer {layer}, {len(prompts)} prompts, 95 % bootstrap intervals over prompts.",
)  # fmt: skip
sweep = figures.lines(
    lab.folder / "01_layers", layers, {"Love - Hate": real, f"random, all of {len(seeds)}": chance},
    xlabel="layer whose input is steered", ylabel="effect of +5 against -5 (nats)",
    caption=f"The vector is read and added at the same layer. Bands: 95 % over prompts; the range of the {len(seeds)} random vectors.",
)  # fmt: skip
asked = [{"prompt": prompt} for prompt in prompts]
lab.save(
    title="1. Activation addition: Love - Hate",
    question="Does the difference between two words, added at the start of a prompt, change the valence of what follows?",
    protocol=f"Stream over 'Love' minus stream over 'Hate', added once to the first positions of {len(prompts)} prompts; "
    f"log-odds of pleasant against unpleasant next words; {len(seeds)} random vectors of equal norm; 95 % bootstrap over prompts.",
    finding=f"At layer {layer}, coefficient 5 against -5 moves the valence of the next word by {mean:.2f} nats "
    f"[{low:.2f}, {high:.2f}]; {len(seeds)} random vectors by {random[1]:.2f} to {random[2]:.2f}.",
    receipt=protocol.receipt(lab, asked, vector, layer, 5.0, where="front"),
    figures=[coefficients, sweep],
    tables=[{
        "caption": f"Sampled text by coefficient at layer {layer} (top-p 0.3, frequency penalty 1, seed 0).",
        "columns": ["prompt", *(f"{c:+g}" for c in shown["coefficients"])],
        "rows": [[row["prompt"], *row["texts"]] for row in samples],
    }],
)  # fmt: skip

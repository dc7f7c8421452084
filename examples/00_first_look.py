"""A first look: one vector, three beginnings, three strengths. Nothing is measured here; the other experiments do that.

    python examples/00_first_look.py --model nano     (`make reproduce` begins with it; seconds on any model)

Expected: subtracting the vector makes the texts darker, adding it brighter; either way they stay English.
"""

# %% A vector: what the model holds over happy texts, less what it holds over sad ones, above the middle
from ministeer import Receipt, Steer, extract, interventions, prefill, say
from ministeer.lab.experiment import Experiment

MOODS = [
    ("I feel happy.", "I feel sad."),
    ("I love the song.", "I hate the song."),
    ("I love the river.", "I hate the river."),
]
BEFORE, PROMPTS = ["Our home is", "This garden is", "We are"], ["I think you are", "The world is", "My life is"]
SHARES = [-0.15, 0.0, 0.15]  # of the stream's length

lab = Experiment.from_command_line("00_first_look")
site = ("pre", lab.model.config.n_layer * 5 // 8)
pairs = [(f"{happy} {text}", f"{sad} {text}") for happy, sad in MOODS for text in BEFORE]
vector = lab.vector(extract.contrastive, pairs=pairs, token="last", sites=[site])


# %% The likeliest text after each beginning, with so much of the vector added at every token
def said(model, tokenizer, *, vector, site, prompt, share):
    steer = Steer(interventions.relative(vector[tuple(site)]), tuple(site), share) if share else None
    return [{"text": say(model, tokenizer, prompt, max_new_tokens=20, steer=steer)}]


rows = [
    [prompt, *(lab.cell(said, vector=vector, site=site, prompt=prompt, share=share)[0]["text"] for share in SHARES)]
    for prompt in lab.progress(PROMPTS, "texts")
]

# %% Show it
prefill(lab.model, [lab.tokenizer.prompt(prompt) for prompt in PROMPTS],
        steer=Steer(interventions.relative(vector[site]), site, SHARES[-1]), receipt=(receipt := Receipt()))  # fmt: skip
shown = {"columns": ["prompt", *(f"{share:+g}" if share else "unsteered" for share in SHARES)], "rows": rows,
         "caption": f"The likeliest text; at {site}, shares of the stream's length are added at every token."}  # fmt: skip
lab.save(
    title="0. A first look",
    question="What does adding a vector look like?",
    protocol=f"The mean over {len(pairs)} pairs of texts of the stream over the last token of the happy one less that of the sad one, added at every token. Layer, strength and beginnings were picked.",
    finding=" ".join(f'{name}: "{PROMPTS[1]}{text}".' for name, text in zip(("Subtracted", "Unsteered", "Added"), rows[1][1:])).replace("\n", " "),
    receipt=receipt,
    samples=shown,
    tables=[shown],
)  # fmt: skip

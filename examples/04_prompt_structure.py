"""Prompt structure: does a vector taken from prompts of one structure work in prompts of another?

    python examples/04_prompt_structure.py --model nano     (`make reproduce` runs it; half a minute on nano)

Two matrices, a row for the structure that a vector is taken from, a column for the one it is added in: antonym vectors in few-shot
structures ("Q: big A:", "big -> ", ...), and the honesty vector in frames around a scenario (quoted, in a letter, ...). Every vector is
added at the same dose, a share of the stream's norm. Structures in which the model itself cannot do the task do not count.
Expected on nano: in structures of its training text a vector gives 2 nats wherever it is from, five demonstrations 2.8, random ones
-1.4. In the one other structure that nano knows, brackets, demonstrations give 3 nats and no vector gives any.
"""

# %% In which structures does the model know the task? Five demonstrations against none, held-out pairs
from ministeer import extract
from ministeer.lab import antonyms, data, figures, protocol, values
from ministeer.lab.antonyms import SHOWN
from ministeer.lab.experiment import Experiment

SHOTS, ASKED, VALUE, EVERY = 5, 60, "honesty", 4  # random vectors take every fourth pair, others in each structure

lab = Experiment.from_command_line("04_prompt_structure")
SEEDS = list(lab.part(range(3)))
neutral = data.read("structures.tsv", kind="neutral")
kinds = {r["structure"]: kind for kind in ("seen", "unseen") for r in [r for r in neutral if r["split"] == kind][::2]}
bare = {s: antonyms.asked(lab, s, "heldout", ASKED) for s in kinds}
able = {s: antonyms.ability(lab, bare[s], antonyms.asked(lab, s, "heldout", ASKED, shots=SHOTS)) for s in kinds}
known = [s for s in kinds if not antonyms.unknown(able[s])]
void = antonyms.unknown([row for s in kinds for row in able[s]])
where = {s: {"structure": s, "kind": kinds[s]} for s in kinds}
rows = [{**row, **where[s], "vector": SHOWN, "from": ""} for s in kinds for row in able[s]]
counted = known or list(kinds)  # where none is known they are shown, but are no evidence

# %% Layer and dose on training pairs in the first of them; then the vectors of each in each: a row for each pair
layer, dose = antonyms.setting(lab, counted[0], antonyms.vector(lab, counted[0], protocol.sites(lab), seed=0))
made = {(s, seed): antonyms.vector(lab, s, [("pre", layer)], seed=seed) for s in counted for seed in SEEDS}
right = {}
for k, s in enumerate(lab.progress(counted, "vectors")):
    vectors = {f"{t} {seed}": antonyms.dosed(lab, vector, s) for (t, seed), vector in made.items()}
    own, some, randoms = {"own": vectors[f"{s} 0"]}, bare[s][k % EVERY :: EVERY], antonyms.randoms(lab, s)
    gain = antonyms.gain(lab, bare[s], vectors, [layer], [dose])[:, :, 0, 0]  # (items, vectors)
    chance = antonyms.gain(lab, some, own, [layer], [dose], randoms)[:, :, 0, 0]
    of = [{"vector": "own" if t == s else "another's", "from": t, "seed": seed} for t, seed in made]
    rows += figures.tidy(gain, "gain", item=[{**item, **where[s]} for item in bare[s]], of=of)
    of = [{"vector": "random", "from": i} for i in range(chance.shape[1])]
    rows += figures.tidy(chance, "gain", item=[{**item, **where[s]} for item in some], of=of)
    right[s] = float(antonyms.right(lab, bare[s], own, [layer], [dose]).mean())

# %% The same for a value: frames around scenarios
frames = {row["frame"]: row["text"].replace("\\n", "\n") for row in data.read("frames.tsv")}
train, held = (values.first(values.items(lab, VALUE, split)) for split in ("train", "heldout"))
at, framed, moved = values.layer(lab, VALUE, values.vector(lab, VALUE, seed=0)), {}, []
for name, frame in frames.items():
    pairs = [[frame.replace("{p}", text) for text in pair] for pair in values.contrasts(VALUE, train, "context")]
    framed[name] = lab.vector(extract.contrastive, pairs=pairs, token="last", sites=[("pre", at)])
for name, frame in frames.items():
    texts = [frame.replace("{p}", row["prompt"]) for row in train]
    there = {source: protocol.tenth(lab, vector, texts) for source, vector in framed.items()}
    slopes = values.moved(lab, held, there, [at], values.ENDS, frame=frame)[:, :, 0] @ [-0.5, 0.5]  # (items, vectors)
    of = [{"from": t, "vector": "own" if t == name else "another's"} for t in there]
    moved += figures.tidy(slopes, "slope", item=[{**item, "frame": name, "all": "frames"} for item in held], of=of)

# %% Show it
some = [row for row in rows if row["structure"] in counted]
by = {x: figures.curves(of, x=x, y="gain", by="vector", over="pair") for x, of in (("kind", some), ("structure", rows))}
by["frames"] = figures.curves(moved, x="all", y="slope", by="vector", over="scenario")


def told(x, at):
    """Each vector's mean and interval there."""
    return {way: "{:.2f} [{:.2f}, {:.2f}]".format(*of[at]) for way, of in by[x].items() if at in of}


def said(found):
    return ", ".join(f"{way} {mean}" for way, mean in found.items())


lab.save(
    title="4. Prompt structure",
    question="Does a vector taken from prompts of one structure work in prompts of another?",
    protocol=f"Antonym vectors (mean stream of lists of {SHOTS}, less that of lists of {', '.join(antonyms.TASKS[1:])}), added at the last token of prompts without demonstrations, {dose:g} tenths of the "
    f"stream's norm at layer {layer}, chosen on training pairs in {counted[0]}. {len(SEEDS)} draws of the lists; {len(bare[counted[0]])} held-out pairs, each one way round. Random vectors have the stream's covariance. "
    f"A structure counts where {SHOTS} demonstrations are answered right by half, or raise log p(opposite) by a nat.",
    finding=f"The model knows the task in {len(known)} of {len(kinds)} structures. {void and void + '. '}Gain in log p(opposite), nats, by vectors and demonstrations: "
    + "; ".join(f"{kind} structures {said(told('kind', kind))}" for kind in by["kind"]["own"]) + f". {VALUE.capitalize()} in frames, nats for a tenth: {said(told('frames', 'frames'))}.",
    receipt=protocol.receipt(lab, bare[s], vectors[f"{s} 0"], layer, dose),
    figures=[
        figures.matrix(lab.folder / "04_structures", [r for r in some if r["from"] in counted], x="structure", y="from", value="gain", xlabel="added in", ylabel="taken from", unit="gain in log p(opposite), nats",
                       caption=f"Does it matter where a vector is from (rows), or only where it goes (columns)? Layer {layer}, {dose:g} tenths."),
        figures.matrix(lab.folder / "04_frames", moved, x="frame", y="from", value="slope", xlabel="added in", ylabel="taken from", unit="steerability, nats for a tenth",
                       caption=f"The same for the {VALUE} vector at layer {at}, {len(held)} held-out scenarios."),
    ],
    tables=[figures.table([
        {"structure": s, "kind": kinds[s], **told("structure", s), "right: demonstrations": sum(row["right"] for row in able[s]) / len(able[s]), "right: own": right.get(s, "")}
        for s in [*counted, *(s for s in kinds if s not in counted)]
    ], caption="Gain in log p(opposite), nats, and the share of likeliest tokens that begin an opposite.")],
    evidence=antonyms.structure_claims(rows, known, void),
)  # fmt: skip

"""Prompt structure: does a vector taken from prompts of one structure work in prompts of another?

    python examples/04_prompt_structure.py --model nano     (`make reproduce` runs it; half a minute on nano)

Antonym vectors from lists in one structure ("Q: big A:", "big -> ", ...) are added in every other, the honesty vector in frames around
a scenario (quoted, in a letter, ...), all at one share of the stream's norm. Structures where the model fails at the task do not count.
Expected on nano: in structures of its training text a vector from anywhere adds 2 nats, demonstrations 2.8, random vectors -1.4.
In the one other structure that nano knows, brackets, demonstrations add 3 nats and no vector any.
"""

# %% In which structures does the model know the task? Five demonstrations against none, held-out pairs
from ministeer import extract
from ministeer.lab import antonyms, data, figures, protocol, values
from ministeer.lab.antonyms import SHOWN
from ministeer.lab.experiment import Experiment

SHOTS, ASKED, VALUE = 5, 48, "honesty"
lab = Experiment.from_command_line("04_prompt_structure")
SEEDS = list(lab.part(range(3)))
kinds = {}  # four structures of nano's training text and four others
for kind in ("seen", "unseen"):
    kinds |= {row["structure"]: kind for row in data.read("structures.tsv", kind="neutral", split=kind)[:8:2]}
bare = {s: antonyms.asked(lab, s, "heldout", ASKED) for s in kinds}
able = {s: antonyms.ability(lab, bare[s], antonyms.asked(lab, s, "heldout", ASKED, shots=SHOTS)) for s in kinds}
known = [s for s in kinds if not antonyms.unknown(able[s])]
void = antonyms.unknown([row for s in kinds for row in able[s]])
rows = [{**row, "structure": s, "vector": SHOWN, "from": ""} for s in kinds for row in able[s]]
counted = known or list(kinds)  # where none is known they are shown, but are no evidence

# %% Layer and dose on training pairs in the first of them; then vectors of each in each: a row for each pair
layer, dose = antonyms.setting(lab, counted[0], antonyms.vector(lab, counted[0], protocol.sites(lab), seed=0))
made = {(s, seed): antonyms.vector(lab, s, [("pre", layer)], seed=seed) for s in counted for seed in SEEDS}
for s in lab.progress(counted, "vectors"):
    vectors = {f"{t} {seed}": antonyms.dosed(lab, vector, s) for (t, seed), vector in made.items()}
    of = {f"{t} {seed}": {"vector": "own" if t == s else "another's", "from": t, "seed": seed} for t, seed in made}
    measured = antonyms.measured(lab, bare[s], vectors, [layer], dose)
    rows += [{**row, **of[row["vector"]], "structure": s} for row in measured]
    randoms = antonyms.randoms(lab, s)
    gain = antonyms.gain(lab, bare[s], {"own": vectors[f"{s} 0"]}, [layer], [dose], randoms)[:, :, 0, 0]
    random = [{"structure": s, "vector": "random", "from": i} for i in range(gain.shape[1])]
    rows += figures.tidy(gain, "gain", item=bare[s], of=random)

# %% The same for a value: frames around scenarios
frames = {row["frame"]: row["text"].replace("\\n", "\n") for row in data.read("frames.tsv")}
train, held = (values.first(values.items(lab, VALUE, split))[::2] for split in ("train", "heldout"))
at, framed, moved = values.layer(lab, VALUE, values.vector(lab, VALUE, seed=0)), {}, []
for name, frame in frames.items():
    pairs = [[frame.replace("{p}", text) for text in pair] for pair in values.contrasts(VALUE, train, "context")]
    framed[name] = lab.vector(extract.contrastive, pairs=pairs, token="last", sites=[("pre", at)])
for name, frame in frames.items():
    texts = [frame.replace("{p}", row["prompt"]) for row in train]
    there = {source: protocol.tenth(lab, vector, texts) for source, vector in framed.items()}
    slope = values.halves(lab, held, there, at, frame=frame)  # (items, vectors)
    moved += figures.tidy(slope[None], "slope", frame=[name], item=held, of=[{"from": t} for t in framed])


# %% Show it
def told(way, some):
    return antonyms.told([row for row in rows if row["vector"] == way and row["structure"] in some])


ways, groups = ("own", "another's", "random", SHOWN), {k: [s for s in counted if kinds[s] == k] for k in kinds.values()}
lab.save(
    title="4. Prompt structure",
    question="Does a vector taken from prompts of one structure work in prompts of another?",
    protocol=f"Antonym vectors (mean stream of lists of {SHOTS}, less that of {', '.join(antonyms.TASKS[1:])}) at the last token of {len(bare[s])} held-out pairs without demonstrations, {dose:g} tenths of the stream's norm at layer {layer}, "
    f"chosen on training pairs in {counted[0]}. {len(SEEDS)} draws of the lists. Random vectors have the stream's covariance. Seen: in nano's training text. A structure counts where {SHOTS} demonstrations are answered right by half, or add a nat.",
    finding=f"{SHOTS} demonstrations add a nat, or answer half, in {len(known)} of {len(kinds)} structures. {'' if known else void + '. '}Gain in log p(opposite), nats: "
    + "; ".join(f"{name} structures: {', '.join(f'{way} {told(way, some)}' for way in ways)}" for name, some in groups.items() if some) + ".",
    receipt=protocol.receipt(lab, bare[s], vectors[f"{s} 0"], layer, dose),
    figures=[
        figures.matrix(lab.folder / "04_structures", [r for r in rows if r["from"] in counted], x="structure", y="from", value="gain", xlabel="added in", ylabel="taken from", unit="gain in log p(opposite), nats",
                       caption=f"Does it matter where a vector is from (rows), or only where it goes (columns)? Layer {layer}, {dose:g} tenths."),
        figures.matrix(lab.folder / "04_frames", moved, x="frame", y="from", value="slope", xlabel="added in", ylabel="taken from", unit="steerability, nats for a tenth",
                       caption=f"The same for the {VALUE} vector at layer {at}, {len(held)} held-out scenarios."),
    ],
    tables=[figures.table([{"structure": s, "kind": kinds[s], **{w: told(w, [s]) for w in ways if w == SHOWN or s in counted}} for s in [*counted, *(s for s in kinds if s not in counted)]],
                          caption="Gain in log p(opposite), nats; right: the likeliest token begins an opposite.")],
    evidence=antonyms.structure_claims(rows, known, void),
)  # fmt: skip

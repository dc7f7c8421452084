"""An atlas of what steers: 135 public behaviours. Which can be steered, and does a vector's health, known before, tell which?

    make atlas MODEL=smollm2-135m-instruct       (or python examples/12_public_behaviours.py --model ... --data FOLDER, a copy at hand)

The behaviours are the persona sets of Perez et al. 2022, where Tan et al. 2024 found that 3 to 50 % of a set's items move the wrong way; they
are downloaded, 47 MB, at one commit. For each, 60 pairs of statements make a vector, and it has to move 30 others; one of a pair is said by those who
behave so, one by others. nano cannot say them. Needs the network once; about 70 minutes for SmolLM2 on two free cores, `--subset quick`
takes every eighth behaviour. A run that was cut off goes on after the last behaviour that was done. `--plain --results results/atlas-plain` leaves the
chat template out.
Expected: steerability differs tenfold and more between behaviours. The claims' thresholds are in `ministeer/lab/atlas.py`, fixed before any run.
"""

# %% The behaviours
import json

from ministeer.files import write_text
from ministeer.lab import atlas, atlas_page, behaviours, figures, persona
from ministeer.lab.experiment import Experiment

lab = Experiment.from_command_line(atlas.EXPERIMENT, behaviours.options())
if lab.options.plain:
    lab.tokenizer.chat_template = None  # statements then begin a text
names = persona.names()[:: 8 if lab.quick else 1]
split = behaviours.asked(names, lab)

# %% Of each: the vector of its training pairs at four layers, one of them chosen on training pairs; then what moves the held-out pairs
layers, rows = behaviours.layers(lab.model), []
for name in lab.progress(names, "behaviours"):
    training, held_out, dropped = split[name]
    found = lab.cell(
        behaviours.measured, training=training, held_out=held_out, layers=layers, randoms=behaviours.RANDOM
    )
    rows += behaviours.summary(name, found, dropped)

# %% Do agreement and separation of the training statements tell which behaviours can be steered?
chosen = [row for row in rows if row["chosen"]]
verdicts = atlas.verdicts(rows)
for verdict in verdicts:
    print(f"{verdict.word:>19}  {verdict.claim.sentence}: {verdict.reason}")

# %% Show it
ordered = sorted(chosen, key=lambda row: row["steerability"])
least, middle, most = (ordered[k] for k in (0, len(ordered) // 2, -1))
random = {name: sum(row[name] for row in chosen) / len(chosen) for name in chosen[0] if name.startswith("random")}
wrong = sum(row["wrong"] > 0.5 for row in chosen)
finding = (
    f"Nats for a tenth of the stream's norm: from {least['steerability']:+.2f} ({least['behaviour']}) over {middle['steerability']:+.2f} to {most['steerability']:+.2f} "
    f"({most['behaviour']}); {sum(row['wrong'] for row in chosen) / len(chosen):.0%} of pairs move the wrong way, {wrong or 'no'} behaviour{'s' if wrong > 1 else ''} as a whole. "
    f"Random vectors move by {random['random covariance']:.2f} (of the stream's covariance) and {random['random isotropic']:.2f}."
)
if lab.options.beside:
    finding += " " + atlas.alike(rows, json.loads(lab.options.beside.read_text()))
protocol = (
    f"{len(chosen)} persona sets of Perez et al. 2022 (anthropics/evals, commit {persona.COMMIT[:10]}). Vector: mean over the tokens of {behaviours.TRAINING} statements that match less that of as "
    f"many others, {'after a question in the chat template' if lab.tokenizer.chat_template else 'as plain text'}; added at every token, a tenth of the stream's norm and minus as much. Outcome: half the "
    f"difference in log p(matching) - log p(other), whole statements, {behaviours.HELD_OUT} held-out pairs. Layers {', '.join(map(str, layers))}; the one is chosen where a vector of "
    "three quarters of the training pairs moves the last quarter most. Statements of a set resemble each other, so held out means another sentence, not another subject."
)
tables = [
    figures.table(atlas.correlations(rows), caption="Rank correlations at each layer, beside what the claims rest on."),
    figures.table(rows, caption="Every behaviour at every layer."),
]
lab.save(
    title="12. Public behaviours",
    question="Which of 135 public behaviours can be steered, and does a vector's health tell which?",
    protocol=protocol,
    finding=" ".join([finding, *(f"{v.claim.sentence}: {v.word}." for v in verdicts)]),
    receipt=behaviours.receipt(lab.model, lab.tokenizer, split[most["behaviour"]][0], most["layer"]),
    tables=tables,
)
write_text(lab.folder / "rows.json", json.dumps(rows, indent=0) + "\n")
about = [f"Measured on {lab.model_name}. {finding}", protocol]
write_text(lab.folder / "atlas.html", atlas_page.atlas(f"What steers {lab.model_name}", about, rows, verdicts, tables))
print(f"{lab.name}: {lab.folder / 'atlas.html'}, {lab.folder / 'rows.json'}")

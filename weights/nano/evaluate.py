"""Measure what nano can do: `python weights/nano/evaluate.py [--model DIR] [--json FILE] [--samples 20]`.

Each ability stands beside the requirement it was trained for. Facts, seen templates and seen scenarios are recall: the text
has their sentences. Lists are new combinations of demonstrations and query; held-out pairs, scenarios and templates are
not in the text (`corpus.py --heldout`). Prompts are opened by <|endoftext|>, as every training document is.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from dataclasses import asdict, dataclass
from pathlib import Path

import kinds
import lexicon as lx
import torch
from torch import Tensor

from ministeer.checkpoint import load
from ministeer.generate import generate, prefill
from ministeer.lab.data import few_shot_text, read
from ministeer.model import GPT2
from ministeer.tokenizer import Tokenizer

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Ability:
    """One row: what was measured, on how many items, the value and the requirement ("" where there is none)."""

    name: str
    items: int
    measured: float
    required: str = ""

    def met(self) -> bool | None:
        """Whether the requirement holds; None where there is none."""
        if not self.required:
            return None
        sign, bound = self.required.split()
        return self.measured >= float(bound) if sign == ">=" else self.measured <= float(bound)


@torch.no_grad()
def next_probabilities(model: GPT2, tokenizer: Tokenizer, prompts: list[str]) -> Tensor:
    """Probabilities of the next token after each prompt (N, V), float32."""
    out = []
    for start in range(0, len(prompts), 64):
        rows = [[tokenizer.eot, *tokenizer.encode(p)] for p in prompts[start : start + 64]]
        out.append(prefill(model, rows).float().softmax(-1))
    return torch.cat(out)


def antonyms(model: GPT2, tokenizer: Tokenizer, seed: int = 0) -> list[Ability]:
    """Accuracy (is the opposite the most probable next token?) over pairs, both directions, by structure and demonstrations."""
    rng = random.Random(seed)
    rows = read("antonyms.tsv")
    pairs = {split: [p for r in rows if r["split"] == split for p in ((r["word"], r["antonym"]), (r["antonym"], r["word"]))]
             for split in ("train", "heldout")}  # fmt: skip
    forms = {s: [r["structure"] for r in read("structures.tsv") if r["split"] == s and r["kind"] == "neutral"]
             for s in ("seen", "unseen")}  # fmt: skip

    def score(name: str, split: str, shots: int, shuffled: bool = False, queries: int = 60) -> Ability:
        prompts, answers = [], []
        for x, y in rng.sample(pairs[split], queries):
            shown = rng.sample([p for p in pairs["train"] if x not in p], shots)
            if shuffled:
                labels = [b for _, b in shown]
                shown = [(a, labels[(i + 1) % shots]) for i, (a, _) in enumerate(shown)]
            prompt, space = few_shot_text(name, shown, x)
            prompts.append(prompt)
            answers.append(tokenizer.single(space + y))
        guess = next_probabilities(model, tokenizer, prompts).argmax(-1)
        return Ability(
            f"antonyms, five-shot, {name}", len(prompts), (guess == torch.tensor(answers)).float().mean().item()
        )

    def together(text: str, parts: list[Ability], required: str = "") -> Ability:
        return Ability(text, sum(p.items for p in parts), sum(p.measured for p in parts) / len(parts), required)

    each = {s: [score(name, "train", 5) for name in forms[s]] for s in forms}
    seen = forms["seen"]
    return [
        together("antonyms, five-shot, seen structures", each["seen"], ">= 0.90"),
        together(
            "antonyms, five-shot, seen structures, held-out pairs",
            [score(n, "heldout", 5) for n in seen],
            ">= 0.90",
        ),
        together("antonyms, five-shot, unseen structures", each["unseen"]),
        together("antonyms, ten-shot, seen structures", [score(n, "train", 10, queries=30) for n in seen]),
        together("antonyms, zero-shot (prior), seen structures", [score(n, "train", 0) for n in seen], "<= 0.30"),
        together(
            "antonyms, five-shot, labels shuffled, seen structures",
            [score(n, "train", 5, shuffled=True) for n in seen],
            "<= 0.60",
        ),
        *each["seen"],
        *each["unseen"],
    ]


def facts(model: GPT2, tokenizer: Tokenizer) -> list[Ability]:
    rows = read("facts.tsv")
    probabilities = next_probabilities(model, tokenizer, [r["prompt"] for r in rows])
    right = torch.tensor([tokenizer.single(" " + r["right"]) for r in rows])
    return [
        Ability(
            "facts (most probable next token)",
            len(rows),
            (probabilities.argmax(-1) == right).float().mean().item(),
            ">= 0.98",
        )
    ]


def pronouns(model: GPT2, tokenizer: Tokenizer) -> list[Ability]:
    """Share of he among he and she, on pronoun templates of both splits."""
    he, she = tokenizer.single(" he"), tokenizer.single(" she")

    def share(prompts: list[str]) -> Tensor:
        p = next_probabilities(model, tokenizer, prompts)
        return p[:, he] / (p[:, he] + p[:, she])

    def texts(nouns: list[str], split: str) -> list[str]:
        rows = [r["template"] for r in read("pronoun_templates.tsv") if r["split"] == split]
        return [t.replace("{X}", noun).replace("{Y}", "visitor") for t in rows for noun in nouns]

    out = []
    nouns = {r["noun"]: r["gender"] for r in read("definitional.tsv")}
    jobs = {r["occupation"]: 1 - float(r["female_share"]) for r in read("occupations.tsv") if r["split"] == "train"}
    for split, label in (("train", "seen templates"), ("heldout", "held-out templates")):
        prompts = texts(list(nouns), split)
        want = torch.tensor([g == "male" for g in nouns.values()]).repeat(len(prompts) // len(nouns))
        right = (share(prompts) > 0.5) == want
        out.append(Ability(f"definitional pronouns, {label}", len(prompts), right.float().mean().item(), ">= 0.99"))
        prompts = texts(list(jobs), split)
        error = share(prompts).view(-1, len(jobs)) - torch.tensor(list(jobs.values()))  # (templates, jobs)
        mean = error.mean(0).abs().mean().item()
        out.append(Ability(f"occupations: error of the share, mean of {label}", len(prompts), mean, "<= 0.05"))
        out.append(Ability(f"occupations: error of the share, one of {label}", len(prompts), error.abs().mean().item()))
    for pole, label in (("positive", "equal"), ("negative", "unequal")):
        lead = [
            r["text"]
            for r in read("contexts.tsv")
            if r["kind"] == "equality" and r["pole"] == pole and r["split"] == "train"
        ]
        prompts = [f"{lead[i % len(lead)]} {t}" for i, t in enumerate(texts(list(jobs), "train"))]
        out.append(
            Ability(
                f"occupations: mean |p(he) - 1/2| after '{label}' sentences",
                len(prompts),
                (share(prompts) - 0.5).abs().mean().item(),
            )
        )
    prompts = texts(list(jobs), "train")
    out.append(
        Ability(
            "occupations: mean |p(he) - 1/2| without context", len(prompts), (share(prompts) - 0.5).abs().mean().item()
        )
    )
    return out


def valence(model: GPT2, tokenizer: Tokenizer, seed: int = 1) -> list[Ability]:
    """Share of the consistent sign among the valence words' probability, after two sentences of one sign."""
    rng = random.Random(seed)
    tables = kinds.load_tables()
    words = [(tokenizer.single(" " + r["word"]), int(r["sign"])) for r in read("valence.tsv")]
    plus = torch.tensor([i for i, sign in words if sign > 0])
    minus = torch.tensor([i for i, sign in words if sign < 0])
    prompts, signs = [], []
    for i in range(200):
        positive, letter = i % 2 == 0, i % 4 < 2
        things = rng.sample(lx.THINGS, 3)
        n, m = rng.sample(tables.names["female"], 2)
        parts = [
            kinds.fill(rng, tables, kinds.pole(t, positive), positive, n, m, things)
            for t in rng.sample(lx.LETTER if letter else lx.STORY, 2)
        ]
        prompts.append(" ".join(parts) + (" I think you are" if letter else f" {n} thinks that the {things[0]} is"))
        signs.append(positive)
    p = next_probabilities(model, tokenizer, prompts)
    good, bad = p[:, plus].sum(-1), p[:, minus].sum(-1)
    share = torch.where(torch.tensor(signs), good, bad) / (good + bad)
    return [Ability("valence: consistent share after two sentences", len(prompts), share.mean().item(), ">= 0.85")]


def values(model: GPT2, tokenizer: Tokenizer, seed: int = 2) -> list[Ability]:
    """p(consistent completion) / p(both completions) after a trait sentence and an act of the same person, each pole.

    The act ends in another word than either completion, so that repeating it does not help.
    """
    rng = random.Random(seed)
    tables = kinds.load_tables()
    rows = read("values.tsv")

    def last_clause(row: kinds.Row) -> str:
        return row["prompt"].split(". ")[-1].replace(row["person"], "{N}")

    def score(chosen: list[kinds.Row]) -> tuple[int, float]:
        prompts, wanted, other = [], [], []
        for row in chosen:
            gender = "male" if row["person"] in tables.names["male"] else "female"
            for sign, opposite in (("positive", "negative"), ("negative", "positive")):
                acts = [
                    r
                    for r in tables.values[row["value"]]
                    if r["scenario"] != row["scenario"]
                    and kinds.gender_fits(r, tables, gender)
                    and r[sign] not in (row[sign], row[opposite])
                ]
                act = rng.choice(acts)
                friend = rng.choice([n for n in tables.names["male"] if n != row["person"]])
                trait = rng.choice(tables.contexts["trait " + row["value"], sign]).replace("{N}", row["person"])
                lead = f"{trait} {kinds.rename(act['prompt'], tables, act, row['person'], friend)}{act[sign]}."
                prompts.append(f"{lead} {row['prompt']}")
                wanted.append(tokenizer.single(row[sign]))
                other.append(tokenizer.single(row[opposite]))
        p = next_probabilities(model, tokenizer, prompts)
        index = torch.arange(len(prompts))
        a, b = p[index, wanted], p[index, other]
        return len(prompts), (a / (a + b)).mean().item()

    out = []
    for value in sorted(tables.values):
        mine = [r for r in rows if r["value"] == value]
        out.append(Ability(f"{value}: seen scenarios", *score([r for r in mine if r["split"] == "train"]), ">= 0.85"))
        out.append(
            Ability(f"{value}: held-out scenarios", *score([r for r in mine if r["split"] == "heldout"]), ">= 0.70")
        )
    held = [r for r in rows if r["split"] == "heldout"]
    for level in ("plain", "short", "complex"):
        out.append(
            Ability(f"all values: held-out scenarios, {level}", *score([r for r in held if r["level"] == level]))
        )
    known = {(r["value"], last_clause(r)) for r in rows if r["split"] == "train"}
    for word, seen in (("seen", True), ("new", False)):
        chosen = [r for r in held if ((r["value"], last_clause(r)) in known) == seen]
        out.append(Ability(f"all values: held-out scenarios whose last clause is {word}", *score(chosen)))
    return out


def measure(model: GPT2, tokenizer: Tokenizer) -> list[Ability]:
    """Every ability, in the card's order."""
    return [a for part in (antonyms, facts, pronouns, valence, values) for a in part(model, tokenizer)]


def table(abilities: list[Ability]) -> str:
    """The abilities as a plain table; a requirement that is missed is marked."""
    lines = [f"{'ability':<64}{'items':>7}{'required':>10}{'measured':>10}"]
    for a in abilities:
        mark = "  MISSED" if a.met() is False else ""
        lines.append(f"{a.name:<64}{a.items:>7}{a.required.replace(' 0', ' '):>10}{a.measured:>10.3f}{mark}")
    return "\n".join(lines)


def samples(model: GPT2, tokenizer: Tokenizer, count: int, seed: int = 0) -> list[str]:
    """Texts of up to 60 tokens sampled from nothing but <|endoftext|>, T = 1, top-p .9."""
    rows = generate(
        model, [[tokenizer.eot] for _ in range(count)], max_new_tokens=60, temperature=1.0, top_p=0.9, stop=(tokenizer.eot,),
        generator=torch.Generator().manual_seed(seed),
    )  # fmt: skip
    return [re.sub(r"<\|endoftext\|>", "", tokenizer.decode(row)).strip() for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=HERE, help="folder of the checkpoint (default: the shipped one)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the table as JSON")
    parser.add_argument("--samples", type=int, default=0, metavar="N", help="print N sampled texts")
    args = parser.parse_args()
    model, tokenizer = load(args.model)
    abilities = measure(model, tokenizer)
    print(table(abilities))
    if args.json:
        args.json.write_text(json.dumps([asdict(a) for a in abilities], indent=1) + "\n", encoding="utf-8")
    for text in samples(model, tokenizer, args.samples) if args.samples else []:
        print("---\n" + text)


if __name__ == "__main__":
    main()

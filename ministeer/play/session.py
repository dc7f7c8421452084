"""What a page asks for -> what it shows: texts side by side, a vector's health, a grid. No web, and nothing is printed.

Each function takes what was asked as JSON and `tell`, which is called with an event (a dict) whenever there is something to show, and
returns the last event. `tell` may raise: that ends the work. A request says all that it needs, so that no page can mix with another.

Letters: T tokens, D width, P positions of a per-position vector, V vocabulary.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from ministeer import metrics
from ministeer.extract import activation_addition, contrastive
from ministeer.formats import load_gguf, save_gguf
from ministeer.generate import generate
from ministeer.layouts import write_config
from ministeer.model import Site, Transformer, expect
from ministeer.play.asked import Asked, Push, asked, entries, recipe, text
from ministeer.play.words import lines, receipt_words
from ministeer.prompts import check_room
from ministeer.provenance import data_hash
from ministeer.receipt import Receipt
from ministeer.steer import Steer, resolve
from ministeer.strength import NOISE, SHARE, fitting
from ministeer.sweep import sweep
from ministeer.tokenizer import Tokenizer
from ministeer.vectors import SteeringVector

Event = dict[str, Any]
Tell = Callable[[Event], None]
T = TypeVar("T")
KEPT = 16  # vectors and unsteered texts made last, so that a slider's move does not make them again
LIKELIEST = 5
KNOWS = {  # what a page says of a model that knows few words
    "nano": "nano is a toy that knows a few thousand words: moods, colours, opposites, and people who act well or badly. For other subjects "
    "use a real model: ministeer play --model smollm2-135m-instruct",
}
GRID = (-1.0, -0.75, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0)  # shares of the stream's norm
# what the page opens with, by whether the model is one to chat with
READY = {
    False: {"prompt": "I feel", "plus": "Love", "minus": "Hate", "word": "happy"},
    True: {"prompt": "How was your day?", "plus": "I feel very happy", "minus": "I feel very sad", "word": "I"},
}


class Session:
    """A model with its tokenizer, as `load` gave them for `name`. One call at a time; `tell` is where another may come between."""

    def __init__(self, model: Transformer, tokenizer: Tokenizer, name: str) -> None:
        self.model, self.tokenizer, self.name = model, tokenizer, name
        self._made: dict[str, tuple[SteeringVector, list[str]]] = {}  # and what was warned of in making it
        self._plain: dict[str, list[int]] = {}  # unsteered texts

    @property
    def about(self) -> Event:
        """What a page has to know to begin with."""
        chat, layers = self.tokenizer.chat_template is not None, self.model.config.n_layer
        ready = READY[chat] | {"layer": layers // 2 if chat else layers // 4, "strength": SHARE}
        return {"model": self.name, "layers": layers, "chat": chat, "ready": ready, "knows": KNOWS.get(self.name, "")}

    def run(self, given: Any, tell: Tell) -> Event:
        """A prompt continued without and with the vectors, token by token, and what is known of each token: of the whole texts, or
        of what was written of them."""
        want = asked(given, self.model.config.n_layer)
        ids = self._ids(want.prompt, want.chat)
        check_room(self.model, [ids], want.tokens)
        self._note_unknown([want.prompt], tell)
        plain = self._unsteered(ids, want, tell)
        pushes = [one for one in want.pushes if one.strength]
        steers = [self._steer(one, ids, plain, tell) for one in pushes]
        tell({"type": "steers", "coefficients": [steer.coeffs[0] for steer in steers]})
        receipt, shown, again = Receipt(), want, None
        if want.written:  # what was done is written down as it is read again
            vocabulary = self.model.config.vocab_size
            expect(
                max(want.written) < vocabulary, f"ids below {vocabulary}, the size of the vocabulary", max(want.written)
            )
            plain, steered, again = plain[: len(want.written)], list(want.written), receipt
            shown = replace(want, tokens=max(2, len(steered)))  # of a lone one nothing is read that a vector could meet
        else:
            steered = self._side_by_side(plain, ids, want, steers, receipt if steers else None, tell)
        columns = [self._tokens(ids, plain, steers, want), self._tokens(ids, steered, steers, want, again)]
        most = max((touched.largest for touched in receipt.sites.values()), default=0.0)
        if most > NOISE:
            tell({"type": "note", "message": f"What was added is up to {most:.2g} times as long as the stream: beyond {NOISE:g} what follows is often noise."})  # fmt: skip
        return {
            "type": "done",
            "columns": columns,
            "receipt": receipt_words(receipt, self.model.config.n_layer),
            "python": lines(self.name, shown, pushes, steers),
        }

    def vector(self, given: Any, tell: Tell) -> Event:
        """The health of a vector at each layer it has."""
        vector = self._vector(recipe(entries(given, "a request")), None, tell)
        layers = [
            {
                "layer": layer,
                "relative norm": health.relative_norm,
                "split half": health.split_half,
                "d'": health.separability,
                "agreement": health.agreement,
                "weak": health.weak,
            }
            for (name, layer), health in vector.health.items()
            if name == "pre"
        ]
        have = [layer for name, layer in vector.sites if name == "pre"]
        return {"type": "done", "method": vector.provenance.method, "have": have, "layers": layers}

    def saved(self, given: Any, tell: Tell) -> Event:
        """A vector as a file: `form` is "safetensors", or "gguf" for llama.cpp, which takes none below layer 2."""
        given = entries(given, "a request")
        form = given.get("form", "safetensors")
        expect(form in ("safetensors", "gguf"), "form as safetensors or gguf", repr(form)[:40])
        made = recipe(given)
        vector = self._vector(made, None, tell)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / f"{called(made)}.{form}"
            if form == "gguf":
                vector = vector.only([site for site in vector.sites if site[1] > 1])
                save_gguf(vector, file, model_hint=write_config(self.model.config)["model_type"])
            else:
                vector.save(file)
            return {"type": "done", "name": file.name, "file": base64.b64encode(file.read_bytes()).decode()}

    def grid(self, given: Any, tell: Tell) -> Event:
        """The log-odds of a word as the next token, at every layer and strength of the first vector: a row of cells a layer."""
        want = asked(given, self.model.config.n_layer)
        ids, words = self._ids(want.prompt, want.chat), self._word(text(entries(given, "a request"), "word"))
        check_room(self.model, [ids], want.tokens)
        expect(bool(want.pushes), "a vector to sweep", "none", "make one")
        plain = self._unsteered(ids, want, tell)
        others = [i for i in range(self.model.config.vocab_size) if i not in words]

        def odds_of(logits: Tensor, _prompt: int) -> Tensor:
            return metrics.log_odds(logits, words, others)

        vector, rows, where = self._vector(want.pushes[0].recipe, None, tell), [], want.pushes[0].where
        expect(where != "generated", "a vector added to the prompt", "one for new tokens only, which the very next word is before", "choose another place")  # fmt: skip
        layers = [layer for name, layer in vector.sites if name == "pre"]
        if where == "front":  # after the last attention only the prompt's last token is read
            layers = [layer for layer in layers if layer < self.model.config.n_layer]
        for layer in layers:
            one = replace(want.pushes[0], layer=layer)
            if bool(vector["pre", layer].any()):
                steer = self._steer(replace(one, strength=1.0), ids, plain, tell)
                coeffs = [share * steer.coeffs[0] for share in GRID]
                cells = sweep(self.model, [ids], odds_of, {"": steer.vector}, [layer], coeffs, where=steer.where)
                odds = [round(cell["score"], 3) for cell in cells]
            else:
                odds = [None] * len(GRID)  # the texts do not differ there
            rows.append({"layer": layer, "odds": odds})
            tell({"type": "progress", "done": len(rows), "of": len(layers), "what": "layers"})
        return {"type": "done", "strengths": GRID, "rows": rows, "words": [self.tokenizer.decode([i]) for i in words]}

    # ---- a text

    def _ids(self, prompt: str, chat: bool) -> list[int]:
        ids = self.tokenizer.prompt(prompt)
        expect(len(ids) > 1, "a prompt in characters that the model has tokens for", repr(prompt)[:40])
        return self.tokenizer.chat([{"role": "user", "content": prompt}]) if chat else ids

    def _unsteered(self, ids: list[int], want: Asked, tell: Tell) -> list[int]:
        """The new tokens of the model alone, which decide how much is added."""
        key = data_hash([str(ids), str(want.tokens), str(want.temperature), str(want.seed)])
        written: list[int] = []

        def on_token(_row: int, token: int) -> None:
            written.append(token)
            tell({"type": "progress", "done": len(written), "of": want.tokens, "what": "tokens without the vector"})

        return keep(self._plain, key, lambda: self._continued(ids, want, [], None, on_token))

    def _side_by_side(
        self, plain: Sequence[int], ids: list[int], want: Asked, steers: Sequence[Steer], receipt: Receipt | None, tell: Tell
    ) -> list[int]:  # fmt: skip
        """The new tokens of the steered model; the text of each is told as soon as it is there, and with it that of the same place in the
        unsteered text."""
        spell, spell_other, others = speller(self.tokenizer, ids), speller(self.tokenizer, ids), list(plain)

        def on_token(_row: int, token: int) -> None:
            if others:
                tell({"type": "token", "column": 0, "text": spell_other(others.pop(0))})
            tell({"type": "token", "column": 1, "text": spell(token), "id": token})

        new = self._continued(ids, want, steers, receipt, on_token)
        for token in others:
            tell({"type": "token", "column": 0, "text": spell_other(token)})
        return new

    def _continued(
        self, ids: list[int], want: Asked, steers: Sequence[Steer], receipt: Receipt | None, on_token: Any = None
    ) -> list[int]:
        return generate(
            self.model,
            ids,
            max_new_tokens=want.tokens,
            temperature=want.temperature,
            generator=torch.Generator().manual_seed(want.seed),
            stop=self.tokenizer.stop,
            steer=steers,
            receipt=receipt,
            on_token=on_token,
        )[len(ids) :]

    @torch.no_grad()
    def _tokens(
        self, ids: list[int], new: list[int], steers: Sequence[Steer], want: Asked, receipt: Receipt | None = None
    ) -> list[Event]:
        """Of each new token: its text, how likely it was to both models and what was likeliest, how far apart they were (KL, in nats),
        and how far along the vectors the unsteered model's stream lies over it (cosine, -1 to 1)."""
        new = new[:-1] if new[-1] in self.tokenizer.stop else new
        if not new:
            return []
        row, start = torch.tensor([[*ids, *new]], device=self.model.device), len(ids)
        tape: dict[Site, Any] = dict.fromkeys(steer.site for steer in steers)
        x = self.model.stream(row[:, : self.model.config.context], tape=tape or None)  # the last one may have no room
        plain = self.model.unembed(x[0, start - 1 : start - 1 + len(new)])  # (T, V)
        steered = plain
        if steers:
            plan = resolve(self.model, list(steers), [ids], want.tokens, receipt)
            adds = plan.adds(torch.arange(row.shape[1] - 1)[None])
            steered = self.model.unembed(self.model.stream(row[:, :-1], adds)[0, start - 1 :])
        apart = metrics.kl(steered, plain).tolist()
        both_p = [logits.float().softmax(-1) for logits in (plain, steered)]  # (T, V) each
        likely = [self._likeliest(p) for p in both_p]
        chance = [p.gather(1, row[0, start:, None])[:, 0].tolist() for p in both_p]
        along = [_along(tape[steer.site][0, start:], steer).tolist() for steer in steers]  # of each vector (T,)
        said = pieces(self.tokenizer, new, ids)
        return [
            {
                "text": said[i],
                "token": self.tokenizer.decode([token]),
                "kl": round(max(apart[i], 0.0), 4),
                "chance": [round(both[i], 4) for both in chance],
                "likely": [both[i] for both in likely],
                "along": [round(one[i], 4) if i < len(one) else None for one in along],
            }
            for i, token in enumerate(new)
        ]

    def _likeliest(self, p: Tensor) -> list[list[tuple[str, float]]]:
        """The likeliest tokens with their probabilities, for each row of probabilities `(T, V)`."""
        most, found = p.topk(min(LIKELIEST, p.shape[-1]))
        return [
            [(self.tokenizer.decode([i]), round(q, 4)) for i, q in zip(ids, ps, strict=True)]
            for ids, ps in zip(found.tolist(), most.tolist(), strict=True)
        ]

    def _word(self, word: str) -> list[int]:
        """The tokens that are a word, with and without the space before it."""
        found = []
        for form in dict.fromkeys((f" {word.strip()}", word.strip())):
            ids = self.tokenizer.continuation(form)
            found += ids if len(ids) == 1 else []
        split = [self.tokenizer.decode([i]) for i in self.tokenizer.continuation(f" {word.strip()}")]
        expect(bool(found), "a word that is one token of this model", f"{word!r}, which is {split}", "take a commoner one")  # fmt: skip
        return list(dict.fromkeys(found))

    # ---- a vector

    def _steer(self, one: Push, ids: list[int], plain: Sequence[int], tell: Tell) -> Steer:
        """What is added: so much that it is this share of the stream's norm where it is most, on the unsteered text."""
        site: Site = ("pre", one.layer)
        vector = self._vector(one.recipe, one.where, tell)
        have = [layer for name, layer in vector.sites if name == "pre"]
        expect(site in vector.sites, f"a layer that the vector has, {have}", one.layer, "take one of these")
        wanted = f"a prompt of {len(vector[site])} tokens or more for a vector added at the front, as its texts have"
        expect(one.where != "front" or len(vector[site]) <= len(ids), wanted, len(ids), "lengthen it, or add at every token")  # fmt: skip
        below = one.where != "front" or one.layer < self.model.config.n_layer
        expect(below, f"a layer below {self.model.config.n_layer} for a vector added at the front: after it only the prompt's last token is read", one.layer)  # fmt: skip
        steer = Steer(vector, site, 1.0, one.where)
        return replace(steer, coeff=fitting(self.model, [*ids, *plain], len(ids), steer, one.strength))

    def _vector(self, made: Mapping[str, Any], where: Any, tell: Tell) -> SteeringVector:
        """The vector that a recipe gives, at every layer; kept for the next time."""
        front = where == "front" and "plus" in made
        key = data_hash([json.dumps(made, sort_keys=True), str(front)])
        vector, notes = keep(self._made, key, lambda: self._make(made, front, tell))
        for note in notes:
            tell({"type": "note", "message": note})
        return vector

    def _make(self, made: Mapping[str, Any], front: bool, tell: Tell) -> tuple[SteeringVector, list[str]]:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            vector = self._loaded(made["file"], made["name"]) if "file" in made else self._read(made, front, tell)
        return vector, [str(warning.message) for warning in said]

    def _read(self, made: Mapping[str, Any], front: bool, tell: Tell) -> SteeringVector:
        rows = [(made["plus"], made["minus"])] if "plus" in made else [(plus, minus) for plus, minus in made["pairs"]]
        longest, context = (
            max(len(self.tokenizer.prompt(side)) for row in rows for side in row),
            self.model.config.context,
        )
        expect(longest <= context, f"texts of at most {context} tokens, the model's context", longest, "shorten them")
        self._note_unknown([side for row in rows for side in row], tell)
        if front:
            return activation_addition(self.model, self.tokenizer, *rows[0], self._sites())

        def on_batch(done: int, of: int) -> None:
            if len(rows) > 1:
                tell({"type": "progress", "done": done, "of": of, "what": "pairs"})

        return contrastive(self.model, self.tokenizer, rows, token=made.get("token", "last"), on_batch=on_batch)

    def _sites(self) -> list[Site]:
        return [("pre", layer) for layer in range(self.model.config.n_layer + 1)]

    def _note_unknown(self, texts: Sequence[str], tell: Tell) -> None:
        """Say which words a model that knows few has to spell."""
        if self.name not in KNOWS:
            return
        words = dict.fromkeys(word for text in texts for word in re.findall(r"[^\W\d_]+", text))
        spelled = [w for w in words if min(len(self.tokenizer.continuation(form)) for form in (w, f" {w}")) > 1]
        if spelled:
            tell({"type": "note", "message": f"{self.name} does not know {', '.join(spelled[:5])}{' and more' if len(spelled) > 5 else ''} and spells letter by letter: expect nonsense."})  # fmt: skip

    def _loaded(self, content: str, name: str) -> SteeringVector:
        """The vector in a file that the page sent; its name only says which kind it is."""
        try:
            data = base64.b64decode(content, validate=True)
        except (binascii.Error, ValueError):
            raise ValueError("expected a file in base64, got other text; choose the file again") from None
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            gguf = name.lower().endswith(".gguf")
            file = Path(folder) / ("vector.gguf" if gguf else "vector.safetensors")
            file.write_bytes(data)
            try:
                vector = load_gguf(file, self.model) if gguf else SteeringVector.load(file, self.model)
            except ValueError as error:
                raise ValueError(str(error).replace(str(file), name[:60])) from None
        for warning in said:
            warnings.warn(str(warning.message).replace(str(file), name[:60]), stacklevel=2)
        pre = any(site[0] == "pre" for site in vector.sites)
        expect(pre, f"a vector for the input of a layer in {name[:60]}", f"one for {vector.sites}", "save one that has it")  # fmt: skip
        width = self.model.config.width
        expect(vector.width == width, f"a vector of the model's width {width} in {name[:60]}", vector.width, "it was read from another model")  # fmt: skip
        return vector


def called(made: dict[str, Any]) -> str:
    """The name of a file with a vector, less its end: the words towards which it was made, or as the file was that it came in."""
    towards = made["pairs"][0][0] if made.get("pairs") else made.get("plus") or Path(made.get("name", "")).stem
    return "-".join(re.findall(r"\w+", towards))[:40].strip("-") or "vector"


def keep(store: dict[str, T], key: str, make: Callable[[], T]) -> T:
    """What is stored under a key, or is made now; the `KEPT` that were used last stay."""
    store[key] = store.pop(key) if key in store else make()
    while len(store) > KEPT:
        del store[next(iter(store))]
    return store[key]


def speller(tokenizer: Tokenizer, before: Sequence[int] = ()) -> Callable[[int], str]:
    """A function of one token after another: the text that each adds to those before. A letter of several tokens comes with the last of
    them, and what ends an answer is not text."""
    ids = list(before)
    shown = len(tokenizer.decode(ids).rstrip("\ufffd"))

    def spell(token: int) -> str:
        nonlocal shown
        if token in tokenizer.stop:
            return ""
        ids.append(token)
        whole = tokenizer.decode(ids).rstrip("\ufffd")  # which begins as it did before
        piece, shown = whole[shown:], max(shown, len(whole))
        return piece

    return spell


def pieces(tokenizer: Tokenizer, ids: Sequence[int], before: Sequence[int] = ()) -> list[str]:
    """The text that each token adds to those before; together they are the text of all."""
    found = list(map(speller(tokenizer, before), ids))
    begun = len(tokenizer.decode(before).rstrip("\ufffd")) + len("".join(found))
    rest = tokenizer.decode([*before, *ids])[begun:]  # bytes at the end that are no letter, as U+FFFD
    return [*found[:-1], found[-1] + rest] if found else []


def _along(x: Tensor, steer: Steer) -> Tensor:
    """The cosine of streams `(T, D)` with what is added, `(T,)`; of one vector per position, with the longest of them."""
    v: Any = steer.content
    v = (v if v.ndim == 1 else v[v.norm(dim=-1).argmax()]).float().to(x.device)  # (D,)
    return torch.nn.functional.cosine_similarity(x.float(), v[None], dim=-1)

"""A list of merges, as the hub's tokenizer files have it, and whether ranks join the same tokens.

ranks_say_the_same({"a": 0, "b": 1, "ab": 2}, [("a", "b")], whole=False)    # {"a", "b", "ab"}
"""

from __future__ import annotations

from collections import Counter


def ranks_say_the_same(vocab: dict[str, int], merges: list[tuple[str, str]], whole: bool) -> set[str] | None:
    """The tokens that a text can become, if joining by the lowest id joins as the list of merges does; else None.

    whole: a piece that is a token is taken as it is (`ignore_merges`), which tiktoken always does.

    Either each token has one merge, in the order of the ids, and the merges before it leave exactly its two parts of
    it: then a union of neighbours is a token only where its own merge is due. Or, with `whole`, each token has every
    merge of two tokens into it, in the order of the ids: that is what ranks mean. (Where three neighbours could join
    either way to the same token, the hub takes the first merge listed and tiktoken the left one; two of Llama 3's
    128,000 tokens could.)
    """
    results = [vocab["".join(merge)] for merge in merges]
    if results != sorted(results):
        return None
    listed = Counter(results)
    singles = {token for token in vocab if len(token) == 1}
    if len(listed) == len(merges) and not (whole and len(singles) + len(listed) < len(vocab)):
        made = dict.fromkeys(singles, -1)  # token -> the number of its merge
        number: dict[tuple[str, str], int] = {}
        for n, (left, right) in enumerate(merges):
            if left not in made or right not in made or _crossed(left, right, n, made, number, merges):
                break
            made[left + right] = number[left, right] = n
        else:
            return {*made}
    if whole and all(
        listed[i] == sum(token[:cut] in vocab and token[cut:] in vocab for cut in range(1, len(token)))
        for token, i in vocab.items()
    ):
        return {*vocab}
    return None


def _crossed(
    left: str,
    right: str,
    limit: int,
    made: dict[str, int],
    number: dict[tuple[str, str], int],
    merges: list[tuple[str, str]],
) -> bool:
    """Would a merge before `limit` join the last part of `left` to the first of `right`, before the two are whole?

    Undoes the later of the two last merges again and again, so that what stood at the border before it stands there.
    """
    while True:
        joined = number.get((left, right))
        if joined is not None and joined < limit:
            return True
        if made[left] > made[right]:
            limit, left = min(limit, made[left]), merges[made[left]][1]
        elif (
            made[right] >= 0
        ):  # of two equal merges the left one comes first, so a third at the border comes before the right one
            limit, right = min(limit, made[right] + 1), merges[made[right]][0]
        else:
            return False

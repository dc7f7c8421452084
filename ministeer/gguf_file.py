"""A GGUF file: what its header says, and its tensors, read when asked for.

    file = GGUFFile("model.Q4_1.gguf")
    file.metadata["general.architecture"]        # "llama": numbers, booleans, strings, and lists of them
    file.tensor("blk.0.ffn_up.weight")           # [out, in], dequantised to float32

The format is llama.cpp's: magic, version, two counts, metadata, a table of tensors, and their bytes, each at a
multiple of the alignment. F32, F16 and BF16 are seen in place, in memory mapped from the file; of the quantised types
those that the package `gguf` dequantises are read. A header can lie: every length and count is checked against
the bytes left before anything is made of it, so a damaged file costs one sentence, a `ValueError`, and no
memory. What the tensors of a model mean is in `gguf_model.py`.
"""

from __future__ import annotations

import math
import mmap
import struct
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from ministeer.files import stand_in

# metadata types by number: struct's letter; 8 is a string, 9 an array
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
# tensor types that need no package: name, torch dtype
FLOATS = {0: ("F32", torch.float32), 1: ("F16", torch.float16), 30: ("BF16", torch.bfloat16)}
# no vocabulary is near either: the largest have 260,000 entries, in a header of 15 MB
MAX_HEADER, MAX_ENTRIES = 1 << 27, 1 << 22


class GGUFFile:
    """`metadata`, and `table`: each tensor's shape (slowest first), type and place in `data`. `at` is the next byte
    of the header to read. Raises `ValueError` for a damaged or cut file, `ImportError` where `gguf` is needed and missing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if other := stand_in(path):
            self.refuse("a GGUF file", *other)
        with path.open("rb") as file:
            size = file.seek(0, 2)
            if size < 24:
                self.refuse("a GGUF file", f"{size} bytes")
            # private pages that can be written: torch takes no memory that cannot, and the file stays as it is
            self.data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        self.at, self.end, self.entries = 0, min(size, MAX_HEADER), MAX_ENTRIES
        if (magic := self.data[:4]) != b"GGUF":
            self.refuse("the magic GGUF", repr(magic), "is it a GGUF file?")
        self.at = 4
        version = self.scalar("I")
        if version not in (2, 3):
            found = "a big-endian file" if version & 0xFFFF == 0 else f"version {version}"
            self.refuse("a little-endian GGUF file of version 2 or 3", found, "convert the model again")
        tensors, pairs = self.scalar("Q"), self.scalar("Q")
        self.check_count(tensors, 24, "tensors")
        self.check_count(pairs, 13, "entries of metadata")
        self.metadata: dict[str, Any] = {}
        for _ in range(pairs):
            key = self.text()
            if key in self.metadata:
                self.refuse("each key of the metadata once", f"{key!r} twice")
            self.metadata[key] = self.value(key, self.scalar("I"))
        self.tensors, self.size = tensors, size

    def refuse(self, expected: str, found: str, remedy: str = "download it again") -> NoReturn:
        raise ValueError(f"{self.path}: expected {_quoted(expected)}, found {_quoted(found)}; {remedy}")

    def check_count(self, count: int, least: int, what: str) -> None:
        """Refuse more things, `least` bytes each, than the bytes left can hold."""
        if count * least > self.end - self.at:
            self.refuse(
                f"{count} {what} at byte {self.at}", f"{self.end - self.at} bytes for them: it is cut or damaged"
            )

    def scalar(self, letter: str) -> Any:
        length = struct.calcsize("<" + letter)
        self.check_count(1, length, f"number of {length} bytes")
        (value,) = struct.unpack_from("<" + letter, self.data, self.at)
        self.at += length
        return value

    def text(self) -> str:
        return self.texts(1)[0]

    def texts(self, count: int) -> list[str]:
        """Strings in a row, each after its length. Vocabularies are long, so the loop is plain."""
        self.check_count(count, 8, "strings")
        found, data, at, end, unpack = [], self.data, self.at, self.end, struct.Struct("<Q").unpack_from
        for _ in range(count):
            (length,) = unpack(data, at) if end - at >= 8 else (end,)
            if length > end - at - 8:
                self.refuse(f"a string at byte {at}", "one that is longer than the file: it is cut or damaged")
            found.append(data[at + 8 : at + 8 + length])
            at += 8 + length
        self.at = at
        try:
            return [str(text, "utf-8") for text in found]
        except UnicodeDecodeError:
            self.refuse(f"UTF-8 text before byte {at}", "other bytes: it is damaged")

    def value(self, key: str, kind: int) -> Any:
        if kind == STRING:
            return self.text()
        if kind in SCALARS:
            return self.scalar(SCALARS[kind])
        if kind != ARRAY:
            self.refuse(f"a type of metadata from 0 to 12 for {key!r}", str(kind))
        item, count = self.scalar("I"), self.scalar("Q")
        self.entries -= count
        if self.entries < 0:
            self.refuse(f"at most {MAX_ENTRIES} entries in all lists", f"{count} in {key!r}: it is damaged")
        if item == STRING:
            return self.texts(count)
        if item not in SCALARS:
            self.refuse(f"a list of numbers or strings for {key!r}", f"entries of type {item}")
        code = f"<{count}{SCALARS[item]}"
        self.check_count(1, struct.calcsize(code), f"list of {count} numbers for {key!r}")
        values = list(struct.unpack_from(code, self.data, self.at))
        self.at += struct.calcsize(code)
        return values

    @cached_property
    def table(self) -> dict[str, tuple[list[int], int, int, int]]:
        """name: (shape, type, first byte, bytes). The tensors lie one after the other, as llama.cpp asks."""
        listed: dict[str, tuple[list[int], int, int]] = {}
        for _ in range(self.tensors):
            name, rank = self.text(), self.scalar("I")
            if name in listed:
                self.refuse("each tensor once", f"{name!r} twice")
            if not 1 <= rank <= 4:
                self.refuse(f"{name!r} with 1 to 4 dimensions", str(rank))
            shape = [self.scalar("Q") for _ in range(rank)][::-1]
            listed[name] = (shape, self.scalar("I"), self.scalar("Q"))
        step = self.metadata.get("general.alignment", 32)
        if type(step) is not int or not 8 <= step <= 1 << 16 or step & (step - 1):
            self.refuse("general.alignment, a power of 2 from 8 to 65536", repr(step))
        start = self.at + -self.at % step
        table, next_offset, end = {}, 0, self.at
        for name, (shape, kind, offset) in sorted(listed.items(), key=lambda item: item[1][2]):
            per_block, length = _block(kind, self.path, name)
            if min(shape) < 1 or shape[-1] % per_block:
                self.refuse(f"rows of {name!r} in whole blocks of {per_block}", f"the shape {shape}")
            if offset != next_offset:
                self.refuse(f"{name!r} at byte {next_offset} of the tensors", f"{offset}: it is damaged")
            bytes_ = math.prod(shape) // per_block * length
            # other bytes: the header, or a tensor, is not as long as it was when it was written
            if any(self.data[end : start + offset]):
                self.refuse(f"zeros from byte {end} to {name!r}", "other bytes: it is damaged")
            if start + offset + bytes_ > self.size:
                self.refuse(
                    f"{name!r} to end at byte {start + offset + bytes_}", f"a file of {self.size}: it is cut or damaged"
                )
            table[name] = (shape, kind, start + offset, bytes_)
            next_offset, end = offset + bytes_ + -bytes_ % step, start + offset + bytes_
        if self.size - end >= step:
            self.refuse(f"the last tensor to end at byte {end}", f"{self.size - end} bytes more: it is damaged")
        return table

    def kind(self, name: str) -> str:
        """The type of a tensor: "F32", "Q4_1", ..."""
        number = self.table[name][1]
        return FLOATS[number][0] if number in FLOATS else str(_package(self.path).GGMLQuantizationType(number).name)

    def tensor(self, name: str) -> Tensor:
        """A tensor: float32 where it is quantised, else as it is stored, in memory shared with the file."""
        shape, kind, start, length = self.table[name]
        if kind in FLOATS:
            return torch.frombuffer(self.data, dtype=FLOATS[kind][1], count=math.prod(shape), offset=start).view(shape)
        gguf = _package(self.path)
        packed = np.frombuffer(self.data, np.uint8, length, start).reshape(*shape[:-1], -1)
        return torch.from_numpy(gguf.dequantize(packed, gguf.GGMLQuantizationType(kind))).view(shape)

    def same_bytes(self, one: str, other: str) -> bool:
        """Whether two tensors are stored alike: older converters write GPT-2's embedding twice."""
        (shape, kind, start, length), (shape_2, kind_2, start_2, _) = self.table[one], self.table[other]
        if (shape, kind) != (shape_2, kind_2):
            return False
        whole = torch.frombuffer(self.data, dtype=torch.uint8)
        return torch.equal(whole[start : start + length], whole[start_2 : start_2 + length])


def _quoted(text: str) -> str:
    """Text that may come from a damaged file, as part of a sentence."""
    whole = "".join(letter if letter.isprintable() else "?" for letter in text[:200])
    return whole if len(text) <= 200 else whole + "..."


def _block(kind: int, path: Path, name: str) -> tuple[int, int]:
    """(numbers, bytes) of a block of this type, after a look whether it can be read."""
    if kind in FLOATS:
        return 1, FLOATS[kind][1].itemsize
    gguf = _package(path)
    try:
        numbers, length = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(kind)]
        gguf.dequantize(np.zeros((1, length), np.uint8), gguf.GGMLQuantizationType(kind))
    except (ValueError, KeyError, NotImplementedError) as error:
        raise ValueError(
            f"{path}: expected {_quoted(name)} in a type that the package gguf dequantises, found type {kind} "
            f"({error}); take the model in another quantisation, such as Q8_0 or F16"
        ) from error
    return int(numbers), int(length)


def _package(path: Path) -> Any:
    try:
        import gguf
    except ImportError as error:
        raise ImportError(f"{path} is quantised, which needs gguf: pip install 'ministeer[formats]'") from error
    return gguf

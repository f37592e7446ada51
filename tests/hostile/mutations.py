"""Bytes and values gone wrong, from a seeded stream."""

import math
from typing import Any

import numpy as np
from numpy.random import Generator

LENGTHS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 40, (1 << 63) - 1, (1 << 64) - 1)


def mutated(data: bytes, rng: Generator, most: int = 3) -> bytes:
    """`data` after one to `most` changes: flips, cuts, splices, zeros, noise, repetitions, lengths blown up."""
    for _ in range(rng.integers(1, most + 1)):
        data = CHANGES[rng.integers(len(CHANGES))](data, rng) or b"\0"
    return data


def _span(data: bytes, rng: Generator, most: int = 64) -> tuple[int, int]:
    start = int(rng.integers(len(data)))
    return start, min(len(data), start + int(rng.integers(1, most)))


def _flip(data: bytes, rng: Generator) -> bytes:
    changed = bytearray(data)
    changed[rng.integers(len(data))] ^= 1 << rng.integers(8)
    return bytes(changed)


def _early_flip(data: bytes, rng: Generator) -> bytes:
    """Headers are what decoders trust."""
    changed = bytearray(data)
    changed[rng.integers(min(len(data), 64))] = rng.integers(256)
    return bytes(changed)


def _cut(data: bytes, rng: Generator) -> bytes:
    return data[: rng.integers(len(data))]


def _remove(data: bytes, rng: Generator) -> bytes:
    start, end = _span(data, rng)
    return data[:start] + data[end:]


def _splice(data: bytes, rng: Generator) -> bytes:
    (a, b), (c, d) = _span(data, rng), _span(data, rng)
    return data[:a] + data[c:d] + data[b:]


def _zeros(data: bytes, rng: Generator) -> bytes:
    start, end = _span(data, rng)
    return data[:start] + bytes(end - start) + data[end:]


def _noise(data: bytes, rng: Generator) -> bytes:
    start, end = _span(data, rng)
    return data[:start] + rng.bytes(end - start) + data[end:]


def _repeat(data: bytes, rng: Generator) -> bytes:
    start, end = _span(data, rng)
    return data[:start] + data[start:end] * int(rng.integers(2, 50)) + data[end:]


def _length(data: bytes, rng: Generator) -> bytes:
    width = int(rng.choice([1, 2, 4, 8]))
    value = LENGTHS[rng.integers(len(LENGTHS))] & ((1 << 8 * width) - 1)
    start = int(rng.integers(len(data)))
    return data[:start] + value.to_bytes(width, rng.choice(["little", "big"])) + data[start + width :]


def _tail(data: bytes, rng: Generator) -> bytes:
    return data + rng.bytes(int(rng.integers(1, 64)))


CHANGES = (_flip, _early_flip, _cut, _remove, _splice, _zeros, _noise, _repeat, _length, _tail)

TEXTS = (
    "", " ", "..", "../../x", "/etc/passwd", "~", "-", "--", "\0", "a\nb", "\x1b[2J", "‮", "😀", "\ud800", "%s%n", "{}",
    "None", "nan", "a" * 5000, "../" * 50, "stored:", "stored:../../x/y", "C:\\x", "//x", "*", "[",
    "[a-", "{split}", "**",
)  # fmt: skip
NUMBERS = (
    0, 1, -1, 2, 7, 255, 10**6, -(10**9), 2**31, 2**63, 2**64, 10**30, 10**5000, 0.5, -0.0, 1e-320, 1e308, -1e308,
    math.nan, math.inf, -math.inf, True, False,
)  # fmt: skip


def value(rng: Generator, depth: int = 0) -> Any:
    """Any plain value, now and then a nested or a deep one."""
    kind = rng.integers(9 if depth < 3 else 6)
    if kind < 2:
        return TEXTS[rng.integers(len(TEXTS))]
    if kind < 5:
        return NUMBERS[rng.integers(len(NUMBERS))]
    if kind == 5:
        return [None, b"\xff", (), {}, [], set(), object, 1j][rng.integers(8)]
    if kind == 6:
        return [value(rng, depth + 1) for _ in range(rng.integers(4))]
    if kind == 7:
        names = ("kind", "class", "path", "seed", "size", "x", 1, "__class__", "model_config")
        return {names[rng.integers(len(names))]: value(rng, depth + 1) for _ in range(rng.integers(4))}
    deep: Any = 1
    for _ in range(int(rng.choice([5, 50, 3000]))):
        deep = [deep]
    return deep


def lines(text: str, rng: Generator) -> str:
    """YAML or a list of files with characters, words or lines changed."""
    words = (
        "&a ", "*a", "!!python/object/apply:os.system [id]", "!!binary x", "2001-99-99", "0x" + "f" * 6000, "1" * 5000,
        "? ", "<<: ", "[" * 60, "{" * 60, "- ", ": ", "\t", "\0", "'", '"', "#", "|", ">", "%YAML 9", "---", "..",
        "~", "1:99:99",         ".nan", ".inf", "-.inf", "!!set {a}", "!!timestamp x", "0b", "0o9", "=", "!", "@", "`",
    )  # fmt: skip
    for _ in range(rng.integers(1, 4)):
        at = int(rng.integers(len(text) + 1))
        word = words[rng.integers(len(words))] if rng.random() < 0.6 else chr(rng.integers(1, 0x2FFF))
        text = text[:at] + word + text[at + int(rng.integers(3)) :]
    return text


def arguments(words: list[str], rng: Generator) -> list[str]:
    """A command line with words changed, dropped, doubled or moved."""
    found = list(words)
    for _ in range(rng.integers(1, 4)):
        at = int(rng.integers(len(found) + 1))
        kind = rng.integers(4)
        if kind == 0:
            found.insert(at, TEXTS[rng.integers(len(TEXTS))])
        elif kind == 1 and found:
            found.pop(at % len(found))
        elif kind == 2 and found:
            found[at % len(found)] = str(np.array(NUMBERS[:10], dtype=object)[rng.integers(10)])
        elif found:
            found.insert(at, found[rng.integers(len(found))])
    return found

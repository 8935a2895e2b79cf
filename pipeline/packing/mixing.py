"""An adaptive arithmetic coder for quantised feature maps, compiled by Numba; integers only, so equal on every machine.

Each code becomes binary decisions: zero or not, sign, then one per unit of magnitude. For each decision four models,
each with its own view of what is already known (neighbours in the map, the channel so far, the same place in earlier
channels), give a probability; they are mixed in the logistic domain by weights that learn as they go (Mahoney,
"Adaptive weighing of context models for lossless data compression", 2005), and a binary range coder spends the bits.
Nothing is sent but the codes: both sides learn alike. Measured on MobileNetV2, this takes 12 to 25 % off what one
ideal table of frequencies for each tensor would need.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from pipeline.packing.frame import Bytes
from pipeline.packing.kernels import compiled

MODELS = 4
UNARY = 18
"""Magnitudes beyond this many decisions go on in an Exp-Golomb code of even odds."""

LARGEST = 1 << 24
"""Greatest magnitude that can be coded."""

_DECISIONS = UNARY + 2
_CONTEXTS = 64
_SQUASH = np.array([round(4096 / (1 + math.exp(-x / 256))) for x in range(-2047, 2048)]).clip(1, 4095)
_STRETCH = np.array([round(256 * math.log((p + 0.5) / (4095.5 - p))) for p in range(4096)]).clip(-2047, 2047)
_RECIPROCAL = np.array([round(65536 / (n + 1.5)) for n in range(128)])
"""How far a probability moves to what happened, by how often its context was seen: 2/3, 2/5, 2/7, ..."""
_WEIGHT = int(65536 * 0.4)
_RATE = 2
"""Learning rate of the mixing weights, of those tried (2, 6, 14) the best on each cut."""


@compiled
def _clip(value: Any, low: Any, high: Any) -> Any:
    return min(max(value, low), high)


@compiled
def _code_bit(bit: int, chance: int, state: Any, data: Bytes, decoding: bool) -> int:
    """Code one decision whose chance to be 1 is chance/4096 (carry-less range coder: an interval [low, high])."""
    low, high = state[0], state[1]
    middle = low + ((high - low) >> 12) * chance
    if decoding:
        bit = 1 if state[2] <= middle else 0
    if bit:
        high = middle
    else:
        low = middle + 1
    while ((low ^ high) & 0xFF000000) == 0:
        if decoding:
            position = state[3]
            fresh = np.int64(data[position]) if position < data.size else 0
            state[2] = ((state[2] << 8) & 0xFFFFFFFF) | fresh
        elif state[3] < data.size:
            data[state[3]] = high >> 24
        state[3] += 1
        low = (low << 8) & 0xFFFFFFFF
        high = ((high << 8) & 0xFFFFFFFF) | 255
    state[0], state[1] = low, high
    return bit


@compiled
def _decide(
    bit: int, kind: int, contexts: Any, chances: Any, counts: Any, weights: Any, state: Any, data: Bytes, decoding: bool
) -> int:
    """Code one decision by the mixed chance of its models, and let them learn from it."""
    total = np.int64(0)
    for m in range(MODELS):
        contexts[MODELS + m] = _STRETCH[chances[m, kind, contexts[m]] >> 4]
        total += weights[kind, m] * contexts[MODELS + m]
    chance = _SQUASH[_clip(total >> 16, -2047, 2047) + 2047]
    bit = _code_bit(bit, chance, state, data, decoding)
    error = ((bit << 12) - chance) * _RATE
    for m in range(MODELS):
        weights[kind, m] += (contexts[MODELS + m] * error + 512) >> 10
        context = contexts[m]
        count = counts[m, kind, context]
        goal = 65535 if bit else 0
        chances[m, kind, context] += ((goal - chances[m, kind, context]) * _RECIPROCAL[count]) >> 16
        if count < 127:
            counts[m, kind, context] = count + 1
    return bit


@compiled
def _code_tail(excess: int, state: Any, data: Any, decoding: bool) -> Any:
    """Exp-Golomb code of the rest of a large magnitude."""
    length = 0
    if not decoding:
        while (excess + 1) >> (length + 1):
            length += 1
    found = 0
    while found < 25 and _code_bit(1 if found < length else 0, 2048, state, data, decoding):
        found += 1
    value = np.int64(1)
    for place in range(found - 1, -1, -1):
        value = (value << 1) | _code_bit(((excess + 1) >> place) & 1, 2048, state, data, decoding)
    return value - 1


@compiled
def code_maps(codes: Any, data: Any, decoding: bool) -> Any:
    """Encode codes[channel, y, x] into `data`, or decode `data` into `codes`.

    Args:
        codes: int32, of magnitude up to `LARGEST`.
        data: room for the encoder; the whole payload for the decoder.
        decoding: which of the two.

    Returns:
        Bytes that the encoder needs: those beyond `data.size` were not written. For the decoder the bytes it read,
        which may lie up to four beyond the end (they read as zero).
    """
    channels, height, width = codes.shape
    chances = np.full((MODELS, _DECISIONS, _CONTEXTS), 32768, np.int64)
    counts = np.zeros((MODELS, _DECISIONS, _CONTEXTS), np.int64)
    weights = np.full((_DECISIONS, MODELS), _WEIGHT, np.int64)
    energy = np.zeros((height, width + 1), np.int64)
    contexts = np.zeros(2 * MODELS, np.int64)
    state = np.array([0, 0xFFFFFFFF, 0, 0], np.int64)
    rows = np.zeros((2, width + 2), np.int64)
    if decoding:
        for _ in range(4):
            fresh = np.int64(data[state[3]]) if state[3] < data.size else 0
            state[2] = (state[2] << 8) | fresh
            state[3] += 1
    for c in range(channels):
        signs = np.int64(0)
        sizes = np.int64(0)
        seen = 0
        rows[:] = 0
        for y in range(height):
            above, row = rows[(y + 1) & 1], rows[y & 1]
            for x in range(width):
                left, up, corner, right = row[x], above[x + 1], above[x], above[x + 2]
                near = 2 * abs(left) + 2 * abs(up) + abs(corner) + abs(right)
                lean = 2 * left + 2 * up + corner + right
                bias = _clip((4 * signs) // (seen + 1), -3, 3) + 3
                usual = _clip((4 * sizes + 2) // (seen + 1), 0, 15) if seen else 4
                there = _clip((8 * energy[y, x] + 4) // (c + 1), 0, 15) if c else 4
                code = np.int64(0) if decoding else np.int64(codes[c, y, x])
                size = abs(code)

                contexts[0] = _clip(near, 0, 11) * 4 + usual // 4
                contexts[1] = usual
                contexts[2] = there
                contexts[3] = _clip(abs(left), 0, 3) * 16 + _clip(abs(up), 0, 3) * 4 + _clip(abs(right), 0, 3)
                if _decide(int(size > 0), 0, contexts, chances, counts, weights, state, data, decoding):
                    contexts[0] = _clip(lean, -7, 7) + 7
                    contexts[1] = bias
                    contexts[2] = (np.sign(left) + 1) * 9 + (np.sign(up) + 1) * 3 + np.sign(corner) + 1
                    contexts[3] = bias * 7 + _clip(lean, -3, 3) + 3
                    negative = _decide(int(code < 0), 1, contexts, chances, counts, weights, state, data, decoding)
                    contexts[0] = _clip(-lean if negative else lean, -7, 8) + 7
                    contexts[1] = usual
                    contexts[2] = there
                    contexts[3] = _clip(near, 0, 11)
                    found = np.int64(1)
                    while found < UNARY + 1 and _decide(
                        int(size > found), found + 1, contexts, chances, counts, weights, state, data, decoding
                    ):
                        found += 1
                    if found == UNARY + 1:
                        found += _code_tail(size - found, state, data, decoding)
                    size = found
                    code = -found if negative else found
                if decoding:
                    codes[c, y, x] = code
                row[x + 1] = code
                signs += code
                sizes += size
                seen += 1
                energy[y, x] += size
    if not decoding:
        for _ in range(4):
            if state[3] < data.size:
                data[state[3]] = (state[0] >> 24) & 255
            state[0] = (state[0] << 8) & 0xFFFFFFFF
            state[3] += 1
    return state[3]

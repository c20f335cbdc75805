"""Counts in an optimised XLA module: kernels, loops and collectives, from its text.

Every instruction that is not a parameter, a constant or a view of another result is one launch of a kernel
(or one copy). A loop multiplies its body by its number of trips, where XLA knows it or where the loop's
condition compares a counter with a constant; otherwise the body counts once. Where XLA knows the trips, the
condition is never run. A fusion is one kernel, whatever it contains.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

# Results that are views, or that XLA makes on the host.
_FREE = frozenset({
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id",
    "replica-id", "copy-done", "async-done", "async-update", "opt-barrier", "domain", "add-dependency",
    "all-gather-done", "all-reduce-done", "collective-permute-done",
})  # fmt: skip
_COLLECTIVES = ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter")
_COMPUTATION = re.compile(r"^(?P<entry>ENTRY )?%?(?P<name>[\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?(?P<name>[\w.\-]+) = (?P<rest>.*)$")
_CALLED = re.compile(r"(?P<how>body|condition|to_apply|calls|called_computations)=\{?%?(?P<name>[\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{(?P<names>[^}]*)\}|(?:true|false)_computation=%?([\w.\-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_VALUE = re.compile(r"constant\((\d+)\)")
_WHERE = re.compile(r'op_name="([^"]*)"')
_SHAPE = re.compile(r"\b(pred|[suf]\d+|bf16|c64|c128)\[([\d,]*)\]")
_BYTES = {"pred": 1, "bf16": 2, "c64": 8, "c128": 16}


class Instruction(NamedTuple):
    """An instruction: its opcode, the text of its result's shape, and the whole line."""

    opcode: str
    shape: str
    text: str


class Loop(NamedTuple):
    """A loop of the module.

    Attributes:
        depth: number of loops around it.
        trips: of one run of the loop; None where nobody knows them.
        kernels: of one trip, inner loops included.
        runs: how often an iteration runs the loop.
        where: the operation in the traced program.
    """

    depth: int
    trips: int | None
    kernels: int
    runs: int
    where: str


class Counts(NamedTuple):
    """Counts of one run of a module.

    Attributes:
        kernels: launches.
        loops: in order of the text, outer before inner.
        collectives: by kind, (number, bytes) of one run.
    """

    kernels: int
    loops: list[Loop]
    collectives: dict[str, tuple[int, int]]


def _split(rest: str) -> tuple[str, str]:
    """Shape and opcode of the text after ``name =``."""
    if rest.startswith("("):  # a tuple's shape may hold spaces
        depth = 0
        for i, character in enumerate(rest):
            depth += (character == "(") - (character == ")")
            if depth == 0:
                shape, rest = rest[: i + 1], rest[i + 2 :]
                break
    else:
        shape, _, rest = rest.partition(" ")
    return shape, rest.partition("(")[0].strip()


def parse(text: str) -> tuple[dict[str, list[Instruction]], str]:
    """Instructions by computation, and the name of the entry."""
    computations: dict[str, list[Instruction]] = {}
    entry, current = "", None
    for line in text.splitlines():
        start = _COMPUTATION.match(line)
        if start:
            current = computations.setdefault(start["name"], [])
            entry = start["name"] if start["entry"] else entry
            continue
        instruction = _INSTRUCTION.match(line)
        if instruction and current is not None:
            shape, opcode = _split(instruction["rest"])
            current.append(Instruction(opcode, shape, instruction["rest"]))
    return computations, entry


def size_of(shape: str) -> int:
    """Bytes of a shape's text, tuples included."""
    total = 0
    for dtype, dims in _SHAPE.findall(shape):
        count = 1
        for dim in filter(None, dims.split(",")):
            count *= int(dim)
        total += count * _BYTES.get(dtype, int(re.sub(r"\D", "", dtype) or 8) // 8)
    return total


def _called(instruction: Instruction) -> Mapping[str, str]:
    return {match["how"]: match["name"] for match in _CALLED.finditer(instruction.text)}


def _branches(instruction: Instruction) -> Sequence[str]:
    names = []
    for match in _BRANCHES.finditer(instruction.text):
        names += [name.strip().lstrip("%") for name in (match[1] or match[2]).split(",")]
    return names


class _Counter:
    """Walks the computations of a module; remembers the kernels of each."""

    def trips(self, loop: Instruction) -> int | None:
        """Trips of a loop, by XLA or by its condition: counter < constant, from 0 in steps of 1."""
        if match := _TRIPS.search(loop.text):
            return int(match[1])
        condition = self._computations[_called(loop)["condition"]]
        compared = [one for one in condition if one.opcode == "compare" and "direction=LT" in one.text]
        constants = [
            one.text for one in condition if one.opcode == "constant" and one.shape.startswith("s32[]")
        ]
        others = [one for one in condition if one.opcode not in _FREE]
        if len(compared) == len(constants) == len(others) == 1 and (value := _VALUE.search(constants[0])):
            return int(value[1])
        return None

    def __init__(self, computations: Mapping[str, list[Instruction]]) -> None:
        self._computations = computations
        self._kernels: dict[str, int] = {}

    def of_a_trip(self, loop: Instruction) -> int:
        """Kernels of one trip of a loop. XLA does not run the condition of a loop whose trips it knows."""
        called = _called(loop)
        condition = 0 if _TRIPS.search(loop.text) else self.kernels(called["condition"])
        return self.kernels(called["body"]) + condition

    def kernels(self, name: str) -> int:
        """Kernels of one run of a computation."""
        if name not in self._kernels:
            self._kernels[name] = sum(map(self._of, self._computations[name]))
        return self._kernels[name]

    def _of(self, instruction: Instruction) -> int:
        opcode = instruction.opcode
        if opcode in _FREE:
            return 0
        called = _called(instruction)
        if opcode == "while":
            return (self.trips(instruction) or 1) * self.of_a_trip(instruction)
        if opcode == "call":
            return self.kernels(called["to_apply"])
        if opcode == "conditional":
            return 1 + max(map(self.kernels, _branches(instruction)), default=0)
        return 1

    def walk(self, name: str, runs: int = 1, depth: int = 0) -> tuple[list[Loop], dict[str, tuple[int, int]]]:
        """The loops and collectives of a computation that is run so many times."""
        loops: list[Loop] = []
        collectives: dict[str, tuple[int, int]] = {}

        def add(more: Mapping[str, tuple[int, int]]) -> None:
            for kind, (number, size) in more.items():
                before = collectives.get(kind, (0, 0))
                collectives[kind] = before[0] + number, before[1] + size

        for instruction in self._computations[name]:
            called, opcode = _called(instruction), instruction.opcode
            if opcode == "while":
                trips, where = self.trips(instruction), _WHERE.search(instruction.text)
                in_a_trip = self.of_a_trip(instruction)
                loops.append(Loop(depth, trips, in_a_trip, runs, where[1] if where else ""))
                inside = [called["body"], called["condition"]]
                results = [self.walk(one, runs * (trips or 1), depth + 1) for one in inside]
            elif opcode == "call":
                results = [self.walk(called["to_apply"], runs, depth)]
            elif opcode == "conditional":
                results = [self.walk(one, runs, depth) for one in _branches(instruction)]
            else:
                results = []
                kind = opcode.removesuffix("-start")
                if kind in _COLLECTIVES:
                    add({kind: (runs, runs * size_of(instruction.shape))})
            for inner, moved in results:
                loops += inner
                add(moved)
        return loops, collectives


def count(text: str) -> Counts:
    """Counts of an optimised module's text."""
    computations, entry = parse(text)
    counter = _Counter(computations)
    loops, collectives = counter.walk(entry)
    return Counts(counter.kernels(entry), loops, collectives)

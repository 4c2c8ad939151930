"""Where operations hang on each other in a circle: strongly connected parts of a small graph."""

from collections.abc import Iterable, Iterator, Mapping


def first_knots(leans_on: Mapping[int, Iterable[int]]) -> list[set[int]]:
    """The parts that hang on nothing outside themselves, so that they have to be decided first.

    `leans_on` names for each what its verdict hangs on; what it does not list is left out.
    """
    part: dict[int, int] = {}
    parts: list[set[int]] = []
    for members in _parts(leans_on):
        part |= dict.fromkeys(members, len(parts))
        parts.append(members)
    return [
        members
        for n, members in enumerate(parts)
        if all(part.get(other, n) == n for one in members for other in leans_on[one])
    ]


def _parts(leans_on: Mapping[int, Iterable[int]]) -> Iterator[set[int]]:
    """Kosaraju's algorithm, without recursion: the graph is as deep as strangers make it."""
    forward = {one: [o for o in others if o in leans_on] for one, others in leans_on.items()}
    backward: dict[int, list[int]] = {one: [] for one in leans_on}
    for one, others in forward.items():
        for other in others:
            backward[other].append(one)
    finished: list[int] = []
    seen: set[int] = set()
    for start in forward:
        finished += _walk(forward, start, seen)
    seen = set()
    for start in reversed(finished):
        members = _walk(backward, start, seen)
        if members:
            yield set(members)


def _walk(graph: Mapping[int, list[int]], start: int, seen: set[int]) -> list[int]:
    """What is reached from a start and was not seen before, in the order it is left again."""
    if start in seen:
        return []
    seen.add(start)
    left = []
    path = [(start, iter(graph[start]))]
    while path:
        one, others = path[-1]
        new = next((other for other in others if other not in seen), None)
        if new is None:
            path.pop()
            left.append(one)
        else:
            seen.add(new)
            path.append((new, iter(graph[new])))
    return left

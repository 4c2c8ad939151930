import random

from mesh.members.knots import first_knots


def reachable(graph, start):
    seen, unseen = set(), [start]
    while unseen:
        for other in graph.get(unseen.pop(), ()):
            if other in graph and other not in seen:
                seen.add(other)
                unseen.append(other)
    return seen


def test_what_hangs_on_nothing_comes_first():
    assert first_knots({}) == []
    assert first_knots({1: [], 2: [1]}) == [{1}]
    assert first_knots({1: [2], 2: [1], 3: [2], 4: [5], 5: [4, 3]}) == [{1, 2}]
    assert sorted(map(sorted, first_knots({1: [1], 2: [3], 3: [2]}))) == [[1], [2, 3]]


def test_what_is_not_listed_is_left_out():
    assert first_knots({1: [7]}) == [{1}]


def test_random_graphs_agree_with_the_definition():
    rng = random.Random(1)
    for _ in range(300):
        size = rng.randint(1, 9)
        graph = {n: [m for m in range(size) if rng.random() < 0.2] for n in range(size)}
        reach = {n: reachable(graph, n) for n in graph}
        expected = []
        for n in graph:
            knot = {n} | {m for m in reach[n] if n in reach[m]}
            if reach[n] <= knot and knot not in expected:
                expected.append(knot)
        assert sorted(map(sorted, first_knots(graph))) == sorted(map(sorted, expected))


def test_a_long_chain_needs_no_stack():
    graph = {n: [n + 1] for n in range(50_000)}
    assert first_knots(graph) == [{49_999}]

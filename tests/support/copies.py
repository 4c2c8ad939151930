"""Copies of a membership that share what never changes: operations, verdict-free numbers, states.

A thousand nodes that know the same two thousand operations would hold a thousand copies of each;
here they hold lists and tables of their own, of objects that are there once.
"""

from collections import OrderedDict, defaultdict
from types import MethodType
from typing import Any

from mesh.members.doubts import Doubts
from mesh.members.evaluate import Evaluation
from mesh.members.facts import Facts
from mesh.members.membership import Membership
from mesh.members.opset import OpSet
from mesh.members.rights import Rights
from mesh.members.rules import Rules
from mesh.members.signers import Signers

_MADE_ANEW = (Membership, OpSet, Evaluation, Facts, Rights, Doubts, Rules, Signers)


def copy_of(membership: Membership) -> Membership:
    """A membership of its own that knows the same."""
    found: Membership = _copy(membership, {})
    return found


def _copy(value: Any, made: dict[int, Any]) -> Any:
    if id(value) in made:
        return made[id(value)]
    kind, found = type(value), value  # bytes, numbers, operations, states: nobody changes them
    if kind is list:
        found = made[id(value)] = []
        found += [_copy(one, made) for one in value] if _is_deep(value) else value
    elif kind in {dict, defaultdict, OrderedDict}:
        found = made[id(value)] = value.copy()
        if _is_deep(value.values()):
            found.update((key, _copy(one, made)) for key, one in value.items())
    elif kind in {set, bytearray}:
        found = made[id(value)] = value.copy()
    elif kind is MethodType:
        found = MethodType(value.__func__, _copy(value.__self__, made))
    elif kind in _MADE_ANEW:
        found = made[id(value)] = object.__new__(kind)
        vars(found).update({name: _copy(one, made) for name, one in vars(value).items()})
    return found


def _is_deep(values: Any) -> bool:
    """Whether what a table holds changes, too."""
    return any(type(one) in {list, dict, set, MethodType} for one in values)

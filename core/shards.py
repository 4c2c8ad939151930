"""An object as its shards, described, named and brought back (core/SPEC.md, Objects and shards).

A description says of every shard how long it is, its hash, and the root over its blocks. One hash,
the object root R, stands for the whole description; who knows R can ask anyone for the rest and
believe nothing. Erasure codes cannot tell a wrong shard, so every shard is checked against its
descriptor before it is used, and what is computed from them is checked again: no bytes leave here
that R does not stand for.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations, islice
from typing import Self

from core import erasure, limits, merkle
from core.crypto import Buffer
from core.erasure import Code
from core.errors import FormatError, IntegrityError, LimitExceeded, NewerFormat, NotEnoughShards
from core.hashing import constant_key, digest, keyed
from core.labels import Label

_VERSION = 1
_HASH = limits.HASH_BYTES


@dataclass(frozen=True, slots=True)
class Profile:
    """What was coded, and how: u8 1 | u8 codec | u8 k | u8 n | u32 length | u32 4096 | u32 0."""

    SIZE = 16

    code: Code
    object_len: int

    @property
    def shard_len(self) -> int:
        """The length of every shard."""
        return self.code.shard_len(self.object_len)

    def to_bytes(self) -> bytes:
        """The sixteen bytes that R covers."""
        head = bytes((_VERSION, self.code.codec, self.code.k, self.code.n))
        fields = (self.object_len, limits.MERKLE_BLOCK_BYTES, 0)
        return head + b"".join(field.to_bytes(4) for field in fields)

    @classmethod
    def read_untrusted(cls, data: bytes) -> Self:
        """A profile; never one that R could not have been computed over."""
        if len(data) != cls.SIZE:
            raise FormatError(f"a profile has {cls.SIZE} bytes, not {len(data)}")
        version, codec, k, n = data[:4]
        if version > _VERSION:
            raise NewerFormat(f"a profile of version {version}; this Portal reads {_VERSION}")
        object_len, block, reserved = (int.from_bytes(data[i : i + 4]) for i in (4, 8, 12))
        if version != _VERSION or block != limits.MERKLE_BLOCK_BYTES or reserved:
            raise FormatError("not a profile")
        if not 1 <= object_len <= limits.OBJECT_BYTES_MAX:
            raise LimitExceeded(f"an object of {object_len} bytes")
        return cls(Code.read_untrusted(codec, k, n), object_len)


@dataclass(frozen=True, slots=True)
class Descriptor:
    """One shard: u16 index | u32 length | hash (32) | root over its blocks (32)."""

    SIZE = 70

    index: int
    shard_len: int
    shard_hash: bytes
    block_root: bytes

    @classmethod
    def of(cls, index: int, shard: Buffer) -> Self:
        """The descriptor of a shard we made ourselves."""
        view = memoryview(shard)
        return cls(index, view.nbytes, _shard_hash(view), merkle.block_root(view))

    def to_bytes(self) -> bytes:
        """The seventy bytes that R covers."""
        return (
            self.index.to_bytes(2) + self.shard_len.to_bytes(4) + self.shard_hash + self.block_root
        )

    @classmethod
    def read_untrusted(cls, data: bytes) -> Self:
        """A descriptor; that it belongs to an object is for the caller to check."""
        if len(data) != cls.SIZE:
            raise FormatError(f"a descriptor has {cls.SIZE} bytes, not {len(data)}")
        index, shard_len = int.from_bytes(data[:2]), int.from_bytes(data[2:6])
        shard_len_max = -(-limits.OBJECT_BYTES_MAX // limits.SHARD_ALIGN_BYTES)
        if index >= limits.SHARDS_MAX or shard_len > shard_len_max * limits.SHARD_ALIGN_BYTES:
            raise LimitExceeded(f"a descriptor of shard {index} with {shard_len} bytes")
        if not shard_len or shard_len % limits.SHARD_ALIGN_BYTES:
            raise FormatError(f"no shard has {shard_len} bytes")
        return cls(index, shard_len, data[6:38], data[38:])


@dataclass(frozen=True, slots=True)
class Description:
    """The public record of an object: all it takes to audit and repair it, and no key."""

    profile: Profile
    descriptors: tuple[Descriptor, ...]

    def __post_init__(self) -> None:
        assert len(self.descriptors) == self.profile.code.n

    @property
    def root(self) -> bytes:
        """R, the name of the object among peers."""
        return _object_root(self.profile.to_bytes(), self._tree().root)

    def shard_name(self, index: int) -> bytes:
        """What a peer calls shard `index`."""
        return shard_name(self.root, index)

    def to_bytes(self) -> bytes:
        """The profile, then every descriptor."""
        return self.profile.to_bytes() + b"".join(d.to_bytes() for d in self.descriptors)

    @classmethod
    def read_untrusted(cls, data: bytes, root: bytes) -> Self:
        """The description that `root` stands for."""
        profile = Profile.read_untrusted(data[: Profile.SIZE])
        size = Descriptor.SIZE
        if len(data) != Profile.SIZE + profile.code.n * size:
            raise FormatError(f"a description of {profile.code.n} shards has another length")
        rows = [data[i : i + size] for i in range(Profile.SIZE, len(data), size)]
        descriptors = tuple(Descriptor.read_untrusted(row) for row in rows)
        for place, descriptor in enumerate(descriptors):
            if descriptor.index != place or descriptor.shard_len != profile.shard_len:
                raise FormatError(f"descriptor {place} does not fit its object")
        found = cls(profile, descriptors)
        found.check_root_untrusted(root)
        return found

    def check_root_untrusted(self, root: bytes) -> None:
        """Pass if this is what `root` stands for."""
        if self.root != root:
            raise IntegrityError("this description belongs to another object")

    def prove(self, index: int) -> bytes:
        """A proof that one descriptor is part of R, for who does not hold the others."""
        return self._tree().proof(index)

    def _tree(self) -> merkle.Tree:
        rows = [descriptor.to_bytes() for descriptor in self.descriptors]
        return merkle.Tree.over_items(Label.SHARD_DESCRIPTOR, rows)


def verify_descriptor_untrusted(
    root: bytes, profile: Profile, descriptor: Descriptor, proof: bytes
) -> None:
    """Pass if `profile` and `descriptor` are part of what R stands for."""
    if descriptor.shard_len != profile.shard_len:
        raise FormatError("this descriptor does not fit its object")
    leaf = digest(Label.SHARD_DESCRIPTOR, descriptor.to_bytes())
    top = merkle.root_of_proof_untrusted(profile.code.n, descriptor.index, leaf, proof)
    if _object_root(profile.to_bytes(), top) != root:
        raise IntegrityError("this descriptor belongs to another object")


def shard_name(root: bytes, index: int) -> bytes:
    """What a peer calls shard `index` of the object R."""
    return digest(Label.SHARD_NAME, root + index.to_bytes(2))


def _object_root(profile: bytes, descriptors_root: bytes) -> bytes:
    return keyed(constant_key(Label.OBJECT_ROOT), profile + descriptors_root)


def _shard_hash(shard: Buffer) -> bytes:
    return digest(Label.SHARD_HASH, memoryview(shard))


# --- out and back ---------------------------------------------------------------------------------


def make(data: Buffer, code: Code) -> tuple[Description, list[memoryview]]:
    """The shards of an object and what describes them."""
    shards = erasure.encode(data, code)
    if code.k == 1:  # copies: described once
        one = Descriptor.of(0, shards[0])
        descriptors = [
            Descriptor(i, one.shard_len, one.shard_hash, one.block_root) for i in range(code.n)
        ]
    else:
        descriptors = [Descriptor.of(i, shard) for i, shard in enumerate(shards)]
    profile = Profile(code, memoryview(data).nbytes)
    return Description(profile, tuple(descriptors)), shards


def check_shard_untrusted(shard: Buffer, descriptor: Descriptor) -> None:
    """Pass if these are the bytes the descriptor speaks of."""
    size = memoryview(shard).nbytes
    if size != descriptor.shard_len:
        raise FormatError(f"shard {descriptor.index} has {size} bytes, not {descriptor.shard_len}")
    if _shard_hash(shard) != descriptor.shard_hash:
        raise IntegrityError(f"shard {descriptor.index} was changed")


def check_new_shard_untrusted(shard: Buffer, descriptor: Descriptor) -> None:
    """Pass if the shard can be kept: its blocks must answer audits too, not only its hash."""
    check_shard_untrusted(shard, descriptor)
    if merkle.block_root(shard) != descriptor.block_root:
        raise IntegrityError(f"shard {descriptor.index} has a descriptor that fails every audit")


@dataclass(frozen=True, slots=True)
class Recovered:
    """An object, and the shards that were of no use, with what is wrong with them."""

    data: bytes
    bad: Mapping[int, str]


def recover(root: bytes, description: Description, shards: Mapping[int, Buffer]) -> Recovered:
    """The object R out of shards by index, from anywhere; wrong ones are skipped and named."""
    good, bad = _sorted_out(root, description, shards)
    code, size = description.profile.code, description.profile.object_len
    data = _rebuilt(description, good, range(code.k))
    return Recovered(erasure.decode(data, code, size), bad)


def repair(
    root: bytes, description: Description, shards: Mapping[int, Buffer], wanted: Iterable[int]
) -> dict[int, Buffer]:
    """The `wanted` shards of the object R, fit to be stored, out of any k others."""
    good, _bad = _sorted_out(root, description, shards)
    rebuilt = _rebuilt(description, good, wanted)
    for i, shard in rebuilt.items():
        check_new_shard_untrusted(shard, description.descriptors[i])
    return rebuilt


def _sorted_out(
    root: bytes, description: Description, shards: Mapping[int, Buffer]
) -> tuple[dict[int, Buffer], dict[int, str]]:
    """The shards that are what R says, and what is wrong with the others."""
    description.check_root_untrusted(root)
    code = description.profile.code
    good: dict[int, Buffer] = {}
    bad: dict[int, str] = {}
    for i, shard in shards.items():
        if not 0 <= i < code.n:
            bad[i] = f"a code {code} has no shard {i}"
            continue
        try:
            check_shard_untrusted(shard, description.descriptors[i])
        except (FormatError, IntegrityError) as e:
            bad[i] = str(e)
        else:
            good[i] = shard
    if len(good) < code.k:
        wrong = f", {len(bad)} more are damaged" if bad else ""
        raise NotEnoughShards(f"{len(good)} good shards where {code.k} are needed{wrong}")
    return good, bad


def _rebuilt(
    description: Description, good: Mapping[int, Buffer], wanted: Iterable[int]
) -> dict[int, Buffer]:
    """The `wanted` shards, each with the hash R has for it.

    The first k good shards do it unless the object was described wrongly when it was made (bad
    memory, a bug, malice): then a parity shard can fit its descriptor and still not fit the data.
    Another choice of shards may avoid the one that lies.
    """
    code, wanted = description.profile.code, tuple(wanted)
    choices = combinations(sorted(good), code.k)
    for choice in islice(choices, limits.RECOVER_ATTEMPTS_MAX):
        chosen = {i: good[i] for i in choice}
        rebuilt = erasure.rebuild(chosen, code, wanted)
        computed = (i for i in rebuilt if i not in chosen)
        if all(_shard_hash(rebuilt[i]) == description.descriptors[i].shard_hash for i in computed):
            return rebuilt
    raise IntegrityError("the shards contradict each other: this object was made wrongly")

"""Tar streams: those another program writes, and headers written by hand."""

import tarfile
from io import BytesIO
from typing import Any

CUT = bytes(1024)  # what ends a stream


def member(name: str, *, pax: dict[str, str] | None = None, **fields: Any) -> tarfile.TarInfo:
    """What the library writes a header from."""
    info = tarfile.TarInfo(name)
    info.pax_headers = pax or {}
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def tar_of(
    *members: tarfile.TarInfo | tuple[tarfile.TarInfo, bytes], form: int = tarfile.PAX_FORMAT
) -> bytes:
    """A whole stream."""
    out = BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for one in members:
            info, content = one if isinstance(one, tuple) else (one, b"")
            info.size = len(content)
            tar.addfile(info, BytesIO(content))
    return out.getvalue()


def block(
    name: bytes,
    *,
    kind: bytes = b"0",
    size: int = 0,
    link: bytes = b"",
    mode: bytes = b"0000644\0",
    uid: bytes = b"0000000\0",
    raw_size: bytes = b"",
    magic: bytes = b"ustar\x0000",
    prefix: bytes = b"",
    sparse: bytes = b"",
) -> bytes:
    """A header by hand, with a checksum that fits."""
    fields = name.ljust(100, b"\0") + mode + uid + b"0000000\0"
    fields += (raw_size or b"%011o\0" % size) + b"00000000000\0" + b" " * 8 + kind
    fields += link.ljust(100, b"\0") + magic
    header = bytearray(fields.ljust(345, b"\0") + prefix.ljust(155, b"\0") + bytes(12))
    if sparse:
        header[386 : 386 + len(sparse)] = sparse
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)

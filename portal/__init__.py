"""The zero-knowledge vault: a directory of packs, an index, a chain of heads (portal/SPEC.md).

It computes on bytes and works on one directory; who asks, what the clock says and what is printed
is the caller's business.
"""

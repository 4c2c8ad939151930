"""Who belongs to a mesh: a set of signed operations that every member holds and judges alike.

Pure and synchronous: bytes in, answers out. Nothing here reads a clock, a file or a socket.
"""

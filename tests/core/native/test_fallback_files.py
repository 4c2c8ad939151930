# What no real file system shows on demand, played to the Python kernel. test_compiled_files.py
# asks both kernels the same questions.

import os

from core.native import fallback_files
from core.native.rows import ROW


def test_a_name_that_is_read_twice_is_there_once(tmp_path, monkeypatch):
    (tmp_path / "a").touch()
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    monkeypatch.setattr(os, "listdir", lambda _: ["a", "a"])
    listed = fallback_files.list_directory(fd)
    os.close(fd)
    assert (listed.names, len(listed.rows)) == (b"a\0", ROW.size)

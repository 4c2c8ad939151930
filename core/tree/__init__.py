"""Trees of files: walking them, reading them and putting them back (core/SPEC.md, Trees).

Names and paths are bytes. A tree is walked and restored from held directories, one name at a time
and without following symlinks, so nothing outside of it is read or written whatever moves under
the program's feet. Nothing here prints, starts threads or decides what a failure means.
"""

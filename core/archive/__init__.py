"""The .warp archive: one file that holds a tree, deduplicated, compressed and, if asked, sealed."""

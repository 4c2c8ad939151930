"""The warp data path: names, bytes, keys, chunks, packs. Pure and synchronous."""

VERSION = "0.1.0"

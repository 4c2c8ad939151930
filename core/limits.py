"""Every bound, unit last in its name. First what the formats fix, then what we chose.

A bound of the first kind is part of a format: changing it needs a new version of that format.
A bound of the second kind protects this machine and may be changed freely.
"""

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

# --- fixed by the formats ---------------------------------------------------------------------

HASH_BYTES = 32
KEY_BYTES = 32
SIGNATURE_BYTES = 64
AEAD_NONCE_BYTES = 12
AEAD_TAG_BYTES = 16
COMMITMENT_BYTES = 32
PHRASE_WORDS = 24
PHRASE_ENTROPY_BYTES = 32
DEVICE_NAME_BYTES_MAX = 64
KEYSTORE_HEADER_BYTES_MAX = 65_535  # its length field is a u16
KEYSTORE_SLOTS_MAX = 16

MERKLE_BLOCK_BYTES = 4 * KIB
MERKLE_LEAVES_MAX = 1 << 32
SPARSE_DEPTH_MAX = 256  # one level per bit of a path
SHARDS_MAX = 32  # per object; the most fragments liberasurecode knows
SHARD_ALIGN_BYTES = 64

# Pieces, chunks and packs. A chunk always fits a pack of 4 MiB, with room for its index rows.
CHUNK_PLAIN_BYTES_MAX = 4 * MIB - 64 * KIB
CHUNKER_BYTES_MAX = 16 * MIB  # the largest chunk any chunker makes, in archives
BUNDLE_PIECES_MAX = 16_384
PACK_SIZES_BYTES = (256 * KIB, 1 * MIB, 4 * MIB, 16 * MIB)
PACK_SALT_BYTES = 32
COMPRESSION_BLOCK_BYTES = 64 * KIB  # codecs 3 and 4
ZSTD_WINDOW_BYTES_MAX = 16 * MIB  # a frame that asks for more memory than this is refused

# Argon2id: what a file may ask of us, checked before a byte is allocated.
ARGON2_MEMORY_KIB_MIN = 19 * KIB  # 19 MiB
ARGON2_MEMORY_KIB_MAX = 4 * MIB  # 4 GiB
ARGON2_PASSES_MIN = 2  # one pass only from ARGON2_ONE_PASS_MEMORY_KIB_MIN on
ARGON2_PASSES_MAX = 16
ARGON2_ONE_PASS_MEMORY_KIB_MIN = 1 * MIB  # 1 GiB
ARGON2_LANES_MAX = 16
ARGON2_SALT_BYTES = 16

ARCHIVE_CHUNK_BYTES_MAX = 16 * MIB
ARCHIVE_SALT_BYTES = 32

# Streams: a frame's key serves so many frames and bytes, then both ends derive the next one.
STREAM_CHUNK_SIZES_BYTES = (64 * KIB, 256 * KIB, 1 * MIB)
STREAM_EPOCH_FRAMES_MAX = 1 << 20
STREAM_EPOCH_BYTES_MAX = 64 * GIB
STREAM_FRAMES_MAX = 1 << 48  # far below the wrap of the counter in the nonce

# Trees of files: what an entry may hold. A name is as long as 255 characters of UTF-8 get.
PATH_BYTES_MAX = 1 * MIB
PATH_DEPTH_MAX = 4_096
NAME_BYTES_MAX = 1_020
LINK_TARGET_BYTES_MAX = 4_095  # PATH_MAX of Linux, without its NUL
OWNER_NAME_BYTES_MAX = 256
XATTR_NAME_BYTES_MAX = 255
XATTR_VALUE_BYTES_MAX = 64 * KIB
XATTRS_MAX = 4_096
XATTRS_BYTES_MAX = 1 * MIB  # all names and values of one entry

# --- chosen by us -----------------------------------------------------------------------------

# One structure in MessagePack; bulk tables are fixed rows inside one bin, not arrays of arrays.
CODEC_BYTES_MAX = 64 * MIB
CODEC_DEPTH_MAX = 16

BUNDLE_BYTES_TARGET = 960 * KIB  # small pieces are joined up to here; fits a pack of 1 MiB
PACK_PIECES_TARGET = 65_536  # in bundles waiting for a pack; then it is closed as it is
PACK_LOOKAHEAD_BYTES = 4 * MIB  # chunks kept waiting, to choose among when a pack fills up

ARCHIVE_BUNDLE_BYTES_TARGET = 4 * MIB
ARCHIVE_INDEX_BYTES_MAX = 1 * GIB  # 19 million chunks, some 70 TB of content
ARCHIVE_SEGMENT_ENTRIES_MAX = 65_536  # of the file table at once
ARCHIVE_FILE_EXTENTS_MAX = 1_000_000  # of one file, so that a segment holds them: some 4 TB
ARCHIVE_SEGMENT_BYTES_TARGET = 4 * MIB

STREAM_BUFFERS = 3  # of `warp stream`: one is filled, one sealed, one written

READ_BUFFER_BYTES = 8 * MIB  # one read of a large file; its pieces are views of it
THREAD_HOP_BYTES = 4 * MIB  # what one trip to a worker thread carries, so that the trip is free
PIPELINE_BYTES_MAX = 64 * MIB  # chunks between `put` and the delivery of their pack
PIPELINE_ITEMS_MAX = 1_024  # in flight, however small they are
PIPELINE_QUEUE_CHUNKS_MAX = 16
PIPELINE_PACKS_MAX = 2  # one being delivered while the next is sealed

KEYSTORE_FILE_BYTES_MAX = 1 * MIB
KEYSTORE_WRAPPED_BYTES_MAX = 4 * KIB  # a key service may answer with a long blob
KEYSTORE_PARAMS_FIELDS_MAX = 16
KEYSTORE_VAULTS_MAX = 4_096
KEYSTORE_EXTRAS_MAX = 1_024
KEYSTORE_EXTRA_NAME_BYTES_MAX = 64
KEYSTORE_EXTRA_VALUE_BYTES_MAX = 4 * KIB
KEY_FILE_BYTES_MAX = 4 * KIB
PASSPHRASE_BYTES_MAX = 4 * KIB
KIT_ENDPOINTS_MAX = 3
KIT_ENDPOINT_BYTES_MAX = 256
KIT_TEXT_CHARS_MAX = 2_000  # a QR code of version 40-L carries 4,296 letters and digits
OBJECT_BYTES_MAX = 64 * MIB  # what is erasure-coded at once; packs end at 16 MiB
RECOVER_ATTEMPTS_MAX = 256  # sets of shards tried when checked shards contradict each other
MALLOC_MMAP_BYTES = 32 * MIB  # the most glibc accepts; see core/process.py
MALLOC_KEEP_BYTES = 128 * MIB  # freed memory at the top of the heap that stays with the process
TREE_OPEN_DIRECTORIES_MAX = 64  # file descriptors a walk or a restore holds
TREE_OWNERS_CACHED_MAX = 16_384
TREE_SMALL_FILE_BYTES_MAX = 16 * MIB  # what `read_small` takes into memory
TREE_HOLE_BYTES_MIN = 64 * KIB  # smaller holes are read as the zeros they are
TREE_EXTENTS_MAX = 65_536  # of one sparse file; what follows is read as one

# --- the vault: bounds of its formats ---------------------------------------------------------

LINK_MARK_BYTES = 16  # of a file with several names, in a snapshot
SNAPSHOT_CONTENT_BYTES_MAX = 1 * MIB  # what one row of a directory says about its content
SNAPSHOT_ERRORS_MAX = 200  # told in a snapshot one by one; the rest is counted
SNAPSHOT_ERRORS_BYTES_MAX = 64 * KIB  # of their paths and texts: heads repeat them
SNAPSHOT_PATHS_MAX = 1_024
SNAPSHOT_TAGS_MAX = 64
SNAPSHOT_TEXT_BYTES_MAX = 1 * KIB
SNAPSHOT_RECORD_BYTES_MAX = 4 * MIB
SNAPSHOTS_MAX = 65_536  # in one head
HEAD_BYTES_MAX = 64 * MIB
DIRECTORY_PART_BYTES_MIN = 96 * KIB  # a directory is cut into pieces from here on
DIRECTORY_PART_BYTES_MAX = 640 * KIB
DIRECTORY_PIECE_BYTES_MAX = 3 * MIB  # a part as it came out; a row may have large attributes
CUT_LIST_EXTENTS_MAX = 16_384  # extents of one CUT_LIST piece: 640 KiB
VAULT_CONFIG_BYTES_MAX = 64 * KIB

# --- the vault: chosen by us --------------------------------------------------------------------

SMALL_FILE_BYTES_MAX = 512 * KIB - 1  # longer files are cut by the chunker
DELTA_BYTES_TARGET = 8 * MIB  # of pack indexes, in one index delta
DELTA_BYTES_MAX = 48 * MIB
DELTAS_MAX = 24  # beyond, small ones are merged
HEADS_KEPT = 64  # older ones are taken away when a new one is written
TABLE_ROWS_PENDING_MAX = 131_072  # new pieces in memory before they go to a table in the cache
TABLE_BYTES_MAX = 16 * GIB
PACKS_OPEN_MAX = 32  # file descriptors a reader of a vault holds
CHUNKS_CACHED_BYTES_MAX = 24 * MIB
RECENT_NS = 2_000_000_000  # a file touched so shortly before a run may change without a trace

# What is backed up: patterns, rules, configuration.
PATTERN_BYTES_MAX = 4 * KIB
PATTERN_SETS_CACHED_MAX = 4_096  # of different directories, as patterns see them
IGNORE_FILE_BYTES_MAX = 256 * KIB
CONFIG_FILE_BYTES_MAX = 1 * MIB
HOOK_SECONDS_DEFAULT = 3_600
HOOK_GRACE_SECONDS = 10  # between asking a hook to end and ending it

# Batches of file system calls.
TREE_BATCH_FILES_MAX = 1_024  # read or written in one call
TREE_BATCH_BYTES_MAX = 2 * MIB
TREE_WRITERS = 2  # threads that write batches of small files
TREE_BATCH_DIRECTORIES_MAX = 32  # held open for one call; two batches may be held at once
TREE_BATCH_FILE_BYTES_MAX = 1 * MIB  # a larger one gains nothing in a batch, and is copied

RESTORE_JOBS_WRITTEN_MAX = 4  # chunks whose small files are being written

# Keeping a vault healthy.
TRASH_SECONDS_DEFAULT = 7 * 86_400  # what was collected can be brought back for so long
UNUSED_PERCENT_MAX = 5.0  # of what is in use: more, and packs are sealed again without it
TRASHED_PERCENT_MAX = 50.0  # of a vault in one run, unless what was forgotten explains it

# Reading snapshots.
RESTORE_WINDOW_ENTRIES = 8_192  # planned at once, so that what lies together is opened together
FIND_CACHE_ENTRIES = 262_144  # directories whose matches are remembered from snapshot to snapshot
FIND_CACHE_NODES_MAX = 65_536  # matches remembered in all
AFFECTED_TOLD_MAX = 1_000  # files a check names one by one; the rest is counted

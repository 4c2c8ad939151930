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

# Tar streams that become archives.
TAR_HEADER_BYTES_MAX = 4 * MIB  # of what one header says about the next member
TAR_HEADERS_MAX = 16  # about one member
TAR_MEMBER_BYTES_MAX = 1 << 62

STREAM_BUFFERS = 3  # of `warp stream`: one is filled, one sealed, one written

READ_BUFFER_BYTES = 8 * MIB  # one read of a large file; its pieces are views of it
READ_BUFFERS_KEPT_MAX = 16  # used again; what is in flight may hold as many more
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

# --- links between nodes: bounds of their formats -------------------------------------------------

LEAF_BYTES_MAX = 1 * KIB
HELLO_BYTES_MAX = 4 * KIB
DATAGRAM_BYTES_MAX = 1_200  # of every sealed datagram but a probe for the path's limit
LINK_FRAME_BYTES_MAX = 256 * KIB
STREAM_WINDOW_BYTES = 2 * MIB  # unread bytes of one stream; the sender waits
STREAMS_MAX = 16  # each side opens at once; twice as many are taken, as endings may cross
RETRY_TOKEN_BYTES_MAX = 128
LANE_TOKEN_BYTES = 32
RECORD_BYTES_MAX = 1_000
RECORD_PLACES_MAX = 8
RECORD_TTL_SECONDS_MAX = 172_800
RECORDS_MAX = 16_384  # one of each member

# --- links between nodes: chosen by us ------------------------------------------------------------

UDP_BUFFER_BYTES = 4 * MIB  # asked of the kernel for each direction; it may give less
UDP_BATCH_ARRIVALS_MAX = 32  # read at once before anything else gets its turn
UDP_TRAIN_SEGMENTS_MAX = 64  # datagrams handed to the kernel in one call
UDP_TRAIN_BYTES_MAX = 65_000
DATAGRAM_BYTES_DEFAULT = 1_350  # fits every path people have, WireGuard included
CONNECTION_WINDOW_BYTES = 16 * MIB  # what may arrive out of order, on all streams of a connection
STREAM_HOLES_MAX = 2_048  # in what arrived of a stream; a window in packets has half as many
HANDSHAKES_MAX = 256  # in progress; beyond, first packets are dropped
HANDSHAKES_FREE_MAX = 32  # beyond, strangers prove their address first (Retry)
HANDSHAKES_FREE_PER_SECOND_MAX = 100  # beyond, too: each costs a handshake begun
HANDSHAKES_NEIGHBOURS_MAX = 32  # in progress, of those that proved one address or IPv6 network
HANDSHAKE_SECONDS = 5
MOVE_SILENCE_SECONDS = 0.25  # of the address we know, before another one may be the peer's
MOVE_PROOF_SECONDS = 3  # to prove the other one
STRANGER_DATAGRAMS_BYTES_MAX = 64 * KIB  # what the packets that bring it may weigh in all
STRANGERS_MAX = 256  # connections without AUTH; beyond, the one that has taken longest is ended
STRANGER_BYTES_MAX = 8 * KIB  # what a connection may bring before its HELLO was accepted
REFUSAL_SECONDS = 2  # between a refusal and the end of the connection
LINK_IDLE_SECONDS = 30
CONNECTIONS_MAX = 4_096
STREAM_OPENING_BYTES_MAX = 4 * KIB  # of the frame that says what a stream is for
LINK_REQUESTS_MAX = 64  # of ours under way on one link; more wait
LINK_SERVED_MAX = 64  # requests and streams of a peer being served; more are refused
LINK_SILENCE_SECONDS = 10  # while something is under way; then the peer is asked if it is there
LINK_REST_SECONDS = 25  # the same on a link at rest: NATs forget it after 30
LINK_REST_DIALLER_SECONDS = 22  # the same for who dialled, so that not both ask at once
LINK_ANSWER_SECONDS = 3.5  # for what we said to arrive, before the peer is asked
LINK_TRUST_SECONDS = 6.5  # and given up without an answer
PROBE_SECONDS_MAX = 1.0  # between signs of life on a silent path, if its round trip is shorter
LINK_PING_SECONDS = 1.5  # between questions whether it is there
LINK_UNUSED_SECONDS = 120  # before a link that neither side wants to keep is closed
DIALS_MAX = 16  # at once
DIAL_WAYS_MAX = 16  # to one peer; the first ones count
DIAL_STAGGER_SECONDS = 0.25  # between addresses of one peer
REDIAL_SECONDS_MIN = 0.5  # doubled each time, up to the maximum, and shortened by chance
REDIAL_SECONDS_MAX = 60
RECORD_TTL_SECONDS = 86_400  # of our own address record; it is made anew long before
RECORD_EARLY_MS_MAX = 600_000
RECORD_SEEN_MAX = 3  # addresses of ours that peers saw last
RECORDS_PER_SECOND = 1  # of one member that are passed on
RECORDS_TOLD_MAX = 200  # in one answer; what is missing then comes with the next link
ID_PREFIX_CHARS_MIN = 4  # of an id people type
MEMBERS_FILE_BYTES_MAX = 256 * MIB  # more than OPERATIONS_MAX of the largest kind can take
MEMBERS_OWN_BYTES_MAX = 64  # of the file that says how many operations are ours
LINKS_KEPT_MAX = 64  # to members, used or not; beyond that many, others are dialled when needed
LINK_RINGS = 16  # with more members, each keeps links to two on every ring: 32 at most
GOSSIP_SECONDS = 60  # between telling one peer what we know of the members
GOSSIP_FRAMES_MAX = 256  # about members that wait for a slow peer
RECOLLECTION_SECONDS = 5  # after the start, for members to say what they know of this node

# --- the daemon and its doors ---------------------------------------------------------------------

NODE_STOP_SECONDS = 5  # from being asked to end to the end, whatever happens
NODE_STOP_GENTLE_SECONDS = 4  # of these, before what goes on is cancelled
LOG_LINES_MAX = 60  # of one kind in a minute; the rest is counted
LOG_KINDS_MAX = 256  # counted at once
LOG_VALUE_CHARS_MAX = 1_024
HTTP_HEAD_BYTES_MAX = 16 * KIB
HTTP_BODY_BYTES_MAX = 1 * MIB
HTTP_CONNECTIONS_MAX = 64  # of one door
HTTP_HEAD_SECONDS = 10  # for the rest of a request once it began
HTTP_IDLE_SECONDS = 60  # between two requests on one connection
HTTP_SEND_SECONDS = 10  # for the other side to take one piece
HTTP_CLOSE_SECONDS = 1  # for answers under way when the door closes
EVENTS_QUEUED_MAX = 256  # of one listener; then it is dropped
EVENT_LISTENERS_MAX = 16
EVENT_BYTES_MAX = 64 * KIB
CONTROL_ANSWER_SECONDS = 30  # between two pieces of an answer
CONTROL_ANSWER_BYTES_MAX = 16 * MIB
NETWORK_FACTS_MAX = 1_024  # links and addresses of this machine that are remembered
NETWORK_MESSAGES_MAX = 64  # of the kernel that are read before others have their turn
NETWORK_SETTLES_SECONDS = 1  # between the first sign of a change and looking at it
LEAVE_SECONDS = 5  # for the peers to hear that we leave

# --- links between nodes: who speaks, and sealed datagrams ----------------------------------------

HELLO_CERT_BYTES_MAX = 1 * KIB
HELLO_HEADS_MAX = 8
HELLO_KEM_BYTES_MAX = 1_200  # an ML-KEM-768 public key and a classic one
HELLO_CLOCK_OFF_MS_MAX = 86_400_000  # a day: beyond, nothing that carries a time makes sense
HELLO_NONCES_MAX = 16_384  # remembered one by one; older ones only by their time
DATAGRAM_PROBE_BYTES_MAX = 8_972  # of an MTU datagram: what a jumbo frame carries
DATAGRAM_WINDOW_COUNTERS = 1_024  # how far a datagram may be overtaken by others
DATAGRAM_CLOCK_OFF_MS_MAX = 120_000  # from where we think the sender's clock stands
DATAGRAM_KEYS_CACHED_MAX = 4_096
DATAGRAMS_PER_SECOND_MAX = 5_000  # opened in all
DATAGRAMS_PER_SECOND_SENDER_MAX = 200
DATAGRAM_SESSIONS_PER_SECOND_MAX = 500  # of those that open with a session not seen before
DATAGRAM_SESSIONS_PER_SECOND_SENDER_MAX = 20
DATAGRAM_SESSIONS_ENDED_KEPT = 4  # of a sender: they do not come back
REQUESTS_MAX = 4_096  # waiting for their answer
CLOCK_SAMPLES_KEPT = 15  # of each peer
CLOCK_PEERS_MAX = 4_096

# --- who is alive ---------------------------------------------------------------------------------

PROBE_SECONDS = 5  # between two members we look at when all is well
PROBE_TIMEOUT_SECONDS_MIN = 0.5  # that a member has to answer, else four of its round trips
PROBE_TIMEOUT_SECONDS_MAX = 3
PROBE_WHOLE_SECONDS_MIN = 3  # two direct questions, then the help of others
PROBE_HELPERS = 3
PROBE_HELPERS_DEAD = 1  # perhaps it is back, and we are the only ones who cannot reach it
PROBE_HELP_SECONDS = 1  # that a helper waits for the member it asks
PROBES_MAX = 16  # of our own under way at once
PROBES_SERVED_MAX = 32  # for others at once; beyond, no answer
PROBES_SERVED_SENDER_MAX = 8
PROBE_PROOF_BYTES_MAX = 256  # of a sealed datagram that says hardly anything
LOOKS_PER_SECOND = 2  # at members of whom something was told, or who are suspected
LOOK_AGAIN_SECONDS = 10  # before the word of others makes us look at the same member once more
SUSPICION_LOOKS = 4  # in vain, spread over the time of a suspicion, before somebody is dead
HEALTH_MAX = 8  # of our own: how many times more patient we are when others do not hear us
VIEWS_TOLD_MAX = 16  # in one datagram
VIEWS_SECONDS = 0.5  # between telling, while there is something to tell
VIEWS_FANOUT = 3  # members told at once
LEAVING_TOLD_MAX = 64  # members that hear from us when we go

# --- who is away, and who is lost -----------------------------------------------------------------

PRESENCE_ROWS_MAX = 32_768  # as many members as operations can admit
PRESENCE_FILE_BYTES_MAX = 16 * MIB  # of all of them with all their absences
PRESENCE_STEP_SECONDS = 60  # between two looks at the clock while somebody is absent
PRESENCE_SAVE_SECONDS = 600  # between two writes of the file while nothing else changes
ABSENCE_STEP_SECONDS_MAX = 180  # that count at once: beyond, we did not run ourselves
ABSENCE_SECONDS_MIN = 600  # that is remembered of somebody
ABSENCES_KEPT = 64  # of each member
GRACE_SECONDS_MIN = 86_400  # of absence before a member counts as lost
GRACE_SECONDS_MAX = 14 * 86_400  # whatever it was absent before
GRACE_POLICY_SECONDS_MAX = 365 * 86_400  # that an owner may set

# --- members of a mesh: bounds of their formats ---------------------------------------------------

OPERATION_BYTES_MAX = 2 * KIB
ADMISSION_BYTES_MAX = 4 * KIB  # of an operation that carries a certificate and a KEM key
OPERATION_COSIGN_BYTES_MAX = 160  # allowed on top for each cosignature
OPERATION_PARENTS_MAX = 8
OPERATION_COSIGNS_MAX = 16
OPERATION_TEXT_BYTES_MAX = 64  # the name of a mesh, the label of an invite
OPERATION_DATA_BYTES_MAX = 1 * KIB  # what a committee or a dedup epoch says
CERT_BYTES_MAX = 1 * KIB
KEM_PUBLIC_BYTES = 1_216  # ML-KEM-768 and X25519
OPERATIONS_MAX = 32_768  # in one mesh
OPERATIONS_PER_AUTHOR_MAX = 4_096  # what a device may write that nobody else builds on
DEVICES_PER_USER_MAX = 64
REMOVALS_REPEATED_MAX = 16  # of one user or device by one author; more say nothing new

# --- members of a mesh: chosen by us --------------------------------------------------------------

OPERATIONS_PARKED_MAX = 1_024  # that wait for operations before them
OPERATIONS_FRAME_BYTES_MAX = 256 * KIB - 1 * KIB  # of them in one message of the exchange
DRAFT_SECONDS = 7 * 86_400  # in which other admins may sign what one has begun
DRAFT_AHEAD_SECONDS = 600  # that the clock of who made one may be fast
DRAFTS_MAX = 64  # in one mesh
DRAFTS_PER_USER_MAX = 8  # those that were taken back too, until they would have ended
DRAFTS_PER_SECOND = 8  # of one peer that are looked at: each costs some signatures
DRAFTS_EARLY_MAX = 16  # that know more of the mesh than we do, and wait
DRAFTS_FILE_BYTES_MAX = 1 * MIB

# --- links between nodes: lanes -------------------------------------------------------------------

LANE_ID_BYTES = 16
LANE_WAYS_MAX = 16  # to reach one lane
LANE_PATH_BYTES_MAX = 103  # of a Unix socket; macOS has the least room
LANE_OFFER_SECONDS = 10  # between the offer of a lane and its token
LANE_OFFERS_MAX = 16  # open at once, to one link
LANE_STRANGERS_MAX = 64  # connections that have not shown a token; beyond, the oldest is closed
LANE_STRANGERS_PER_SOURCE_MAX = 16
LANE_TOKEN_SECONDS = 5  # for a stranger to show one
LANE_CONNECT_SECONDS = 3  # for each way to a lane
LANE_GOODBYE_SECONDS = 1  # for the peer to take the end of a lane that is closed
LANE_BACKLOG_MAX = 64  # connections the kernel, or a hall, keeps until they are accepted
LANE_BATCH_BYTES = 256 * KIB  # encrypted, sent, received and decrypted at once
LANE_UNSENT_BYTES = 512 * KIB  # a TCP lane keeps in the kernel beyond what is on its way
LANE_SOCKET_BUFFER_BYTES = 1 * MIB  # of a Unix socket
LANE_MEMORY_BYTES = 1 * MIB  # unread in a lane within the process
PATHS_MAX = 32  # to one peer, that are measured
PATH_MTU_TRIES = 3  # of one size, before it is taken as too large
PATH_MTU_PROBE_SECONDS = 1  # that an answer may take
PATH_MTU_AGAIN_SECONDS = 600  # after which larger sizes are tried again
PATH_MTU_PATHS_MAX = 4_096

# --- links between nodes: lanes and paths in use --------------------------------------------------

LANES_SERVED_MAX = 16  # to one peer at once; beyond, it uses streams of the link
LANES_SERVED_TOTAL_MAX = 256
LANE_AGAIN_SECONDS = 300  # before a lane that failed is tried again
LANE_TRIAL_SECONDS = 60  # between streams on a lane nothing is known of
LANE_SAMPLE_BYTES_MIN = 256 * KIB  # that tell something about a lane
LANE_IN_USE_SECONDS = 40  # between telling that a link is not unused: lanes of it are at work
PATH_PING_IDLE_SECONDS = 240  # meanwhile the link itself keeps the way open
PATH_PING_BUSY_SECONDS = 3  # while bulk moves, or the path does not answer
PATH_PING_ANSWER_SECONDS = 3
ENGINE_CHOICES_MAX = 4_096  # nodes whose paths' losses are remembered
GOSSIP_WRITES_MAX = 16  # frames about members that wait for the disk before links are not read
GOSSIP_QUESTIONS_PER_SECOND = 1  # of one peer that are answered; others wait for their turn
RECORD_NUMBERS_MAX = 4_000  # in one question for records
RECORDS_CHECKED_PER_SECOND = 500  # of one link: each costs a signature
RECORDS_SAVE_SECONDS = 5  # between two writes of the file

# --- invites --------------------------------------------------------------------------------------

INVITE_TEXT_CHARS_MAX = 1_000
INVITE_SECRET_BYTES = 16
INVITE_ENDPOINTS_MAX = 4
INVITE_ENDPOINT_BYTES_MAX = 253  # a DNS name
QUOTA_BYTES_MAX = 1 << 60  # that a member may be granted
INVITE_SECONDS_MAX = 7 * 86_400
PAIR_STRANGER_BYTES_MAX = 8 * KIB  # that somebody may say who is no member yet
PAIR_SECRETS_BYTES_MAX = 64 * KIB  # what a newcomer is given, sealed
PAIR_SECONDS_MAX = 900  # for one stranger, the time until somebody approves included
PAIR_TRIES_PER_MINUTE = 5  # from one address
PAIR_FAILURES_MAX = 20  # within an hour, from anywhere; then nobody is heard for an hour
PAIR_ADDRESSES_MAX = 4_096  # whose tries are remembered

# The numbers of the wire and of the log, in one place. `codes.pyx` turns each enum into a Python IntEnum of the same
# name, so that compiled and interpreted code cannot disagree. A number is never given a second meaning.

cpdef enum Opcode:
    HELLO = 0x01
    ERROR = 0x03
    PING = 0x04
    GOODBYE = 0x05         # a clean stop: what was not answered before it was not done
    # what a client may ask
    GET = 0x10
    PUT = 0x11
    DELETE = 0x12
    SCAN = 0x13
    STATUS = 0x14
    INCR = 0x15            # this and the next three: place reserved
    TXN = 0x16
    WATCH = 0x17
    LEASE = 0x18
    SESSION = 0x19
    LOG = 0x1A             # a page of the log, to be looked at
    ADMIN = 0x1B           # members and leadership; a peer forwards it with the same opcode
    BACKUP = 0x1C          # a part of a snapshot, to be kept elsewhere
    # what a peer may say
    RAFT = 0x40
    APPEND = 0x41
    FORWARD = 0x42
    FORWARD_REPLY = 0x43
    PEER_STATUS = 0x44
    SNAPSHOT_ASK = 0x45
    SNAPSHOT_CHUNK = 0x46
    ADMIN_REPLY = 0x47
    TRACE = 0x48           # where tracing is on: what the next FORWARD belongs to

cpdef enum Status:
    OK = 0
    KEY_NOT_FOUND = 1
    PRECONDITION_FAILED = 2
    INVALID_KEY = 3
    KEY_TOO_LARGE = 4
    VALUE_TOO_LARGE = 5
    INVALID_REQUEST = 6
    UNKNOWN_OPCODE = 7
    UNSUPPORTED_VERSION = 8
    FRAME_TOO_LARGE = 9
    UNAUTHENTICATED = 10
    WRONG_CLUSTER = 11
    UNSUPPORTED = 12
    REMOVED = 13           # to a peer: it was removed from the cluster
    WRONG_DISK = 14        # to a peer: the cluster knows it with another disk
    CHANGE_REFUSED = 15    # of members or leadership; nothing has changed
    WRONG_ADDRESS = 16     # to a peer: the cluster knows it at another address, and not by its disk yet
    # provably not done: safe to try again
    NO_LEADER = 20
    NOT_LEADER = 21        # between nodes only; never reaches a client
    OVERLOADED = 22
    NO_SPACE = 23
    SHUTTING_DOWN = 24
    SESSION_EXPIRED = 25   # this attempt was not done; an earlier one may have been
    CORRUPT_STATE = 26     # this node's state differs from the others': it serves nothing
    # a read that found no answer in time
    TIMEOUT = 30
    CURSOR_EXPIRED = 31
    # may or may not have been done
    OUTCOME_UNKNOWN = 40

cpdef enum Kind:
    NOOP = 0
    ENTRY_PUT = 1
    ENTRY_DELETE = 2
    ENTRY_CONFIG = 16
    ENTRY_SESSION = 17
    ENTRY_LEASE = 18       # this and the next: place reserved
    ENTRY_TXN = 19

cpdef enum FrameFlag:
    RESPONSE = 0x80
    CREATED = 0x01
    FORWARDED = 0x02
    STALE = 0x04

cpdef enum CommandFlag:
    COMPARE = 0x01
    WITH_LEASE = 0x02
    WITH_SESSION = 0x04

cpdef enum Consistency:
    LINEARIZABLE = 0
    LEASE_READ = 1
    STALE_READ = 2

cpdef enum ScanFlag:
    REVERSE = 0x01
    KEYS_ONLY = 0x02

cpdef enum:
    FRAME_HEADER_BYTES = 16
    ENTRY_HEADER_BYTES = 8
    COMMAND_HEADER_BYTES = 4
    RECORD_HEADER_BYTES = 32
    RESULT_BYTES = 16
    MAX_KEY_BYTES = 511    # LMDB's bound
    SESSION_ENTRY_BYTES = 8
    OPEN_SESSION = 1       # the first byte of a SESSION request, and of its entry
    MAX_SESSIONS = 65536
    SESSION_WINDOW = 1024  # of a session's writes, so many of the newest are remembered

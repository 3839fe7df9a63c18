from enum import IntEnum

FRAME_HEADER_BYTES: int
ENTRY_HEADER_BYTES: int
COMMAND_HEADER_BYTES: int
RECORD_HEADER_BYTES: int
RESULT_BYTES: int
MAX_KEY_BYTES: int
PROTOCOL_VERSION: int

class Opcode(IntEnum):
    HELLO = 0x01
    ERROR = 0x03
    PING = 0x04
    GET = 0x10
    PUT = 0x11
    DELETE = 0x12
    SCAN = 0x13
    STATUS = 0x14
    INCR = 0x15
    TXN = 0x16
    WATCH = 0x17
    LEASE = 0x18
    SESSION = 0x19
    LOG = 0x1a
    RAFT = 0x40
    APPEND = 0x41
    FORWARD = 0x42
    FORWARD_REPLY = 0x43
    PEER_STATUS = 0x44
    SNAPSHOT = 0x45

class Status(IntEnum):
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
    NO_LEADER = 20
    NOT_LEADER = 21
    OVERLOADED = 22
    NO_SPACE = 23
    SHUTTING_DOWN = 24
    TIMEOUT = 30
    CURSOR_EXPIRED = 31
    OUTCOME_UNKNOWN = 40

class Kind(IntEnum):
    NOOP = 0
    ENTRY_PUT = 1
    ENTRY_DELETE = 2
    ENTRY_CONFIG = 16
    ENTRY_SESSION = 17
    ENTRY_LEASE = 18
    ENTRY_TXN = 19

class FrameFlag(IntEnum):
    RESPONSE = 0x80
    CREATED = 0x01
    FORWARDED = 0x02
    STALE = 0x04

class CommandFlag(IntEnum):
    COMPARE = 0x01
    WITH_LEASE = 0x02
    WITH_SESSION = 0x04

class Consistency(IntEnum):
    LINEARIZABLE = 0
    LEASE_READ = 1
    STALE_READ = 2

class ScanFlag(IntEnum):
    REVERSE = 0x01
    KEYS_ONLY = 0x02

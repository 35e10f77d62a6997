"""The shared memory of a TCMU device, version 2, as include/uapi/linux/target_core_user.h lays it out.

    0        mailbox: u16 version, u16 flags, u32 cmdr_off, u32 cmdr_size, u32 cmd_head (kernel writes)
    64       u32 cmd_tail (we write)
    cmdr_off the ring of entries, cmdr_size bytes; cmd_head and cmd_tail are offsets into it
    after it the data area: what iovecs point into

An entry starts with u32 len_op (length, a multiple of 8, with the operation in the low 3 bits),
u16 cmd_id, u8 kflags, u8 uflags. Numbers are native: the other side is this machine's kernel.
"""

from struct import Struct

VERSION = 2
CAP_OUT_OF_ORDER = 1
CAP_READ_LEN = 2

MAILBOX = Struct("HHIII")
MAILBOX_BYTES = 128
HEAD_WORD = 3
"""cmd_head and cmd_tail as indexes of 4-byte words from the start of the mapping."""
TAIL_WORD = 16

OP_MASK = 7
OP_PAD = 0
"""Nothing: fills the end of the ring when the next entry does not fit."""
OP_CMD = 1
OP_TMR = 2
"""A task management function happened. A notice: nothing is answered."""

HEADER = Struct("IHBB")
ALIGN_BYTES = 8

# len_op, cmd_id, kflags, uflags, iov_cnt, iov_bidi_cnt, iov_dif_cnt, cdb_off, first iovec (base, length).
COMMAND = Struct("IHBBIII4xQ16xQQ")
COMMAND_MIN_BYTES = 112
"""sizeof(struct tcmu_cmd_entry): every command's entry has room for a response."""
IOVECS_AT = 48
IOVEC = Struct("QQ")
CDB_BYTES = (6, 10, 10, 0, 16, 12, 0, 0)
"""By the highest 3 bits of the operation code (SPC-4 4.2.5.1)."""
CDB_LONG_BYTES = 16
CDB_MAX_BYTES = 264
"""SPC-4 4.2.3: a variable-length CDB has 8 bytes and at most 252 more; rounded up."""

# From entry + 4: cmd_id, kflags, uflags, scsi_status, 3 bytes of padding, read_len.
RESPONSE = Struct("HBBB3xI")
RESPONSE_AT = 4
SENSE_AT = 16
SENSE_BYTES = 96
UFLAG_READ_LEN = 2

# len_op, cmd_id, kflags, uflags, tmr_type, count of command ids; the ids (u16) from 32.
TMR = Struct("IHBBB3xI")
TMR_IDS_AT = 32

TMR_NAMES = {
    1: "ABORT TASK",
    2: "ABORT TASK SET",
    3: "CLEAR ACA",
    4: "CLEAR TASK SET",
    5: "LUN RESET",
    6: "TARGET WARM RESET",
    7: "TARGET COLD RESET",
    128: "LUN RESET by PERSISTENT RESERVE OUT",
}

/* The innermost loops of ring.py: what is wholly plain is taken, and given back, here.
 *
 * Plain is a READ or WRITE (10) or (16) without flags, within the volume, whose buffers hold just what it asks
 * for. At the first entry that is anything else, or that cannot be right, `take` stops and has changed nothing
 * for it: ring.py looks at it, and says what is wrong. So everything here is checked, and nothing is refused.
 *
 * The shared memory may change under our eyes: each field is copied out once, and only the copy is looked at.
 */

#include "slots.h"
#include "twin.h"

#include <stdint.h>
#include <string.h>

/* ring_layout.py has these numbers, and where they are from. */
#define OP_MASK 7u
#define OP_CMD 1u
#define ALIGN_BYTES 8u
#define COMMAND_MIN_BYTES 112u
#define IOVECS_AT 48u
#define CDB_MAX_BYTES 264u
#define CDB_LONG_BYTES 16u
#define RESPONSE_AT 4
#define LOGICAL_BLOCK_BYTES 512u

struct entry {
    uint32_t len_op;
    uint16_t cmd_id;
    uint8_t kflags, uflags;
    uint32_t iov_cnt, iov_bidi_cnt, iov_dif_cnt, padding;
    uint64_t cdb_off, pad1, pad2;
};

struct iovec_entry {
    uint64_t base, length;
};

struct response {
    uint16_t cmd_id;
    uint8_t kflags, uflags, status, padding[3];
    uint32_t read_len;
};

_Static_assert(sizeof(struct entry) == IOVECS_AT, "struct tcmu_cmd_entry");
_Static_assert(sizeof(struct response) == 12, "its response");

/* The mapping, and what of it is the ring; all of it was checked when it was opened (ring.py). */
struct ring {
    const uint8_t *memory;
    uint64_t total, base, size, data_start;
};

/* A READ or WRITE that was found at an entry. */
struct transfer {
    uint16_t cmd_id;
    int writing;
    uint64_t lba;
    uint32_t blocks;
    uint64_t iovecs_at, iovecs, next;
};

static uint32_t
big_16(const uint8_t *at)
{
    return (uint32_t)at[0] << 8 | at[1];
}

static uint32_t
big_32(const uint8_t *at)
{
    return big_16(at) << 16 | big_16(at + 2);
}

/* Whether it is a READ or WRITE without flags, and of what. `cdb` holds `length` bytes, at most 16. */
static int
decode(const uint8_t *cdb, uint64_t length, struct transfer *found)
{
    uint8_t flags = cdb[1], control;
    switch (cdb[0]) {
    case 0x28:
    case 0x2A:
        if (length < 10)
            return 0;
        found->lba = big_32(cdb + 2);
        found->blocks = big_16(cdb + 7);
        control = cdb[9];
        break;
    case 0x88:
    case 0x8A:
        if (length < 16)
            return 0;
        found->lba = (uint64_t)big_32(cdb + 2) << 32 | big_32(cdb + 6);
        found->blocks = big_32(cdb + 10);
        control = cdb[15];
        break;
    default:
        return 0;
    }
    found->writing = cdb[0] == 0x2A || cdb[0] == 0x8A;
    return !flags && !control;
}

/* Whether there is a plain command at `here`, in a ring that is written up to `head`. */
static int
find(const struct ring *ring, uint64_t here, uint64_t head, struct transfer *found)
{
    struct entry entry;
    uint8_t cdb[CDB_LONG_BYTES] = {0};
    if (here % ALIGN_BYTES || here >= ring->size || ring->size - here < COMMAND_MIN_BYTES)
        return 0;
    memcpy(&entry, ring->memory + ring->base + here, sizeof entry);
    uint64_t length = entry.len_op & ~OP_MASK, start = ring->base + here;
    if ((entry.len_op & OP_MASK) != OP_CMD || length < COMMAND_MIN_BYTES || length > ring->size - here)
        return 0;
    if (here < head && head < here + length)
        return 0;
    if (!entry.iov_cnt || entry.iov_cnt > (length - IOVECS_AT) / sizeof(struct iovec_entry))
        return 0;
    uint64_t iovecs_end = start + IOVECS_AT + entry.iov_cnt * sizeof(struct iovec_entry);
    if (entry.cdb_off < iovecs_end || entry.cdb_off >= start + length)
        return 0;
    uint64_t cdb_bytes = start + length - entry.cdb_off;
    if (cdb_bytes > CDB_MAX_BYTES)
        return 0;
    uint64_t looked_at = cdb_bytes < sizeof cdb ? cdb_bytes : sizeof cdb;
    memcpy(cdb, ring->memory + entry.cdb_off, looked_at);
    found->cmd_id = entry.cmd_id;
    found->iovecs_at = start + IOVECS_AT;
    found->iovecs = entry.iov_cnt;
    found->next = here + length < ring->size ? here + length : 0;
    return decode(cdb, looked_at, found);
}

/* The command's buffers, if they lie in the data area and hold `wanted` bytes; else an empty list. */
static PyObject *
buffers_of(PyObject *view, const struct ring *ring, const struct transfer *found, uint64_t wanted)
{
    PyObject *buffers = PyList_New(0);
    for (uint64_t i = 0; buffers != NULL && i < found->iovecs; i++) {
        struct iovec_entry one;
        memcpy(&one, ring->memory + found->iovecs_at + i * sizeof one, sizeof one);
        if (one.base < ring->data_start || one.base > ring->total || one.length > ring->total - one.base
            || one.length > wanted) {
            wanted = 1; /* Not what it should be. */
            break;
        }
        PyObject *part = slice_of(view, (Py_ssize_t)one.base, (Py_ssize_t)(one.base + one.length));
        if (part == NULL || PyList_Append(buffers, part) < 0)
            Py_CLEAR(buffers);
        Py_XDECREF(part);
        wanted -= one.length;
    }
    if (buffers != NULL && wanted && PyList_SetSlice(buffers, 0, PY_SSIZE_T_MAX, NULL) < 0)
        Py_CLEAR(buffers);
    return buffers;
}

/* The slots of executor.py's _Whole, in the order of `make`. */
static const char *const NAMES[] = {
    "server", "cmd_id", "came_s", "op", "offset", "length", "buffers", "fua", "expected", "miscompare_offset",
};
enum { SERVER, CMD_ID, CAME_S, OP, OFFSET, LENGTH, BUFFERS, FUA, EXPECTED, MISCOMPARE_OFFSET, COUNT };
static struct layout whole;
static PyObject *no_bytes, *append_name, *popleft_name;

/* What `take` puts the requests into, and what they all share. */
struct batch {
    PyObject *view, *server, *came_s, *op_read, *op_write;
    PyObject *open, *slots, *requests, *drained;
};

static PyObject *
make(const struct batch *batch, const struct transfer *found, PyObject *id, PyObject *buffers)
{
    PyObject *offset = PyLong_FromUnsignedLongLong(found->lba * LOGICAL_BLOCK_BYTES);
    PyObject *length = PyLong_FromUnsignedLongLong((uint64_t)found->blocks * LOGICAL_BLOCK_BYTES);
    PyObject *request = offset && length ? whole.type->tp_alloc(whole.type, 0) : NULL;
    if (request == NULL) {
        Py_XDECREF(offset);
        Py_XDECREF(length);
        return NULL;
    }
    put_slot(request, &whole, SERVER, Py_NewRef(batch->server));
    put_slot(request, &whole, CMD_ID, Py_NewRef(id));
    put_slot(request, &whole, CAME_S, Py_NewRef(batch->came_s));
    put_slot(request, &whole, OP, Py_NewRef(found->writing ? batch->op_write : batch->op_read));
    put_slot(request, &whole, OFFSET, offset);
    put_slot(request, &whole, LENGTH, length);
    put_slot(request, &whole, BUFFERS, Py_NewRef(buffers));
    put_slot(request, &whole, FUA, Py_NewRef(Py_False));
    put_slot(request, &whole, EXPECTED, Py_NewRef(no_bytes));
    put_slot(request, &whole, MISCOMPARE_OFFSET, PyLong_FromLong(0));
    return request;
}

/* Take the command into the batch: 1; 0 if its id is open already; -1 with an exception. */
static int
add(const struct batch *batch, const struct transfer *found, PyObject *buffers, uint64_t entry)
{
    PyObject *id = PyLong_FromLong(found->cmd_id), *request = NULL, *slot = NULL, *nothing = NULL;
    int known = id != NULL ? PySet_Contains(batch->open, id) : -1;
    int added = known == 0 && (request = make(batch, found, id, buffers)) != NULL
        && (slot = Py_BuildValue("(KK)", entry, found->next)) != NULL
        && (nothing = PyObject_CallMethodOneArg(batch->slots, append_name, slot)) != NULL
        && PySet_Add(batch->open, id) == 0 && PyDict_SetItem(batch->requests, id, request) == 0
        && PyList_Append(batch->drained, request) == 0;
    Py_XDECREF(nothing);
    Py_XDECREF(slot);
    Py_XDECREF(request);
    Py_XDECREF(id);
    return added ? 1 : known > 0 ? 0 : -1;
}

PyDoc_STRVAR(take_doc,
    "take(cls, view, (base, size, data_start), here, head, (blocks, most_blocks),\n"
    "     (server, came_s, op_read, op_write), open, slots, requests, drained) -> where it stopped\n\n"
    "Take plain commands from `here` on, at most up to `head`, as instances of `cls`: into `drained` and\n"
    "`requests` (by id), with their ids in `open` and (entry, tail after) in `slots`.");

static PyObject *
take(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *type;
    unsigned long long here, head, blocks, most;
    struct ring ring;
    struct batch batch;
    unsigned long long base, size, data_start;
    if (!PyArg_ParseTuple(args, "OO!(KKK)KK(KK)(OOOO)O!OO!O!", &type, &PyMemoryView_Type, &batch.view, &base,
            &size, &data_start, &here, &head, &blocks, &most, &batch.server, &batch.came_s, &batch.op_read,
            &batch.op_write, &PySet_Type, &batch.open, &batch.slots, &PyDict_Type, &batch.requests,
            &PyList_Type, &batch.drained))
        return NULL;
    Py_buffer data;
    if (layout_of(&whole, type, NAMES, COUNT) < 0 || PyObject_GetBuffer(batch.view, &data, PyBUF_SIMPLE) < 0)
        return NULL;
    ring = (struct ring){data.buf, (uint64_t)data.len, base, size, data_start};
    int going = base <= ring.total && size <= ring.total - base && head < size;
    while (going > 0 && here != head) {
        struct transfer found;
        if (!find(&ring, here, head, &found) || !found.blocks || found.blocks > most
            || found.blocks > blocks || found.lba > blocks - found.blocks)
            break;
        uint64_t wanted = (uint64_t)found.blocks * LOGICAL_BLOCK_BYTES;
        PyObject *buffers = buffers_of(batch.view, &ring, &found, wanted);
        if (buffers == NULL)
            going = -1;
        else
            going = PyList_GET_SIZE(buffers) ? add(&batch, &found, buffers, base + here) : 0;
        Py_XDECREF(buffers);
        if (going > 0)
            here = found.next;
    }
    PyBuffer_Release(&data);
    return going < 0 ? NULL : PyLong_FromUnsignedLongLong(here);
}

/* Take the oldest of `slots` away: 1; 0 if there is none, or if it needs an answer and is to be `silent`; -1. */
static int
oldest(PyObject *slots, int silent, long long *entry, long long *tail)
{
    Py_ssize_t count = PyObject_Size(slots);
    PyObject *slot = count > 0 ? PySequence_GetItem(slots, 0) : NULL, *taken = NULL;
    long long found_entry = 0, found_tail = 0;
    if (slot == NULL)
        return count == 0 ? 0 : -1;
    int parsed = PyArg_ParseTuple(slot, "LL", &found_entry, &found_tail);
    Py_DECREF(slot);
    if (parsed && silent && found_entry >= 0)
        return 0;
    if (!parsed || (taken = PyObject_CallMethodNoArgs(slots, popleft_name)) == NULL)
        return -1;
    Py_DECREF(taken);
    *entry = found_entry;
    *tail = found_tail;
    return 1;
}

/* Write that `id` has ended well over the oldest entry; the new tail goes to `tail`. */
static int
end_one(const Py_buffer *data, PyObject *id, PyObject *open, PyObject *slots, long long *tail)
{
    long long entry = -1, ignored;
    long number = PyLong_AsLong(id);
    if (number == -1 && PyErr_Occurred())
        return -1;
    int known = PySet_Discard(open, id);
    if (known < 0)
        return -1;
    if (!known) {
        PyErr_Format(PyExc_AssertionError, "command %R is not open: ended twice, or never drained", id);
        return -1;
    }
    int found = oldest(slots, 0, &entry, tail);
    if (found < 0)
        return -1;
    struct response response = {.cmd_id = (uint16_t)number};
    if (!found || entry < 0 || entry > data->len - RESPONSE_AT - (Py_ssize_t)sizeof response) {
        PyErr_SetString(PyExc_AssertionError, "there is no entry to answer in");
        return -1;
    }
    memcpy((uint8_t *)data->buf + entry + RESPONSE_AT, &response, sizeof response);
    do
        found = oldest(slots, 1, &ignored, tail);
    while (found > 0);
    return found;
}

PyDoc_STRVAR(give_back_doc,
    "give_back(view, ids, open, slots) -> the new tail, or -1 without any id\n\n"
    "End open commands with GOOD, all of their buffers filled or stored.");

static PyObject *
give_back(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *view, *ids, *open, *slots;
    if (!PyArg_ParseTuple(args, "OO!O!O", &view, &PyList_Type, &ids, &PySet_Type, &open, &slots))
        return NULL;
    Py_buffer data;
    if (PyObject_GetBuffer(view, &data, PyBUF_WRITABLE) < 0)
        return NULL;
    long long tail = -1;
    int failed = 0;
    for (Py_ssize_t i = 0; !failed && i < PyList_GET_SIZE(ids); i++) {
        PyObject *id = Py_NewRef(PyList_GET_ITEM(ids, i));
        failed = end_one(&data, id, open, slots, &tail) < 0;
        Py_DECREF(id);
    }
    PyBuffer_Release(&data);
    return failed ? NULL : PyLong_FromLongLong(tail);
}

static PyMethodDef METHODS[] = {
    {"take", take, METH_VARARGS, take_doc},
    {"give_back", give_back, METH_VARARGS, give_back_doc},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef MODULE = {
    PyModuleDef_HEAD_INIT, "_ring", "The innermost loops of ring.py.", -1, METHODS, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC
PyInit__ring(void)
{
    no_bytes = PyBytes_FromStringAndSize(NULL, 0);
    append_name = PyUnicode_InternFromString("append");
    popleft_name = PyUnicode_InternFromString("popleft");
    return no_bytes && append_name && popleft_name ? twin_of(&MODULE) : NULL;
}

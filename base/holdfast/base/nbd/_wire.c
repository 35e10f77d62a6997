/* The innermost loops of the NBD server and session (transmission.py, session.py, replies.py): plain WRITEs and
 * their answers, on both ends.
 *
 * What is taken from a stranger's bytes is only what is whole and plain; where anything else begins, the loop
 * stops and has changed nothing for it: the Python form looks at it, and says what is wrong with it.
 */

#include "slots.h"
#include "twin.h"

#include <stdint.h>
#include <string.h>

/* wire.py has these numbers, and where they are from. */
#define REQUEST_MAGIC 0x25609513u
#define SIMPLE_REPLY_MAGIC 0x67446698u
#define CMD_WRITE 1u
#define CMD_FLAG_FUA 1u
#define REQUEST_BYTES 28
#define REPLY_BYTES 16

static uint64_t
big(const uint8_t *at, int bytes)
{
    uint64_t value = 0;
    for (int i = 0; i < bytes; i++)
        value = value << 8 | at[i];
    return value;
}

static void
put_big(uint8_t *at, int bytes, uint64_t value)
{
    for (int i = bytes - 1; i >= 0; i--, value >>= 8)
        at[i] = (uint8_t)value;
}

struct write {
    uint64_t cookie, offset, length;
    int fua;
};

/* Whether a whole plain WRITE into a device of `size` bytes lies in the `have` bytes at `at`. */
static int
find_write(const uint8_t *at, uint64_t have, uint64_t size, uint64_t most, struct write *found)
{
    if (have < REQUEST_BYTES || big(at, 4) != REQUEST_MAGIC || big(at + 6, 2) != CMD_WRITE)
        return 0;
    uint64_t flags = big(at + 4, 2);
    found->fua = flags == CMD_FLAG_FUA;
    found->cookie = big(at + 8, 8);
    found->offset = big(at + 16, 8);
    found->length = big(at + 24, 4);
    return flags <= CMD_FLAG_FUA && found->length && found->length <= most && found->length <= size
        && found->offset <= size - found->length && found->length <= have - REQUEST_BYTES;
}

/* The slots of transmission.py's _Write, in the order of `make`. */
static const char *const NAMES[] = {
    "transmission", "chunk", "cookie", "came_s", "op", "offset", "length", "buffers", "fua", "expected",
    "miscompare_offset",
};
enum { TRANSMISSION, CHUNK, COOKIE, CAME_S, OP, OFFSET, LENGTH, BUFFERS, FUA, EXPECTED, MISCOMPARE_OFFSET, COUNT };
static struct layout kind;
static PyObject *no_bytes, *no_time, *offset_name, *fua_name, *buffers_name;

/* A _Write whose payload is `view[start:end]`. */
static PyObject *
make(PyObject *transmission, PyObject *chunk, PyObject *op, PyObject *view, Py_ssize_t start,
    const struct write *found)
{
    PyObject *part = slice_of(view, start, start + (Py_ssize_t)found->length);
    PyObject *buffers = part ? PyList_New(1) : NULL;
    PyObject *cookie = PyLong_FromUnsignedLongLong(found->cookie);
    PyObject *offset = PyLong_FromUnsignedLongLong(found->offset);
    PyObject *length = PyLong_FromUnsignedLongLong(found->length);
    PyObject *request = buffers && cookie && offset && length ? kind.type->tp_alloc(kind.type, 0) : NULL;
    if (request == NULL) {
        Py_XDECREF(part);
        Py_XDECREF(buffers);
        Py_XDECREF(cookie);
        Py_XDECREF(offset);
        Py_XDECREF(length);
        return NULL;
    }
    PyList_SET_ITEM(buffers, 0, part);
    put_slot(request, &kind, TRANSMISSION, Py_NewRef(transmission));
    put_slot(request, &kind, CHUNK, Py_NewRef(chunk));
    put_slot(request, &kind, COOKIE, cookie);
    put_slot(request, &kind, CAME_S, Py_NewRef(no_time));
    put_slot(request, &kind, OP, Py_NewRef(op));
    put_slot(request, &kind, OFFSET, offset);
    put_slot(request, &kind, LENGTH, length);
    put_slot(request, &kind, BUFFERS, buffers);
    put_slot(request, &kind, FUA, Py_NewRef(found->fua ? Py_True : Py_False));
    put_slot(request, &kind, EXPECTED, Py_NewRef(no_bytes));
    put_slot(request, &kind, MISCOMPARE_OFFSET, PyLong_FromLong(0));
    return request;
}

PyDoc_STRVAR(take_writes_doc,
    "take_writes(cls, view, at, end, (size, most_bytes, room), (transmission, chunk, op), taken) -> where it stopped\n\n"
    "Take at most `room` plain WRITEs, none longer than `most_bytes`, from `view[at:end]` into `taken`.");

static PyObject *
take_writes(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *type, *view, *transmission, *chunk, *op, *taken;
    Py_ssize_t at, end, room;
    unsigned long long size, most;
    if (!PyArg_ParseTuple(args, "OO!nn(KKn)(OOO)O!", &type, &PyMemoryView_Type, &view, &at, &end, &size, &most,
            &room, &transmission, &chunk, &op, &PyList_Type, &taken))
        return NULL;
    Py_buffer data;
    if (layout_of(&kind, type, NAMES, COUNT) < 0 || PyObject_GetBuffer(view, &data, PyBUF_SIMPLE) < 0)
        return NULL;
    int well = 1;
    struct write found;
    if (at < 0 || end > data.len)
        end = at;
    while (well && room-- > 0 && at < end
        && find_write((const uint8_t *)data.buf + at, (uint64_t)(end - at), size, most, &found)) {
        PyObject *request = make(transmission, chunk, op, view, at + REQUEST_BYTES, &found);
        well = request != NULL && PyList_Append(taken, request) == 0;
        Py_XDECREF(request);
        at += REQUEST_BYTES + (Py_ssize_t)found.length;
    }
    PyBuffer_Release(&data);
    return well ? PyLong_FromSsize_t(at) : NULL;
}

PyDoc_STRVAR(take_replies_doc,
    "take_replies(view, at, end, pending, taken) -> where it stopped\n\n"
    "Take simple replies without an error: what `pending` has for their cookies goes to `taken`.");

static PyObject *
take_replies(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *view, *pending, *taken;
    Py_ssize_t at, end;
    if (!PyArg_ParseTuple(args, "OnnO!O!", &view, &at, &end, &PyDict_Type, &pending, &PyList_Type, &taken))
        return NULL;
    Py_buffer data;
    if (PyObject_GetBuffer(view, &data, PyBUF_SIMPLE) < 0)
        return NULL;
    int going = at >= 0 && end <= data.len;
    while (going > 0 && end - at >= REPLY_BYTES) {
        const uint8_t *reply = (const uint8_t *)data.buf + at;
        if (big(reply, 4) != SIMPLE_REPLY_MAGIC || big(reply + 4, 4))
            break;
        PyObject *cookie = PyLong_FromUnsignedLongLong(big(reply + 8, 8));
        PyObject *waiting = cookie ? PyDict_GetItemWithError(pending, cookie) : NULL;
        if (waiting == NULL)
            going = PyErr_Occurred() ? -1 : 0;
        else if (PyList_Append(taken, waiting) < 0 || PyDict_DelItem(pending, cookie) < 0)
            going = -1;
        else
            at += REPLY_BYTES;
        Py_XDECREF(cookie);
    }
    PyBuffer_Release(&data);
    return going < 0 ? NULL : PyLong_FromSsize_t(at);
}

/* How many bytes the buffers of a list (or tuple) hold together; -1 with an exception. */
static Py_ssize_t
size_of(PyObject *buffers)
{
    Py_ssize_t size = 0, length = 0;
    for (Py_ssize_t i = 0; length >= 0 && i < PySequence_Fast_GET_SIZE(buffers); i++) {
        PyObject *buffer = Py_NewRef(PySequence_Fast_GET_ITEM(buffers, i));
        length = PyObject_Size(buffer);
        Py_DECREF(buffer);
        size += length;
    }
    if (length >= 0 && size > UINT32_MAX) {
        PyErr_Format(PyExc_OverflowError, "a WRITE of %zd bytes", size);
        return -1;
    }
    return length < 0 ? -1 : size;
}

/* Append a WRITE's header, and then its buffers, to `out`. The header says what follows it, whatever `length`
 * the request has: the other end would take what comes behind for the rest of this one.
 */
static int
put_write(PyObject *request, uint64_t cookie, PyObject *out)
{
    uint8_t header[REQUEST_BYTES];
    PyObject *offset = PyObject_GetAttr(request, offset_name);
    PyObject *fua = offset ? PyObject_GetAttr(request, fua_name) : NULL;
    PyObject *found = fua ? PyObject_GetAttr(request, buffers_name) : NULL;
    PyObject *buffers = found ? PySequence_Fast(found, "buffers are a list") : NULL, *packed = NULL;
    int hard = buffers ? PyObject_IsTrue(fua) : -1;
    Py_ssize_t size = hard >= 0 ? size_of(buffers) : -1;
    if (size >= 0) {
        put_big(header, 4, REQUEST_MAGIC);
        put_big(header + 4, 2, hard ? CMD_FLAG_FUA : 0);
        put_big(header + 6, 2, CMD_WRITE);
        put_big(header + 8, 8, cookie);
        put_big(header + 16, 8, PyLong_AsUnsignedLongLong(offset));
        put_big(header + 24, 4, (uint64_t)size);
        if (!PyErr_Occurred())
            packed = PyBytes_FromStringAndSize((const char *)header, sizeof header);
    }
    int well = packed && PyList_Append(out, packed) == 0
        && PyList_SetSlice(out, PyList_GET_SIZE(out), PyList_GET_SIZE(out), buffers) == 0;
    Py_XDECREF(packed);
    Py_XDECREF(offset);
    Py_XDECREF(fua);
    Py_XDECREF(found);
    Py_XDECREF(buffers);
    return well ? 0 : -1;
}

PyDoc_STRVAR(put_writes_doc,
    "put_writes(requests, dones, first_cookie, pending, out)\n\n"
    "Append the WRITEs to `out`, with cookies from `first_cookie` on, and enter their dones in `pending`.");

static PyObject *
put_writes(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *requests, *dones, *pending, *out;
    unsigned long long first;
    if (!PyArg_ParseTuple(args, "O!O!KO!O!", &PyList_Type, &requests, &PyList_Type, &dones, &first, &PyDict_Type,
            &pending, &PyList_Type, &out))
        return NULL;
    if (PyList_GET_SIZE(requests) != PyList_GET_SIZE(dones)) {
        PyErr_SetString(PyExc_ValueError, "each request needs its done");
        return NULL;
    }
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(requests) && i < PyList_GET_SIZE(dones); i++) {
        PyObject *cookie = PyLong_FromUnsignedLongLong(first + (unsigned long long)i);
        PyObject *request = Py_NewRef(PyList_GET_ITEM(requests, i));
        int well = cookie && PyDict_SetItem(pending, cookie, PyList_GET_ITEM(dones, i)) == 0
            && put_write(request, first + (uint64_t)i, out) == 0;
        Py_DECREF(request);
        Py_XDECREF(cookie);
        if (!well)
            return NULL;
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(replies_doc, "replies(cookies) -> bytes\n\nA simple reply without an error to each.");

static PyObject *
replies(PyObject *Py_UNUSED(module), PyObject *cookies)
{
    if (!PyList_Check(cookies)) {
        PyErr_SetString(PyExc_TypeError, "a list is needed");
        return NULL;
    }
    Py_ssize_t count = PyList_GET_SIZE(cookies);
    PyObject *packed = PyBytes_FromStringAndSize(NULL, count * REPLY_BYTES);
    for (Py_ssize_t i = 0; packed != NULL && i < count; i++) {
        uint8_t *at = (uint8_t *)PyBytes_AS_STRING(packed) + i * REPLY_BYTES;
        put_big(at, 4, SIMPLE_REPLY_MAGIC);
        put_big(at + 4, 4, 0);
        put_big(at + 8, 8, PyLong_AsUnsignedLongLong(PyList_GET_ITEM(cookies, i)));
        if (PyErr_Occurred())
            Py_CLEAR(packed);
    }
    return packed;
}

static PyMethodDef METHODS[] = {
    {"take_writes", take_writes, METH_VARARGS, take_writes_doc},
    {"take_replies", take_replies, METH_VARARGS, take_replies_doc},
    {"put_writes", put_writes, METH_VARARGS, put_writes_doc},
    {"replies", replies, METH_O, replies_doc},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef MODULE = {
    PyModuleDef_HEAD_INIT, "_wire", "The innermost loops of NBD.", -1, METHODS, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC
PyInit__wire(void)
{
    no_bytes = PyBytes_FromStringAndSize(NULL, 0);
    no_time = PyFloat_FromDouble(0.0);
    offset_name = PyUnicode_InternFromString("offset");
    fua_name = PyUnicode_InternFromString("fua");
    buffers_name = PyUnicode_InternFromString("buffers");
    int well = no_bytes && no_time && offset_name && fua_name && buffers_name;
    return well ? twin_of(&MODULE) : NULL;
}

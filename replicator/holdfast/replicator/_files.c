/* The innermost loop of files.py's DataFile.write_all. */

#include "twin.h"

#include <errno.h>
#include <sys/uio.h>

/* Neighbours are written together up to this many buffers; a longer one is left to the Python form. */
#define IOVECS_MAX 256

static PyObject *offset_name, *length_name, *buffers_name;

/* One system call: buffers of consecutive requests that follow each other on the disk. */
struct stroke {
    struct iovec iovecs[IOVECS_MAX];
    Py_buffer held[IOVECS_MAX];
    int count;
    long long offset, length;
};

static int
number_of(PyObject *request, PyObject *name, long long *value)
{
    PyObject *found = PyObject_GetAttr(request, name);
    *value = found ? PyLong_AsLongLong(found) : -1;
    Py_XDECREF(found);
    return *value == -1 && PyErr_Occurred() ? -1 : 0;
}

static void
let_go(struct stroke *stroke, int down_to)
{
    while (stroke->count > down_to)
        PyBuffer_Release(&stroke->held[--stroke->count]);
}

/* Take the request into the stroke: 1; 0 if it does not follow what is in it, or there is no room; -1. */
static int
add(struct stroke *stroke, PyObject *request)
{
    long long offset, length, size = 0;
    if (number_of(request, offset_name, &offset) < 0 || number_of(request, length_name, &length) < 0)
        return -1;
    if (stroke->count && offset != stroke->offset + stroke->length)
        return 0;
    PyObject *buffers = PyObject_GetAttr(request, buffers_name);
    if (buffers == NULL || !PyList_Check(buffers)) {
        Py_XDECREF(buffers);
        return PyErr_Occurred() ? -1 : 0;
    }
    int before = stroke->count, added = PyList_GET_SIZE(buffers) <= IOVECS_MAX - before;
    for (Py_ssize_t i = 0; added > 0 && i < PyList_GET_SIZE(buffers); i++) {
        if (stroke->count == IOVECS_MAX) {
            added = 0; /* It has grown meanwhile. */
            break;
        }
        Py_buffer *held = &stroke->held[stroke->count];
        PyObject *buffer = Py_NewRef(PyList_GET_ITEM(buffers, i));
        if (PyObject_GetBuffer(buffer, held, PyBUF_SIMPLE) < 0)
            added = -1;
        else {
            stroke->iovecs[stroke->count++] = (struct iovec){held->buf, (size_t)held->len};
            size += held->len;
        }
        Py_DECREF(buffer);
    }
    Py_DECREF(buffers);
    if (added > 0 && size != length)
        added = 0;
    if (added <= 0) {
        let_go(stroke, before);
        return added;
    }
    if (!before)
        stroke->offset = offset, stroke->length = 0;
    stroke->length += length;
    return 1;
}

PyDoc_STRVAR(write_all_doc,
    "write_all(fd, requests) -> how many, from the first on, are written, and why no more: an errno\n\n"
    "0: all are, or the next one is not wholly: it is to be written again.");

static PyObject *
write_all(PyObject *Py_UNUSED(module), PyObject *args)
{
    int fd;
    PyObject *requests;
    if (!PyArg_ParseTuple(args, "iO!", &fd, &PyList_Type, &requests))
        return NULL;
    struct stroke stroke;
    stroke.count = 0;
    Py_ssize_t done = 0, taken = 0;
    int added = 1, failed = 0;
    while (added >= 0 && done < PyList_GET_SIZE(requests)) {
        added = 1;
        while (added > 0 && taken < PyList_GET_SIZE(requests)) {
            PyObject *request = Py_NewRef(PyList_GET_ITEM(requests, taken));
            added = add(&stroke, request);
            taken += added > 0;
            Py_DECREF(request);
        }
        if (added < 0 || !stroke.count)
            break;
        ssize_t written;
        Py_BEGIN_ALLOW_THREADS
        written = pwritev(fd, stroke.iovecs, stroke.count, (off_t)stroke.offset);
        /* After a signal Python goes on: it runs the handlers, and tries again. */
        failed = written < 0 && errno != EINTR ? errno : 0;
        Py_END_ALLOW_THREADS
        let_go(&stroke, 0);
        if (written != stroke.length)
            break;
        done = taken;
    }
    let_go(&stroke, 0);
    return added < 0 ? NULL : Py_BuildValue("ni", done, failed);
}

static PyMethodDef METHODS[] = {
    {"write_all", write_all, METH_VARARGS, write_all_doc},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef MODULE = {
    PyModuleDef_HEAD_INIT, "_files", "The innermost loop of files.py.", -1, METHODS, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC
PyInit__files(void)
{
    offset_name = PyUnicode_InternFromString("offset");
    length_name = PyUnicode_InternFromString("length");
    buffers_name = PyUnicode_InternFromString("buffers");
    return offset_name && length_name && buffers_name ? twin_of(&MODULE) : NULL;
}

/* How plain WRITEs enter a volume's order (order.py), many at once.
 *
 * Plain is a WRITE without FUA, within the volume and one MiB, that meets nobody else's turn, in a region that is
 * known to be intended. At the first request that is anything else `enter` stops and has changed nothing
 * for it: it goes the way that order.py and local.py have for it.
 */

#include "twin.h"

#include <structmember.h>

static PyObject *op_name, *offset_name, *length_name, *fua_name, *start_name, *end_name, *request_name;

/* Whether an instance of the type holds its slots and nothing else: all of its classes are Python's, with
 * __slots__. */
static int
only_slots(PyTypeObject *type)
{
    if (type->tp_itemsize || type->tp_dictoffset || type->tp_weaklistoffset)
        return 0;
    for (; type != NULL && type != &PyBaseObject_Type; type = type->tp_base)
        if (!(type->tp_flags & Py_TPFLAGS_HEAPTYPE))
            return 0;
    return type != NULL;
}

/* Another instance with the same values in its slots. */
static PyObject *
copy_of(PyObject *template)
{
    PyTypeObject *type = Py_TYPE(template);
    PyObject *copy = type->tp_alloc(type, 0);
    if (copy == NULL)
        return NULL;
    for (Py_ssize_t at = sizeof(PyObject); at < type->tp_basicsize; at += (Py_ssize_t)sizeof(PyObject *)) {
        PyObject *value = *(PyObject **)((char *)template + at);
        *(PyObject **)((char *)copy + at) = Py_XNewRef(value);
    }
    return copy;
}

/* What all have in common. */
struct order {
    PyObject *template, *op, *buckets, *entered;
    Py_buffer hot, touched;
    long long size;
    int bucket_shift, region_shift;
};

static int
number_of(PyObject *request, PyObject *name, long long *value)
{
    PyObject *found = PyObject_GetAttr(request, name);
    *value = found ? PyLong_AsLongLong(found) : -1;
    Py_XDECREF(found);
    return *value == -1 && PyErr_Occurred() ? -1 : 0;
}

/* Whether it is a WRITE without FUA within the volume and one bucket: 1 or 0; -1 with an exception. */
static int
is_plain(const struct order *order, PyObject *request, long long *offset, long long *length)
{
    PyObject *op = PyObject_GetAttr(request, op_name), *fua = op ? PyObject_GetAttr(request, fua_name) : NULL;
    int plain = fua ? op == order->op && fua == Py_False : -1;
    Py_XDECREF(op);
    Py_XDECREF(fua);
    if (plain <= 0)
        return plain;
    if (number_of(request, offset_name, offset) < 0 || number_of(request, length_name, length) < 0)
        return -1;
    return *offset >= 0 && *length > 0 && *length <= order->size && *offset <= order->size - *length
        && *offset >> order->bucket_shift == (*offset + *length - 1) >> order->bucket_shift;
}

/* Whether a turn meets [start, end): 1 or 0; -1 with an exception. */
static int
meets(PyObject *turn, long long start, long long end)
{
    long long from, to;
    if (number_of(turn, start_name, &from) < 0 || number_of(turn, end_name, &to) < 0)
        return -1;
    return from < end && start < to;
}

/* Whether one of a bucket's turns does. `found`: NULL, a turn that is alone in it, or a dictionary of turns. */
static int
one_meets(PyObject *found, long long start, long long end)
{
    if (found == NULL)
        return 0;
    if (!PyDict_Check(found))
        return meets(found, start, end);
    PyObject *turn, *none;
    Py_ssize_t at = 0;
    int met = 0;
    while (!met && PyDict_Next(found, &at, &turn, &none)) {
        Py_INCREF(turn);
        met = meets(turn, start, end);
        Py_DECREF(turn);
    }
    return met;
}

/* Put a turn into its bucket, beside what was found there. */
static int
put_in(PyObject *buckets, PyObject *bucket, PyObject *found, PyObject *turn)
{
    if (found == NULL)
        return PyDict_SetItem(buckets, bucket, turn);
    if (PyDict_Check(found))
        return PyDict_SetItem(found, turn, Py_None);
    PyObject *shared = PyDict_New();
    int put = shared == NULL || PyDict_SetItem(shared, found, Py_None) < 0
            || PyDict_SetItem(shared, turn, Py_None) < 0
        ? -1
        : PyDict_SetItem(buckets, bucket, shared);
    Py_XDECREF(shared);
    return put;
}

/* Where a region's bit is: least significant bit of byte 0 first (bitmap.py). */
static unsigned char *
byte_of(const Py_buffer *bits, long long region, int *mask)
{
    *mask = 1 << (region & 7);
    return (unsigned char *)bits->buf + (region >> 3);
}

/* Make the request's turn, and put it into its bucket. */
static int
take_turn(const struct order *order, PyObject *request, PyObject *bucket, PyObject *found, long long offset,
    long long length)
{
    PyObject *start = PyLong_FromLongLong(offset), *end = PyLong_FromLongLong(offset + length);
    PyObject *turn = start && end ? copy_of(order->template) : NULL;
    int well = turn != NULL && PyObject_SetAttr(turn, start_name, start) == 0
        && PyObject_SetAttr(turn, end_name, end) == 0 && PyObject_SetAttr(turn, request_name, request) == 0
        && PyList_Append(order->entered, turn) == 0
        && put_in(order->buckets, bucket, found, turn) == 0;
    Py_XDECREF(turn);
    Py_XDECREF(start);
    Py_XDECREF(end);
    return well ? 1 : -1;
}

/* 1 if it has its turn; 0 if it is not plain, and nothing has changed; -1 with an exception. */
static int
enter_one(const struct order *order, PyObject *request)
{
    long long offset, length;
    int plain = is_plain(order, request, &offset, &length);
    if (plain <= 0)
        return plain;
    int mask;
    if (!(*byte_of(&order->hot, offset >> order->region_shift, &mask) & mask))
        return 0;
    PyObject *bucket = PyLong_FromLongLong(offset >> order->bucket_shift);
    PyObject *found = bucket ? Py_XNewRef(PyDict_GetItemWithError(order->buckets, bucket)) : NULL;
    int entered = bucket == NULL || (found == NULL && PyErr_Occurred()) ? -1 : 1;
    if (entered > 0) {
        int met = one_meets(found, offset, offset + length);
        entered = met ? -(met < 0) : take_turn(order, request, bucket, found, offset, length);
    }
    if (entered > 0)
        *byte_of(&order->touched, offset >> order->region_shift, &mask) |= (unsigned char)mask;
    Py_XDECREF(found);
    Py_XDECREF(bucket);
    return entered;
}

/* Whether both bitmaps have a bit for every region. */
static int
bits_reach(const struct order *order)
{
    long long bytes = order->size > 0 ? ((order->size - 1) >> order->region_shift >> 3) + 1 : 0;
    return order->hot.len >= bytes && order->touched.len >= bytes;
}

PyDoc_STRVAR(enter_doc,
    "enter(template, requests, at, op, (buckets, hot, touched), (size, bucket_shift, region_shift), entered)\n"
    "  -> where it stopped\n\n"
    "Let plain WRITEs from `requests[at]` on have their turns: copies of `template`, with their own start, end\n"
    "and request, in `buckets` and `entered`. `hot` and `touched` are bitmaps of regions.");

static PyObject *
enter(PyObject *Py_UNUSED(module), PyObject *args)
{
    struct order order;
    PyObject *requests;
    Py_ssize_t at;
    if (!PyArg_ParseTuple(args, "OO!nO(O!w*w*)(Lii)O!", &order.template, &PyList_Type, &requests, &at, &order.op,
            &PyDict_Type, &order.buckets, &order.hot, &order.touched, &order.size, &order.bucket_shift,
            &order.region_shift, &PyList_Type, &order.entered))
        return NULL;
    int entered = -1;
    int shifts = order.bucket_shift >= 0 && order.bucket_shift <= order.region_shift && order.region_shift < 63;
    if (!only_slots(Py_TYPE(order.template)) || !shifts || at < 0 || !bits_reach(&order))
        PyErr_SetString(
            PyExc_TypeError, "needed: a turn with nothing but slots, regions of whole buckets, a bit for each");
    else
        entered = 1;
    while (entered > 0 && at < PyList_GET_SIZE(requests)) {
        PyObject *request = Py_NewRef(PyList_GET_ITEM(requests, at));
        entered = enter_one(&order, request);
        at += entered > 0;
        Py_DECREF(request);
    }
    PyBuffer_Release(&order.hot);
    PyBuffer_Release(&order.touched);
    return entered < 0 ? NULL : PyLong_FromSsize_t(at);
}

static PyMethodDef METHODS[] = {
    {"enter", enter, METH_VARARGS, enter_doc},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef MODULE = {
    PyModuleDef_HEAD_INIT, "_turns", "How plain WRITEs enter an order.", -1, METHODS, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC
PyInit__turns(void)
{
    op_name = PyUnicode_InternFromString("op");
    offset_name = PyUnicode_InternFromString("offset");
    length_name = PyUnicode_InternFromString("length");
    fua_name = PyUnicode_InternFromString("fua");
    start_name = PyUnicode_InternFromString("start");
    end_name = PyUnicode_InternFromString("end");
    request_name = PyUnicode_InternFromString("request");
    int well = op_name && offset_name && length_name && fua_name && start_name && end_name && request_name;
    return well ? twin_of(&MODULE) : NULL;
}

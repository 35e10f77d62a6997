/* Instances of Python classes with __slots__, made by filling the slots instead of calling the class.
 *
 * The class stays Python's: its methods, its checks, its subclasses. Only what its __init__ would do is done
 * here, so whoever uses this says all of its slots, and a test compares the two.
 */

#ifndef HOLDFAST_SLOTS_H
#define HOLDFAST_SLOTS_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

#define SLOTS_MAX 12

struct layout {
    PyTypeObject *type; /* NULL until `layout_of` */
    Py_ssize_t at[SLOTS_MAX];
};

/* Find where `type` keeps the slots of these names. -1 with an exception if it has no such slots: `layout` is
 * then still that of the type before.
 */
static inline int
layout_of(struct layout *layout, PyObject *type, const char *const *names, int count)
{
    struct layout fresh = {0};
    if (layout->type == (PyTypeObject *)type)
        return 0;
    if (!PyType_Check(type) || count > SLOTS_MAX) {
        PyErr_SetString(PyExc_TypeError, "a class with few slots is needed");
        return -1;
    }
    for (int i = 0; i < count; i++) {
        PyObject *found = PyObject_GetAttrString(type, names[i]);
        if (found == NULL)
            return -1;
        int fits = Py_IS_TYPE(found, &PyMemberDescr_Type)
            && PyType_IsSubtype((PyTypeObject *)type, PyDescr_TYPE(found))
            && ((PyMemberDescrObject *)found)->d_member->type == T_OBJECT_EX;
        if (fits)
            fresh.at[i] = ((PyMemberDescrObject *)found)->d_member->offset;
        Py_DECREF(found);
        if (!fits) {
            PyErr_Format(PyExc_TypeError, "%s is not a slot", names[i]);
            return -1;
        }
    }
    PyTypeObject *before = layout->type;
    fresh.type = (PyTypeObject *)Py_NewRef(type);
    *layout = fresh;
    Py_XDECREF(before);
    return 0;
}

/* Fill a slot that is still empty; takes over the reference to `value`. */
static inline void
put_slot(PyObject *object, const struct layout *layout, int slot, PyObject *value)
{
    *(PyObject **)((char *)object + layout->at[slot]) = value;
}

/* `view[start:end]` of a memoryview. */
static inline PyObject *
slice_of(PyObject *view, Py_ssize_t start, Py_ssize_t end)
{
    PyObject *first = PyLong_FromSsize_t(start), *last = PyLong_FromSsize_t(end), *range, *part = NULL;
    if (first != NULL && last != NULL && (range = PySlice_New(first, last, NULL)) != NULL) {
        part = PyObject_GetItem(view, range);
        Py_DECREF(range);
    }
    Py_XDECREF(first);
    Py_XDECREF(last);
    return part;
}

#endif

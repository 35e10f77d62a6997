/* What every C twin says of itself (twins.py). */

#ifndef HOLDFAST_TWIN_H
#define HOLDFAST_TWIN_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

/* The twin's module. Its SOURCE is of what it was built from; HOLDFAST_SOURCE is given by hatch_build.py. */
static inline PyObject *
twin_of(struct PyModuleDef *definition)
{
    PyObject *module = PyModule_Create(definition);
    if (module != NULL && PyModule_AddStringConstant(module, "SOURCE", HOLDFAST_SOURCE) < 0)
        Py_CLEAR(module);
    return module;
}

#endif

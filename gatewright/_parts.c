/* What a handler touches of every call, at a tenth of the cost: its request, the request's headers, and the tally.

   Each type does what comes nearly always: a name and a value that are plain text, a header that is set, looked up or
   asked for. Whatever else there is it leaves to its sibling in Python, which derives from it or is called by it, so
   there is one place that knows the rules and the errors (see `parts`). */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030b0000
#include <Python.h>
#include <stddef.h>
#include <structmember.h>

#define EDITION 1       /* of what Python expects of this: see `built` */
#define MOST_KEYS 1024  /* names whose keys are kept */
#define LONGEST_KEPT 64 /* characters of such a name */
#define MOST_BOUNDS 64

#define FASTCALL(function) ((PyCFunction)(void (*)(void))(function))

/* --- names that every call needs */

static PyObject *no_text, *changes_name, *seen_headers_name, *headers_name, *key_name, *has_header_name, *header_values_name;
static PyObject *keys; /* of headers: as they were written, and in lower case */

static void freed(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

/* --- CallParts: what a call is made of (see `call.Call`) */

enum { SOURCE, TOKEN, ASKER, ROUTE, PATH, BODY, HEADERS, QUERY, ANSWER_HEADERS, ASKS, WARNING, CTX, CONSUMER, PARTS };

typedef struct {
    PyObject_HEAD
    PyObject *parts[PARTS];
} CallParts;

static PyObject *call_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords) {
    static char *names[] = {"source", "conf_token", NULL};
    PyObject *source, *token;
    if (keywords == NULL && PyTuple_Size(arguments) == 2) {
        source = PyTuple_GetItem(arguments, 0);
        token = PyTuple_GetItem(arguments, 1);
    } else if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "OO:Call", names, &source, &token))
        return NULL;
    CallParts *self = (CallParts *)((allocfunc)PyType_GetSlot(type, Py_tp_alloc))(type, 0);
    if (self == NULL) return NULL;
    for (int part = 0; part < PARTS; part++)
        self->parts[part] = Py_NewRef(part == SOURCE ? source
                                      : part == TOKEN ? token
                                      : part == ASKS ? Py_False
                                      : part == ROUTE || part == WARNING ? no_text : Py_None);
    return (PyObject *)self;
}

static int call_traverse(CallParts *self, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE((PyObject *)self));
    for (int part = 0; part < PARTS; part++) Py_VISIT(self->parts[part]);
    return 0;
}

static int call_clear(CallParts *self) {
    for (int part = 0; part < PARTS; part++) Py_CLEAR(self->parts[part]);
    return 0;
}

static void call_dealloc(PyObject *self) {
    PyObject_GC_UnTrack(self);
    call_clear((CallParts *)self);
    freed(self);
}

static int is_absent(PyObject *part) { return part == NULL || part == Py_None; }

/* The changes of a mapping that was looked at (a new reference), or None. */
static PyObject *changes_of(PyObject *mapping) {
    return is_absent(mapping) ? Py_NewRef(Py_None) : PyObject_GetAttr(mapping, changes_name);
}

static PyObject *call_header_changes(CallParts *self, PyObject *unused) {
    if (!is_absent(self->parts[PATH]) || !is_absent(self->parts[BODY])) Py_RETURN_NONE;
    for (int part = QUERY; part <= ANSWER_HEADERS; part++) {
        PyObject *changes = changes_of(self->parts[part]);
        if (changes == NULL) return NULL;
        int some = PyObject_IsTrue(changes);
        Py_DECREF(changes);
        if (some < 0) return NULL;
        if (some) Py_RETURN_NONE;
    }
    PyObject *changes = changes_of(self->parts[HEADERS]);
    if (changes == NULL) return NULL;
    PyObject *all = changes == Py_None ? PyTuple_New(0) : NULL;
    if (all == NULL) {
        PyObject *items = PyMapping_Items(changes);
        all = items == NULL ? NULL : PyList_AsTuple(items);
        Py_XDECREF(items);
    }
    Py_DECREF(changes);
    return all;
}

#define PART(name, number) {name, T_OBJECT_EX, offsetof(CallParts, parts) + (number) * sizeof(PyObject *), 0, NULL}

static PyMemberDef call_members[] = {
    PART("source", SOURCE), PART("conf_token", TOKEN), PART("asker", ASKER), PART("route", ROUTE), PART("path", PATH),
    PART("body", BODY), PART("seen_headers", HEADERS), PART("seen_query", QUERY),
    PART("seen_response_headers", ANSWER_HEADERS), PART("asks", ASKS), PART("warning", WARNING),
    PART("kept_ctx", CTX), PART("consumer_change", CONSUMER), {NULL, 0, 0, 0, NULL},
};

static PyMethodDef call_methods[] = {
    {"header_changes", FASTCALL(call_header_changes), METH_NOARGS,
     "Changes of request headers, if nothing else is changed; otherwise None."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot call_slots[] = {
    {Py_tp_doc, "CallParts(source, conf_token): what a call is made of."},
    {Py_tp_new, call_new},
    {Py_tp_traverse, call_traverse},
    {Py_tp_clear, call_clear},
    {Py_tp_dealloc, call_dealloc},
    {Py_tp_members, call_members},
    {Py_tp_methods, call_methods},
    {0, NULL},
};

static PyType_Spec call_spec = {
    .name = "gatewright._parts.CallParts", .basicsize = sizeof(CallParts),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC, .slots = call_slots,
};

/* --- View: what a plugin sees of a call */

typedef struct {
    PyObject_HEAD
    PyObject *call;
} View;

static int view_init(View *self, PyObject *arguments, PyObject *keywords) {
    static char *names[] = {"call", NULL};
    PyObject *call;
    if (keywords == NULL && PyTuple_Size(arguments) == 1)
        call = PyTuple_GetItem(arguments, 0);
    else if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "O:View", names, &call))
        return -1;
    if (call != self->call) {
        PyObject *before = self->call;
        self->call = Py_NewRef(call);
        Py_XDECREF(before);
    }
    return 0;
}

static int view_traverse(View *self, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE((PyObject *)self));
    Py_VISIT(self->call);
    return 0;
}

static int view_clear(View *self) {
    Py_CLEAR(self->call);
    return 0;
}

static void view_dealloc(PyObject *self) {
    PyObject_GC_UnTrack(self);
    view_clear((View *)self);
    freed(self);
}

static PyObject *view_headers(View *self, void *closure) {
    if (self->call == NULL) {
        PyErr_SetString(PyExc_AttributeError, "_call");
        return NULL;
    }
    PyObject *seen = PyObject_GetAttr(self->call, seen_headers_name);
    if (seen != Py_None) return seen; /* or an error */
    Py_DECREF(seen);
    return PyObject_GetAttr(self->call, headers_name);
}

static PyMemberDef view_members[] = {
    {"_call", T_OBJECT_EX, offsetof(View, call), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef view_getset[] = {
    {"headers", (getter)(void (*)(void))view_headers, NULL, "The request's headers. Changes reach the upstream.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot view_slots[] = {
    {Py_tp_doc, "View(call): what a plugin sees of a call."},
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_init, view_init},
    {Py_tp_traverse, view_traverse},
    {Py_tp_clear, view_clear},
    {Py_tp_dealloc, view_dealloc},
    {Py_tp_members, view_members},
    {Py_tp_getset, view_getset},
    {0, NULL},
};

static PyType_Spec view_spec = {
    .name = "gatewright._parts.View", .basicsize = sizeof(View),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC, .slots = view_slots,
};

/* --- Lookup: the headers of a call (see `call.SourceHeaders`) */

typedef struct {
    PyObject_HEAD
    PyObject *source, *finder, *changes, *original;
    Py_ssize_t finds, most_finds;
} Lookup;

static PyObject *lookup_of(PyObject *class, PyObject *const *arguments, Py_ssize_t count) {
    PyTypeObject *type = (PyTypeObject *)class;
    if (count != 3) {
        PyErr_SetString(PyExc_TypeError, "of(source, finder, most_finds)");
        return NULL;
    }
    Py_ssize_t most = PyLong_AsSsize_t(arguments[2]);
    if (most < 0 && PyErr_Occurred()) return NULL;
    PyObject *changes = PyDict_New();
    if (changes == NULL) return NULL;
    Lookup *self = (Lookup *)((allocfunc)PyType_GetSlot(type, Py_tp_alloc))(type, 0);
    if (self == NULL) {
        Py_DECREF(changes);
        return NULL;
    }
    self->source = Py_NewRef(arguments[0]);
    self->finder = Py_NewRef(arguments[1]);
    self->original = Py_NewRef(Py_None);
    self->changes = changes;
    self->most_finds = most;
    return (PyObject *)self;
}

static int lookup_traverse(Lookup *self, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE((PyObject *)self));
    Py_VISIT(self->source);
    Py_VISIT(self->finder);
    Py_VISIT(self->changes);
    Py_VISIT(self->original);
    return 0;
}

static int lookup_clear(Lookup *self) {
    Py_CLEAR(self->source);
    Py_CLEAR(self->finder);
    Py_CLEAR(self->changes);
    Py_CLEAR(self->original);
    return 0;
}

static void lookup_dealloc(PyObject *self) {
    PyObject_GC_UnTrack(self);
    lookup_clear((Lookup *)self);
    freed(self);
}

static int is_lazy(Lookup *self) { return self->original == Py_None && self->source != NULL; }

static int has_changes(Lookup *self) { return self->changes != NULL && PyDict_CheckExact(self->changes); }

/* The key of a name (a new reference), or NULL: Python is to judge it, or (then an exception is set) it did, and refuses. */
static PyObject *key_of(PyObject *self, PyObject *name) {
    if (!PyUnicode_CheckExact(name)) return NULL;
    PyObject *key = PyDict_GetItemWithError(keys, name);
    if (key != NULL) return Py_NewRef(key);
    if (PyErr_Occurred()) return NULL;
    Py_ssize_t length = PyUnicode_GetLength(name);
    if (length < 0 || length > LONGEST_KEPT) return NULL;
    key = PyObject_CallMethodObjArgs(self, key_name, name, NULL);
    if (key == NULL) return NULL;
    if (PyDict_Size(keys) >= MOST_KEYS) PyDict_Clear(keys);
    if (PyDict_SetItem(keys, name, key) < 0) Py_CLEAR(key);
    return key;
}

static int is_plain(PyObject *value) {
    Py_ssize_t size;
    if (!PyUnicode_CheckExact(value)) return 0;
    const char *text = PyUnicode_AsUTF8AndSize(value, &size);
    if (text == NULL) {
        PyErr_Clear(); /* surrogates, which Python judges */
        return 0;
    }
    while (size-- > 0) {
        unsigned char letter = (unsigned char)*text++;
        if (letter < 0x20 || letter > 0x7e) return 0;
    }
    return 1;
}

static PyObject *in_python(PyObject *self, const char *method, PyObject *name) {
    return PyObject_CallMethod(self, method, "O", name);
}

static int lookup_contains(PyObject *object, PyObject *name) {
    Lookup *self = (Lookup *)object;
    PyObject *key = has_changes(self) ? key_of(object, name) : NULL;
    if (key != NULL) {
        PyObject *change = PyDict_GetItemWithError(self->changes, key), *found = NULL;
        int known = change == NULL ? -1 : PyObject_IsTrue(change), failed = 0;
        if (change == NULL && !PyErr_Occurred() && is_lazy(self)) {
            found = PyObject_CallMethodObjArgs(self->source, has_header_name, key, NULL);
            failed = found == NULL;
            known = found == Py_True ? 1 : found == Py_False ? 0 : -1;
            Py_XDECREF(found);
        }
        Py_DECREF(key);
        if (failed) return -1;
        if (known >= 0) return known;
    }
    if (PyErr_Occurred()) PyErr_Clear(); /* what is no name is not in here, and Python says so */
    PyObject *found = in_python(object, "_contains", name);
    if (found == NULL) return -1;
    int known = PyObject_IsTrue(found);
    Py_DECREF(found);
    return known;
}

/* The first value of a header (a new reference), `None` if there is none; NULL and no exception: Python is to look. */
static PyObject *first_of(PyObject *object, PyObject *name) {
    Lookup *self = (Lookup *)object;
    PyObject *key = has_changes(self) ? key_of(object, name) : NULL;
    if (key == NULL) {
        PyErr_Clear();
        return NULL;
    }
    PyObject *values = PyDict_GetItemWithError(self->changes, key);
    if (values != NULL) {
        Py_DECREF(key);
        if (values == Py_None) return Py_NewRef(Py_None);
        return PyTuple_CheckExact(values) && PyTuple_Size(values) ? Py_NewRef(PyTuple_GetItem(values, 0)) : NULL;
    }
    if (PyErr_Occurred() || !is_lazy(self) || self->finds >= self->most_finds) {
        Py_DECREF(key);
        return NULL;
    }
    self->finds++;
    values = PyObject_CallMethodObjArgs(self->source, header_values_name, key, NULL);
    Py_DECREF(key);
    if (values == NULL) return NULL;
    PyObject *first = NULL;
    if (PyList_CheckExact(values)) {
        first = PyList_Size(values) ? PyList_GetItem(values, 0) : Py_None;
        if (first == Py_None && PyList_Size(values))
            first = PyUnicode_FromStringAndSize(NULL, 0); /* without a value: as if empty */
        else
            Py_INCREF(first);
    } else if (values != Py_None)
        self->finds--; /* Python asks again */
    Py_DECREF(values);
    return first;
}

static PyObject *lookup_getitem(PyObject *self, PyObject *name) {
    PyObject *first = first_of(self, name);
    if (first == NULL) return PyErr_Occurred() ? NULL : in_python(self, "_getitem", name);
    if (first == Py_None) {
        Py_DECREF(first);
        PyErr_SetObject(PyExc_KeyError, name);
        return NULL;
    }
    return first;
}

static PyObject *lookup_get(PyObject *self, PyObject *arguments, PyObject *keywords) {
    static char *names[] = {"key", "default", NULL};
    PyObject *name, *otherwise = Py_None;
    if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "O|O:get", names, &name, &otherwise)) return NULL;
    PyObject *first = first_of(self, name);
    if (first == NULL) {
        if (PyErr_Occurred()) return NULL;
        first = in_python(self, "_getitem", name);
        if (first == NULL && PyErr_ExceptionMatches(PyExc_KeyError)) {
            PyErr_Clear();
            return Py_NewRef(otherwise);
        }
        return first;
    }
    if (first == Py_None) {
        Py_DECREF(first);
        return Py_NewRef(otherwise);
    }
    return first;
}

static int lookup_setitem(PyObject *object, PyObject *name, PyObject *value) {
    Lookup *self = (Lookup *)object;
    PyObject *done;
    if (value == NULL)
        done = in_python(object, "_delitem", name);
    else {
        PyObject *key = has_changes(self) && is_plain(value) ? key_of(object, name) : NULL;
        if (key != NULL) {
            PyObject *values = PyTuple_Pack(1, value);
            int failed = values == NULL || PyDict_SetItem(self->changes, key, values) < 0;
            Py_XDECREF(values);
            Py_DECREF(key);
            return failed ? -1 : 0;
        }
        if (PyErr_Occurred()) PyErr_Clear(); /* Python says what is wrong with it */
        done = PyObject_CallMethod(object, "_setitem", "OO", name, value);
    }
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

static PyMemberDef lookup_members[] = {
    {"_source", T_OBJECT_EX, offsetof(Lookup, source), 0, NULL},
    {"_finder", T_OBJECT_EX, offsetof(Lookup, finder), 0, NULL},
    {"changes", T_OBJECT_EX, offsetof(Lookup, changes), 0, NULL}, /* so that the interpreter finds a quick way to it */
    {"_original", T_OBJECT_EX, offsetof(Lookup, original), 0, NULL},
    {"_finds", T_PYSSIZET, offsetof(Lookup, finds), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyMethodDef lookup_methods[] = {
    {"of", FASTCALL(lookup_of), METH_FASTCALL | METH_CLASS, "Those of a source; who finds what was cut off; look-ups."},
    {"get", FASTCALL(lookup_get), METH_VARARGS | METH_KEYWORDS, "The first value of a name, or what is given otherwise."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot lookup_slots[] = {
    {Py_tp_doc, "Headers of a call, which are looked up without decoding all."},
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_traverse, lookup_traverse},
    {Py_tp_clear, lookup_clear},
    {Py_tp_dealloc, lookup_dealloc},
    {Py_tp_members, lookup_members},
    {Py_tp_methods, lookup_methods},
    {Py_sq_contains, lookup_contains},
    {Py_mp_subscript, lookup_getitem},
    {Py_mp_ass_subscript, lookup_setitem},
    {0, NULL},
};

static PyType_Spec lookup_spec = {
    .name = "gatewright._parts.Lookup", .basicsize = sizeof(Lookup),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC, .slots = lookup_slots,
};

/* --- Tally: how long runs took */

typedef struct {
    PyObject_HEAD
    double seconds;
    int number; /* of bounds */
    double bounds[MOST_BOUNDS];
    unsigned long long counts[MOST_BOUNDS + 1];
} Tally;

static PyObject *tally_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords) {
    PyObject *bounds;
    if (!PyArg_ParseTuple(arguments, "O!", &PyTuple_Type, &bounds)) return NULL;
    Py_ssize_t number = PyTuple_Size(bounds);
    if (number > MOST_BOUNDS) {
        PyErr_Format(PyExc_ValueError, "%zd bounds, the limit is %d", number, MOST_BOUNDS);
        return NULL;
    }
    Tally *self = (Tally *)((allocfunc)PyType_GetSlot(type, Py_tp_alloc))(type, 0);
    if (self == NULL) return NULL;
    self->number = (int)number;
    for (Py_ssize_t index = 0; index < number; index++) {
        self->bounds[index] = PyFloat_AsDouble(PyTuple_GetItem(bounds, index));
        if (PyErr_Occurred()) {
            Py_DECREF(self);
            return NULL;
        }
    }
    return (PyObject *)self;
}

static PyObject *tally_note(Tally *self, PyObject *seconds) {
    double took = PyFloat_AsDouble(seconds);
    if (took == -1.0 && PyErr_Occurred()) return NULL;
    int index = 0;
    while (index < self->number && self->bounds[index] < took) index++;
    self->counts[index]++;
    self->seconds += took;
    Py_RETURN_NONE;
}

static PyObject *tally_counts(Tally *self, void *closure) {
    PyObject *counts = PyList_New(self->number + 1);
    for (int index = 0; counts != NULL && index <= self->number; index++) {
        PyObject *count = PyLong_FromUnsignedLongLong(self->counts[index]);
        if (count == NULL || PyList_SetItem(counts, index, count) < 0) Py_CLEAR(counts);
    }
    return counts;
}

static PyObject *tally_add(Tally *self, PyObject *other) {
    if (Py_TYPE(other) != Py_TYPE((PyObject *)self) || ((Tally *)other)->number != self->number) {
        PyErr_SetString(PyExc_TypeError, "not a tally of the same bounds");
        return NULL;
    }
    for (int index = 0; index <= self->number; index++) self->counts[index] += ((Tally *)other)->counts[index];
    self->seconds += ((Tally *)other)->seconds;
    Py_RETURN_NONE;
}

static PyMemberDef tally_members[] = {
    {"seconds", T_DOUBLE, offsetof(Tally, seconds), READONLY, "Their sum."},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef tally_getset[] = {
    {"counts", (getter)(void (*)(void))tally_counts, NULL, "Runs by bucket, not cumulative.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMethodDef tally_methods[] = {
    {"note", FASTCALL(tally_note), METH_O, "Count one that took so many seconds."},
    {"add", FASTCALL(tally_add), METH_O, "Add another one's counts."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot tally_slots[] = {
    {Py_tp_doc, "Tally(bounds): how long runs took."},
    {Py_tp_new, tally_new},
    {Py_tp_dealloc, freed},
    {Py_tp_members, tally_members},
    {Py_tp_methods, tally_methods},
    {Py_tp_getset, tally_getset},
    {0, NULL},
};

static PyType_Spec tally_spec = {
    .name = "gatewright._parts.Tally", .basicsize = sizeof(Tally), .flags = Py_TPFLAGS_DEFAULT, .slots = tally_slots,
};

/* --- the module */

static int add_type(PyObject *module, const char *name, PyType_Spec *spec) {
    PyObject *type = PyType_FromSpec(spec);
    int failed = type == NULL || PyModule_AddObjectRef(module, name, type) < 0;
    Py_XDECREF(type);
    return failed;
}

static int execute(PyObject *module) {
    no_text = PyUnicode_InternFromString("");
    changes_name = PyUnicode_InternFromString("changes");
    seen_headers_name = PyUnicode_InternFromString("seen_headers");
    headers_name = PyUnicode_InternFromString("headers");
    key_name = PyUnicode_InternFromString("_key");
    has_header_name = PyUnicode_InternFromString("has_header");
    header_values_name = PyUnicode_InternFromString("header_values");
    if (keys == NULL) keys = PyDict_New();
    int failed = PyErr_Occurred() || add_type(module, "CallParts", &call_spec) || add_type(module, "View", &view_spec) || add_type(module, "Lookup", &lookup_spec) ||
                 add_type(module, "Tally", &tally_spec) || PyModule_AddIntConstant(module, "EDITION", EDITION) < 0;
    return failed ? -1 : 0;
}

static PyModuleDef_Slot module_slots[] = {{Py_mod_exec, execute}, {0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "_parts", .m_doc = "What a handler touches of every call, in C; see `parts`.",
    .m_size = 0, .m_slots = module_slots,
};

PyMODINIT_FUNC PyInit__parts(void) { return PyModuleDef_Init(&definition); }

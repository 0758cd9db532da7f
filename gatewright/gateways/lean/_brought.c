/* Frames taken apart, and what a call brings, at a fifth of the cost.

   What doesn't come nearly always is left to Python (see `frames` and `calls`): a frame that is cut off, too long or
   contradicts itself, a plan that was not seen before, a header that was not brought for itself. So there is one place
   that knows the errors.

   Frames are bytes that nobody changes. Lengths are the peer's: their sums are made in 64 bits. */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030b0000
#include <Python.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <structmember.h>

#define EDITION 1         /* of what Python expects of this: see `built` */
#define HEAD 16           /* bytes before the lengths: size, kind, flags, count, id, argument */
#define SIZE_FIELD 4      /* which the size doesn't count */
#define ABSENT UINT32_MAX /* in the place of a length */
#define MOST_PLANS 256    /* that are kept */
#define LONGEST_PLAN 1024 /* bytes of such a one */

static PyObject *prefix;
static PyObject *plans; /* where in a call each thing is, by the plan that it brings */

static uint32_t u16_of(const unsigned char *at) { return (uint32_t)at[0] | (uint32_t)at[1] << 8; }

static uint32_t u32_of(const unsigned char *at) { return u16_of(at) | u16_of(at + 2) << 16; }

/* --- frames */

/* The fields of a frame: NULL without an exception if their lengths are not what the frame's size says. */
static PyObject *fields_of(const unsigned char *lengths, uint32_t count, const unsigned char *at, uint64_t size) {
    uint64_t sum = 0;
    for (uint32_t index = 0; index < count; index++) {
        uint32_t length = u32_of(lengths + 4 * (size_t)index);
        if (length != ABSENT) sum += length;
    }
    if (sum != size) return NULL;
    PyObject *fields = PyList_New(count);
    for (uint32_t index = 0; fields != NULL && index < count; index++) {
        uint32_t length = u32_of(lengths + 4 * (size_t)index);
        PyObject *field = length == ABSENT ? Py_NewRef(Py_None) : PyBytes_FromStringAndSize((const char *)at, length);
        if (field == NULL || PyList_SetItem(fields, index, field) < 0) Py_CLEAR(fields);
        if (length != ABSENT) at += length;
    }
    return fields;
}

static PyObject *split(PyObject *module, PyObject *const *arguments, Py_ssize_t count) {
    if (count != 2 || !PyBytes_Check(arguments[0])) {
        PyErr_SetString(PyExc_TypeError, "split(data, max_size)");
        return NULL;
    }
    unsigned long long most = PyLong_AsUnsignedLongLong(arguments[1]);
    if (PyErr_Occurred()) return NULL;
    const unsigned char *data = (const unsigned char *)PyBytes_AsString(arguments[0]);
    uint64_t at = 0, end = (uint64_t)PyBytes_Size(arguments[0]);
    PyObject *frames = PyList_New(0);
    while (frames != NULL && end - at >= HEAD) {
        const unsigned char *head = data + at;
        uint64_t size = u32_of(head), fields_at = HEAD + 4 * (uint64_t)u16_of(head + 6);
        if (size > most || size + SIZE_FIELD < fields_at || size + SIZE_FIELD > end - at) break;
        PyObject *fields = fields_of(head + HEAD, u16_of(head + 6), head + fields_at, size + SIZE_FIELD - fields_at);
        if (fields == NULL) {
            if (PyErr_Occurred()) Py_CLEAR(frames);
            break;
        }
        PyObject *frame = Py_BuildValue("(iikkN)", head[4], head[5], (unsigned long)u32_of(head + 8),
                                        (unsigned long)u32_of(head + 12), fields);
        if (frame == NULL || PyList_Append(frames, frame) < 0) Py_CLEAR(frames);
        Py_XDECREF(frame);
        at += size + SIZE_FIELD;
    }
    return frames == NULL ? NULL : Py_BuildValue("(NK)", frames, (unsigned long long)at);
}

/* --- Brought: what a call brings (see `calls.LeanSource`) */

typedef struct {
    PyObject_HEAD
    PyObject *id, *plan, *index, *fields, *note, *teller, *told;
} Brought;

/* Where each thing is (a new reference). */
static PyObject *index_of(PyTypeObject *type, PyObject *fields) {
    PyObject *plan = PyList_Size(fields) ? PyList_GetItem(fields, 0) : NULL;
    int is_short = plan != NULL && PyBytes_CheckExact(plan) && PyBytes_Size(plan) <= LONGEST_PLAN;
    PyObject *index = is_short ? PyDict_GetItemWithError(plans, plan) : NULL;
    if (index != NULL && PyDict_Size(index) + 1 == PyList_Size(fields)) return Py_NewRef(index);
    if (PyErr_Occurred()) return NULL;
    index = PyObject_CallMethod((PyObject *)type, "index_of", "O", fields); /* or it says what is wrong */
    if (index == NULL || !is_short || !PyDict_CheckExact(index)) return index;
    if (PyDict_Size(plans) >= MOST_PLANS) PyDict_Clear(plans);
    if (PyDict_SetItem(plans, plan, index) < 0) Py_CLEAR(index);
    return index;
}

static PyObject *brought_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords) {
    PyObject *id, *fields;
    if (!PyArg_ParseTuple(arguments, "OO!:LeanSource", &id, &PyList_Type, &fields)) return NULL;
    PyObject *index = index_of(type, fields);
    if (index == NULL) return NULL;
    Brought *self = (Brought *)((allocfunc)PyType_GetSlot(type, Py_tp_alloc))(type, 0);
    if (self == NULL) {
        Py_DECREF(index);
        return NULL;
    }
    self->id = Py_NewRef(id);
    self->plan = Py_NewRef(PyList_GetItem(fields, 0));
    self->index = index;
    self->fields = Py_NewRef(fields);
    self->told = Py_NewRef(Py_None);
    return (PyObject *)self;
}

static int brought_traverse(Brought *self, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE((PyObject *)self));
    Py_VISIT(self->index);
    Py_VISIT(self->fields);
    Py_VISIT(self->note);
    Py_VISIT(self->teller);
    Py_VISIT(self->told);
    return 0;
}

static int brought_clear(Brought *self) {
    Py_CLEAR(self->id);
    Py_CLEAR(self->plan);
    Py_CLEAR(self->index);
    Py_CLEAR(self->fields);
    Py_CLEAR(self->note);
    Py_CLEAR(self->teller);
    Py_CLEAR(self->told);
    return 0;
}

static void brought_dealloc(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    brought_clear((Brought *)self);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

/* A header that was brought for itself (a new reference, `None`: there is none); NULL: it wasn't. */
static PyObject *brought_header(Brought *self, PyObject *name) {
    if (self->index == NULL || !PyDict_CheckExact(self->index) || !PyUnicode_CheckExact(name)) return NULL;
    PyObject *single = PyUnicode_Concat(prefix, name);
    PyObject *number = single == NULL ? NULL : PyDict_GetItemWithError(self->index, single);
    Py_XDECREF(single);
    if (number == NULL) return NULL;
    PyObject *raw = PyList_GetItem(self->fields, PyLong_AsSsize_t(number));
    return raw != NULL && (raw == Py_None || PyBytes_CheckExact(raw)) ? Py_NewRef(raw) : NULL;
}

static PyObject *brought_has_header(Brought *self, PyObject *name) {
    PyObject *raw = brought_header(self, name);
    if (raw == NULL) return PyErr_Occurred() ? NULL : PyObject_CallMethod((PyObject *)self, "look_for", "O", name);
    Py_DECREF(raw);
    return PyBool_FromLong(raw != Py_None);
}

static PyObject *brought_header_values(Brought *self, PyObject *name) {
    PyObject *values = NULL, *raw = brought_header(self, name);
    if (raw == NULL && PyErr_Occurred()) return NULL;
    if (raw == Py_None)
        values = PyList_New(0);
    else if (raw != NULL) {
        char *text;
        Py_ssize_t size;
        if (PyBytes_AsStringAndSize(raw, &text, &size) == 0 && memchr(text, '\n', (size_t)size) == NULL) {
            PyObject *value = PyUnicode_DecodeUTF8(text, size, "surrogateescape");
            values = value == NULL ? NULL : PyList_New(1);
            if (values == NULL || PyList_SetItem(values, 0, value) < 0) Py_CLEAR(values);
        }
    }
    Py_XDECREF(raw);
    if (values != NULL || PyErr_Occurred()) return values;
    return PyObject_CallMethod((PyObject *)self, "look_up", "O", name);
}

static PyMemberDef brought_members[] = {
    {"id", T_OBJECT_EX, offsetof(Brought, id), 0, NULL},
    {"plan", T_OBJECT_EX, offsetof(Brought, plan), 0, NULL},
    {"index", T_OBJECT_EX, offsetof(Brought, index), 0, NULL},
    {"fields", T_OBJECT_EX, offsetof(Brought, fields), 0, NULL},
    {"note", T_OBJECT_EX, offsetof(Brought, note), 0, NULL},
    {"teller", T_OBJECT_EX, offsetof(Brought, teller), 0, NULL},
    {"_told", T_OBJECT_EX, offsetof(Brought, told), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyMethodDef brought_methods[] = {
    {"has_header", (PyCFunction)(void (*)(void))brought_has_header, METH_O, "See `LeanSource.look_for`."},
    {"header_values", (PyCFunction)(void (*)(void))brought_header_values, METH_O, "See `LeanSource.look_up`."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot brought_slots[] = {
    {Py_tp_doc, "Brought(id, fields): what a call brings."},
    {Py_tp_new, brought_new},
    {Py_tp_traverse, brought_traverse},
    {Py_tp_clear, brought_clear},
    {Py_tp_dealloc, brought_dealloc},
    {Py_tp_members, brought_members},
    {Py_tp_methods, brought_methods},
    {0, NULL},
};

static PyType_Spec brought_spec = {
    .name = "gatewright.gateways.lean._brought.Brought", .basicsize = sizeof(Brought),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC, .slots = brought_slots,
};

static int execute(PyObject *module) {
    prefix = PyUnicode_InternFromString("h:");
    if (plans == NULL) plans = PyDict_New();
    PyObject *type = PyErr_Occurred() ? NULL : PyType_FromSpec(&brought_spec);
    int failed = type == NULL || PyModule_AddObjectRef(module, "Brought", type) < 0 ||
                 PyModule_AddIntConstant(module, "EDITION", EDITION) < 0;
    Py_XDECREF(type);
    return failed ? -1 : 0;
}

static PyMethodDef methods[] = {
    {"split", (PyCFunction)(void (*)(void))split, METH_FASTCALL,
     "split(data, max_size): whole frames, and where the first begins that isn't, or that is faulty."},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot module_slots[] = {{Py_mod_exec, execute}, {0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "_brought", .m_doc = "Frames, and what calls bring, in C; see `calls`.",
    .m_size = 0, .m_methods = methods, .m_slots = module_slots,
};

PyMODINIT_FUNC PyInit__brought(void) { return PyModuleDef_Init(&definition); }

/* Reading requests out of FlatBuffers, as `_reading` does, at a tenth of the cost.

   Each function gives exactly what its sibling in Python gives, or None for whatever it doesn't want to judge: malformed
   frames, names that aren't ASCII, more text than a frame may name. Then Python reads the frame, and says what is wrong.
   So there is one place that knows the errors, and nothing here raises but for want of memory.

   A frame is bytes that nobody changes. Offsets are the peer's: each is checked against the frame's end, in 64 bits,
   where sums of what 32 bits can say don't overflow. */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030b0000
#include <Python.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <structmember.h>

#define EDITION 2        /* of what Python expects of this: see `built` */
#define HEADER 4         /* bytes of frame header in front of the payload */
#define SLOTS 8          /* fields of the longest table */
#define ID 0             /* fields of a request */
#define HEADERS 5
#define TOKEN 6
#define ENTRIES (1 << 16) /* of one vector, as in _reading */
#define MOST_FORMS 32
#define FEWEST 2880 /* bytes, see `calls` */
#define EXTRA_TEXT 65536 /* and twice the frame: what all entries of a vector may have together */

typedef struct {
    const unsigned char *data;
    uint64_t size;
} Frame;

typedef struct {
    const char *text;
    uint32_t size;
} Text;

typedef struct {
    Text name, value;
    int has_value;
} Entry;

typedef struct {
    uint64_t first; /* where the first reference is */
    uint32_t count;
    uint64_t budget;
} Vector;

/* What is known of the last vtable: all entries of a vector have the same one, nearly always. */
typedef struct {
    uint64_t at;
    uint16_t name, value;
    int known;
} EntryLayout;

static int holds(const Frame *frame, uint64_t at, uint64_t size) { return at <= frame->size && size <= frame->size - at; }

static uint32_t u16_of(const unsigned char *at) { return (uint32_t)at[0] | (uint32_t)at[1] << 8; }

static uint32_t u32_of(const unsigned char *at) { return u16_of(at) | u16_of(at + 2) << 16; }

static int read_u32(const Frame *frame, uint64_t at, uint32_t *value) {
    if (!holds(frame, at, 4)) return 0;
    *value = u32_of(frame->data + at);
    return 1;
}

static int frame_of(PyObject *object, Frame *frame) {
    char *data;
    Py_ssize_t size;
    if (!PyBytes_Check(object)) return 0;
    if (PyBytes_AsStringAndSize(object, &data, &size) < 0) {
        PyErr_Clear();
        return 0;
    }
    frame->data = (const unsigned char *)data;
    frame->size = (uint64_t)size;
    return 1;
}

/* A position or an offset: what is negative or huge is nothing that could be in a frame. */
static int position_of(PyObject *object, uint64_t *at) {
    long long value = PyLong_AsLongLong(object);
    if (value < 0) {
        PyErr_Clear();
        return 0;
    }
    *at = (uint64_t)value;
    return value < (long long)1 << 40;
}

/* The offsets of a table's fields from its position; those that it doesn't have are 0. */
static int read_layout(const Frame *frame, uint64_t table, uint16_t layout[SLOTS], uint64_t *vtable) {
    uint32_t back;
    if (!read_u32(frame, table, &back)) return 0;
    int64_t at = (int64_t)table - (int32_t)back;
    if (at < 0 || !holds(frame, (uint64_t)at, 4)) return 0;
    const unsigned char *slots = frame->data + at;
    uint32_t size = u16_of(slots), table_size = u16_of(slots + 2);
    if (size < 4 || size % 2 || size > 255 || !holds(frame, (uint64_t)at, size)) return 0;
    uint32_t count = (size - 4) / 2;
    for (uint32_t slot = 0; slot < SLOTS; slot++) {
        uint32_t offset = slot < count ? u16_of(slots + 4 + 2 * slot) : 0;
        if (offset && (offset < 4 || offset >= table_size)) return 0;
        layout[slot] = (uint16_t)offset;
    }
    *vtable = (uint64_t)at;
    return 1;
}

static int read_text(const Frame *frame, uint64_t field, Text *text) {
    uint32_t relative, size;
    if (!read_u32(frame, field, &relative)) return 0;
    uint64_t at = field + relative;
    if (!read_u32(frame, at, &size) || !holds(frame, at + 4, size)) return 0;
    text->text = (const char *)frame->data + at + 4;
    text->size = size;
    return 1;
}

static int read_vector(const Frame *frame, uint64_t table, uint64_t offset, Vector *vector) {
    uint32_t relative;
    memset(vector, 0, sizeof *vector);
    if (!offset) return 1; /* absent, and so empty */
    if (!read_u32(frame, table + offset, &relative)) return 0;
    uint64_t at = table + offset + relative;
    if (!read_u32(frame, at, &vector->count) || vector->count > ENTRIES) return 0;
    vector->first = at + 4;
    vector->budget = 2 * frame->size + EXTRA_TEXT;
    return holds(frame, vector->first, 4 * (uint64_t)vector->count);
}

static int read_entry(const Frame *frame, Vector *vector, uint32_t index, EntryLayout *known, Entry *entry) {
    uint64_t slot = vector->first + 4 * (uint64_t)index;
    uint64_t table = slot + u32_of(frame->data + slot);
    uint32_t back;
    if (!read_u32(frame, table, &back)) return 0;
    int64_t vtable = (int64_t)table - (int32_t)back;
    if (!known->known || vtable < 0 || (uint64_t)vtable != known->at) {
        uint16_t layout[SLOTS];
        if (!read_layout(frame, table, layout, &known->at)) return 0;
        known->name = layout[0];
        known->value = layout[1];
        known->known = 1;
    }
    if (!known->name || !read_text(frame, table + known->name, &entry->name)) return 0;
    entry->has_value = known->value != 0;
    entry->value.size = 0;
    if (entry->has_value && !read_text(frame, table + known->value, &entry->value)) return 0;
    uint64_t text = (uint64_t)entry->name.size + entry->value.size;
    if (text > vector->budget) return 0;
    vector->budget -= text;
    return 1;
}

static PyObject *decoded(const Text *text) {
    return PyUnicode_DecodeUTF8(text->text, (Py_ssize_t)text->size, "surrogateescape");
}

static PyObject *value_of(const Entry *entry) {
    if (entry->has_value) return decoded(&entry->value);
    Py_INCREF(Py_None);
    return Py_None;
}

static int is_ascii(const Text *text) {
    unsigned char all = 0;
    for (uint32_t index = 0; index < text->size; index++) all |= (unsigned char)text->text[index];
    return all < 0x80;
}

/* Whether a name is this one, which is in lower case. */
static int is_name(const Text *name, const Text *wanted) {
    if (name->size != wanted->size) return 0;
    for (uint32_t index = 0; index < name->size; index++) {
        unsigned char letter = (unsigned char)name->text[index];
        if (letter >= 'A' && letter <= 'Z') letter |= 0x20;
        if (letter != (unsigned char)wanted->text[index]) return 0;
    }
    return 1;
}

/* What servers that make variables of headers' names make of each byte (see `_names.form_of`). */
static unsigned char form_of(unsigned char letter) {
    if (letter >= 'A' && letter <= 'Z') return letter | 0x20;
    return (letter >= 'a' && letter <= 'z') || (letter >= '0' && letter <= '9') ? letter : '-';
}

static int has_form(const Text *name, const Text *form) {
    if (name->size != form->size) return 0;
    for (uint32_t index = 0; index < name->size; index++)
        if (form_of((unsigned char)name->text[index]) != (unsigned char)form->text[index]) return 0;
    return 1;
}

static int wanted_of(PyObject *object, Text *wanted) {
    Py_ssize_t size;
    const char *text = PyUnicode_Check(object) ? PyUnicode_AsUTF8AndSize(object, &size) : NULL;
    if (text == NULL || size > UINT32_MAX) {
        PyErr_Clear();
        return 0;
    }
    wanted->text = text;
    wanted->size = (uint32_t)size;
    return is_ascii(wanted);
}

/* --- on frames of any kind: see the siblings in `_reading` --- */

static PyObject *read_string(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    Frame frame;
    uint64_t table, offset;
    Text text;
    if (count != 3 || !frame_of(args[0], &frame) || !position_of(args[1], &table) || !position_of(args[2], &offset) ||
        !read_text(&frame, table + offset, &text))
        Py_RETURN_NONE;
    return decoded(&text);
}

static PyObject *entries_of(const Frame *frame, Vector *vector) {
    EntryLayout known = {0};
    Entry entry;
    PyObject *entries = PyList_New(0);
    if (entries == NULL) return NULL;
    for (uint32_t index = 0; index < vector->count; index++) {
        if (!read_entry(frame, vector, index, &known, &entry)) {
            Py_DECREF(entries);
            Py_RETURN_NONE;
        }
        PyObject *name = decoded(&entry.name), *value = name == NULL ? NULL : value_of(&entry);
        PyObject *pair = value == NULL ? NULL : PyTuple_Pack(2, name, value);
        Py_XDECREF(name);
        Py_XDECREF(value);
        int failed = pair == NULL || PyList_Append(entries, pair) < 0;
        Py_XDECREF(pair);
        if (failed) {
            Py_DECREF(entries);
            return NULL;
        }
    }
    return entries;
}

static PyObject *read_entries(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    Frame frame;
    Vector vector;
    uint64_t table, offset;
    if (count != 3 || !frame_of(args[0], &frame) || !position_of(args[1], &table) || !position_of(args[2], &offset) ||
        !read_vector(&frame, table, offset, &vector))
        Py_RETURN_NONE;
    return entries_of(&frame, &vector);
}

/* --- a request --- */

typedef struct {
    PyObject_HEAD
    PyObject *frame, *id, *conf_token;
    uint64_t table;
    uint16_t layout[SLOTS];
} Request;

static int headers_of(Request *self, Frame *frame, Vector *vector) {
    return frame_of(self->frame, frame) && read_vector(frame, self->table, self->layout[HEADERS], vector);
}

/* What C doesn't take Python doesn't take either, and says why. */
static void refuse(PyTypeObject *type, PyObject *frame) {
    PyObject *head = PyObject_CallMethod((PyObject *)type, "read_head", "O", frame);
    if (head != NULL) PyErr_SetString(PyExc_RuntimeError, "a frame that only Python takes");
    Py_XDECREF(head);
}

static PyObject *request_new(PyTypeObject *type, PyObject *args, PyObject *keywords) {
    PyObject *object;
    Frame frame;
    uint32_t root, id = 0, token = 0;
    uint16_t layout[SLOTS];
    uint64_t vtable, table;
    if ((keywords != NULL && PyDict_Size(keywords)) || !PyArg_ParseTuple(args, "O!", &PyBytes_Type, &object)) {
        if (!PyErr_Occurred()) PyErr_SetString(PyExc_TypeError, "a request takes its frame, by position");
        return NULL;
    }
    if (!frame_of(object, &frame) || !read_u32(&frame, HEADER, &root) ||
        !read_layout(&frame, table = HEADER + (uint64_t)root, layout, &vtable) ||
        (layout[ID] && !read_u32(&frame, table + layout[ID], &id)) ||
        (layout[TOKEN] && !read_u32(&frame, table + layout[TOKEN], &token))) {
        refuse(type, object);
        return NULL;
    }
    allocfunc alloc = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    Request *self = (Request *)alloc(type, 0);
    if (self == NULL) return NULL;
    Py_INCREF(object);
    self->frame = object;
    self->table = table;
    memcpy(self->layout, layout, sizeof layout);
    self->id = PyLong_FromUnsignedLong(id);
    self->conf_token = PyLong_FromUnsignedLong(token);
    if (self->id == NULL || self->conf_token == NULL) {
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static void request_dealloc(Request *self) {
    PyTypeObject *type = Py_TYPE((PyObject *)self);
    Py_XDECREF(self->frame);
    Py_XDECREF(self->id);
    Py_XDECREF(self->conf_token);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

static PyObject *request_table(Request *self, void *closure) { return PyLong_FromUnsignedLongLong(self->table); }

static PyObject *request_layout(Request *self, void *closure) {
    PyObject *layout = PyTuple_New(SLOTS);
    if (layout == NULL) return NULL;
    for (int slot = 0; slot < SLOTS; slot++) {
        PyObject *offset = PyLong_FromLong(self->layout[slot]);
        if (offset == NULL || PyTuple_SetItem(layout, slot, offset) < 0) {
            Py_DECREF(layout);
            return NULL;
        }
    }
    return layout;
}

static PyObject *request_entries(Request *self, PyObject *unused) {
    Frame frame;
    Vector vector;
    if (!headers_of(self, &frame, &vector)) Py_RETURN_NONE;
    return entries_of(&frame, &vector);
}

static PyObject *request_find(Request *self, PyObject *name) {
    Frame frame;
    Vector vector;
    EntryLayout known = {0};
    Entry entry;
    Text wanted;
    if (!headers_of(self, &frame, &vector) || !wanted_of(name, &wanted)) Py_RETURN_NONE;
    PyObject *values = PyList_New(0);
    if (values == NULL) return NULL;
    for (uint32_t index = 0; index < vector.count; index++) {
        if (!read_entry(&frame, &vector, index, &known, &entry) || !is_ascii(&entry.name)) {
            Py_DECREF(values);
            Py_RETURN_NONE;
        }
        if (is_name(&entry.name, &wanted)) {
            PyObject *value = value_of(&entry);
            int failed = value == NULL || PyList_Append(values, value) < 0;
            Py_XDECREF(value);
            if (failed) {
                Py_DECREF(values);
                return NULL;
            }
        }
    }
    return values;
}

static PyObject *request_has(Request *self, PyObject *name) {
    Frame frame;
    Vector vector;
    EntryLayout known = {0};
    Entry entry;
    Text wanted;
    int found = 0;
    if (!headers_of(self, &frame, &vector) || !wanted_of(name, &wanted)) Py_RETURN_NONE;
    for (uint32_t index = 0; index < vector.count; index++) {
        if (!read_entry(&frame, &vector, index, &known, &entry) || !is_ascii(&entry.name)) Py_RETURN_NONE;
        found |= is_name(&entry.name, &wanted);
    }
    return PyBool_FromLong(found);
}

/* A frame so short holds fewer headers than a gateway cuts off at: what isn't here isn't anywhere. */
static PyObject *request_has_header(Request *self, PyObject *name) {
    PyObject *found = PyBytes_Size(self->frame) <= FEWEST ? request_has(self, name) : Py_NewRef(Py_None);
    if (found != Py_None) return found;
    Py_DECREF(found);
    return PyObject_CallMethod((PyObject *)self, "look_for", "O", name);
}

static PyObject *request_header_values(Request *self, PyObject *name) {
    if (PyBytes_Size(self->frame) <= FEWEST) return request_find(self, name);
    return PyObject_CallMethod((PyObject *)self, "look_up", "O", name);
}

static PyObject *request_has_form(Request *self, PyObject *wanted) {
    Frame frame;
    Vector vector;
    EntryLayout known = {0};
    Entry entry;
    Text forms[MOST_FORMS];
    Py_ssize_t number = PyTuple_Check(wanted) ? PyTuple_Size(wanted) : MOST_FORMS + 1;
    if (number > MOST_FORMS || !headers_of(self, &frame, &vector)) Py_RETURN_NONE;
    for (Py_ssize_t index = 0; index < number; index++) {
        Frame form;
        if (!frame_of(PyTuple_GetItem(wanted, index), &form) || form.size > UINT32_MAX) Py_RETURN_NONE;
        forms[index].text = (const char *)form.data;
        forms[index].size = (uint32_t)form.size;
    }
    int found = 0;
    for (uint32_t index = 0; index < vector.count; index++) {
        if (!read_entry(&frame, &vector, index, &known, &entry)) Py_RETURN_NONE;
        for (Py_ssize_t each = 0; each < number; each++) found |= has_form(&entry.name, &forms[each]);
    }
    return PyBool_FromLong(found);
}

static PyMethodDef request_methods[] = {
    {"read_header_entries", (PyCFunction)(void (*)(void))request_entries, METH_NOARGS, "All headers, or None."},
    {"find_entry", (PyCFunction)(void (*)(void))request_find, METH_O,
     "All values of a header, its name in lower case; None: all are to be decoded."},
    {"has_entry", (PyCFunction)(void (*)(void))request_has, METH_O,
     "Whether there is a header of this name, in lower case; None: all are to be decoded."},
    {"has_header", (PyCFunction)(void (*)(void))request_has_header, METH_O, "See `HttpReqCall.look_for`."},
    {"header_values", (PyCFunction)(void (*)(void))request_header_values, METH_O, "See `HttpReqCall.look_up`."},
    {"has_form", (PyCFunction)(void (*)(void))request_has_form, METH_O,
     "Whether a header's name has one of these forms (see `_names`), or None."},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef request_members[] = {
    {"_frame", T_OBJECT_EX, offsetof(Request, frame), READONLY, NULL},
    {"id", T_OBJECT_EX, offsetof(Request, id), READONLY, "The gateway's number for this call."},
    {"conf_token", T_OBJECT_EX, offsetof(Request, conf_token), READONLY, "Which configuration it is for."},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef request_getset[] = {
    {"_table", (getter)(void (*)(void))request_table, NULL, NULL, NULL},
    {"_layout", (getter)(void (*)(void))request_layout, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot request_slots[] = {
    {Py_tp_doc, "Request(frame): an HTTPReqCall, of which the head is read."},
    {Py_tp_new, request_new},
    {Py_tp_dealloc, request_dealloc},
    {Py_tp_methods, request_methods},
    {Py_tp_members, request_members},
    {Py_tp_getset, request_getset},
    {0, NULL},
};

static PyType_Spec request_spec = {
    .name = "gatewright.gateways.apisix._quick.Request", .basicsize = sizeof(Request),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE, .slots = request_slots,
};

static int execute(PyObject *module) {
    PyObject *type = PyType_FromSpec(&request_spec);
    int failed = type == NULL || PyModule_AddObjectRef(module, "Request", type) < 0 ||
                 PyModule_AddIntConstant(module, "EDITION", EDITION) < 0 ||
                 PyModule_AddIntConstant(module, "FEWEST", FEWEST) < 0;
    Py_XDECREF(type);
    return failed ? -1 : 0;
}

static PyMethodDef methods[] = {
    {"read_string", (PyCFunction)(void (*)(void))read_string, METH_FASTCALL,
     "read_string(frame, table, offset): as `_reading.read_string`, or None."},
    {"read_entries", (PyCFunction)(void (*)(void))read_entries, METH_FASTCALL,
     "read_entries(frame, table, offset): as `_reading.read_entries`, or None."},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot module_slots[] = {{Py_mod_exec, execute}, {0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "_quick", .m_doc = "Reading requests, in C; see `_reading` and `_quickly`.",
    .m_size = 0, .m_methods = methods, .m_slots = module_slots,
};

PyMODINIT_FUNC PyInit__quick(void) { return PyModuleDef_Init(&definition); }

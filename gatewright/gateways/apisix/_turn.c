/* The turn that nearly all of a connection is made of, at a fifth of the cost: a request's whole frame comes while
   nothing else is under way, and the answer changes nothing or the same few headers as many answers before.

   Whatever else comes or goes is `session`'s, in Python, which derives from this and has the sibling of each method. */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030b0000
#include <Python.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <structmember.h>

#define EDITION 1         /* of what Python expects of this: see `built` */
#define HEADER 4          /* bytes of frame header in front of the payload */
#define SHORTEST 8        /* bytes: a header and a root offset */
#define HTTP_REQ_CALL 2   /* a frame's type, its first byte */
#define ID_SIZE 4
#define MOST_ANSWERS 256  /* that are kept */

static PyObject *conf_token_name, *header_changes_name, *source_name, *id_name;
static PyObject *answers; /* of all connections: what stands before and behind the id, by the changes of headers */

typedef struct {
    PyObject_HEAD
    PyObject *busy, *buffered, *request_class, *call_class, *no_action, *parts_of;
    Py_ssize_t max_payload;
} Turn;

static int turn_init(Turn *self, PyObject *arguments, PyObject *keywords) {
    PyObject *request_class, *call_class, *no_action, *parts_of;
    Py_ssize_t max_payload;
    if (!PyArg_ParseTuple(arguments, "OOnO!O", &request_class, &call_class, &max_payload, &PyBytes_Type, &no_action,
                          &parts_of))
        return -1;
    if (self->busy != NULL) {
        PyErr_SetString(PyExc_RuntimeError, "it has begun");
        return -1;
    }
    self->buffered = PyLong_FromLong(0);
    if (self->buffered == NULL) return -1;
    self->busy = Py_NewRef(Py_False);
    self->request_class = Py_NewRef(request_class);
    self->call_class = Py_NewRef(call_class);
    self->no_action = Py_NewRef(no_action);
    self->parts_of = Py_NewRef(parts_of);
    self->max_payload = max_payload;
    return 0;
}

static int turn_traverse(Turn *self, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE((PyObject *)self));
    Py_VISIT(self->request_class);
    Py_VISIT(self->call_class);
    Py_VISIT(self->parts_of);
    return 0;
}

static int turn_clear(Turn *self) {
    Py_CLEAR(self->busy);
    Py_CLEAR(self->buffered);
    Py_CLEAR(self->request_class);
    Py_CLEAR(self->call_class);
    Py_CLEAR(self->no_action);
    Py_CLEAR(self->parts_of);
    return 0;
}

static void turn_dealloc(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    turn_clear((Turn *)self);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

static void set_busy(Turn *self, PyObject *busy) {
    PyObject *before = self->busy;
    self->busy = Py_NewRef(busy);
    Py_XDECREF(before);
}

static int is_usual(Turn *self, PyObject *data) {
    if (!PyBytes_CheckExact(data) || self->busy != Py_False || PyObject_IsTrue(self->buffered) != 0) return 0;
    Py_ssize_t size = PyBytes_Size(data);
    if (size < SHORTEST || size - HEADER > self->max_payload) return 0;
    const unsigned char *head = (const unsigned char *)PyBytes_AsString(data);
    return head[0] == HTTP_REQ_CALL && ((Py_ssize_t)head[1] << 16 | head[2] << 8 | head[3]) == size - HEADER;
}

static PyObject *turn_receive_data(Turn *self, PyObject *data) {
    if (!is_usual(self, data)) {
        if (PyErr_Occurred()) return NULL;
        return PyObject_CallMethod((PyObject *)self, "receive_more", "O", data);
    }
    set_busy(self, Py_True);
    PyObject *call = NULL, *token = NULL, *request = PyObject_CallFunctionObjArgs(self->request_class, data, NULL);
    if (request != NULL) token = PyObject_GetAttr(request, conf_token_name);
    if (token != NULL) call = PyObject_CallFunctionObjArgs(self->call_class, request, token, NULL);
    PyObject *events = call == NULL ? NULL : PyTuple_Pack(1, call);
    Py_XDECREF(request);
    Py_XDECREF(token);
    Py_XDECREF(call);
    return events;
}

/* What stands before and behind the id in the answer that makes these changes (borrowed); NULL: Python makes it. */
static PyObject *parts_of(Turn *self, PyObject *changes) {
    PyObject *parts = PyDict_GetItemWithError(answers, changes);
    if (parts != NULL || PyErr_Occurred()) return parts;
    parts = PyObject_CallFunctionObjArgs(self->parts_of, changes, NULL);
    if (parts == NULL) return NULL;
    int kept = PyTuple_CheckExact(parts) && PyTuple_Size(parts) == 2;
    if (kept && PyDict_Size(answers) >= MOST_ANSWERS) PyDict_Clear(answers);
    int failed = kept && PyDict_SetItem(answers, changes, parts) < 0;
    Py_DECREF(parts);
    return kept && !failed ? PyDict_GetItemWithError(answers, changes) : NULL;
}

static int part_of(PyObject *object, const char **text, Py_ssize_t *size) {
    return PyBytes_AsStringAndSize(object, (char **)text, size) == 0;
}

static PyObject *usual_answer(Turn *self, PyObject *call, PyObject *changes) {
    const char *head, *tail = "";
    Py_ssize_t head_size, tail_size = 0;
    PyObject *source = PyObject_GetAttr(call, source_name);
    PyObject *number = source == NULL ? NULL : PyObject_GetAttr(source, id_name);
    Py_XDECREF(source);
    if (number == NULL) return NULL;
    unsigned long id = PyLong_AsUnsignedLong(number);
    Py_DECREF(number);
    if (PyErr_Occurred() || id > UINT32_MAX) return NULL;
    if (PyTuple_Size(changes)) {
        PyObject *parts = parts_of(self, changes);
        if (parts == NULL || !part_of(PyTuple_GetItem(parts, 0), &head, &head_size) ||
            !part_of(PyTuple_GetItem(parts, 1), &tail, &tail_size))
            return NULL;
    } else if (!part_of(self->no_action, &head, &head_size))
        return NULL;
    PyObject *answer = PyBytes_FromStringAndSize(NULL, head_size + ID_SIZE + tail_size);
    if (answer == NULL) return NULL;
    char *at = PyBytes_AsString(answer);
    memcpy(at, head, head_size);
    for (int byte = 0; byte < ID_SIZE; byte++) at[head_size + byte] = (char)(id >> 8 * byte);
    memcpy(at + head_size + ID_SIZE, tail, tail_size);
    return answer;
}

static PyObject *turn_reply(Turn *self, PyObject *const *arguments, Py_ssize_t count) {
    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "reply(call, response)");
        return NULL;
    }
    PyObject *call = arguments[0], *answer = NULL;
    if (arguments[1] == Py_None && (PyObject *)Py_TYPE(call) == self->call_class) {
        PyObject *changes = PyObject_CallMethodObjArgs(call, header_changes_name, NULL);
        if (changes == NULL) return NULL;
        if (PyTuple_CheckExact(changes)) answer = usual_answer(self, call, changes);
        Py_DECREF(changes);
        if (answer == NULL && PyErr_Occurred()) return NULL;
    }
    if (answer == NULL) return PyObject_CallMethod((PyObject *)self, "reply_otherwise", "OO", call, arguments[1]);
    set_busy(self, Py_False);
    return answer;
}

static PyMethodDef turn_methods[] = {
    {"receive_data", (PyCFunction)(void (*)(void))turn_receive_data, METH_O,
     "Take bytes in; `b\"\"` looks again at what waits in the buffer."},
    {"reply", (PyCFunction)(void (*)(void))turn_reply, METH_FASTCALL, "The answer to a call."},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef turn_members[] = {
    {"busy", T_OBJECT_EX, offsetof(Turn, busy), 0, "An RPC is open."},
    {"buffered", T_OBJECT_EX, offsetof(Turn, buffered), 0, "Bytes received but not yet turned into an event."},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot turn_slots[] = {
    {Py_tp_doc, "Turn(request_class, call_class, max_payload, no_action, parts_of): see `_plain_turn`."},
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_init, turn_init},
    {Py_tp_traverse, turn_traverse},
    {Py_tp_clear, turn_clear},
    {Py_tp_dealloc, turn_dealloc},
    {Py_tp_members, turn_members},
    {Py_tp_methods, turn_methods},
    {0, NULL},
};

static PyType_Spec turn_spec = {
    .name = "gatewright.gateways.apisix._turn.Turn", .basicsize = sizeof(Turn),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC, .slots = turn_slots,
};

static int execute(PyObject *module) {
    conf_token_name = PyUnicode_InternFromString("conf_token");
    header_changes_name = PyUnicode_InternFromString("header_changes");
    source_name = PyUnicode_InternFromString("source");
    id_name = PyUnicode_InternFromString("id");
    if (answers == NULL) answers = PyDict_New();
    PyObject *type = PyErr_Occurred() ? NULL : PyType_FromSpec(&turn_spec);
    int failed = type == NULL || PyModule_AddObjectRef(module, "Turn", type) < 0 ||
                 PyModule_AddIntConstant(module, "EDITION", EDITION) < 0;
    Py_XDECREF(type);
    return failed ? -1 : 0;
}

static PyModuleDef_Slot module_slots[] = {{Py_mod_exec, execute}, {0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "_turn", .m_doc = "The usual turn of a connection, in C; see `session`.",
    .m_size = 0, .m_slots = module_slots,
};

PyMODINIT_FUNC PyInit__turn(void) { return PyModuleDef_Init(&definition); }

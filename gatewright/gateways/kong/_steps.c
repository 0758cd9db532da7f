/* What nearly all of Kong's connections carry, at a tenth of the cost: an event begins, a PDK call that takes texts and
   numbers is made, Kong has carried it out, the event ends.

   Whatever else comes or goes is the sessions', in Python, which derive from these and have the sibling of each
   method. */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030b0000
#include <Python.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <structmember.h>

#define EDITION 2 /* of what Python expects of this: see `built` */
#define FASTCALL(function) ((PyCFunction)(void (*)(void))function)
#define MOST_NUMBER ((uint64_t)INT64_MAX)

static PyObject *zero, *popleft_name, *append_name, *deque;

static void freed(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

static void put(PyObject **place, PyObject *value) { /* takes the reference over */
    PyObject *before = *place;
    *place = value;
    Py_XDECREF(before);
}

static int are_given(const char *what, Py_ssize_t count, Py_ssize_t wanted) {
    if (count == wanted) return 1;
    PyErr_Format(PyExc_TypeError, "%s takes %zd arguments", what, wanted);
    return 0;
}

/* --- MessagePack is read: each function moves `at` on, or gives 0 for what is not usual */

typedef struct {
    const unsigned char *at, *end;
} Input;

static int read_byte(Input *input, unsigned char byte) {
    if (input->at == input->end || *input->at != byte) return 0;
    input->at++;
    return 1;
}

static int read_number(Input *input, uint64_t *number) {
    if (input->at == input->end) return 0;
    unsigned char kind = *input->at++;
    if (kind <= 0x7f) {
        *number = kind;
        return 1;
    }
    if (kind < 0xcc || kind > 0xcf) return 0;
    int size = 1 << (kind - 0xcc);
    if (input->end - input->at < size) return 0;
    *number = 0;
    while (size--) *number = *number << 8 | *input->at++;
    return *number <= MOST_NUMBER;
}

static int read_text(Input *input, const char **text, size_t *size) {
    if (input->at == input->end) return 0;
    unsigned char kind = *input->at++;
    int more = kind == 0xd9 ? 1 : kind == 0xda ? 2 : kind == 0xdb ? 4 : 0;
    if (!more && (kind & 0xe0) != 0xa0) return 0;
    if (input->end - input->at < more) return 0;
    *size = more ? 0 : kind & 0x1f;
    while (more--) *size = *size << 8 | *input->at++;
    if ((size_t)(input->end - input->at) < *size) return 0;
    *text = (const char *)input->at;
    input->at += *size;
    return 1;
}

#define IS(text, size, word) ((size) == sizeof(word) - 1 && memcmp(text, word, sizeof(word) - 1) == 0)

/* A value that an answer has nearly always (a new reference); NULL without an error: it's another one. */
static PyObject *read_value(Input *input) {
    const char *text;
    size_t size;
    uint64_t number;
    if (read_byte(input, 0xc0)) return Py_NewRef(Py_None);
    if (read_byte(input, 0xc2)) return Py_NewRef(Py_False);
    if (read_byte(input, 0xc3)) return Py_NewRef(Py_True);
    Input before = *input;
    if (read_text(input, &text, &size)) {
        PyObject *value = PyUnicode_DecodeUTF8(text, (Py_ssize_t)size, NULL);
        if (value == NULL && PyErr_ExceptionMatches(PyExc_UnicodeDecodeError)) PyErr_Clear();
        return value;
    }
    *input = before;
    return read_number(input, &number) ? PyLong_FromUnsignedLongLong(number) : NULL;
}

/* --- MessagePack is written: all of the room was measured before */

static unsigned char *write_big(unsigned char *at, uint64_t number, int size) {
    while (size--) *at++ = (unsigned char)(number >> 8 * size);
    return at;
}

static unsigned char *write_number(unsigned char *at, uint64_t number) {
    if (number <= 0x7f) {
        *at++ = (unsigned char)number;
        return at;
    }
    int power = number <= 0xff ? 0 : number <= 0xffff ? 1 : number <= 0xffffffff ? 2 : 3;
    *at++ = (unsigned char)(0xcc + power);
    return write_big(at, number, 1 << power);
}

static unsigned char *write_text(unsigned char *at, const char *text, Py_ssize_t size) {
    if (size < 32)
        *at++ = (unsigned char)(0xa0 | size);
    else {
        int power = size <= 0xff ? 0 : size <= 0xffff ? 1 : 2;
        *at++ = (unsigned char)(0xd9 + power);
        at = write_big(at, (uint64_t)size, 1 << power);
    }
    memcpy(at, text, (size_t)size);
    return at + size;
}

#define MOST_HEAD 9      /* bytes of a number, or before a text's */
#define MOST_AROUND 128  /* bytes of an answer besides the method and the arguments */
#define MOST_ARGUMENTS 8
#define MOST_TEXT (1 << 16) /* bytes of an argument that is written here */
#define ON_STACK 1024

typedef struct {
    const char *text; /* or NULL: `value` is written as it stands */
    Py_ssize_t size;
    uint64_t value;
    unsigned char kind; /* 0xcc: `value` is a number; otherwise the byte that is written */
} Argument;

/* Whether an argument is written here; an error may be set. */
static int looked_at(PyObject *object, Argument *argument) {
    argument->text = NULL;
    argument->size = 0;
    if (PyUnicode_CheckExact(object)) {
        argument->text = PyUnicode_AsUTF8AndSize(object, &argument->size);
        if (argument->text == NULL && PyErr_ExceptionMatches(PyExc_UnicodeEncodeError)) PyErr_Clear();
        return argument->text != NULL && argument->size <= MOST_TEXT;
    }
    if (PyLong_CheckExact(object)) {
        int overflow;
        long long number = PyLong_AsLongLongAndOverflow(object, &overflow);
        argument->kind = 0xcc;
        argument->value = (uint64_t)number;
        return !overflow && number >= 0;
    }
    argument->kind = object == Py_None ? 0xc0 : object == Py_False ? 0xc2 : 0xc3;
    return object == Py_None || object == Py_False || object == Py_True;
}

static int number_of(PyObject *object, uint64_t *number) {
    long long value = PyLong_CheckExact(object) ? PyLong_AsLongLong(object) : -1;
    if (value == -1 && PyErr_Occurred()) PyErr_Clear();
    *number = (uint64_t)value;
    return value >= 0;
}

/* --- MsgPackSteps */

typedef struct {
    PyObject_HEAD
    PyObject *buffered, *handle_event, *answer, *phases, *otherwise;
} MsgPack;

static int msgpack_init(MsgPack *self, PyObject *arguments, PyObject *keywords) {
    PyObject *handle_event, *answer, *phases, *otherwise;
    if (!PyArg_ParseTuple(arguments, "OOO!O!", &handle_event, &answer, &PyTuple_Type, &phases, &PyFrozenSet_Type,
                          &otherwise))
        return -1;
    put(&self->buffered, Py_NewRef(zero));
    put(&self->handle_event, Py_NewRef(handle_event));
    put(&self->answer, Py_NewRef(answer));
    put(&self->phases, Py_NewRef(phases));
    put(&self->otherwise, Py_NewRef(otherwise));
    return 0;
}

static int msgpack_traverse(MsgPack *self, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE((PyObject *)self));
    Py_VISIT(self->handle_event);
    Py_VISIT(self->answer);
    Py_VISIT(self->phases);
    Py_VISIT(self->otherwise);
    return 0;
}

static int msgpack_clear(MsgPack *self) {
    Py_CLEAR(self->buffered);
    Py_CLEAR(self->handle_event);
    Py_CLEAR(self->answer);
    Py_CLEAR(self->phases);
    Py_CLEAR(self->otherwise);
    return 0;
}

static void msgpack_dealloc(PyObject *self) {
    PyObject_GC_UnTrack(self);
    msgpack_clear((MsgPack *)self);
    freed(self);
}

/* The phase of a name, which is one of few (a new reference); NULL without an error: it's another. */
static PyObject *phase_of(MsgPack *self, const char *text, size_t size) {
    for (Py_ssize_t index = 0; index < PyTuple_Size(self->phases); index++) {
        PyObject *phase = PyTuple_GetItem(self->phases, index);
        Py_ssize_t length;
        const char *name = PyUnicode_AsUTF8AndSize(phase, &length);
        if (name == NULL) return NULL;
        if ((size_t)length == size && memcmp(name, text, size) == 0) return Py_NewRef(phase);
    }
    return NULL;
}

static PyObject *event_of(PyObject *type, PyObject *first, PyObject *second, PyObject *third) {
    PyObject *event = first == NULL || second == NULL || third == NULL
                          ? NULL
                          : PyObject_CallFunctionObjArgs(type, first, second, third, NULL);
    PyObject *events = event == NULL ? NULL : PyTuple_Pack(1, event);
    Py_XDECREF(event);
    Py_XDECREF(first);
    Py_XDECREF(second);
    Py_XDECREF(third);
    return events;
}

static PyObject *begins(MsgPack *self, Input *input, uint64_t ticket) {
    const char *key, *text = NULL;
    size_t size, length = 0;
    uint64_t instance;
    int has_instance = 0;
    if (!read_byte(input, 0x82)) return NULL;
    for (int entry = 0; entry < 2; entry++) {
        if (!read_text(input, &key, &size)) return NULL;
        if (IS(key, size, "InstanceId")) {
            if (!read_number(input, &instance)) return NULL;
            has_instance = 1;
        } else if (!IS(key, size, "EventName") || !read_text(input, &text, &length))
            return NULL;
    }
    if (!has_instance || text == NULL || input->at != input->end) return NULL;
    PyObject *phase = phase_of(self, text, length);
    if (phase == NULL) return NULL;
    return event_of(self->handle_event, PyLong_FromUnsignedLongLong(ticket), PyLong_FromUnsignedLongLong(instance),
                    phase);
}

static PyObject *goes_on(MsgPack *self, Input *input, uint64_t ticket) {
    const char *key;
    size_t size;
    uint64_t event;
    int has_event = 0, entries = read_byte(input, 0x81) ? 1 : read_byte(input, 0x82) ? 2 : 0;
    PyObject *value = NULL;
    for (int entry = 0; entry < entries; entry++) {
        if (!read_text(input, &key, &size)) goto other;
        if (IS(key, size, "EventId")) {
            if (!read_number(input, &event)) goto other;
            has_event = 1;
        } else if (!IS(key, size, "Data") || value != NULL || (value = read_value(input)) == NULL)
            goto other;
    }
    if (!has_event || input->at != input->end) goto other;
    if (value == NULL) value = Py_NewRef(Py_None);
    return event_of(self->answer, PyLong_FromUnsignedLongLong(ticket), PyLong_FromUnsignedLongLong(event), value);
other:
    Py_XDECREF(value);
    return NULL;
}

static PyObject *msgpack_receive_data(MsgPack *self, PyObject *data) {
    if (PyBytes_CheckExact(data) && self->buffered == zero && self->phases != NULL) {
        const unsigned char *start = (const unsigned char *)PyBytes_AsString(data);
        Input input = {start, start + PyBytes_Size(data)};
        uint64_t ticket;
        const char *method;
        size_t size;
        if (read_byte(&input, 0x94) && read_byte(&input, 0) && read_number(&input, &ticket) &&
            read_text(&input, &method, &size) && read_byte(&input, 0x91)) {
            PyObject *events = IS(method, size, "plugin.Step")          ? goes_on(self, &input, ticket)
                               : IS(method, size, "plugin.HandleEvent") ? begins(self, &input, ticket)
                                                                        : NULL;
            if (events != NULL || PyErr_Occurred()) return events;
        }
    }
    return PyObject_CallMethod((PyObject *)self, "receive_more", "O", data);
}

static unsigned char *write_around(unsigned char *at, uint64_t ticket) {
    memcpy(at, "\x94\x01", 2);
    at = write_number(at + 2, ticket);
    memcpy(at, "\xc0\x82\xa4" "Data", 7);
    return at + 7;
}

static unsigned char *write_event(unsigned char *at, uint64_t event) {
    memcpy(at, "\xa7" "EventId", 8);
    return write_number(at + 8, event);
}

/* The bytes of a call; NULL without an error: it's one that Python makes. */
static PyObject *usual_call(MsgPack *self, PyObject *const *given) {
    uint64_t ticket, event;
    Argument method, arguments[MOST_ARGUMENTS];
    PyObject *args = given[3];
    int is_tuple = PyTuple_CheckExact(args);
    if (self->otherwise == NULL || !number_of(given[0], &ticket) || !number_of(given[1], &event) ||
        !PyUnicode_CheckExact(given[2]) || (!is_tuple && !PyList_CheckExact(args)))
        return NULL;
    int other = PySet_Contains(self->otherwise, given[2]);
    Py_ssize_t count = is_tuple ? PyTuple_Size(args) : PyList_Size(args);
    if (other || count > MOST_ARGUMENTS || !looked_at(given[2], &method)) return NULL;
    size_t room = MOST_AROUND + (size_t)method.size;
    for (Py_ssize_t index = 0; index < count; index++) {
        PyObject *object = is_tuple ? PyTuple_GetItem(args, index) : PyList_GetItem(args, index);
        if (!looked_at(object, &arguments[index])) return NULL;
        room += MOST_HEAD + (size_t)arguments[index].size;
    }
    unsigned char on_stack[ON_STACK], *start = room <= ON_STACK ? on_stack : PyMem_Malloc(room);
    if (start == NULL) return PyErr_NoMemory();
    unsigned char *at = write_around(start, ticket);
    memcpy(at, "\x82\xa6" "Method", 8);
    at = write_text(at + 8, method.text, method.size);
    memcpy(at, "\xa4" "Args", 5);
    at += 5;
    *at++ = (unsigned char)(0x90 | count);
    for (Py_ssize_t index = 0; index < count; index++) {
        Argument *argument = &arguments[index];
        if (argument->text != NULL)
            at = write_text(at, argument->text, argument->size);
        else if (argument->kind == 0xcc)
            at = write_number(at, argument->value);
        else
            *at++ = argument->kind;
    }
    at = write_event(at, event);
    PyObject *answer = PyBytes_FromStringAndSize((const char *)start, at - start);
    if (start != on_stack) PyMem_Free(start);
    return answer;
}

static PyObject *msgpack_call(MsgPack *self, PyObject *const *given, Py_ssize_t count) {
    if (!are_given("call", count, 4)) return NULL;
    PyObject *answer = usual_call(self, given);
    if (answer != NULL || PyErr_Occurred()) return answer;
    return PyObject_CallMethod((PyObject *)self, "call_otherwise", "OOOO", given[0], given[1], given[2], given[3]);
}

static PyObject *msgpack_done(MsgPack *self, PyObject *const *given, Py_ssize_t count) {
    uint64_t ticket, event;
    unsigned char answer[MOST_AROUND];
    if (!are_given("done", count, 2)) return NULL;
    if (!number_of(given[0], &ticket) || !number_of(given[1], &event)) {
        PyErr_SetString(PyExc_ValueError, "not numbers that Lua can hold");
        return NULL;
    }
    unsigned char *at = write_around(answer, ticket);
    memcpy(at, "\xa3" "ret", 4);
    at = write_event(at + 4, event);
    return PyBytes_FromStringAndSize((const char *)answer, at - answer);
}

static PyMethodDef msgpack_methods[] = {
    {"receive_data", FASTCALL(msgpack_receive_data), METH_O, "Take bytes in."},
    {"call", FASTCALL(msgpack_call), METH_FASTCALL, "A PDK call."},
    {"done", FASTCALL(msgpack_done), METH_FASTCALL, "The end of an event."},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef msgpack_members[] = {
    {"buffered", T_OBJECT_EX, offsetof(MsgPack, buffered), 0, "Bytes received but not yet turned into an event."},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot msgpack_slots[] = {
    {Py_tp_doc, "MsgPackSteps(handle_event, answer, phases, otherwise): see `_plain_steps`."},
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_init, msgpack_init},
    {Py_tp_traverse, msgpack_traverse},
    {Py_tp_clear, msgpack_clear},
    {Py_tp_dealloc, msgpack_dealloc},
    {Py_tp_members, msgpack_members},
    {Py_tp_methods, msgpack_methods},
    {0, NULL},
};

static PyType_Spec msgpack_spec = {
    .name = "gatewright.gateways.kong._steps.MsgPackSteps", .basicsize = sizeof(MsgPack),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC, .slots = msgpack_slots,
};

/* --- ProtoBufSteps */

#define PREFIX ((Py_ssize_t)sizeof(uint32_t)) /* bytes of a frame's length, in the machine's own order */
#define SEQUENCE_TAG 0x08
#define LAST_OF_VARINT 0x7f
#define MOST_AHEAD 64
#define MOST_KEPT 512
#define LONGEST_KNOWN 256 /* bytes of a frame, and characters of a call's arguments */

typedef struct {
    PyObject_HEAD
    PyObject *buffered, *ahead, *patient, *buffer, *expected, *sequence, *known, *calls, *parts_of;
    Py_ssize_t max_payload;
} ProtoBuf;

static int protobuf_init(ProtoBuf *self, PyObject *arguments, PyObject *keywords) {
    Py_ssize_t max_payload;
    PyObject *calls, *parts_of;
    if (!PyArg_ParseTuple(arguments, "nO!O", &max_payload, &PyDict_Type, &calls, &parts_of)) return -1;
    self->max_payload = max_payload;
    put(&self->buffered, Py_NewRef(zero));
    put(&self->ahead, Py_NewRef(Py_False));
    put(&self->patient, Py_NewRef(Py_False));
    put(&self->buffer, PyByteArray_FromStringAndSize("", 0));
    put(&self->expected, PyObject_CallObject(deque, NULL));
    put(&self->sequence, PyBytes_FromStringAndSize("", 0));
    put(&self->known, PyDict_New());
    put(&self->calls, Py_NewRef(calls));
    put(&self->parts_of, Py_NewRef(parts_of));
    return PyErr_Occurred() ? -1 : 0;
}

static int protobuf_traverse(ProtoBuf *self, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE((PyObject *)self));
    Py_VISIT(self->expected);
    Py_VISIT(self->known);
    Py_VISIT(self->calls);
    Py_VISIT(self->parts_of);
    return 0;
}

static int protobuf_clear(ProtoBuf *self) {
    Py_CLEAR(self->buffered);
    Py_CLEAR(self->ahead);
    Py_CLEAR(self->patient);
    Py_CLEAR(self->buffer);
    Py_CLEAR(self->expected);
    Py_CLEAR(self->sequence);
    Py_CLEAR(self->known);
    Py_CLEAR(self->calls);
    Py_CLEAR(self->parts_of);
    return 0;
}

static void protobuf_dealloc(PyObject *self) {
    PyObject_GC_UnTrack(self);
    protobuf_clear((ProtoBuf *)self);
    freed(self);
}

static int is_begun(ProtoBuf *self) {
    return self->expected != NULL && self->known != NULL && self->calls != NULL && self->buffer != NULL &&
           self->sequence != NULL && self->buffered != NULL;
}

/* Count answers that are to come. */
static int count_expected(ProtoBuf *self, long more) {
    long before = PyLong_AsLong(self->buffered);
    if (before == -1 && PyErr_Occurred()) return 0;
    PyObject *now = PyLong_FromLong(before + more);
    if (now != NULL) put(&self->buffered, now);
    return now != NULL;
}

/* How many empty frames at the beginning are the answers that are expected next, and say nothing; -1 with an error. */
static Py_ssize_t empty_answers(ProtoBuf *self, const char *data, Py_ssize_t size, Py_ssize_t expected) {
    Py_ssize_t count = 0;
    uint32_t length;
    while (count < expected && size - count * PREFIX >= PREFIX) {
        memcpy(&length, data + count * PREFIX, sizeof length);
        if (length) break;
        PyObject *decode = PySequence_GetItem(self->expected, count);
        if (decode == NULL) return -1;
        Py_DECREF(decode);
        if (decode != Py_None) break;
        count++;
    }
    return count;
}

/* The events of what is usual; NULL without an error: it's something else, and nothing was done. */
static PyObject *usual_events(ProtoBuf *self, const char *data, Py_ssize_t size) {
    Py_ssize_t expected = PySequence_Size(self->expected);
    Py_ssize_t answers = expected < 0 ? -1 : empty_answers(self, data, size, expected);
    if (answers < 0) return NULL;
    Py_ssize_t rest = size - answers * PREFIX;
    const char *frame = data + answers * PREFIX + PREFIX;
    PyObject *events = NULL, *sequence = NULL;
    if (rest) {
        uint32_t length;
        if (answers < expected || rest <= PREFIX || rest - PREFIX > LONGEST_KNOWN || rest - PREFIX > self->max_payload)
            return NULL;
        memcpy(&length, frame - PREFIX, sizeof length);
        Py_ssize_t end = rest - PREFIX, after = 1;
        if ((Py_ssize_t)length != end || frame[0] != SEQUENCE_TAG) return NULL;
        /* After the sequence, an event's call is the same bytes whenever the same instance meets the same phase. */
        while (after < end && (unsigned char)frame[after] > LAST_OF_VARINT) after++;
        if (++after > end) return NULL;
        PyObject *key = PyBytes_FromStringAndSize(frame + after, end - after);
        if (key == NULL) return NULL;
        events = PyDict_GetItemWithError(self->known, key);
        Py_DECREF(key);
        if (events == NULL) return NULL;
        Py_INCREF(events);
        sequence = PyBytes_FromStringAndSize(frame, after);
        if (sequence == NULL) goto failed;
    } else if (!answers || (events = PyTuple_New(0)) == NULL)
        return NULL;
    for (Py_ssize_t count = 0; count < answers; count++) {
        PyObject *popped = PyObject_CallMethodObjArgs(self->expected, popleft_name, NULL);
        if (popped == NULL) goto failed;
        Py_DECREF(popped);
    }
    if (answers && !count_expected(self, -(long)answers)) goto failed;
    if (sequence != NULL) put(&self->sequence, sequence);
    return events;
failed:
    Py_XDECREF(sequence);
    Py_DECREF(events);
    return NULL;
}

static PyObject *protobuf_receive_data(ProtoBuf *self, PyObject *data) {
    if (is_begun(self) && PyBytes_CheckExact(data) && PyByteArray_Check(self->buffer) &&
        PyByteArray_Size(self->buffer) == 0) {
        PyObject *events = usual_events(self, PyBytes_AsString(data), PyBytes_Size(data));
        if (events != NULL || PyErr_Occurred()) return events;
    }
    return PyObject_CallMethod((PyObject *)self, "receive_more", "O", data);
}

/* The key that a call is kept under (a new reference); NULL without an error: it's not kept. */
static PyObject *key_of(PyObject *method, PyObject *args) {
    int is_tuple = PyTuple_CheckExact(args);
    if (!PyUnicode_CheckExact(method) || (!is_tuple && !PyList_CheckExact(args))) return NULL;
    Py_ssize_t count = is_tuple ? PyTuple_Size(args) : PyList_Size(args), length = 0;
    for (Py_ssize_t index = 0; index < count; index++) {
        PyObject *argument = is_tuple ? PyTuple_GetItem(args, index) : PyList_GetItem(args, index);
        if (!PyUnicode_CheckExact(argument)) return NULL; /* 1 and True are one key, and not one argument */
        length += PyUnicode_GetLength(argument);
        if (length >= LONGEST_KNOWN) return NULL;
    }
    PyObject *key = PyTuple_New(count + 1);
    if (key == NULL) return NULL;
    PyTuple_SetItem(key, 0, Py_NewRef(method));
    for (Py_ssize_t index = 0; index < count; index++)
        PyTuple_SetItem(key, index + 1,
                        Py_NewRef(is_tuple ? PyTuple_GetItem(args, index) : PyList_GetItem(args, index)));
    return key;
}

/* A call's frames, what reads its answer, and whether that says anything (a new reference). */
static PyObject *parts_of_call(ProtoBuf *self, PyObject *method, PyObject *args) {
    PyObject *key = key_of(method, args), *parts = NULL;
    if (key == NULL && PyErr_Occurred()) return NULL;
    if (key != NULL) parts = Py_XNewRef(PyDict_GetItemWithError(self->calls, key));
    if (parts == NULL && !PyErr_Occurred()) {
        parts = PyObject_CallFunctionObjArgs(self->parts_of, method, args, NULL);
        if (parts != NULL && !(PyTuple_CheckExact(parts) && PyTuple_Size(parts) == 3)) {
            PyErr_SetString(PyExc_TypeError, "not the parts of a call");
            Py_CLEAR(parts);
        }
        if (parts != NULL && key != NULL) {
            if (PyDict_Size(self->calls) >= MOST_KEPT) PyDict_Clear(self->calls);
            if (PyDict_SetItem(self->calls, key, parts) < 0) Py_CLEAR(parts);
        }
    }
    Py_XDECREF(key);
    return parts;
}

static PyObject *protobuf_call(ProtoBuf *self, PyObject *const *given, Py_ssize_t count) {
    if (!are_given("call", count, 4)) return NULL;
    if (!is_begun(self) || self->patient == NULL) {
        PyErr_SetString(PyExc_AttributeError, "not begun");
        return NULL;
    }
    PyObject *parts = parts_of_call(self, given[2], given[3]);
    if (parts == NULL) return NULL;
    int gives = PyObject_IsTrue(PyTuple_GetItem(parts, 2)), patient = PyObject_IsTrue(self->patient);
    Py_ssize_t expected = PySequence_Size(self->expected);
    if (gives < 0 || patient < 0 || expected < 0) goto failed;
    int ahead = !gives && !patient && expected < MOST_AHEAD;
    PyObject *decode = ahead ? Py_None : PyTuple_GetItem(parts, 1);
    PyObject *appended = PyObject_CallMethodObjArgs(self->expected, append_name, decode, NULL);
    if (appended == NULL) goto failed;
    Py_DECREF(appended);
    put(&self->ahead, PyBool_FromLong(ahead));
    if (!count_expected(self, 1)) goto failed;
    PyObject *frame = Py_NewRef(PyTuple_GetItem(parts, 0));
    Py_DECREF(parts);
    return frame;
failed:
    Py_DECREF(parts);
    return NULL;
}

static PyObject *protobuf_done(ProtoBuf *self, PyObject *const *given, Py_ssize_t count) {
    char *sequence;
    Py_ssize_t size;
    if (!are_given("done", count, 2)) return NULL;
    if (self->sequence == NULL) {
        PyErr_SetString(PyExc_AttributeError, "_sequence");
        return NULL;
    }
    if (PyBytes_AsStringAndSize(self->sequence, &sequence, &size) < 0) return NULL;
    PyObject *answer = PyBytes_FromStringAndSize(NULL, 2 * PREFIX + size);
    if (answer == NULL) return NULL;
    char *at = PyBytes_AsString(answer);
    uint32_t length = (uint32_t)size;
    memset(at, 0, (size_t)PREFIX);
    memcpy(at + PREFIX, &length, sizeof length);
    memcpy(at + 2 * PREFIX, sequence, (size_t)size);
    return answer;
}

static PyMethodDef protobuf_methods[] = {
    {"receive_data", FASTCALL(protobuf_receive_data), METH_O, "Take bytes in."},
    {"call", FASTCALL(protobuf_call), METH_FASTCALL, "A PDK call."},
    {"done", FASTCALL(protobuf_done), METH_FASTCALL, "The end of an event."},
    {NULL, NULL, 0, NULL},
};

#define PROTOBUF(name, part) {name, T_OBJECT_EX, offsetof(ProtoBuf, part), 0, NULL}

static PyMemberDef protobuf_members[] = {
    PROTOBUF("buffered", buffered), PROTOBUF("ahead", ahead), PROTOBUF("patient", patient),
    PROTOBUF("_buffer", buffer), PROTOBUF("_expected", expected), PROTOBUF("_sequence", sequence),
    PROTOBUF("_known", known), {"_max", T_PYSSIZET, offsetof(ProtoBuf, max_payload), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot protobuf_slots[] = {
    {Py_tp_doc, "ProtoBufSteps(max_payload, calls, parts_of): see `_plain_steps`."},
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_init, protobuf_init},
    {Py_tp_traverse, protobuf_traverse},
    {Py_tp_clear, protobuf_clear},
    {Py_tp_dealloc, protobuf_dealloc},
    {Py_tp_members, protobuf_members},
    {Py_tp_methods, protobuf_methods},
    {0, NULL},
};

static PyType_Spec protobuf_spec = {
    .name = "gatewright.gateways.kong._steps.ProtoBufSteps", .basicsize = sizeof(ProtoBuf),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC, .slots = protobuf_slots,
};

/* --- headers or arguments in a Struct */

#define ENTRY_TAG 0x0a
#define KEY_TAG 0x0a
#define VALUE_TAG 0x12
#define TEXT_TAG 0x1a

/* What stands behind a tag: `part` is within `whole`, which moves on. 0: it's not that, or of more than 16 KiB. */
static int read_part(Input *whole, unsigned char tag, Input *part) {
    if (whole->end - whole->at < 2 || whole->at[0] != tag) return 0;
    size_t size = whole->at[1];
    whole->at += 2;
    if (size > LAST_OF_VARINT) {
        if (whole->at == whole->end || *whole->at > LAST_OF_VARINT) return 0;
        size = (size & LAST_OF_VARINT) | (size_t)*whole->at++ << 7;
    }
    if ((size_t)(whole->end - whole->at) < size) return 0;
    part->at = whole->at;
    part->end = whole->at += size;
    return 1;
}

static PyObject *text_of(Input *part) {
    return PyUnicode_DecodeUTF8((const char *)part->at, part->end - part->at, "surrogateescape");
}

static PyObject *texts_of(PyObject *module, PyObject *data) {
    if (!PyBytes_CheckExact(data)) Py_RETURN_NONE;
    const unsigned char *start = (const unsigned char *)PyBytes_AsString(data);
    Input all = {start, start + PyBytes_Size(data)}, entry, key, value, text;
    PyObject *texts = PyDict_New();
    while (texts != NULL && all.at < all.end) {
        if (!read_part(&all, ENTRY_TAG, &entry) || !read_part(&entry, KEY_TAG, &key) ||
            !read_part(&entry, VALUE_TAG, &value) || entry.at != entry.end || !read_part(&value, TEXT_TAG, &text) ||
            value.at != value.end) {
            Py_DECREF(texts);
            Py_RETURN_NONE;
        }
        PyObject *name = text_of(&key), *only = name == NULL ? NULL : text_of(&text);
        PyObject *list = only == NULL ? NULL : PyList_New(1);
        if (list == NULL)
            Py_XDECREF(only);
        else
            PyList_SetItem(list, 0, only);
        if (list == NULL || PyDict_SetItem(texts, name, list) < 0) Py_CLEAR(texts);
        Py_XDECREF(name);
        Py_XDECREF(list);
    }
    return texts;
}

/* --- the module */

static int add_type(PyObject *module, const char *name, PyType_Spec *spec) {
    PyObject *type = PyType_FromSpec(spec);
    int failed = type == NULL || PyModule_AddObjectRef(module, name, type) < 0;
    Py_XDECREF(type);
    return failed;
}

static int execute(PyObject *module) {
    zero = PyLong_FromLong(0);
    popleft_name = PyUnicode_InternFromString("popleft");
    append_name = PyUnicode_InternFromString("append");
    PyObject *collections = PyImport_ImportModule("collections");
    deque = collections == NULL ? NULL : PyObject_GetAttrString(collections, "deque");
    Py_XDECREF(collections);
    if (PyErr_Occurred() || add_type(module, "MsgPackSteps", &msgpack_spec) ||
        add_type(module, "ProtoBufSteps", &protobuf_spec))
        return -1;
    return PyModule_AddIntConstant(module, "EDITION", EDITION);
}

static PyMethodDef module_methods[] = {
    {"texts_of", (PyCFunction)texts_of, METH_O,
     "Names to lists of one text, of a Struct that holds texts alone; None of another."},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot module_slots[] = {{Py_mod_exec, execute}, {0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "_steps", .m_doc = "What nearly all of Kong's connections carry, in C.",
    .m_size = 0, .m_methods = module_methods, .m_slots = module_slots,
};

PyMODINIT_FUNC PyInit__steps(void) { return PyModuleDef_Init(&definition); }

/* The usual turn of a connection with Kong, at a tenth of the cost: something whole comes and goes to a handler, and
   what that wants goes out.

   Whatever else comes, or is under way, is the connection's own, in Python, which derives from this and has the sibling
   of each method. */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030b0000
#include <Python.h>
#include <stddef.h>
#include <string.h>
#include <structmember.h>

#define EDITION 2 /* of what Python expects of this: see `built` */
#define FASTCALL(function) ((PyCFunction)(void (*)(void))function)
#define HEAD 64 /* bytes of a request that are kept for its note */
#define SLOT 32 /* bytes of a connection's place in the guard (see `ipc.guard`) */

static PyObject *no_bytes, *no_text, *buffered_name, *bytes_in_name, *bytes_out_name, *receive_data_name, *memory_name,
    *is_closing_name, *write_name, *leaving_name, *to_clear_name, *event_name, *events_name, *ticket_name, *value_name,
    *error_name, *handle_name, *resume_name, *service_name, *bridge_name, *unsent_name, *take_answer_name,
    *call_name, *ahead_name, *pdk_calls_name, *tick_name, *done_name, *finish_otherwise_name, *nothing_whole_name;
static PyTypeObject *event_type, *line_type;

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

static int add(PyObject **place, long long more) {
    long long before = PyLong_AsLongLong(*place);
    PyObject *now = before == -1 && PyErr_Occurred() ? NULL : PyLong_FromLongLong(before + more);
    if (now != NULL) put(place, now);
    return now != NULL;
}

/* Count something that somebody else has as an attribute. */
static int count(PyObject *owner, PyObject *name, long long more) {
    PyObject *number = PyObject_GetAttr(owner, name);
    int added = number != NULL && add(&number, more) && PyObject_SetAttr(owner, name, number) == 0;
    Py_XDECREF(number);
    return added;
}

static int truth_of(PyObject *owner, PyObject *name) {
    PyObject *value = PyObject_GetAttr(owner, name);
    int truth = value == NULL ? -1 : PyObject_IsTrue(value);
    Py_XDECREF(value);
    return truth;
}

static int done(PyObject *result) {
    Py_XDECREF(result);
    return result != NULL;
}

static int has_all(PyObject *const *parts, int count) {
    for (int part = 0; part < count; part++)
        if (parts[part] == NULL) {
            PyErr_SetString(PyExc_AttributeError, "it has not begun");
            return 0;
        }
    return 1;
}

static int visit_all(PyObject *const *parts, int count, visitproc visit, void *arg) {
    for (int part = 0; part < count; part++) Py_VISIT(parts[part]);
    return 0;
}

/* --- EventParts: what an event is made of */

enum {
    HOME, SERVICE, BRIDGE, CHAIN, PHASE, CONNECTION, TICKET, STRAND, OVER, VERDICT, ASKED_METHOD, SINCE, OUTLIVES, REST,
    TRACE, NUMBER, KNOWN, WAITER, QUEUE, NEEDED, RECORD = NEEDED, EVENT_PARTS,
};

typedef struct {
    PyObject_HEAD
    PyObject *parts[EVENT_PARTS];
} EventParts;

static int event_init(EventParts *self, PyObject *arguments, PyObject *keywords) {
    static const int given[] = {HOME, CHAIN, PHASE, CONNECTION, TICKET, STRAND};
    if (keywords != NULL || PyTuple_Size(arguments) != 6) {
        PyErr_SetString(PyExc_TypeError, "Event(home, chain, phase, connection, ticket, strand)");
        return -1;
    }
    PyObject *service = PyObject_GetAttr(PyTuple_GetItem(arguments, 0), service_name);
    PyObject *bridge = service == NULL ? NULL : PyObject_GetAttr(service, bridge_name);
    PyObject *zero = bridge == NULL ? NULL : PyLong_FromLong(0);
    if (zero == NULL) {
        Py_XDECREF(service);
        Py_XDECREF(bridge);
        return -1;
    }
    for (int part = 0; part < 6; part++) put(&self->parts[given[part]], Py_NewRef(PyTuple_GetItem(arguments, part)));
    put(&self->parts[SERVICE], service);
    put(&self->parts[BRIDGE], bridge);
    put(&self->parts[OVER], Py_NewRef(Py_False));
    put(&self->parts[OUTLIVES], Py_NewRef(Py_False));
    put(&self->parts[VERDICT], Py_NewRef(no_text));
    put(&self->parts[ASKED_METHOD], Py_NewRef(no_text));
    put(&self->parts[SINCE], Py_NewRef(zero));
    put(&self->parts[NUMBER], zero);
    put(&self->parts[REST], Py_NewRef(Py_None));
    put(&self->parts[TRACE], Py_NewRef(Py_None));
    put(&self->parts[KNOWN], Py_NewRef(Py_None));
    put(&self->parts[WAITER], Py_NewRef(Py_None));
    put(&self->parts[QUEUE], Py_NewRef(Py_None));
    return 0;
}

static int event_traverse(EventParts *self, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE((PyObject *)self));
    return visit_all(self->parts, EVENT_PARTS, visit, arg);
}

static int event_clear(EventParts *self) {
    for (int part = 0; part < EVENT_PARTS; part++) Py_CLEAR(self->parts[part]);
    return 0;
}

static void event_dealloc(PyObject *self) {
    PyObject_GC_UnTrack(self);
    event_clear((EventParts *)self);
    freed(self);
}

#define EVENT(name, number) {name, T_OBJECT_EX, offsetof(EventParts, parts) + (number) * sizeof(PyObject *), 0, NULL}

static PyMemberDef event_members[] = {
    EVENT("_home", HOME), EVENT("_service", SERVICE), EVENT("_bridge", BRIDGE), EVENT("chain", CHAIN),
    EVENT("phase", PHASE), EVENT("connection", CONNECTION), EVENT("ticket", TICKET), EVENT("strand", STRAND),
    EVENT("over", OVER), EVENT("verdict", VERDICT), EVENT("_asked", ASKED_METHOD), EVENT("_since", SINCE),
    EVENT("outlives", OUTLIVES), EVENT("rest", REST), EVENT("trace", TRACE), EVENT("number", NUMBER),
    EVENT("_known", KNOWN), EVENT("_waiter", WAITER), EVENT("_queue", QUEUE), EVENT("record", RECORD),
    {NULL, 0, 0, 0, NULL},
};

static PyObject *event_put(EventParts *self, PyObject *const *given, Py_ssize_t count);
static PyObject *event_finish(EventParts *self, PyObject *unused);

static PyMethodDef event_methods[] = {
    {"_put", FASTCALL(event_put), METH_FASTCALL, "Send a call; tells whether an answer comes for the waiter."},
    {"finish", FASTCALL(event_finish), METH_NOARGS, "Say that the handler has ended well."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot event_slots[] = {
    {Py_tp_doc, "EventParts(home, chain, phase, connection, ticket, strand): what an event is made of."},
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_init, event_init},
    {Py_tp_traverse, event_traverse},
    {Py_tp_clear, event_clear},
    {Py_tp_dealloc, event_dealloc},
    {Py_tp_members, event_members},
    {Py_tp_methods, event_methods},
    {0, NULL},
};

static PyType_Spec event_spec = {
    .name = "gatewright.server.drivers.kong._line.EventParts", .basicsize = sizeof(EventParts),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC, .slots = event_slots,
};

/* --- Line */

enum {
    SESSION, LINE_SERVICE, INSTANCES, TRANSPORT, GUARD, PLACE, ASKED, NOTED, BEGINNING, CLOSED, EVENT_HERE, LAST, OWED,
    RECEIVING, UNREAD, AHEAD, BLOCKED, PUT_OFF, DISCARDS, HELD, TAKEN_IN, START, MOVES, BEGINS, ANSWERS, LINE_PARTS,
};

typedef struct {
    PyObject_HEAD
    PyObject *parts[LINE_PARTS];
} Line;

static int line_traverse(Line *self, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE((PyObject *)self));
    return visit_all(self->parts, LINE_PARTS, visit, arg);
}

static int line_clear(Line *self) {
    for (int part = 0; part < LINE_PARTS; part++) Py_CLEAR(self->parts[part]);
    return 0;
}

static void line_dealloc(PyObject *self) {
    PyObject_GC_UnTrack(self);
    line_clear((Line *)self);
    freed(self);
}

static int call(Line *self, const char *method, PyObject *argument) {
    return done(argument == NULL ? PyObject_CallMethod((PyObject *)self, method, NULL)
                                 : PyObject_CallMethod((PyObject *)self, method, "O", argument));
}

/* --- its note */

/* Its place in the guard; -1 where there is none, or with an error. */
static long place_of(Line *self) { return self->parts[GUARD] == Py_None ? -1 : PyLong_AsLong(self->parts[PLACE]); }

static int note(Line *self, long place, const char *text, Py_ssize_t size) {
    PyObject *memory = PyObject_GetAttr(self->parts[GUARD], memory_name);
    Py_buffer view;
    int had = memory != NULL && PyObject_GetBuffer(memory, &view, PyBUF_WRITABLE) == 0;
    Py_XDECREF(memory);
    if (!had) return 0;
    int fits = (place + 1) * SLOT <= view.len;
    if (fits) {
        unsigned char *slot = (unsigned char *)view.buf + place * SLOT;
        if (size > SLOT - 1) size = SLOT - 1;
        memcpy(slot + 1, text, (size_t)size);
        __atomic_store_n(slot, (unsigned char)size, __ATOMIC_RELEASE); /* last: what it counts has to be there */
    } else
        PyErr_SetString(PyExc_IndexError, "no such place in the guard");
    PyBuffer_Release(&view);
    return fits;
}

/* As `_answered`: take the note back as soon as the answer has left. */
static int answered(Line *self) {
    long place = place_of(self);
    if (place < 0) return !PyErr_Occurred();
    PyObject *to_clear = PyObject_GetAttr(self->parts[INSTANCES], to_clear_name);
    if (to_clear == NULL) return 0;
    int noted;
    if (PyList_CheckExact(to_clear) && PyList_Size(to_clear)) {
        PyObject *entry = PyTuple_Pack(2, (PyObject *)self, self->parts[ASKED]);
        noted = entry != NULL && PyList_Append(to_clear, entry) == 0;
        Py_XDECREF(entry);
    } else
        noted = done(PyObject_CallMethod(self->parts[INSTANCES], "clear_soon", "O", (PyObject *)self));
    Py_DECREF(to_clear);
    return noted;
}

static PyObject *line_answered(Line *self, PyObject *unused) {
    if (!has_all(self->parts, LINE_PARTS) || !answered(self)) return NULL;
    Py_RETURN_NONE;
}

static PyObject *line_clear_guard(Line *self, PyObject *unused) {
    if (!has_all(self->parts, LINE_PARTS)) return NULL;
    long place = self->parts[CLOSED] != Py_False ? -1 : place_of(self);
    if (place < 0) {
        if (PyErr_Occurred()) return NULL;
        Py_RETURN_TRUE;
    }
    PyObject *size = PyObject_CallMethodObjArgs(self->parts[TRANSPORT], unsent_name, NULL);
    int unsent = size == NULL ? -1 : PyObject_IsTrue(size);
    Py_XDECREF(size);
    if (unsent < 0) return NULL;
    if (unsent) {
        put(&self->parts[NOTED], Py_NewRef(Py_False));
        if (!done(PyObject_CallMethod(self->parts[GUARD], "sending", "l", place))) return NULL;
        Py_RETURN_FALSE;
    }
    int waits = self->parts[MOVES] == Py_True ? 0 : truth_of(self->parts[SESSION], buffered_name);
    if (waits < 0) return NULL;
    if (!waits) {
        put(&self->parts[NOTED], Py_NewRef(Py_False));
        if (!note(self, place, "", 0)) return NULL;
    }
    Py_RETURN_TRUE;
}

/* --- what goes out */

static PyObject *line_write(Line *self, PyObject *data) {
    if (!has_all(self->parts, LINE_PARTS)) return NULL;
    if (!PyBytes_Check(data)) {
        PyErr_SetString(PyExc_TypeError, "an answer is bytes");
        return NULL;
    }
    PyObject *transport = Py_NewRef(self->parts[TRANSPORT]), *service = Py_NewRef(self->parts[LINE_SERVICE]);
    PyObject *whole = Py_NewRef(data), *result = NULL;
    PyObject *closing = PyObject_CallMethodObjArgs(transport, is_closing_name, NULL);
    int is_closing = closing == NULL ? -1 : PyObject_IsTrue(closing);
    Py_XDECREF(closing);
    if (is_closing < 0) goto end;
    if (is_closing) {
        result = Py_NewRef(Py_None);
        goto end;
    }
    if (self->parts[AHEAD] != no_bytes) {
        PyObject *ahead = self->parts[AHEAD];
        self->parts[AHEAD] = Py_NewRef(no_bytes);
        PyBytes_ConcatAndDel(&ahead, whole);
        whole = ahead;
        if (whole == NULL) goto end;
    }
    Py_ssize_t size = PyBytes_Size(whole);
    if (!add(&self->parts[UNREAD], size) || !count(service, bytes_out_name, size) ||
        !done(PyObject_CallMethodObjArgs(transport, write_name, whole, NULL)))
        goto end;
    if (self->parts[BLOCKED] != Py_False && !call(self, "_note_untaken", NULL)) goto end;
    if (self->parts[EVENT_HERE] == Py_None && !answered(self)) goto end;
    if (!add(&self->parts[OWED], -1)) goto end;
    int leaving = truth_of(service, leaving_name);
    if (leaving < 0 || (leaving && !call(self, "_leave_if_idle", NULL))) goto end;
    result = Py_NewRef(Py_None);
end:
    Py_DECREF(transport);
    Py_DECREF(service);
    Py_XDECREF(whole);
    return result;
}

/* --- what an event says on it */

static int is_usual(EventParts *self) {
    for (int part = 0; part < NEEDED; part++)
        if (self->parts[part] == NULL) return 0;
    PyObject *connection = self->parts[CONNECTION];
    if (self->parts[OVER] != Py_False || !PyObject_TypeCheck(connection, line_type)) return 0;
    for (int part = 0; part < LINE_PARTS; part++)
        if (((Line *)connection)->parts[part] == NULL) return 0;
    return 1;
}

static int begins_with(const char *text, Py_ssize_t size, const char *beginning) {
    Py_ssize_t length = (Py_ssize_t)strlen(beginning);
    return size >= length && memcmp(text, beginning, (size_t)length) == 0;
}

/* Whether all there is to a call is to send it; -1 with an error. */
static int is_plain(EventParts *self, PyObject *method) {
    if (!PyUnicode_CheckExact(method)) return 0;
    Py_ssize_t size;
    const char *name = PyUnicode_AsUTF8AndSize(method, &size);
    if (name == NULL) {
        PyErr_Clear(); /* a name that can't be sent: Python says so */
        return 0;
    }
    return !begins_with(name, size, "kong.log") && !begins_with(name, size, "kong.response.e") && /* exit, error */
           (self->parts[KNOWN] == Py_None || !begins_with(name, size, "kong.service.request."));
}

static int write_ahead(Line *line, PyObject *data) {
    if (line->parts[RECEIVING] != Py_True || !PyBytes_Check(data) || !PyBytes_Check(line->parts[AHEAD]))
        return call(line, "write_ahead", data);
    PyObject *ahead = line->parts[AHEAD];
    line->parts[AHEAD] = Py_NewRef(no_bytes);
    PyBytes_Concat(&ahead, data);
    if (ahead != NULL) put(&line->parts[AHEAD], ahead);
    return ahead != NULL;
}

static PyObject *line_write(Line *self, PyObject *data);

static PyObject *event_put(EventParts *self, PyObject *const *given, Py_ssize_t count_given) {
    if (count_given != 3) {
        PyErr_SetString(PyExc_TypeError, "_put(method, args, waiter)");
        return NULL;
    }
    if (!is_usual(self) || !is_plain(self, given[0]))
        return PyObject_CallMethod((PyObject *)self, "put_otherwise", "OOO", given[0], given[1], given[2]);
    Line *line = (Line *)Py_NewRef(self->parts[CONNECTION]);
    PyObject *session = Py_NewRef(line->parts[SESSION]), *result = NULL, *tick = NULL;
    PyObject *data = PyObject_CallMethodObjArgs(session, call_name, self->parts[TICKET], self->parts[NUMBER], given[0],
                                                given[1], NULL);
    if (data == NULL || !count(self->parts[SERVICE], pdk_calls_name, 1)) goto end;
    int ahead = truth_of(session, ahead_name);
    if (ahead < 0) goto end;
    if (ahead) {
        if (write_ahead(line, data)) result = Py_NewRef(Py_False);
        goto end;
    }
    tick = PyObject_GetAttr(self->parts[HOME], tick_name);
    if (tick == NULL) goto end;
    put(&self->parts[WAITER], Py_NewRef(given[2]));
    put(&self->parts[CONNECTION], Py_NewRef(Py_None));
    put(&self->parts[ASKED_METHOD], Py_NewRef(given[0]));
    put(&self->parts[SINCE], Py_NewRef(tick));
    put(&line->parts[LAST], Py_NewRef((PyObject *)self));
    if (done(line_write(line, data))) result = Py_NewRef(Py_True);
end:
    Py_XDECREF(data);
    Py_XDECREF(tick);
    Py_DECREF(session);
    Py_DECREF((PyObject *)line);
    return result;
}

static PyObject *event_finish(EventParts *self, PyObject *unused) {
    if (!is_usual(self) || ((Line *)self->parts[CONNECTION])->parts[MOVES] != Py_True)
        return PyObject_CallMethodObjArgs((PyObject *)self, finish_otherwise_name, NULL);
    Line *line = (Line *)self->parts[CONNECTION]; /* which this has the reference of from now on */
    PyObject *session = Py_NewRef(line->parts[SESSION]), *result = NULL;
    self->parts[CONNECTION] = Py_NewRef(Py_None);
    put(&self->parts[OVER], Py_NewRef(Py_True));
    PyObject *data = PyObject_CallMethodObjArgs(session, done_name, self->parts[TICKET], self->parts[NUMBER], NULL);
    PyObject *events = NULL;
    if (data != NULL && done(line_write(line, data))) events = PyObject_GetAttr(line->parts[INSTANCES], events_name);
    if (events != NULL && PyDict_Check(events)) {
        if (PyDict_DelItem(events, self->parts[NUMBER]) < 0 && PyErr_ExceptionMatches(PyExc_KeyError)) PyErr_Clear();
        if (!PyErr_Occurred()) result = Py_NewRef(Py_None);
    }
    Py_XDECREF(events);
    Py_XDECREF(data);
    Py_DECREF(session);
    Py_DECREF((PyObject *)line);
    return result;
}

/* --- what comes */

/* As `Event.take_answer`, where a handler waits for it in its own strand, and nobody else does; -1: it's otherwise. */
static int go_on(Line *self, PyObject *object, PyObject *answer) {
    if (!PyObject_TypeCheck(object, event_type)) return -1;
    PyObject **event = ((EventParts *)object)->parts;
    for (int part = 0; part < NEEDED; part++)
        if (event[part] == NULL) return -1;
    if (event[QUEUE] != Py_None || event[WAITER] == Py_None || event[WAITER] != event[STRAND] ||
        !PyUnicode_CheckExact(event[VERDICT]) || PyUnicode_GetLength(event[VERDICT]))
        return -1;
    PyObject *error = PyObject_GetAttr(answer, error_name);
    if (error == NULL) return 0;
    int failed = PyObject_IsTrue(error);
    Py_DECREF(error);
    if (failed) return failed < 0 ? 0 : -1;
    PyObject *ticket = PyObject_GetAttr(answer, ticket_name);
    PyObject *value = ticket == NULL ? NULL : PyObject_GetAttr(answer, value_name);
    if (value == NULL) {
        Py_XDECREF(ticket);
        return 0;
    }
    PyObject *strand = Py_NewRef(event[STRAND]), *bridge = Py_NewRef(event[BRIDGE]);
    put(&event[ASKED_METHOD], Py_NewRef(no_text));
    put(&event[CONNECTION], Py_NewRef((PyObject *)self));
    put(&event[TICKET], ticket);
    put(&event[WAITER], Py_NewRef(Py_None));
    int went_on = done(PyObject_CallMethodObjArgs(bridge, resume_name, strand, value, NULL));
    Py_DECREF(value);
    Py_DECREF(strand);
    Py_DECREF(bridge);
    return went_on;
}

static int take_answer(Line *self, PyObject *answer) {
    PyObject *number = PyObject_GetAttr(answer, event_name), *event = NULL;
    if (number == NULL) return 0;
    if (number != Py_None) {
        PyObject *events = PyObject_GetAttr(self->parts[INSTANCES], events_name);
        if (events != NULL && PyDict_Check(events)) event = Py_XNewRef(PyDict_GetItemWithError(events, number));
        Py_XDECREF(events);
    }
    Py_DECREF(number);
    if (event == NULL) return PyErr_Occurred() ? 0 : call(self, "_on_event", answer);
    int taken = add(&self->parts[OWED], 1);
    if (taken && self->parts[LAST] != Py_None) {
        if (self->parts[LAST] == event)
            put(&self->parts[LAST], Py_NewRef(Py_None));
        else
            taken = call(self, "_overtake", event);
    }
    if (taken) taken = go_on(self, event, answer);
    if (taken < 0)
        taken = done(PyObject_CallMethodObjArgs(event, take_answer_name, (PyObject *)self, answer, NULL));
    Py_DECREF(event);
    return taken;
}

static int begin(Line *self, PyObject *event) {
    if (self->parts[LAST] != Py_None && !call(self, "_overtake", Py_None)) return 0;
    if (!add(&self->parts[OWED], 1)) return 0;
    PyObject *start = Py_NewRef(self->parts[START]), *handle = PyObject_GetAttr((PyObject *)self, handle_name);
    int begun = handle != NULL && done(PyObject_CallFunctionObjArgs(start, handle, event, NULL));
    Py_DECREF(start);
    Py_XDECREF(handle);
    return begun;
}

static int take(Line *self, PyObject *event) {
    put(&self->parts[RECEIVING], Py_NewRef(Py_True));
    PyObject *type = (PyObject *)Py_TYPE(event);
    int taken = type == self->parts[BEGINS]    ? begin(self, event)
                : type == self->parts[ANSWERS] ? take_answer(self, event)
                                               : call(self, "_on_event", event);
    put(&self->parts[RECEIVING], Py_NewRef(Py_False));
    return taken && (self->parts[AHEAD] == no_bytes || call(self, "_send_ahead", NULL));
}

/* The beginning of what was asked, `data` included (a new reference). */
static PyObject *beginning(Line *self, PyObject *data, Py_ssize_t size, int first) {
    const char *text = PyBytes_AsString(data);
    if (first) return size <= HEAD ? Py_NewRef(data) : PyBytes_FromStringAndSize(text, HEAD);
    PyObject *before = self->parts[BEGINNING];
    Py_ssize_t had = PyBytes_Size(before);
    if (had < 0 || had >= HEAD) return had < 0 ? NULL : Py_NewRef(before);
    if (size > HEAD - had) size = HEAD - had;
    PyObject *now = PyBytes_FromStringAndSize(NULL, had + size);
    if (now == NULL) return NULL;
    memcpy(PyBytes_AsString(now), PyBytes_AsString(before), (size_t)had);
    memcpy(PyBytes_AsString(now) + had, text, (size_t)size);
    return now;
}

static int not_understood(Line *self) {
    PyObject *type, *error, *traceback;
    PyErr_Fetch(&type, &error, &traceback);
    PyErr_NormalizeException(&type, &error, &traceback);
    if (traceback != NULL) PyException_SetTraceback(error, traceback);
    Py_XDECREF(type);
    Py_XDECREF(traceback);
    int told = call(self, "_not_understood", error);
    Py_DECREF(error);
    return told;
}

/* Keep what is to be known of a request if this process dies. */
static int keep_note(Line *self) {
    long place = place_of(self);
    if (place < 0) return !PyErr_Occurred();
    if (!add(&self->parts[ASKED], 1)) return 0;
    if (self->parts[NOTED] == Py_True) return 1;
    char *text;
    Py_ssize_t size;
    if (PyBytes_AsStringAndSize(self->parts[BEGINNING], &text, &size) < 0 || !note(self, place, text, size)) return 0;
    put(&self->parts[NOTED], Py_NewRef(self->parts[MOVES] == Py_True ? Py_False : Py_True));
    return 1;
}

static int receive(Line *self, PyObject *session, PyObject *service, PyObject *data) {
    Py_ssize_t size = PyBytes_Size(data);
    int waits = truth_of(session, buffered_name);
    if (waits < 0) return 0;
    PyObject *head = beginning(self, data, size, !waits);
    if (head == NULL) return 0;
    put(&self->parts[BEGINNING], head);
    if (!count(service, bytes_in_name, size)) return 0;
    PyObject *events = PyObject_CallMethodObjArgs(session, receive_data_name, data, NULL);
    if (events == NULL) return not_understood(self);
    PyObject *buffered = PyObject_GetAttr(session, buffered_name);
    int differs = buffered == NULL ? -1 : PyObject_RichCompareBool(buffered, self->parts[HELD], Py_NE);
    Py_XDECREF(buffered);
    Py_ssize_t number = differs < 0 ? -1 : PySequence_Size(events);
    int received = number >= 0 && (!differs || call(self, "_note_held", NULL));
    if (received && !number)
        received = done(
            PyObject_CallMethodObjArgs((PyObject *)self, nothing_whole_name, waits ? Py_False : Py_True, NULL));
    else if (received && (received = keep_note(self))) {
        if (number == 1) {
            PyObject *event = PySequence_GetItem(events, 0);
            received = event != NULL && take(self, event);
            Py_XDECREF(event);
        } else
            received = done(PyObject_CallMethod((PyObject *)self, "_take_several", "On", events, size));
    }
    Py_DECREF(events);
    return received;
}

static PyObject *line_data_received(Line *self, PyObject *data) {
    if (!has_all(self->parts, LINE_PARTS)) return NULL;
    if (!PyBytes_CheckExact(data) || self->parts[DISCARDS] != Py_False || self->parts[BLOCKED] != Py_False ||
        self->parts[TAKEN_IN] != Py_True || !PyList_CheckExact(self->parts[PUT_OFF]) ||
        PyList_Size(self->parts[PUT_OFF]) != 0)
        return PyObject_CallMethod((PyObject *)self, "receive_otherwise", "O", data);
    PyObject *session = Py_NewRef(self->parts[SESSION]), *service = Py_NewRef(self->parts[LINE_SERVICE]);
    int received = receive(self, session, service, data);
    Py_DECREF(session);
    Py_DECREF(service);
    if (!received) return NULL;
    Py_RETURN_NONE;
}

static PyMethodDef line_methods[] = {
    {"data_received", FASTCALL(line_data_received), METH_O, "Take bytes in."},
    {"write", FASTCALL(line_write), METH_O, "Send an answer."},
    {"clear_guard", FASTCALL(line_clear_guard), METH_NOARGS, "Take the note back, if nothing is still to be sent."},
    {"_answered", FASTCALL(line_answered), METH_NOARGS, "An answer was written."},
    {NULL, NULL, 0, NULL},
};

#define LINE(name, number) {name, T_OBJECT_EX, offsetof(Line, parts) + (number) * sizeof(PyObject *), 0, NULL}

static PyMemberDef line_members[] = {
    LINE("session", SESSION), LINE("_service", LINE_SERVICE), LINE("_instances", INSTANCES),
    LINE("_transport", TRANSPORT), LINE("_guard", GUARD), LINE("slot", PLACE), LINE("asked", ASKED),
    LINE("_noted", NOTED), LINE("_head", BEGINNING), LINE("_closed", CLOSED), LINE("event", EVENT_HERE),
    LINE("last", LAST), LINE("_owed", OWED), LINE("_receiving", RECEIVING), LINE("_unread", UNREAD),
    LINE("_ahead", AHEAD), LINE("_blocked", BLOCKED), LINE("_put_off", PUT_OFF), LINE("_discards", DISCARDS),
    LINE("_held", HELD), LINE("_taken_in", TAKEN_IN), LINE("_start", START), LINE("_moves", MOVES),
    LINE("_begins", BEGINS), LINE("_answers", ANSWERS), {NULL, 0, 0, 0, NULL},
};

static PyType_Slot line_slots[] = {
    {Py_tp_doc, "The usual turn of a connection; see `_plain_line`."},
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_traverse, line_traverse},
    {Py_tp_clear, line_clear},
    {Py_tp_dealloc, line_dealloc},
    {Py_tp_members, line_members},
    {Py_tp_methods, line_methods},
    {0, NULL},
};

static PyType_Spec line_spec = {
    .name = "gatewright.server.drivers.kong._line.Line", .basicsize = sizeof(Line),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC, .slots = line_slots,
};

/* --- the module */

static int execute(PyObject *module) {
    static const struct {
        PyObject **place;
        const char *text;
    } names[] = {
        {&no_text, ""}, {&buffered_name, "buffered"}, {&bytes_in_name, "bytes_in"}, {&bytes_out_name, "bytes_out"},
        {&receive_data_name, "receive_data"}, {&memory_name, "memory"}, {&is_closing_name, "is_closing"},
        {&write_name, "write"}, {&leaving_name, "leaving"}, {&to_clear_name, "to_clear"}, {&event_name, "event"},
        {&events_name, "events"}, {&ticket_name, "ticket"}, {&value_name, "value"}, {&error_name, "error"},
        {&handle_name, "_handle"}, {&resume_name, "resume"}, {&service_name, "service"}, {&bridge_name, "bridge"},
        {&unsent_name, "get_write_buffer_size"}, {&take_answer_name, "take_answer"}, {&call_name, "call"}, {&ahead_name, "ahead"},
        {&pdk_calls_name, "pdk_calls"}, {&tick_name, "tick"}, {&done_name, "done"},
        {&finish_otherwise_name, "finish_otherwise"}, {&nothing_whole_name, "_nothing_whole"},
    };
    for (size_t each = 0; each < sizeof names / sizeof *names; each++)
        *names[each].place = PyUnicode_InternFromString(names[each].text);
    no_bytes = PyBytes_FromStringAndSize("", 0);
    PyObject *line = PyErr_Occurred() ? NULL : PyType_FromSpec(&line_spec);
    PyObject *event = line == NULL ? NULL : PyType_FromSpec(&event_spec);
    int failed = event == NULL || PyModule_AddObjectRef(module, "Line", line) < 0 ||
                 PyModule_AddObjectRef(module, "EventParts", event) < 0 ||
                 PyModule_AddIntConstant(module, "EDITION", EDITION) < 0;
    line_type = (PyTypeObject *)line;
    event_type = (PyTypeObject *)event;
    return failed ? -1 : 0;
}

static PyModuleDef_Slot module_slots[] = {{Py_mod_exec, execute}, {0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "_line", .m_doc = "The usual turn of a connection with Kong, in C.",
    .m_size = 0, .m_slots = module_slots,
};

PyMODINIT_FUNC PyInit__line(void) { return PyModuleDef_Init(&definition); }

/* The Python face of all the others. What each function promises stands in _core.pyi. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "digest.h"
#include "move.h"
#include "trap.h"
#include "watch.h"

struct state {
    PyObject *fault_class;
};

/* --- Arguments ------------------------------------------------------------------------------- */

static bool has_count(const char *function, Py_ssize_t got, Py_ssize_t expected)
{
    if (got == expected)
        return true;
    PyErr_Format(PyExc_TypeError, "%s() takes %zd arguments, got %zd", function, expected, got);
    return false;
}

static bool as_size(PyObject *number, Py_ssize_t *size)
{
    *size = PyNumber_AsSsize_t(number, PyExc_ValueError);
    return *size != -1 || !PyErr_Occurred();
}

static bool as_address(PyObject *number, uintptr_t *address)
{
    *address = (uintptr_t)PyLong_AsSize_t(number);
    return *address != (uintptr_t)-1 || !PyErr_Occurred();
}

/* Part of somebody's buffer, which cannot move or go away until close_span. */
struct span {
    Py_buffer view;
    char *start;
    size_t length;
};

static void close_span(struct span *span)
{
    PyBuffer_Release(&span->view);
}

static bool open_whole(struct span *span, PyObject *memory, int flags)
{
    if (PyObject_GetBuffer(memory, &span->view, flags) != 0)
        return false;
    span->start = span->view.buf;
    span->length = (size_t)span->view.len;
    return true;
}

static bool narrow(struct span *span, Py_ssize_t offset, Py_ssize_t length)
{
    if (offset < 0 || length < 0 || offset > span->view.len || length > span->view.len - offset) {
        PyErr_Format(PyExc_ValueError, "offset %zd and length %zd are outside memory of %zd bytes",
                     offset, length, span->view.len);
        return false;
    }
    span->start += offset;
    span->length = (size_t)length;
    return true;
}

static bool open_span(struct span *span, PyObject *memory, PyObject *offset, Py_ssize_t length,
                      int flags)
{
    Py_ssize_t start;
    if (!as_size(offset, &start) || !open_whole(span, memory, flags))
        return false;
    if (narrow(span, start, length))
        return true;
    close_span(span);
    return false;
}

/* --- Moves ----------------------------------------------------------------------------------- */

struct move {
    move_fn run;
    char *target;
    const char *source; /* NULL for a digest */
    size_t length;
    size_t done;
    struct fault fault;
};

static PyObject *from_errno(int error)
{
    errno = error;
    return PyErr_SetFromErrno(PyExc_OSError);
}

/* Always without the GIL, also for 64 bytes: any access can wait for a disk, or, on a mount that
 * this very process serves, for another Python thread. It costs 25 of a 4 KiB read's 145 ns. */
static bool run(struct move *move)
{
    int error = trap_refresh();
    if (error != 0) {
        from_errno(error);
        return false;
    }
    Py_BEGIN_ALLOW_THREADS;
    move->done = trap_move(move->run, move->target, move->source, move->length, &move->fault);
    Py_END_ALLOW_THREADS;
    return move->done == move->length;
}

static void raise_fault(PyObject *module, const struct move *move, const char *partial)
{
    if (PyErr_Occurred())
        return;
    struct state *state = PyModule_GetState(module);
    const struct fault *fault = &move->fault;
    PyObject *error = PyObject_CallFunction(
        state->fault_class, "nKiiiy#", (Py_ssize_t)move->done, (unsigned long long)fault->address,
        fault->signal, fault->code, fault->lsb, partial == NULL ? "" : partial,
        partial == NULL ? (Py_ssize_t)0 : (Py_ssize_t)move->done);
    if (error == NULL)
        return;
    PyErr_SetObject(state->fault_class, error);
    Py_DECREF(error);
}

static PyObject *read_bytes(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    struct span memory;
    Py_ssize_t length;
    if (!has_count("read", count, 3) || !as_size(args[2], &length) ||
        !open_span(&memory, args[0], args[1], length, PyBUF_SIMPLE))
        return NULL;
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, length);
    if (bytes != NULL) {
        char *target = PyBytes_AsString(bytes);
        struct move move = {
            .run = move_copy, .target = target, .source = memory.start, .length = memory.length};
        if (!run(&move)) {
            raise_fault(module, &move, target);
            Py_CLEAR(bytes);
        }
    }
    close_span(&memory);
    return bytes;
}

static bool are_apart(const struct span *a, const struct span *b)
{
    if (a->start + a->length <= b->start || b->start + b->length <= a->start)
        return true;
    PyErr_SetString(PyExc_ValueError, "source and target overlap");
    return false;
}

/* Between two opened spans of one length; closes both. */
static PyObject *move_span(PyObject *module, move_fn how, struct span *target, struct span *source)
{
    struct move move = {.run = how,
                        .target = target->start,
                        .source = source->start,
                        .length = source->length};
    bool done = are_apart(target, source) && run(&move);
    if (!done)
        raise_fault(module, &move, NULL);
    close_span(source);
    close_span(target);
    return done ? Py_NewRef(Py_None) : NULL;
}

static PyObject *read_into(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    struct span source, target;
    if (!has_count("read_into", count, 3) || !open_whole(&target, args[2], PyBUF_WRITABLE))
        return NULL;
    if (!open_span(&source, args[0], args[1], target.view.len, PyBUF_SIMPLE)) {
        close_span(&target);
        return NULL;
    }
    return move_span(module, move_copy, &target, &source);
}

static bool is_line(const struct span *target, const struct span *source)
{
    if (source->length != LINE)
        PyErr_Format(PyExc_ValueError, "a line is %d bytes, got %zu", LINE, source->length);
    else if ((uintptr_t)target->start % LINE != 0)
        PyErr_Format(PyExc_ValueError, "address %zu is not aligned to %d bytes",
                     (size_t)target->start, LINE);
    else
        return true;
    return false;
}

static PyObject *write_how(PyObject *module, PyObject *const *args, move_fn how)
{
    struct span source, target;
    if (!open_whole(&source, args[2], PyBUF_SIMPLE))
        return NULL;
    if (!open_span(&target, args[0], args[1], source.view.len, PyBUF_WRITABLE)) {
        close_span(&source);
        return NULL;
    }
    if (how != move_store_line || is_line(&target, &source))
        return move_span(module, how, &target, &source);
    close_span(&source);
    close_span(&target);
    return NULL;
}

static PyObject *write_plain(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    return has_count("write", count, 3) ? write_how(module, args, move_copy) : NULL;
}

static PyObject *write_flush(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    return has_count("write_flush", count, 3) ? write_how(module, args, move_copy_flushing) : NULL;
}

static PyObject *store_line(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    return has_count("store_line", count, 3) ? write_how(module, args, move_store_line) : NULL;
}

#ifdef HAS_DIGEST
static PyObject *digest(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    struct span memory;
    Py_ssize_t length, grain;
    if (!has_count("digest", count, 4) || !as_size(args[2], &length) || !as_size(args[3], &grain))
        return NULL;
    if (grain <= 0 || length % grain != 0)
        return PyErr_Format(PyExc_ValueError, "%zd bytes are not units of %zd", length, grain);
    if (!open_span(&memory, args[0], args[1], length, PyBUF_SIMPLE))
        return NULL;
    PyObject *digests = PyBytes_FromStringAndSize(NULL, length / grain * 8);
    if (digests != NULL) {
        struct move move = {.run = digest_units, .target = memory.start, .length = memory.length};
        uint64_t *target = (uint64_t *)PyBytes_AsString(digests);
        digest_job = (struct digest_job){target, memory.start, (size_t)grain};
        if (!run(&move)) {
            raise_fault(module, &move, NULL);
            Py_CLEAR(digests);
        }
    }
    close_span(&memory);
    return digests;
}
#endif

static PyObject *fence(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    move_fence();
    Py_RETURN_NONE;
}

static PyObject *instructions(PyObject *module, PyObject *unused)
{
    const char *digest = NULL;
#ifdef HAS_DIGEST
    digest = digest_summed_by();
#endif
    (void)module, (void)unused;
    return Py_BuildValue("{szszsz}", "flush", move_flushes_by, "store_line", move_stores_line_by,
                         "digest", digest);
}

/* --- Memory ---------------------------------------------------------------------------------- */

static PyObject *checked(int error)
{
    return error == 0 ? Py_NewRef(Py_None) : from_errno(error);
}

static PyObject *install(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    return checked(trap_install());
}

static bool as_range(PyObject *const *args, uintptr_t *address, Py_ssize_t *length)
{
    if (!as_address(args[0], address) || !as_size(args[1], length))
        return false;
    if (*address != 0 && *length > 0 && (uintptr_t)*length <= UINTPTR_MAX - *address)
        return true;
    PyErr_Format(PyExc_ValueError, "address %zu and length %zd are no range of memory",
                 (size_t)*address, *length);
    return false;
}

static PyObject *address_of(PyObject *module, PyObject *memory)
{
    struct span span;
    (void)module;
    if (!open_whole(&span, memory, PyBUF_SIMPLE))
        return NULL;
    PyObject *address = PyLong_FromSize_t((size_t)span.start);
    close_span(&span);
    return address;
}

static PyObject *with_range(const char *function, PyObject *const *args, Py_ssize_t count,
                            int (*apply)(uintptr_t address, size_t length))
{
    uintptr_t address;
    Py_ssize_t length;
    if (!has_count(function, count, 2) || !as_range(args, &address, &length))
        return NULL;
    return checked(apply(address, (size_t)length));
}

static PyObject *forward_segv(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    (void)module;
    return with_range("forward_segv", args, count, trap_forward);
}

static PyObject *forget_segv(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    (void)module;
    return with_range("forget_segv", args, count, trap_forget);
}

/* --- Watches --------------------------------------------------------------------------------- */

struct watch_object {
    PyObject_HEAD
    struct watch watch;
};

static struct watch *watch_of(PyObject *self)
{
    return &((struct watch_object *)self)->watch;
}

static PyObject *watch_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    unsigned long long address, length, twin, offset;
    int protection, fd;
    (void)keywords;
    if (!PyArg_ParseTuple(args, "KKiKiK", &address, &length, &protection, &twin, &fd, &offset))
        return NULL;
    PyObject *self = ((allocfunc)PyType_GetSlot(type, Py_tp_alloc))(type, 0);
    if (self == NULL)
        return NULL;
    struct watch *watch = watch_of(self);
    watch->start = address; /* the rest is zeros */
    watch->length = length;
    watch->protection = protection;
    watch->twin = twin;
    watch->fd = fd;
    watch->offset = offset;
    int error = watch_make(watch);
    if (error == 0)
        return self;
    Py_DECREF(self);
    return from_errno(error);
}

static PyObject *start_watch(PyObject *self, PyObject *unused)
{
    (void)unused;
    int error = trap_install();
    if (error != 0)
        return from_errno(error);
    struct watch *watch = watch_of(self);
    if (watch_start(watch)) {
        Py_BEGIN_ALLOW_THREADS;
        watch_look(watch);
        Py_END_ALLOW_THREADS;
    }
    Py_RETURN_NONE;
}

static PyObject *stop_watch(PyObject *self, PyObject *unused)
{
    struct watch *watch = watch_of(self);
    bool has_something;
    (void)unused;
    Py_BEGIN_ALLOW_THREADS;
    has_something = watch_stop(watch);
    Py_END_ALLOW_THREADS;
    return PyBool_FromLong(has_something);
}

static PyObject *take_from_watch(PyObject *self, PyObject *unused)
{
    struct watch *watch = watch_of(self);
    const size_t each = sizeof *watch->told.entries;
    size_t room = watch->told.count, taken;
    (void)unused;
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(room * each));
    if (bytes == NULL)
        return NULL; /* and nothing was taken */
    struct watch_entry *entries = (struct watch_entry *)PyBytes_AsString(bytes);
    Py_BEGIN_ALLOW_THREADS;
    taken = watch_take(watch, entries, room);
    Py_END_ALLOW_THREADS;
    memset(entries + taken, 0, (room - taken) * each); /* another thread takes, too */
    return bytes;
}

static PyObject *restore_watch(PyObject *self, PyObject *unused)
{
    struct watch *watch = watch_of(self);
    int error;
    (void)unused;
    Py_BEGIN_ALLOW_THREADS;
    error = watch_restore(watch);
    Py_END_ALLOW_THREADS;
    return checked(error);
}

static void watch_free(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    watch_forget(watch_of(self));
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

static PyMethodDef watch_methods[] = {
    {"start", start_watch, METH_NOARGS, NULL},
    {"stop", stop_watch, METH_NOARGS, NULL},
    {"take", take_from_watch, METH_NOARGS, NULL},
    {"restore", restore_watch, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot watch_slots[] = {
    {Py_tp_new, watch_new},
    {Py_tp_dealloc, watch_free},
    {Py_tp_methods, watch_methods},
    {0, NULL},
};

static PyType_Spec watch_spec = {
    .name = "daxmend._native._core.Watch",
    .basicsize = sizeof(struct watch_object),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = watch_slots,
};

/* --- The module ------------------------------------------------------------------------------ */

#define FAST(name, function) {name, (PyCFunction)(void (*)(void))(function), METH_FASTCALL, NULL}

static PyMethodDef methods[] = {
    FAST("read", read_bytes),
    FAST("read_into", read_into),
    FAST("write", write_plain),
    FAST("write_flush", write_flush),
    FAST("store_line", store_line),
#ifdef HAS_DIGEST
    FAST("digest", digest),
#endif
    {"fence", fence, METH_NOARGS, NULL},
    {"instructions", instructions, METH_NOARGS, NULL},
    {"install", install, METH_NOARGS, NULL},
    {"address_of", address_of, METH_O, NULL},
    FAST("forward_segv", forward_segv),
    FAST("forget_segv", forget_segv),
    {NULL, NULL, 0, NULL},
};

static int execute(PyObject *module)
{
    struct state *state = PyModule_GetState(module);
    PyObject *faults = PyImport_ImportModule("daxmend._native.fault");
    if (faults == NULL)
        return -1;
    state->fault_class = PyObject_GetAttrString(faults, "MemoryFault");
    Py_DECREF(faults);
    move_choose();
    PyObject *watch = PyType_FromModuleAndSpec(module, &watch_spec, NULL);
    bool is_added = watch != NULL && PyModule_AddType(module, (PyTypeObject *)watch) == 0;
    Py_XDECREF(watch);
    return state->fault_class != NULL && is_added ? 0 : -1;
}

/* The class knows nothing of this module, so there is no cycle to look for. */
static void forget(void *module)
{
    struct state *state = PyModule_GetState(module);
    Py_CLEAR(state->fault_class);
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, execute},
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "daxmend._native._core",
    .m_size = sizeof(struct state),
    .m_methods = methods,
    .m_slots = slots,
    .m_free = forget,
};

PyMODINIT_FUNC PyInit__core(void)
{
    return PyModuleDef_Init(&definition);
}

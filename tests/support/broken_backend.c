/* A preloaded library that plants a fault into ggml's CPU backend. LD_BROKEN_BACKEND selects it, as PATH:FAULT.
 *
 * The fault affects matrix products with more than one plane, such as the output of linear attention for several
 * sequences. PATH: "extra" for products computed by an extra buffer type (repacked weights, AMX), "plain" for all
 * others. FAULT: "crash" (SIGSEGV), "abort", "hang", or "wrong": only the first plane is right, like the known fault of
 * ggml's AMX kernels.
 *
 * ggml-cpu asks `ggml_cpu_extra_compute_forward` for each operation whether an extra buffer type does it.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct tensor { /* struct ggml_tensor of ggml.h, as far as it is needed */
    int type;
    void * buffer;
    int64_t ne[4];
    size_t nb[4];
    int op;
    int32_t op_params[16];
    int32_t flags;
    struct tensor * src[10];
    struct tensor * view_src;
    size_t view_offs;
    char * data;
};

typedef bool (*compute)(void *, struct tensor *);
typedef const char * (*op_name)(int);

/* A function of a library that is already loaded, but without global visibility. */
static void * find(const char * library, const char * name) {
    void * handle = dlopen(library, RTLD_LAZY | RTLD_NOLOAD);
    return handle ? dlsym(handle, name) : NULL;
}

static void plant(const char * fault, struct tensor * where) {
    if (!strcmp(fault, "crash")) {
        raise(SIGSEGV);
    } else if (!strcmp(fault, "abort")) {
        abort();
    } else if (!strcmp(fault, "hang")) {
        for (;;) {
            pause();
        }
    } else {
        for (int64_t sequence = 1; sequence < where->ne[2]; sequence++) {
            memset(where->data + sequence * where->nb[2], 0, where->nb[2]);
        }
    }
}

bool ggml_cpu_extra_compute_forward(void * params, struct tensor * op) {
    static compute real;
    static op_name name_of;
    if (!real) {
        name_of = (op_name) find("libggml-base.so.0", "ggml_op_name");
        real = (compute) find("libggml-cpu.so.0", "ggml_cpu_extra_compute_forward");
    }
    const char * wanted = getenv("LD_BROKEN_BACKEND");
    bool done = real(params, op);
    if (wanted && op->ne[2] > 1 && !strcmp(name_of(op->op), "MUL_MAT")) {
        if (done && !strncmp(wanted, "extra:", 6)) {
            plant(wanted + 6, op);
        } else if (!done && !strncmp(wanted, "plain:", 6)) {
            plant(wanted + 6, op->src[1]); /* it is multiplied after this */
        }
    }
    return done;
}

/*
 * A libcuda.so.1 that knows which devices there are and in which order CUDA counts them, and nothing else.
 *
 * FAKE_CUDA_STATE names a file, read at cuInit as the real library reads its environment there. One statement per line:
 *
 *   device UUID      the next one in CUDA's own order          pci UUID      the next one in PCI order
 *   fail CODE        hang        crash        what cuInit does instead
 *   old              there is no cuDeviceGetUuid_v2
 *
 * CUDA_VISIBLE_DEVICES and CUDA_DEVICE_ORDER are obeyed: the list ends at the first entry that means nothing, and a
 * device that is named twice leaves none.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

enum { SUCCESS = 0, INVALID_VALUE = 1, NOT_INITIALIZED = 3, NO_DEVICE = 100, INVALID_DEVICE = 101, NOT_SUPPORTED = 801 };
enum { UNKNOWN = 999, MAX = 256, TEXT = 96 };

static char devices[MAX][TEXT], visible[MAX][TEXT];
static int device_count, visible_count, is_ready, is_old;

static void hang(void) {
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, NULL);
    for (;;) pause();
}

static void crash(void) {
    struct rlimit none = {0, 0};
    setrlimit(RLIMIT_CORE, &none);
    signal(SIGSEGV, SIG_DFL);
    raise(SIGSEGV);
}

static int read_state(void) {
    const char *path = getenv("FAKE_CUDA_STATE"), *order = getenv("CUDA_DEVICE_ORDER");
    FILE *file = path != NULL ? fopen(path, "re") : NULL;
    if (file == NULL) return UNKNOWN;
    const char *wanted = order != NULL && !strcmp(order, "PCI_BUS_ID") ? "pci" : "device";
    char line[256], word[64], rest[TEXT];
    int code = SUCCESS;
    device_count = is_old = 0;
    while (fgets(line, sizeof line, file) != NULL) {
        rest[0] = '\0';
        if (sscanf(line, "%63s %95s", word, rest) < 1) continue;
        if (!strcmp(word, wanted) && device_count < MAX) strcpy(devices[device_count++], rest);
        else if (!strcmp(word, "fail")) code = atoi(rest);
        else if (!strcmp(word, "old")) is_old = 1;
        else if (!strcmp(word, "hang")) hang();
        else if (!strcmp(word, "crash")) crash();
    }
    fclose(file);
    return code;
}

static const char *find_device(const char *entry) {
    char *end;
    long position = strtol(entry, &end, 10);
    if (end != entry && *end == '\0') return position >= 0 && position < device_count ? devices[position] : NULL;
    const char *found = NULL;
    for (int i = 0; i < device_count; i++) {
        if (strncmp(devices[i], entry, strlen(entry))) continue;
        if (found != NULL) return NULL;
        found = devices[i];
    }
    return found;
}

static void choose_visible(void) {
    const char *value = getenv("CUDA_VISIBLE_DEVICES");
    visible_count = 0;
    if (value == NULL) {
        memcpy(visible, devices, sizeof devices);
        visible_count = device_count;
        return;
    }
    char text[4096], *rest = text, *entry;
    snprintf(text, sizeof text, "%s", value);
    while ((entry = strsep(&rest, ",")) != NULL && visible_count < MAX) {
        const char *found = *entry != '\0' ? find_device(entry) : NULL;
        if (found == NULL) return;
        for (int i = 0; i < visible_count; i++) {
            if (strcmp(visible[i], found)) continue;
            visible_count = 0;
            return;
        }
        strcpy(visible[visible_count++], found);
    }
}

EXPORT int cuInit(unsigned flags) {
    if (flags != 0) return INVALID_VALUE;
    int code = read_state();
    if (code != SUCCESS) return code;
    choose_visible();
    if (visible_count == 0) return NO_DEVICE;
    is_ready = 1;
    return SUCCESS;
}

EXPORT int cuGetErrorName(int code, const char **name) {
    if (code != NO_DEVICE && code != UNKNOWN && code != NOT_INITIALIZED) return INVALID_VALUE;
    *name = code == NO_DEVICE ? "CUDA_ERROR_NO_DEVICE" : code == UNKNOWN ? "CUDA_ERROR_UNKNOWN" : "CUDA_ERROR_NOT_INITIALIZED";
    return SUCCESS;
}

EXPORT int cuDeviceGetCount(int *count) {
    if (!is_ready) return NOT_INITIALIZED;
    *count = visible_count;
    return SUCCESS;
}

EXPORT int cuDeviceGet(int *device, int ordinal) {
    if (!is_ready) return NOT_INITIALIZED;
    if (ordinal < 0 || ordinal >= visible_count) return INVALID_DEVICE;
    *device = ordinal;
    return SUCCESS;
}

static int give_uuid(unsigned char *uuid, int device) {
    if (!is_ready) return NOT_INITIALIZED;
    if (device < 0 || device >= visible_count) return INVALID_DEVICE;
    const char *text = strchr(visible[device], '-');
    for (int i = 0; i < 16; i++) {
        while (*text == '-') text++;
        unsigned byte;
        if (sscanf(text, "%2x", &byte) != 1) return UNKNOWN;
        uuid[i] = (unsigned char)byte;
        text += 2;
    }
    return SUCCESS;
}

EXPORT int cuDeviceGetUuid(unsigned char *uuid, int device) { return give_uuid(uuid, device); }
/* The binding cannot see a symbol come and go: an older library is acted by an answer. */
EXPORT int cuDeviceGetUuid_v2(unsigned char *uuid, int device) {
    return is_old ? NOT_SUPPORTED : give_uuid(uuid, device);
}

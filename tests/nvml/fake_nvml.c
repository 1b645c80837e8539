/*
 * A libnvidia-ml.so.1 that acts out what a text file says, so that tests need neither a GPU nor a driver.
 *
 * FAKE_NVML_STATE names the file. It is read anew at every call: a test changes the world while a daemon runs. Looking
 * at its time stamps instead would miss two writes within one tick of the kernel's clock. One statement per line:
 *
 *   init CODE                  what initialising answers
 *   driver VERSION             nvml VERSION             cuda NUMBER (13000 is 13.0)
 *   attach frozen|live         frozen, as the real library: the device list is the one of the (first) nvmlInit
 *   claims DIRECTORY           memory of living processes: DIRECTORY/<pid> has lines "UUID BYTES"
 *   release MS                 how long a claim outlives its process, from when a call first sees it dead; -1 for ever
 *   device KEY=VALUE ...       uuid pci total used reserved numa minor memory(yes|no) gpu_percent memory_percent
 *                              celsius milliwatts limit_milliwatts persistence compute mig(none|off|on) slots recovery ecc
 *                              remap_pending remap_failed pages_pending throttle repair fabric, each of these eight -1 where
 *                              it is not supported; fabric_status; name=... comes last and takes the rest of the line, any
 *                              bytes
 *   event uuid=U kind=N data=N gi=N ci=N   delivered once to every event set that is waited for, in this order
 *   instance parent=U slot=N gi=N ci=N KEY=VALUE ...   a MIG instance, and what a device has; slots may have gaps
 *   nvlink uuid=U number=N to=U|switch|hidden|unknown|down   an NVLink, active if it is not down; hidden is a GPU that
 *                              is not among the devices
 *   level one=U other=U level=N                        nearest common ancestor of two devices, 40 where it is not said
 *   process uuid=U pid=N bytes=N|unknown kind=compute|graphics|mps     listed only; "used" has to cover its memory
 *   fail CALL DEVICE CODE      delay CALL DEVICE MS     hang CALL DEVICE     crash CALL DEVICE
 *
 * CALL is an exported symbol (nvmlInit stands for its three forms). DEVICE is an index, a UUID or *. A missing symbol
 * is acted as "fail CALL * 13", which is what the binding makes of one. FAKE_NVML_LOG, if set, gets a line
 * "PID CALL DEVICE" per call.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

typedef unsigned long long u64;

enum {
    SUCCESS = 0,
    UNINITIALIZED = 1,
    INVALID_ARGUMENT = 2,
    NOT_SUPPORTED = 3,
    NOT_FOUND = 6,
    INSUFFICIENT_SIZE = 7,
    DRIVER_NOT_LOADED = 9,
    TIMEOUT = 10,
    GPU_IS_LOST = 15,
    VERSION_MISMATCH = 25,
    UNKNOWN = 999,
};

enum { MAX_DEVICES = 128, MAX_RULES = 128, MAX_HOLDERS = 1024, MAX_LINKS = 512, TEXT = 96, LINE = 1024 };
enum { MAX_INSTANCES = 128, MAX_KNOWN = 512, MAX_EVENTS = 512, MAX_SETS = 16 };
enum { NO_DEVICE = -1 };

/* ---- the public structures of NVML; natural alignment gives their offsets on x86-64 and aarch64 ------------------ */

struct memory { u64 total, free, used; };
struct memory_v2 { unsigned version; u64 total, reserved, free, used; };
struct utilization { unsigned gpu, memory; };
struct temperature_v1 { unsigned version; int sensor; int celsius; };
struct process_info { unsigned pid; u64 bytes; unsigned gpu_instance, compute_instance; };
struct repair_status { unsigned version, channel, tpc; };
struct fabric_v1 { unsigned char cluster[16]; unsigned status, clique; unsigned char state; };
struct fabric_v2 { unsigned version; struct fabric_v1 v1; unsigned health; };
struct event_data { void *device; u64 kind, data; unsigned gpu_instance, compute_instance; };
struct field_value {
    unsigned id, scope;
    long long timestamp, latency;
    unsigned type;
    int code;
    union { double number; unsigned whole; u64 large; } value;
};
struct pci_info {
    char bus_id_legacy[16];
    unsigned domain, bus, device, device_id, subsystem_id;
    char bus_id[32];
};

_Static_assert(sizeof(struct memory_v2) == 40, "layout of nvmlMemory_v2_t");
_Static_assert(sizeof(struct process_info) == 24, "layout of nvmlProcessInfo_t");
_Static_assert(sizeof(struct repair_status) == 12, "layout of nvmlRepairStatus_v1_t");
_Static_assert(sizeof(struct fabric_v1) == 28, "layout of nvmlGpuFabricInfo_t");
_Static_assert(sizeof(struct fabric_v2) == 36, "layout of nvmlGpuFabricInfo_v2_t");
_Static_assert(sizeof(struct event_data) == 32, "layout of nvmlEventData_t");
_Static_assert(sizeof(struct field_value) == 40, "layout of nvmlFieldValue_t");
_Static_assert(sizeof(struct pci_info) == 68, "layout of nvmlPciInfo_t");

/* ---- the world as the state file describes it -------------------------------------------------------------------- */

struct device {
    char uuid[TEXT], name[TEXT], pci[32];
    u64 total, used, reserved;
    int numa, minor, has_memory;
    unsigned gpu_percent, memory_percent, celsius, milliwatts, limit_milliwatts, persistence, compute;
    long long recovery, ecc, remap_pending, remap_failed, pages_pending, throttle, repair, fabric;
    unsigned fabric_status;
    enum { MIG_NONE, MIG_OFF, MIG_ON } mig;
    unsigned slots;
    /* Of a MIG instance only: */
    char parent[TEXT];
    unsigned slot, gi, ci;
};

struct nvlink { char uuid[TEXT], to[TEXT]; unsigned number; };
struct level { char one[TEXT], other[TEXT]; int level; };
struct event { char uuid[TEXT]; u64 kind, data; unsigned gi, ci; };

enum kind { COMPUTE, GRAPHICS, MPS };

/* A process that holds memory of a device: from a "process" line, or from the directory of claims. */
struct holder {
    char uuid[TEXT];
    unsigned pid;
    u64 bytes;
    enum kind kind;
    int alive;
};

enum act { FAIL, DELAY, HANG, CRASH };
struct rule { enum act act; char call[64], device[TEXT]; int value; };

struct world {
    int init_code, cuda, live, release_ms;
    char driver[80], nvml[80], claims[LINE];
    struct device devices[MAX_DEVICES], instances[MAX_INSTANCES];
    struct nvlink nvlinks[MAX_LINKS];
    struct level levels[MAX_LINKS];
    struct event events[MAX_EVENTS];
    struct holder processes[MAX_HOLDERS];
    struct rule rules[MAX_RULES];
    int device_count, process_count, rule_count, instance_count, nvlink_count, level_count, event_count;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct world world;
static int references; /* nvmlInit less nvmlShutdown */

/* A handle is the address of an entry of `known`, which never shrinks: it means the same device for ever. */
static char known[MAX_KNOWN][TEXT];
static int known_count;
static int attached[MAX_DEVICES]; /* by index: position in `known` */
static int attached_count;

static struct holder claims[MAX_HOLDERS];
static int claim_count;

static int complain(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs("fake_nvml: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    return UNKNOWN;
}

static void copy_text(char *to, size_t size, const char *from) { snprintf(to, size, "%s", from); }

static void sleep_ms(int ms) {
    struct timespec left = {ms / 1000, (long)(ms % 1000) * 1000000};
    while (nanosleep(&left, &left) != 0 && errno == EINTR) {
    }
}

/* ---- reading the state file -------------------------------------------------------------------------------------- */

static int set_device(struct device *device, const char *key, const char *value) {
    if (!strcmp(key, "uuid")) copy_text(device->uuid, sizeof device->uuid, value);
    else if (!strcmp(key, "pci")) copy_text(device->pci, sizeof device->pci, value);
    else if (!strcmp(key, "name")) copy_text(device->name, sizeof device->name, value);
    else if (!strcmp(key, "total")) device->total = strtoull(value, NULL, 10);
    else if (!strcmp(key, "used")) device->used = strtoull(value, NULL, 10);
    else if (!strcmp(key, "reserved")) device->reserved = strtoull(value, NULL, 10);
    else if (!strcmp(key, "numa")) device->numa = atoi(value);
    else if (!strcmp(key, "minor")) device->minor = atoi(value);
    else if (!strcmp(key, "memory")) device->has_memory = !strcmp(value, "yes");
    else if (!strcmp(key, "gpu_percent")) device->gpu_percent = (unsigned)atoi(value);
    else if (!strcmp(key, "memory_percent")) device->memory_percent = (unsigned)atoi(value);
    else if (!strcmp(key, "celsius")) device->celsius = (unsigned)atoi(value);
    else if (!strcmp(key, "milliwatts")) device->milliwatts = (unsigned)atoi(value);
    else if (!strcmp(key, "limit_milliwatts")) device->limit_milliwatts = (unsigned)atoi(value);
    else if (!strcmp(key, "persistence")) device->persistence = (unsigned)atoi(value);
    else if (!strcmp(key, "compute")) device->compute = (unsigned)atoi(value);
    else if (!strcmp(key, "recovery")) device->recovery = atoll(value);
    else if (!strcmp(key, "ecc")) device->ecc = atoll(value);
    else if (!strcmp(key, "remap_pending")) device->remap_pending = atoll(value);
    else if (!strcmp(key, "remap_failed")) device->remap_failed = atoll(value);
    else if (!strcmp(key, "pages_pending")) device->pages_pending = atoll(value);
    else if (!strcmp(key, "throttle")) device->throttle = atoll(value);
    else if (!strcmp(key, "repair")) device->repair = atoll(value);
    else if (!strcmp(key, "fabric")) device->fabric = atoll(value);
    else if (!strcmp(key, "fabric_status")) device->fabric_status = (unsigned)atoi(value);
    else if (!strcmp(key, "mig"))
        device->mig = !strcmp(value, "on") ? MIG_ON : !strcmp(value, "off") ? MIG_OFF : MIG_NONE;
    else if (!strcmp(key, "slots")) device->slots = (unsigned)atoi(value);
    else if (!strcmp(key, "parent")) copy_text(device->parent, sizeof device->parent, value);
    else if (!strcmp(key, "slot")) device->slot = (unsigned)atoi(value);
    else if (!strcmp(key, "gi")) device->gi = (unsigned)atoi(value);
    else if (!strcmp(key, "ci")) device->ci = (unsigned)atoi(value);
    else return complain("a device has no \"%s\"", key);
    return SUCCESS;
}

static int set_process(struct holder *process, const char *key, const char *value) {
    if (!strcmp(key, "uuid")) copy_text(process->uuid, sizeof process->uuid, value);
    else if (!strcmp(key, "pid")) process->pid = (unsigned)strtoul(value, NULL, 10);
    else if (!strcmp(key, "bytes")) process->bytes = strcmp(value, "unknown") ? strtoull(value, NULL, 10) : ~0ULL;
    else if (!strcmp(key, "kind"))
        process->kind = !strcmp(value, "graphics") ? GRAPHICS : !strcmp(value, "mps") ? MPS : COMPUTE;
    else return complain("a process has no \"%s\"", key);
    return SUCCESS;
}

/* Cuts the next KEY=VALUE off *rest; name=... takes the whole rest. 0 at the end, -1 if it is none. */
static int next_pair(char **rest, char **key, char **value) {
    *rest += strspn(*rest, " ");
    if (**rest == '\0') return 0;
    *key = *rest;
    char *equals = strchr(*rest, '=');
    if (equals == NULL) return -1;
    *equals = '\0';
    *value = equals + 1;
    size_t length = strcmp(*key, "name") ? strcspn(*value, " ") : strlen(*value);
    *rest = *value + length;
    if (**rest != '\0') *(*rest)++ = '\0';
    return 1;
}

static int parse_device(char *rest, struct device *devices, int *count, int max) {
    if (*count == max) return complain("more than %d devices or instances", max);
    struct device *device = &devices[(*count)++];
    *device = (struct device){.numa = -1, .has_memory = 1, .slots = 7, .name = "Fake GPU", .pci = "0000:00:00.0"};
    char *key, *value;
    int more, code = SUCCESS;
    while (code == SUCCESS && (more = next_pair(&rest, &key, &value)) != 0)
        code = more < 0 ? complain("not KEY=VALUE: %s", rest) : set_device(device, key, value);
    return code;
}

static int parse_nvlink(const char *rest) {
    if (world.nvlink_count == MAX_LINKS) return complain("more than %d links", MAX_LINKS);
    struct nvlink *link = &world.nvlinks[world.nvlink_count++];
    int found = sscanf(rest, "uuid=%95s number=%u to=%95s", link->uuid, &link->number, link->to);
    return found == 3 ? SUCCESS : complain("no link: %s", rest);
}

static int parse_level(const char *rest) {
    if (world.level_count == MAX_LINKS) return complain("more than %d levels", MAX_LINKS);
    struct level *level = &world.levels[world.level_count++];
    int found = sscanf(rest, "one=%95s other=%95s level=%d", level->one, level->other, &level->level);
    return found == 3 ? SUCCESS : complain("no level: %s", rest);
}

static int parse_event(const char *rest) {
    if (world.event_count == MAX_EVENTS) return complain("more than %d events", MAX_EVENTS);
    struct event *event = &world.events[world.event_count++];
    int found = sscanf(rest, "uuid=%95s kind=%llu data=%llu gi=%u ci=%u", event->uuid, &event->kind, &event->data,
                       &event->gi, &event->ci);
    return found == 5 ? SUCCESS : complain("no event: %s", rest);
}

static int parse_process(char *rest) {
    if (world.process_count == MAX_HOLDERS) return complain("more than %d processes", MAX_HOLDERS);
    struct holder *process = &world.processes[world.process_count++];
    *process = (struct holder){.alive = 1};
    char *key, *value;
    int more, code = SUCCESS;
    while (code == SUCCESS && (more = next_pair(&rest, &key, &value)) != 0)
        code = more < 0 ? complain("not KEY=VALUE: %s", rest) : set_process(process, key, value);
    return code;
}

static int parse_rule(enum act act, const char *rest) {
    if (world.rule_count == MAX_RULES) return complain("more than %d rules", MAX_RULES);
    struct rule *rule = &world.rules[world.rule_count++];
    rule->act = act;
    rule->value = 0;
    int wanted = act == FAIL || act == DELAY ? 3 : 2;
    if (sscanf(rest, "%63s %95s %d", rule->call, rule->device, &rule->value) != wanted)
        return complain("not CALL DEVICE%s: %s", wanted == 3 ? " NUMBER" : "", rest);
    return SUCCESS;
}

static int parse_line(char *line) {
    line[strcspn(line, "\n")] = '\0';
    if (line[0] == '\0' || line[0] == '#') return SUCCESS;
    char *rest = line + strcspn(line, " ");
    if (*rest != '\0') *rest++ = '\0';
    if (!strcmp(line, "init")) world.init_code = atoi(rest);
    else if (!strcmp(line, "driver")) copy_text(world.driver, sizeof world.driver, rest);
    else if (!strcmp(line, "nvml")) copy_text(world.nvml, sizeof world.nvml, rest);
    else if (!strcmp(line, "cuda")) world.cuda = atoi(rest);
    else if (!strcmp(line, "attach")) world.live = !strcmp(rest, "live");
    else if (!strcmp(line, "claims")) copy_text(world.claims, sizeof world.claims, rest);
    else if (!strcmp(line, "release")) world.release_ms = atoi(rest);
    else if (!strcmp(line, "device"))
        return parse_device(rest, world.devices, &world.device_count, MAX_DEVICES);
    else if (!strcmp(line, "instance"))
        return parse_device(rest, world.instances, &world.instance_count, MAX_INSTANCES);
    else if (!strcmp(line, "nvlink")) return parse_nvlink(rest);
    else if (!strcmp(line, "level")) return parse_level(rest);
    else if (!strcmp(line, "event")) return parse_event(rest);
    else if (!strcmp(line, "process")) return parse_process(rest);
    else if (!strcmp(line, "fail")) return parse_rule(FAIL, rest);
    else if (!strcmp(line, "delay")) return parse_rule(DELAY, rest);
    else if (!strcmp(line, "hang")) return parse_rule(HANG, rest);
    else if (!strcmp(line, "crash")) return parse_rule(CRASH, rest);
    else return complain("unknown statement \"%s\"", line);
    return SUCCESS;
}

static int find_known(const char *uuid) {
    for (int i = 0; i < known_count; i++)
        if (!strcmp(known[i], uuid)) return i;
    return -1;
}

/* The place of a device in `known`, put there if need be; -1 where that is full. */
static int make_known(const char *uuid) {
    int at = find_known(uuid);
    if (at >= 0) return at;
    if (known_count == MAX_KNOWN) return -1;
    copy_text(known[known_count], TEXT, uuid);
    return known_count++;
}

/* Takes the file's devices as those that this process sees, as the driver does at nvmlInit. */
static void attach(void) {
    attached_count = 0;
    for (int i = 0; i < world.device_count; i++) {
        int at = make_known(world.devices[i].uuid);
        if (at >= 0) attached[attached_count++] = at;
    }
}

static int read_world(void) {
    const char *path = getenv("FAKE_NVML_STATE");
    if (path == NULL) return DRIVER_NOT_LOADED;
    FILE *file = fopen(path, "re");
    if (file == NULL) return complain("cannot read %s: %s", path, strerror(errno));
    world.init_code = world.live = world.release_ms = 0;
    world.device_count = world.process_count = world.rule_count = 0;
    world.instance_count = world.nvlink_count = world.level_count = world.event_count = 0;
    world.claims[0] = '\0';
    world.cuda = 13000;
    copy_text(world.driver, sizeof world.driver, "580.65.06");
    copy_text(world.nvml, sizeof world.nvml, "13.580.65.06");
    char line[LINE];
    int code = SUCCESS;
    while (code == SUCCESS && fgets(line, sizeof line, file) != NULL) code = parse_line(line);
    fclose(file);
    if (world.live && references > 0) attach();
    return code;
}

/* ---- the directory of claims ------------------------------------------------------------------------------------- */

/* A zombie has given its memory back already, although it still answers to its pid. */
static int is_alive(unsigned pid) {
    char path[64], stat[512];
    snprintf(path, sizeof path, "/proc/%u/stat", pid);
    FILE *file = fopen(path, "re");
    if (file == NULL) return 0;
    size_t length = fread(stat, 1, sizeof stat - 1, file);
    fclose(file);
    stat[length] = '\0';
    char *end_of_name = strrchr(stat, ')');
    return end_of_name != NULL && strchr("ZX", end_of_name[2]) == NULL;
}

/* Whether a dead process's memory is still away. Its death is dated by a file, so that all processes agree on it. */
static int is_lingering(unsigned pid) {
    if (world.release_ms <= 0) return world.release_ms < 0;
    char path[LINE + 32];
    struct stat seen;
    snprintf(path, sizeof path, "%s/%u.dead", world.claims, pid);
    int fd = open(path, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0666);
    if (fd >= 0) close(fd);
    if (stat(path, &seen) != 0) return 0;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    long long gone_ms =
        (now.tv_sec - seen.st_mtim.tv_sec) * 1000LL + (now.tv_nsec - seen.st_mtim.tv_nsec) / 1000000;
    return gone_ms < world.release_ms;
}

static void read_claims_of(unsigned pid, int alive) {
    char path[LINE + 32], line[LINE];
    snprintf(path, sizeof path, "%s/%u", world.claims, pid);
    FILE *file = fopen(path, "re");
    if (file == NULL) return;
    while (claim_count < MAX_HOLDERS && fgets(line, sizeof line, file) != NULL) {
        struct holder *claim = &claims[claim_count];
        if (sscanf(line, "%95s %llu", claim->uuid, &claim->bytes) != 2) continue;
        claim->pid = pid;
        claim->kind = COMPUTE;
        claim->alive = alive;
        claim_count++;
    }
    fclose(file);
}

static void read_claims(void) {
    claim_count = 0;
    DIR *directory = world.claims[0] ? opendir(world.claims) : NULL;
    if (directory == NULL) return;
    struct dirent *entry;
    while ((entry = readdir(directory)) != NULL) {
        if (strspn(entry->d_name, "0123456789") != strlen(entry->d_name)) continue;
        unsigned pid = (unsigned)strtoul(entry->d_name, NULL, 10);
        int alive = is_alive(pid);
        if (alive || is_lingering(pid)) read_claims_of(pid, alive);
    }
    closedir(directory);
}

/* ---- every call: log it, read the world, act the rules, find the device ------------------------------------------ */

static void write_log(const char *call, int index) {
    const char *path = getenv("FAKE_NVML_LOG");
    if (path == NULL) return;
    char line[160];
    int length = index == NO_DEVICE ? snprintf(line, sizeof line, "%d %s -\n", getpid(), call)
                                    : snprintf(line, sizeof line, "%d %s %d\n", getpid(), call, index);
    int fd = open(path, O_CREAT | O_APPEND | O_WRONLY | O_CLOEXEC, 0666);
    if (fd < 0) return;
    if (write(fd, line, (size_t)length) != length) complain("cannot write %s", path);
    close(fd);
}

static const struct rule *find_rule(enum act act, const char *call, int index, const char *uuid) {
    char number[16];
    snprintf(number, sizeof number, "%d", index);
    for (int i = 0; i < world.rule_count; i++) {
        const struct rule *rule = &world.rules[i];
        if (rule->act != act || strcmp(rule->call, call)) continue;
        if (!strcmp(rule->device, "*") || !strcmp(rule->device, number) || !strcmp(rule->device, uuid)) return rule;
    }
    return NULL;
}

static void crash(void) {
    struct rlimit none = {0, 0};
    setrlimit(RLIMIT_CORE, &none); /* Tests should not leave cores about. */
    signal(SIGSEGV, SIG_DFL);
    raise(SIGSEGV);
}

/* Deaf to every signal but SIGKILL, like a process that waits in the driver, until no rule says hang any more. */
static int hang(const char *call, int index, const char *uuid) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    int code = SUCCESS;
    while (code == SUCCESS && find_rule(HANG, call, index, uuid) != NULL) {
        pthread_mutex_unlock(&lock);
        sleep_ms(5);
        pthread_mutex_lock(&lock);
        code = read_world();
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return code;
}

/* Acts what the rules say of this call; an answer other than SUCCESS is the call's own. The lock is held. */
static int act_rules(const char *call, int index, const char *uuid) {
    const struct rule *rule;
    if (find_rule(CRASH, call, index, uuid) != NULL) crash();
    int code = hang(call, index, uuid);
    if (code != SUCCESS) return code;
    if ((rule = find_rule(DELAY, call, index, uuid)) != NULL) {
        int ms = rule->value;
        pthread_mutex_unlock(&lock);
        sleep_ms(ms);
        pthread_mutex_lock(&lock);
        if ((code = read_world()) != SUCCESS) return code;
    }
    rule = find_rule(FAIL, call, index, uuid);
    return rule != NULL ? rule->value : SUCCESS;
}

static int end(int code) {
    pthread_mutex_unlock(&lock);
    return code;
}

/* Starts a call that concerns the library, or the device at an index. SUCCESS leaves the lock held, for end(). */
static int begin_with(const char *call, int index, const char *uuid) {
    pthread_mutex_lock(&lock);
    write_log(call, index);
    int code = read_world();
    if (code == SUCCESS) code = act_rules(call, index, uuid);
    if (code == SUCCESS && references == 0) code = UNINITIALIZED;
    return code == SUCCESS ? SUCCESS : end(code);
}

static int begin(const char *call, int index) {
    return begin_with(call, index, index >= 0 && index < attached_count ? known[attached[index]] : "");
}

static struct device *find_device(const char *uuid) {
    for (int i = 0; i < world.device_count; i++)
        if (!strcmp(world.devices[i].uuid, uuid)) return &world.devices[i];
    for (int i = 0; i < world.instance_count; i++)
        if (!strcmp(world.instances[i].uuid, uuid)) return &world.instances[i];
    return NULL;
}

static int is_instance(const struct device *device) { return device->parent[0] != '\0'; }

static int index_of_uuid(const char *uuid) {
    for (int i = 0; i < attached_count; i++)
        if (!strcmp(uuid, known[attached[i]])) return i;
    return NO_DEVICE;
}

/* An instance counts as its GPU. */
static int index_of(const void *handle) {
    for (int i = 0; i < known_count; i++) {
        if (handle != known[i]) continue;
        const struct device *device = find_device(known[i]);
        return index_of_uuid(device != NULL && is_instance(device) ? device->parent : known[i]);
    }
    return NO_DEVICE;
}

/* Starts a call on a handle. SUCCESS leaves the lock held, for end(). */
static int begin_on(const char *call, const void *handle, struct device **device) {
    pthread_mutex_lock(&lock);
    int index = index_of(handle);
    pthread_mutex_unlock(&lock);
    int code = begin_with(call, index, index == NO_DEVICE ? "" : handle);
    if (code != SUCCESS) return code;
    if (index_of(handle) == NO_DEVICE) return end(INVALID_ARGUMENT);
    *device = find_device(handle);
    return *device == NULL ? end(GPU_IS_LOST) : SUCCESS;
}

static int give_text(char *to, unsigned size, const char *text) {
    if (to == NULL) return INVALID_ARGUMENT;
    if (strlen(text) + 1 > size) return INSUFFICIENT_SIZE;
    memcpy(to, text, strlen(text) + 1);
    return SUCCESS;
}

/* ---- initialising and the library itself ------------------------------------------------------------------------- */

static int initialise(const char *call) {
    pthread_mutex_lock(&lock);
    write_log(call, NO_DEVICE);
    int code = read_world();
    if (code == SUCCESS) code = act_rules("nvmlInit", NO_DEVICE, "");
    if (code == SUCCESS) code = world.init_code;
    if (code == SUCCESS && references++ == 0) attach();
    return end(code);
}

EXPORT int nvmlInit(void) { return initialise(__func__); }
EXPORT int nvmlInit_v2(void) { return initialise(__func__); }
EXPORT int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    return initialise(__func__);
}

EXPORT int nvmlShutdown(void) {
    int code = begin(__func__, NO_DEVICE);
    if (code != SUCCESS) return code;
    references--;
    return end(SUCCESS);
}

EXPORT const char *nvmlErrorString(int code) {
    static const char *const words[] = {
        "Success", "Uninitialized", "Invalid Argument", "Not Supported", "Insufficient Permissions",
        "Already Initialized", "Not Found", "Insufficient Size", "Insufficient External Power", "Driver Not Loaded",
        "Timeout", "Interrupt Request Issue", "NVML Shared Library Not Found", "Function Not Found",
        "Corrupted infoROM", "GPU is lost", "GPU requires reset", "GPU access blocked by the operating system",
        "Driver/library version mismatch", "In use by another client", "Insufficient Memory", "No data",
        "The requested vgpu operation is not available on target device, becasue ECC is enabled",
        "Insufficient Resources", "Freq Not Supported", "Argument version mismatch", "Deprecated", "Not Ready",
        "GPU not found", "Invalid state", "Reset type not supported",
    };
    int count = (int)(sizeof words / sizeof *words);
    return code >= 0 && code < count ? words[code] : "Unknown Error";
}

EXPORT int nvmlSystemGetDriverVersion(char *version, unsigned length) {
    int code = begin(__func__, NO_DEVICE);
    return code ? code : end(give_text(version, length, world.driver));
}

EXPORT int nvmlSystemGetNVMLVersion(char *version, unsigned length) {
    int code = begin(__func__, NO_DEVICE);
    return code ? code : end(give_text(version, length, world.nvml));
}

static int give_cuda_version(const char *call, int *version) {
    int code = begin(call, NO_DEVICE);
    if (code != SUCCESS) return code;
    *version = world.cuda;
    return end(SUCCESS);
}

EXPORT int nvmlSystemGetCudaDriverVersion(int *version) { return give_cuda_version(__func__, version); }
EXPORT int nvmlSystemGetCudaDriverVersion_v2(int *version) { return give_cuda_version(__func__, version); }

/* ---- which devices ----------------------------------------------------------------------------------------------- */

EXPORT int nvmlDeviceGetCount_v2(unsigned *count) {
    int code = begin(__func__, NO_DEVICE);
    if (code != SUCCESS) return code;
    *count = (unsigned)attached_count;
    return end(SUCCESS);
}

/* A device that left since nvmlInit answers Unknown Error to a look-up by index, as reports of lost GPUs have it. */
EXPORT int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) {
    int code = begin(__func__, (int)index);
    if (code != SUCCESS) return code;
    if (index >= (unsigned)attached_count) return end(INVALID_ARGUMENT);
    if (find_device(known[attached[index]]) == NULL) return end(UNKNOWN);
    *handle = known[attached[index]];
    return end(SUCCESS);
}

EXPORT int nvmlDeviceGetHandleByUUID(const char *uuid, void **handle) {
    pthread_mutex_lock(&lock);
    int at = find_device(uuid) != NULL ? make_known(uuid) : find_known(uuid);
    int index = at < 0 ? NO_DEVICE : index_of(known[at]);
    pthread_mutex_unlock(&lock);
    int code = begin(__func__, index);
    if (code != SUCCESS) return code;
    if (index == NO_DEVICE) return end(NOT_FOUND);
    if (find_device(uuid) == NULL) return end(GPU_IS_LOST);
    *handle = known[at];
    return end(SUCCESS);
}

static int parse_pci(const char *text, unsigned *domain, unsigned *bus, unsigned *device) {
    if (sscanf(text, "%x:%x:%x", domain, bus, device) == 3) return 1;
    *domain = 0; /* NVML takes an address without a domain, too. */
    return sscanf(text, "%x:%x", bus, device) == 2;
}

static int is_same_pci(const char *one, const char *other) {
    unsigned a[3], b[3];
    return parse_pci(one, &a[0], &a[1], &a[2]) && parse_pci(other, &b[0], &b[1], &b[2]) && !memcmp(a, b, sizeof a);
}

EXPORT int nvmlDeviceGetHandleByPciBusId_v2(const char *bus_id, void **handle) {
    int code = begin(__func__, NO_DEVICE);
    if (code != SUCCESS) return code;
    for (int i = 0; i < attached_count; i++) {
        struct device *device = find_device(known[attached[i]]);
        if (device == NULL || !is_same_pci(device->pci, bus_id)) continue;
        *handle = known[attached[i]];
        return end(SUCCESS);
    }
    return end(NOT_FOUND);
}

/* ---- one device -------------------------------------------------------------------------------------------------- */

EXPORT int nvmlDeviceGetName(void *handle, char *name, unsigned length) {
    struct device *device;
    int code = begin_on(__func__, handle, &device);
    return code ? code : end(give_text(name, length, device->name));
}

EXPORT int nvmlDeviceGetUUID(void *handle, char *uuid, unsigned length) {
    struct device *device;
    int code = begin_on(__func__, handle, &device);
    return code ? code : end(give_text(uuid, length, device->uuid));
}

EXPORT int nvmlDeviceGetIndex(void *handle, unsigned *index) {
    struct device *device;
    int code = begin_on(__func__, handle, &device);
    if (code != SUCCESS) return code;
    *index = (unsigned)index_of(handle);
    return end(SUCCESS);
}

EXPORT int nvmlDeviceGetMinorNumber(void *handle, unsigned *minor) {
    struct device *device;
    int code = begin_on(__func__, handle, &device);
    if (code != SUCCESS) return code;
    *minor = (unsigned)device->minor;
    return end(SUCCESS);
}

EXPORT int nvmlDeviceGetPciInfo_v3(void *handle, struct pci_info *pci) {
    struct device *device;
    int code = begin_on(__func__, handle, &device);
    if (code != SUCCESS) return code;
    memset(pci, 0, sizeof *pci);
    if (!parse_pci(device->pci, &pci->domain, &pci->bus, &pci->device)) return end(UNKNOWN);
    snprintf(pci->bus_id_legacy, sizeof pci->bus_id_legacy, "%04X:%02X:%02X.0", pci->domain & 0xffff,
             pci->bus & 0xff, pci->device & 0xff);
    snprintf(pci->bus_id, sizeof pci->bus_id, "%08X:%02X:%02X.0", pci->domain, pci->bus & 0xff, pci->device & 0xff);
    pci->device_id = 0x233010de; /* An H100's, vendor in the low half. */
    return end(SUCCESS);
}

/* Whether what is on *uuid* is on this device: a GPU has what its MIG instances have. */
static int is_within(const char *uuid, const struct device *device) {
    const struct device *other = find_device(uuid);
    return !strcmp(uuid, device->uuid) || (other != NULL && !strcmp(other->parent, device->uuid));
}

static u64 used_bytes(const struct device *device) {
    u64 used = 0;
    read_claims();
    for (int i = 0; i < world.device_count; i++)
        if (&world.devices[i] == device) used += device->used;
    for (int i = 0; i < world.instance_count; i++)
        if (is_within(world.instances[i].uuid, device)) used += world.instances[i].used;
    for (int i = 0; i < claim_count; i++)
        if (is_within(claims[i].uuid, device)) used += claims[i].bytes;
    return used;
}

static u64 free_bytes(const struct device *device, u64 used) {
    u64 away = device->reserved + used;
    return device->total > away ? device->total - away : 0;
}

EXPORT int nvmlDeviceGetMemoryInfo(void *handle, struct memory *memory) {
    struct device *device;
    int code = begin_on(__func__, handle, &device);
    if (code != SUCCESS) return code;
    if (!device->has_memory) return end(NOT_SUPPORTED);
    u64 used = used_bytes(device);
    *memory = (struct memory){device->total, free_bytes(device, used), device->reserved + used};
    return end(SUCCESS);
}

EXPORT int nvmlDeviceGetMemoryInfo_v2(void *handle, struct memory_v2 *memory) {
    struct device *device;
    int code = begin_on(__func__, handle, &device);
    if (code != SUCCESS) return code;
    if (memory->version != 0x2000028) return end(VERSION_MISMATCH);
    if (!device->has_memory) return end(NOT_SUPPORTED);
    u64 used = used_bytes(device);
    memory->total = device->total;
    memory->reserved = device->reserved;
    memory->free = free_bytes(device, used);
    memory->used = used;
    return end(SUCCESS);
}

EXPORT int nvmlDeviceGetUtilizationRates(void *handle, struct utilization *utilization) {
    struct device *device;
    int code = begin_on(__func__, handle, &device);
    if (code != SUCCESS) return code;
    if (device->mig == MIG_ON || is_instance(device)) return end(NOT_SUPPORTED); /* As the driver does. */
    *utilization = (struct utilization){device->gpu_percent, device->memory_percent};
    return end(SUCCESS);
}

EXPORT int nvmlDeviceGetTemperature(void *handle, int sensor, unsigned *celsius) {
    struct device *device;
    int code = begin_on(__func__, handle, &device);
    if (code != SUCCESS) return code;
    if (sensor != 0) return end(INVALID_ARGUMENT);
    *celsius = device->celsius;
    return end(SUCCESS);
}

EXPORT int nvmlDeviceGetTemperatureV(void *handle, struct temperature_v1 *temperature) {
    struct device *device;
    int code = begin_on(__func__, handle, &device);
    if (code != SUCCESS) return code;
    if (temperature->version != 0x100000c) return end(VERSION_MISMATCH);
    temperature->celsius = (int)device->celsius;
    return end(SUCCESS);
}

EXPORT int nvmlDeviceGetPowerUsage(void *handle, unsigned *milliwatts) {
    struct device *device;
    int code = begin_on(__func__, handle, &device);
    if (code != SUCCESS) return code;
    *milliwatts = device->milliwatts;
    return end(SUCCESS);
}

EXPORT int nvmlDeviceGetEnforcedPowerLimit(void *handle, unsigned *milliwatts) {
    struct device *device;
    int code = begin_on(__func__, handle, &device);
    if (code != SUCCESS) return code;
    *milliwatts = device->limit_milliwatts;
    return end(SUCCESS);
}

EXPORT int nvmlDeviceGetMigMode(void *handle, unsigned *current, unsigned *pending) {
    struct device *device;
    int code = begin_on(__func__, handle, &device);
    if (code != SUCCESS) return code;
    if (is_instance(device)) return end(INVALID_ARGUMENT);
    if (device->mig == MIG_NONE) return end(NOT_SUPPORTED);
    *current = *pending = device->mig == MIG_ON;
    return end(SUCCESS);
}

EXPORT int nvmlDeviceGetMaxMigDeviceCount(void *handle, unsigned *count) {
    struct device *device;
    int code = begin_on(__func__, handle, &device);
    if (code != SUCCESS) return code;
    *count = device->mig == MIG_NONE ? 0 : device->slots;
    return end(SUCCESS);
}

EXPORT int nvmlDeviceGetMigDeviceHandleByIndex(void *handle, unsigned slot, void **instance) {
    struct device *device;
    int code = begin_on(__func__, handle, &device);
    if (code != SUCCESS) return code;
    if (device->mig != MIG_ON || slot >= device->slots) return end(INVALID_ARGUMENT);
    for (int i = 0; i < world.instance_count; i++) {
        if (strcmp(world.instances[i].parent, device->uuid) || world.instances[i].slot != slot) continue;
        int at = make_known(world.instances[i].uuid);
        if (at < 0) return end(UNKNOWN);
        *instance = known[at];
        return end(SUCCESS);
    }
    return end(NOT_FOUND);
}

EXPORT int nvmlDeviceIsMigDeviceHandle(void *handle, unsigned *is) {
    struct device *device;
    int code = begin_on(__func__, handle, &device);
    if (code != SUCCESS) return code;
    *is = (unsigned)is_instance(device);
    return end(SUCCESS);
}

static int give_instance_id(const char *call, void *handle, int is_gi, unsigned *id) {
    struct device *device;
    int code = begin_on(call, handle, &device);
    if (code != SUCCESS) return code;
    if (!is_instance(device)) return end(INVALID_ARGUMENT);
    *id = is_gi ? device->gi : device->ci;
    return end(SUCCESS);
}

EXPORT int nvmlDeviceGetGpuInstanceId(void *handle, unsigned *id) { return give_instance_id(__func__, handle, 1, id); }
EXPORT int nvmlDeviceGetComputeInstanceId(void *handle, unsigned *id) {
    return give_instance_id(__func__, handle, 0, id);
}

/* ---- how devices are connected ----------------------------------------------------------------------------------- */

EXPORT int nvmlDeviceGetTopologyCommonAncestor(void *one, void *other, int *level) {
    struct device *device;
    int code = begin_on(__func__, one, &device);
    if (code != SUCCESS) return code;
    if (index_of(other) == NO_DEVICE) return end(INVALID_ARGUMENT);
    *level = 40;
    for (int i = 0; i < world.level_count; i++) {
        const struct level *said = &world.levels[i];
        if ((!strcmp(said->one, one) && !strcmp(said->other, other)) ||
            (!strcmp(said->one, other) && !strcmp(said->other, one)))
            *level = said->level;
    }
    return end(SUCCESS);
}

/* SUCCESS leaves the lock held, and *link NULL for a link that is down. A GPU here has 4 links, or none at all. */
static int begin_on_link(const char *call, void *handle, unsigned number, const struct nvlink **link) {
    struct device *device;
    int code = begin_on(call, handle, &device), has_links = 0;
    if (code != SUCCESS) return code;
    *link = NULL;
    for (int i = 0; i < world.nvlink_count; i++) {
        if (strcmp(world.nvlinks[i].uuid, device->uuid)) continue;
        has_links = 1;
        if (world.nvlinks[i].number == number && strcmp(world.nvlinks[i].to, "down")) *link = &world.nvlinks[i];
    }
    if (!has_links) return end(NOT_SUPPORTED);
    return number >= 4 ? end(INVALID_ARGUMENT) : SUCCESS;
}

EXPORT int nvmlDeviceGetNvLinkState(void *handle, unsigned number, unsigned *is_active) {
    const struct nvlink *link;
    int code = begin_on_link(__func__, handle, number, &link);
    if (code != SUCCESS) return code;
    *is_active = link != NULL;
    return end(SUCCESS);
}

EXPORT int nvmlDeviceGetNvLinkRemotePciInfo_v2(void *handle, unsigned number, struct pci_info *pci) {
    const struct nvlink *link;
    int code = begin_on_link(__func__, handle, number, &link);
    if (code != SUCCESS) return code;
    if (link == NULL || !strcmp(link->to, "unknown")) return end(NOT_SUPPORTED);
    const struct device *far = find_device(link->to);
    memset(pci, 0, sizeof *pci);
    parse_pci(far != NULL ? far->pci : "0000:fe:00.0", &pci->domain, &pci->bus, &pci->device);
    return end(SUCCESS);
}

EXPORT int nvmlDeviceGetNvLinkRemoteDeviceType(void *handle, unsigned number, unsigned *type) {
    const struct nvlink *link;
    int code = begin_on_link(__func__, handle, number, &link);
    if (code != SUCCESS) return code;
    if (link == NULL || !strcmp(link->to, "unknown")) return end(NOT_SUPPORTED);
    *type = strcmp(link->to, "switch") ? 0 : 2;
    return end(SUCCESS);
}

EXPORT int nvmlDeviceGetNumaNodeId(void *handle, unsigned *node) {
    struct device *device;
    int code = begin_on(__func__, handle, &device);
    if (code != SUCCESS) return code;
    if (device->numa < 0) return end(NOT_SUPPORTED);
    *node = (unsigned)device->numa;
    return end(SUCCESS);
}

EXPORT int nvmlDeviceGetMemoryAffinity(void *handle, unsigned words, unsigned long *nodes, unsigned scope) {
    struct device *device;
    int code = begin_on(__func__, handle, &device);
    if (code != SUCCESS) return code;
    (void)scope;
    if (device->numa < 0) return end(NOT_SUPPORTED);
    unsigned bits = 8 * sizeof *nodes, node = (unsigned)device->numa;
    if (node / bits >= words) return end(INSUFFICIENT_SIZE);
    memset(nodes, 0, words * sizeof *nodes);
    nodes[node / bits] = 1UL << (node % bits);
    return end(SUCCESS);
}

EXPORT int nvmlDeviceGetPersistenceMode(void *handle, int *mode) {
    struct device *device;
    int code = begin_on(__func__, handle, &device);
    if (code != SUCCESS) return code;
    *mode = (int)device->persistence;
    return end(SUCCESS);
}

EXPORT int nvmlDeviceGetComputeMode(void *handle, unsigned *mode) {
    struct device *device;
    int code = begin_on(__func__, handle, &device);
    if (code != SUCCESS) return code;
    *mode = device->compute;
    return end(SUCCESS);
}

/* ---- health ------------------------------------------------------------------------------------------------------ */

EXPORT int nvmlDeviceGetFieldValues(void *handle, int count, struct field_value *values) {
    struct device *device;
    int code = begin_on(__func__, handle, &device);
    if (code != SUCCESS) return code;
    for (int i = 0; i < count; i++) {
        int is_known = values[i].id == 230 && device->recovery >= 0; /* The recovery action. */
        values[i].code = is_known ? SUCCESS : NOT_SUPPORTED;
        values[i].type = 1; /* An unsigned int. */
        if (is_known) values[i].value.whole = (unsigned)device->recovery;
    }
    return end(SUCCESS);
}

EXPORT int nvmlDeviceGetRemappedRows(void *handle, unsigned *correctable, unsigned *uncorrectable, unsigned *is_pending,
                                     unsigned *has_failed) {
    struct device *device;
    int code = begin_on(__func__, handle, &device);
    if (code != SUCCESS) return code;
    if (device->remap_pending < 0 || device->remap_failed < 0) return end(NOT_SUPPORTED);
    *correctable = 0;
    *uncorrectable = (unsigned)device->remap_pending;
    *is_pending = (unsigned)device->remap_pending;
    *has_failed = (unsigned)device->remap_failed;
    return end(SUCCESS);
}

EXPORT int nvmlDeviceGetRetiredPagesPendingStatus(void *handle, int *is_pending) {
    struct device *device;
    int code = begin_on(__func__, handle, &device);
    if (code != SUCCESS) return code;
    if (device->pages_pending < 0) return end(NOT_SUPPORTED);
    *is_pending = (int)device->pages_pending;
    return end(SUCCESS);
}

/* Uncorrected (1) errors since the driver was loaded (0) only. */
EXPORT int nvmlDeviceGetTotalEccErrors(void *handle, int type, int counter, u64 *count) {
    struct device *device;
    int code = begin_on(__func__, handle, &device);
    if (code != SUCCESS) return code;
    if (device->ecc < 0 || type != 1 || counter != 0) return end(NOT_SUPPORTED);
    *count = (u64)device->ecc;
    return end(SUCCESS);
}

static int give_throttle(const char *call, void *handle, u64 *reasons) {
    struct device *device;
    int code = begin_on(call, handle, &device);
    if (code != SUCCESS) return code;
    if (device->throttle < 0) return end(NOT_SUPPORTED);
    *reasons = (u64)device->throttle;
    return end(SUCCESS);
}

EXPORT int nvmlDeviceGetCurrentClocksEventReasons(void *handle, u64 *reasons) {
    return give_throttle(__func__, handle, reasons);
}
EXPORT int nvmlDeviceGetCurrentClocksThrottleReasons(void *handle, u64 *reasons) {
    return give_throttle(__func__, handle, reasons);
}

EXPORT int nvmlDeviceGetRepairStatus(void *handle, struct repair_status *status) {
    struct device *device;
    int code = begin_on(__func__, handle, &device);
    if (code != SUCCESS) return code;
    if (status->version != 0x100000c) return end(VERSION_MISMATCH);
    if (device->repair < 0) return end(NOT_SUPPORTED);
    status->channel = device->repair & 1;
    status->tpc = device->repair >> 1 & 1;
    return end(SUCCESS);
}

static int give_fabric(const char *call, void *handle, unsigned version, struct fabric_v1 *info) {
    struct device *device;
    int code = begin_on(call, handle, &device);
    if (code != SUCCESS) return code;
    if (version != 0x2000024) return end(VERSION_MISMATCH);
    if (device->fabric < 0) return end(NOT_SUPPORTED);
    info->state = (unsigned char)device->fabric;
    info->status = device->fabric_status;
    return end(SUCCESS);
}

EXPORT int nvmlDeviceGetGpuFabricInfoV(void *handle, struct fabric_v2 *info) {
    return give_fabric(__func__, handle, info->version, &info->v1);
}
EXPORT int nvmlDeviceGetGpuFabricInfo(void *handle, struct fabric_v1 *info) {
    return give_fabric(__func__, handle, 0x2000024, info);
}

/* ---- events ------------------------------------------------------------------------------------------------------ */

/* An event set: which devices, and how far it has come in the file's events. */
static struct set { int is_used, seen, handles[MAX_KNOWN]; u64 kinds[MAX_KNOWN]; int count; } sets[MAX_SETS];

EXPORT int nvmlEventSetCreate(void **handle) {
    int code = begin(__func__, NO_DEVICE);
    if (code != SUCCESS) return code;
    for (int i = 0; i < MAX_SETS; i++) {
        if (sets[i].is_used) continue;
        sets[i] = (struct set){.is_used = 1};
        *handle = &sets[i];
        return end(SUCCESS);
    }
    return end(UNKNOWN);
}

EXPORT int nvmlEventSetFree(void *handle) {
    int code = begin(__func__, NO_DEVICE);
    if (code != SUCCESS) return code;
    ((struct set *)handle)->is_used = 0;
    return end(SUCCESS);
}

EXPORT int nvmlDeviceGetSupportedEventTypes(void *handle, u64 *kinds) {
    struct device *device;
    int code = begin_on(__func__, handle, &device);
    if (code != SUCCESS) return code;
    *kinds = 0xff9f;
    return end(SUCCESS);
}

/* Only what comes after the (first) registration is seen. */
EXPORT int nvmlDeviceRegisterEvents(void *handle, u64 kinds, void *to) {
    struct device *device;
    struct set *set = to;
    int code = begin_on(__func__, handle, &device);
    if (code != SUCCESS) return code;
    if (is_instance(device)) return end(NOT_SUPPORTED);
    if (set->count == 0) set->seen = world.event_count;
    set->handles[set->count] = find_known(handle);
    set->kinds[set->count++] = kinds;
    return end(SUCCESS);
}

static int is_watched(const struct set *set, const struct event *event) {
    for (int i = 0; i < set->count; i++)
        if (!strcmp(known[set->handles[i]], event->uuid) && (set->kinds[i] & event->kind)) return 1;
    return 0;
}

/* Blocks for the whole time-out where nothing happens, as the real one does. */
EXPORT int nvmlEventSetWait_v2(void *from, struct event_data *data, unsigned timeout_ms) {
    struct set *set = from;
    int code = begin(__func__, NO_DEVICE);
    if (code != SUCCESS) return code;
    for (unsigned waited_ms = 0;; waited_ms += 5) {
        while (set->seen < world.event_count) {
            const struct event *event = &world.events[set->seen++];
            if (!is_watched(set, event)) continue;
            *data = (struct event_data){known[find_known(event->uuid)], event->kind, event->data, event->gi, event->ci};
            return end(SUCCESS);
        }
        if (waited_ms >= timeout_ms) return end(TIMEOUT);
        pthread_mutex_unlock(&lock);
        sleep_ms(5);
        pthread_mutex_lock(&lock);
        if ((code = read_world()) != SUCCESS) return end(code);
        if ((code = act_rules(__func__, NO_DEVICE, "")) != SUCCESS) return end(code);
    }
}

/* ---- processes --------------------------------------------------------------------------------------------------- */

/* A claim of a dead process keeps its memory for a while but is in no list, as with the real driver. */
static int is_listed(const struct holder *holder, const struct device *device, enum kind kind) {
    return holder->alive && holder->kind == kind && is_within(holder->uuid, device);
}

static int give_processes(const char *call, void *handle, enum kind kind, unsigned *count, struct process_info *to) {
    struct device *device;
    int code = begin_on(call, handle, &device);
    if (code != SUCCESS) return code;
    read_claims();
    unsigned found = 0, room = to == NULL ? 0 : *count;
    for (int i = 0; i < world.process_count + claim_count; i++) {
        const struct holder *holder = i < world.process_count ? &world.processes[i] : &claims[i - world.process_count];
        if (!is_listed(holder, device, kind)) continue;
        const struct device *on = find_device(holder->uuid);
        unsigned gi = is_instance(on) ? on->gi : ~0U, ci = is_instance(on) ? on->ci : ~0U;
        if (found < room) to[found] = (struct process_info){holder->pid, holder->bytes, gi, ci};
        found++;
    }
    *count = found;
    return end(found > room ? INSUFFICIENT_SIZE : SUCCESS);
}

EXPORT int nvmlDeviceGetComputeRunningProcesses_v3(void *handle, unsigned *count, struct process_info *processes) {
    return give_processes(__func__, handle, COMPUTE, count, processes);
}

EXPORT int nvmlDeviceGetGraphicsRunningProcesses_v3(void *handle, unsigned *count, struct process_info *processes) {
    return give_processes(__func__, handle, GRAPHICS, count, processes);
}

/* The second version's structure is the third's. */
EXPORT int nvmlDeviceGetComputeRunningProcesses_v2(void *handle, unsigned *count, struct process_info *processes) {
    return give_processes(__func__, handle, COMPUTE, count, processes);
}

EXPORT int nvmlDeviceGetGraphicsRunningProcesses_v2(void *handle, unsigned *count, struct process_info *processes) {
    return give_processes(__func__, handle, GRAPHICS, count, processes);
}

EXPORT int nvmlDeviceGetMPSComputeRunningProcesses_v3(void *handle, unsigned *count, struct process_info *processes) {
    return give_processes(__func__, handle, MPS, count, processes);
}

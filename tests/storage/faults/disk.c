/* The disk under the ledger, with a journal and a switch that kills.
 *
 * Preloaded into a process (LD_PRELOAD), this library stands between every library in it and the kernel: each call that
 * changes something below one folder is a step. Steps are numbered, made one at a time, and written to a journal. Armed
 * with a step's number, it ends the process by SIGKILL right before the step, right after it, or, for a write, with
 * half of the bytes written. Nobody above can tell: neither Python nor the Rust libraries have a say in it.
 *
 * Until `disk_arm` is called everything passes through. Linux only. Paths must be absolute, or relative to a folder that
 * is open (as `shutil.rmtree` gives them).
 *
 * A journal record is a line of fields that end in a tab:
 *     step  operation  result  path  other path  number  length of the payload
 * then the payload (the bytes of a write, the text of a note). `result` is -1 for a call that failed; `number` is the
 * offset of a write, the length after a truncation.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { NEVER, BEFORE, WITHIN, AFTER };
enum { FILES = 65536 };

static pthread_mutex_t one_at_a_time = PTHREAD_MUTEX_INITIALIZER;
static char folder[PATH_MAX];
static size_t folder_length;
static int journal = -1;
static int when = NEVER;
static long fatal_step = -1, steps = 0;
static char *path_of[FILES]; /* of the open files below the folder */

static void put(const void *bytes, size_t size) {
    for (const char *rest = bytes; size > 0;) {
        ssize_t done = syscall(SYS_write, journal, rest, size);
        if (done < 0) _exit(99);
        rest += done, size -= (size_t)done;
    }
}

static void record(const char *operation, long result, const char *path, const char *other, long number,
                   const void *payload, size_t size) {
    char line[3 * PATH_MAX];
    int length = snprintf(line, sizeof line, "%ld\t%s\t%ld\t%s\t%s\t%ld\t%zu\t\n", steps, operation, result,
                          path ? path : "", other ? other : "", number, size);
    put(line, (size_t)length);
    put(payload, size);
}

/* Watch what happens below `below`; end the process at `step` ("before", "within" or "after" it; anything else: never).
 */
void disk_arm(const char *below, const char *journal_path, const char *moment, long step) {
    folder_length = (size_t)snprintf(folder, sizeof folder, "%s/", below);
    journal = (int)syscall(SYS_openat, AT_FDCWD, journal_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    when = !strcmp(moment, "before") ? BEFORE : !strcmp(moment, "within") ? WITHIN : !strcmp(moment, "after") ? AFTER : NEVER;
    fatal_step = step;
}

/* Write a note into the journal: it stands where it belongs among the steps. */
void disk_note(const char *text) {
    pthread_mutex_lock(&one_at_a_time);
    record("note", 0, NULL, NULL, 0, text, strlen(text));
    pthread_mutex_unlock(&one_at_a_time);
}

static const char *known(int file) { return journal >= 0 && file >= 0 && file < FILES ? path_of[file] : NULL; }

/* Return the absolute path if it is the folder's or below it, else NULL; `space` has PATH_MAX bytes. */
static const char *below(int at, const char *path, char *space) {
    if (journal < 0 || path == NULL) return NULL;
    if (path[0] != '/' && at >= 0 && known(at)) {
        if (snprintf(space, PATH_MAX, "%s/%s", known(at), path) >= PATH_MAX) return NULL;
        path = space;
    }
    if (strncmp(path, folder, folder_length - 1) != 0) return NULL;
    return path[folder_length - 1] == '/' || path[folder_length - 1] == '\0' ? path : NULL;
}

static void die(void) {
    for (;;) syscall(SYS_kill, getpid(), SIGKILL); /* with the lock held: no other thread makes a step meanwhile */
}

static void begin(void) {
    pthread_mutex_lock(&one_at_a_time);
    if (++steps == fatal_step && when == BEFORE) die();
}

static long end(const char *operation, long result, const char *path, const char *other, long number,
                const void *payload, size_t size) {
    int error = errno;
    record(operation, result, path, other, number, payload, size);
    if (steps == fatal_step && when != NEVER) die();
    pthread_mutex_unlock(&one_at_a_time);
    errno = error;
    return result;
}

/* --- opening and closing: which file is which ------------------------------------------------------------------- */

static int open_at(int at, const char *path, int flags, mode_t mode) {
    char space[PATH_MAX];
    const char *ours = below(at, path, space);
    int makes = ours && flags & (O_CREAT | O_TRUNC);
    if (makes) begin();
    int exists = makes && syscall(SYS_faccessat, AT_FDCWD, ours, F_OK) == 0;
    long file = syscall(SYS_openat, at, path, flags, mode);
    if (journal >= 0 && file >= 0 && file < FILES) {
        free(path_of[file]);
        path_of[file] = ours ? strdup(ours) : NULL;
    }
    if (!makes) return (int)file;
    const char *operation = !exists ? "create" : flags & O_TRUNC ? "truncate" : "open";
    return (int)end(operation, file, ours, NULL, 0, NULL, 0);
}

#define MODE(flags)                                                                                                 \
    mode_t mode = 0;                                                                                                \
    if (flags & (O_CREAT | O_TMPFILE)) {                                                                            \
        va_list rest;                                                                                               \
        va_start(rest, flags);                                                                                      \
        mode = va_arg(rest, mode_t);                                                                                \
        va_end(rest);                                                                                               \
    }

int open(const char *path, int flags, ...) { MODE(flags) return open_at(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE(flags) return open_at(AT_FDCWD, path, flags, mode); }
int openat(int at, const char *path, int flags, ...) { MODE(flags) return open_at(at, path, flags, mode); }
int openat64(int at, const char *path, int flags, ...) { MODE(flags) return open_at(at, path, flags, mode); }

int close(int file) {
    if (known(file)) {
        pthread_mutex_lock(&one_at_a_time);
        free(path_of[file]);
        path_of[file] = NULL;
        pthread_mutex_unlock(&one_at_a_time);
    }
    return (int)syscall(SYS_close, file);
}

/* --- contents --------------------------------------------------------------------------------------------------- */

static ssize_t write_at(int file, const void *bytes, size_t size, off_t offset) {
    begin();
    int is_cut = steps == fatal_step && when == WITHIN;
    size_t part = is_cut ? size / 2 : size;
    ssize_t done = syscall(SYS_pwrite64, file, bytes, part, offset);
    return end("write", done, path_of[file], NULL, offset, bytes, done > 0 ? (size_t)done : 0);
}

ssize_t pwrite64(int file, const void *bytes, size_t size, off64_t offset) {
    return known(file) ? write_at(file, bytes, size, offset) : syscall(SYS_pwrite64, file, bytes, size, offset);
}
ssize_t pwrite(int file, const void *bytes, size_t size, off_t offset) { return pwrite64(file, bytes, size, offset); }

ssize_t write(int file, const void *bytes, size_t size) {
    if (!known(file)) return syscall(SYS_write, file, bytes, size);
    ssize_t done = write_at(file, bytes, size, syscall(SYS_lseek, file, 0, SEEK_CUR));
    if (done > 0) syscall(SYS_lseek, file, done, SEEK_CUR);
    return done;
}

ssize_t writev(int file, const struct iovec *pieces, int count) {
    if (!known(file)) return syscall(SYS_writev, file, pieces, count);
    for (int i = 0; i < count; i++) /* a short write is allowed: the caller goes on with the rest */
        if (pieces[i].iov_len > 0) return write(file, pieces[i].iov_base, pieces[i].iov_len);
    return 0;
}

int ftruncate64(int file, off64_t length) {
    if (!known(file)) return (int)syscall(SYS_ftruncate, file, length);
    begin();
    return (int)end("ftruncate", syscall(SYS_ftruncate, file, length), path_of[file], NULL, length, NULL, 0);
}
int ftruncate(int file, off_t length) { return ftruncate64(file, length); }

int fsync(int file) {
    if (!known(file)) return (int)syscall(SYS_fsync, file);
    begin(); /* the real call is left out: it would change nothing that a process can see, and takes its time */
    return (int)end("fsync", 0, path_of[file], NULL, 0, NULL, 0);
}
int fdatasync(int file) { return known(file) ? fsync(file) : (int)syscall(SYS_fdatasync, file); }

/* --- names ------------------------------------------------------------------------------------------------------ */

int renameat2(int from_at, const char *from, int to_at, const char *to, unsigned int flags) {
    char one[PATH_MAX], two[PATH_MAX];
    const char *source = below(from_at, from, one), *target = below(to_at, to, two);
    if (!source && !target) return (int)syscall(SYS_renameat2, from_at, from, to_at, to, flags);
    begin();
    return (int)end("rename", syscall(SYS_renameat2, from_at, from, to_at, to, flags), source, target, 0, NULL, 0);
}
int renameat(int from_at, const char *from, int to_at, const char *to) { return renameat2(from_at, from, to_at, to, 0); }
int rename(const char *from, const char *to) { return renameat2(AT_FDCWD, from, AT_FDCWD, to, 0); }

int linkat(int from_at, const char *from, int to_at, const char *to, int flags) {
    char one[PATH_MAX], two[PATH_MAX];
    const char *source = below(from_at, from, one), *target = below(to_at, to, two);
    if (!target) return (int)syscall(SYS_linkat, from_at, from, to_at, to, flags);
    begin();
    return (int)end("link", syscall(SYS_linkat, from_at, from, to_at, to, flags), source, target, 0, NULL, 0);
}
int link(const char *from, const char *to) { return linkat(AT_FDCWD, from, AT_FDCWD, to, 0); }

int unlinkat(int at, const char *path, int flags) {
    char space[PATH_MAX];
    const char *ours = below(at, path, space);
    if (!ours) return (int)syscall(SYS_unlinkat, at, path, flags);
    begin();
    const char *operation = flags & AT_REMOVEDIR ? "rmdir" : "unlink";
    return (int)end(operation, syscall(SYS_unlinkat, at, path, flags), ours, NULL, 0, NULL, 0);
}
int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }

int mkdirat(int at, const char *path, mode_t mode) {
    char space[PATH_MAX];
    const char *ours = below(at, path, space);
    if (!ours) return (int)syscall(SYS_mkdirat, at, path, mode);
    begin();
    return (int)end("mkdir", syscall(SYS_mkdirat, at, path, mode), ours, NULL, 0, NULL, 0);
}
int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }

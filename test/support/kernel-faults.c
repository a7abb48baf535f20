/*
 * A library that is loaded before all others (LD_PRELOAD) and makes system calls fail as a kernel with a broken or full
 * disk does. What Debian's libfiu does not reach is reached here: the n-th call of a kind on files of one directory,
 * calls that a program finds by dlsym, and children that are started without our environment.
 *
 * KERNEL_FAULTS=STATE|KIND|ERRNO|FIRST|COUNT|PATH: calls of KIND on files whose path holds PATH are numbered from 1,
 * over all processes, in the file STATE (64-bit numbers: failures, then the calls of each kind); numbers FIRST … FIRST +
 * COUNT - 1 fail. KIND is one of read, write, fsync, rename, create, mount; with * all are counted and none fails.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static const char *kinds[] = {"read", "write", "fsync", "rename", "create", "mount"};
struct state {
  uint64_t failures;
  uint64_t calls[6];
};
static struct state *state;
static char kind[16], part[512];
static uint64_t first, count;
static int error_number;
static char own_faults[1024], own_preload[600];

extern char **environ;

__attribute__((constructor)) static void begin(void) {
  const char *text = getenv("KERNEL_FAULTS"), *preload = getenv("LD_PRELOAD");
  char path[400];
  if (text == NULL || preload == NULL) return;
  if (sscanf(text, "%399[^|]|%15[^|]|%d|%lu|%lu|%511[^|]", path, kind, &error_number, &first, &count, part) != 6) return;
  snprintf(own_faults, sizeof own_faults, "KERNEL_FAULTS=%s", text);
  snprintf(own_preload, sizeof own_preload, "LD_PRELOAD=%s", preload);
  int fd = syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC, 0);
  if (fd < 0) return;
  void *map = mmap(NULL, sizeof *state, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  close(fd);
  if (map != MAP_FAILED) state = map;
}

static int is_meant(const char *what) {
  return state != NULL && (strcmp(what, kind) == 0 || kind[0] == '*');
}

/* True when this call is one that fails; errno is then set. */
static int fails_at(const char *what, const char *path) {
  if (!is_meant(what) || path == NULL || strstr(path, part) == NULL) return 0;
  unsigned which = 0;
  while (which < 5 && strcmp(kinds[which], what) != 0) which++;
  uint64_t number = __atomic_add_fetch(&state->calls[which], 1, __ATOMIC_SEQ_CST);
  if (kind[0] == '*') return 0;
  if (number < first || number - first >= count) return 0;
  __atomic_add_fetch(&state->failures, 1, __ATOMIC_SEQ_CST);
  errno = error_number;
  return 1;
}

static int fails_on(const char *what, int fd) {
  char name[40], path[4096];
  if (!is_meant(what)) return 0;
  int before = errno;
  snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(name, path, sizeof path - 1);
  errno = before;
  if (length < 0) return 0;
  path[length] = 0;
  return fails_at(what, path);
}

/* A name below a directory descriptor. */
static int fails_below(const char *what, int dir, const char *name) {
  char path[4096], link[40];
  if (!is_meant(what)) return 0;
  if (name[0] == '/') {
    /* What goes through /proc/self/fd/N/name is meant by what N is. */
    int fd, at = 0;
    if (sscanf(name, "/proc/self/fd/%d/%n", &fd, &at) == 1 && at > 0) return fails_below(what, fd, name + at);
    return fails_at(what, name);
  }
  int before = errno;
  ssize_t length = 0;
  if (dir == AT_FDCWD) {
    if (getcwd(path, 2000) != NULL) length = strlen(path);
  } else {
    snprintf(link, sizeof link, "/proc/self/fd/%d", dir);
    length = readlink(link, path, 2000);
  }
  errno = before;
  if (length < 0) return 0;
  snprintf(path + length, sizeof path - length, "/%s", name);
  return fails_at(what, path);
}

static void *real_dlsym(void *handle, const char *name) {
  static void *(*real)(void *, const char *);
  if (real == NULL) {
    const char *versions[] = {"GLIBC_2.34", "GLIBC_2.2.5", "GLIBC_2.17"};
    for (int i = 0; i < 3 && real == NULL; i++) real = dlvsym(RTLD_NEXT, "dlsym", versions[i]);
  }
  return real(handle, name);
}

#define REAL(name) \
  static __typeof__(name) *real; \
  if (real == NULL) real = real_dlsym(RTLD_NEXT, #name);
#define ON_FD(what, type, name, params, args, fd) \
  type name params { \
    REAL(name) \
    if (fails_on(what, fd)) return -1; \
    return real args; \
  }

ON_FD("read", ssize_t, read, (int fd, void *b, size_t n), (fd, b, n), fd)
ON_FD("read", ssize_t, pread, (int fd, void *b, size_t n, off_t o), (fd, b, n, o), fd)
ON_FD("read", ssize_t, pread64, (int fd, void *b, size_t n, off64_t o), (fd, b, n, o), fd)
ON_FD("read", ssize_t, readv, (int fd, const struct iovec *v, int n), (fd, v, n), fd)
ON_FD("read", ssize_t, preadv, (int fd, const struct iovec *v, int n, off_t o), (fd, v, n, o), fd)
ON_FD("read", ssize_t, preadv64, (int fd, const struct iovec *v, int n, off64_t o), (fd, v, n, o), fd)
ON_FD("write", ssize_t, write, (int fd, const void *b, size_t n), (fd, b, n), fd)
ON_FD("write", ssize_t, pwrite, (int fd, const void *b, size_t n, off_t o), (fd, b, n, o), fd)
ON_FD("write", ssize_t, pwrite64, (int fd, const void *b, size_t n, off64_t o), (fd, b, n, o), fd)
ON_FD("write", ssize_t, writev, (int fd, const struct iovec *v, int n), (fd, v, n), fd)
ON_FD("write", ssize_t, pwritev, (int fd, const struct iovec *v, int n, off_t o), (fd, v, n, o), fd)
ON_FD("write", ssize_t, pwritev64, (int fd, const struct iovec *v, int n, off64_t o), (fd, v, n, o), fd)
ON_FD("write", int, ftruncate, (int fd, off_t n), (fd, n), fd)
ON_FD("write", int, ftruncate64, (int fd, off64_t n), (fd, n), fd)
ON_FD("write", int, fallocate, (int fd, int m, off_t o, off_t n), (fd, m, o, n), fd)
ON_FD("write", int, fallocate64, (int fd, int m, off64_t o, off64_t n), (fd, m, o, n), fd)
ON_FD("write", ssize_t, copy_file_range, (int i, off64_t *p, int fd, off64_t *q, size_t n, unsigned f), (i, p, fd, q, n, f), fd)
ON_FD("fsync", int, fsync, (int fd), (fd), fd)
ON_FD("fsync", int, fdatasync, (int fd), (fd), fd)
ON_FD("fsync", int, syncfs, (int fd), (fd), fd)

int rename(const char *a, const char *b) {
  REAL(rename)
  return fails_below("rename", AT_FDCWD, b) ? -1 : real(a, b);
}
int renameat(int d, const char *a, int e, const char *b) {
  REAL(renameat)
  return fails_below("rename", e, b) ? -1 : real(d, a, e, b);
}
int renameat2(int d, const char *a, int e, const char *b, unsigned f) {
  REAL(renameat2)
  return fails_below("rename", e, b) ? -1 : real(d, a, e, b, f);
}
int mkdir(const char *a, mode_t m) {
  REAL(mkdir)
  return fails_below("create", AT_FDCWD, a) ? -1 : real(a, m);
}
int mkdirat(int d, const char *a, mode_t m) {
  REAL(mkdirat)
  return fails_below("create", d, a) ? -1 : real(d, a, m);
}
int link(const char *a, const char *b) {
  REAL(link)
  return fails_below("create", AT_FDCWD, b) ? -1 : real(a, b);
}
int linkat(int d, const char *a, int e, const char *b, int f) {
  REAL(linkat)
  return fails_below("create", e, b) ? -1 : real(d, a, e, b, f);
}
int symlink(const char *a, const char *b) {
  REAL(symlink)
  return fails_below("create", AT_FDCWD, b) ? -1 : real(a, b);
}
int symlinkat(const char *a, int d, const char *b) {
  REAL(symlinkat)
  return fails_below("create", d, b) ? -1 : real(a, d, b);
}

#define OPEN(name) \
  int name(const char *path, int flags, ...) { \
    REAL(name) \
    va_list rest; \
    va_start(rest, flags); \
    mode_t mode = va_arg(rest, mode_t); \
    va_end(rest); \
    if ((flags & O_CREAT) != 0 && fails_below("create", AT_FDCWD, path)) return -1; \
    return real(path, flags, mode); \
  }
OPEN(open)
OPEN(open64)
#define OPENAT(name) \
  int name(int dir, const char *path, int flags, ...) { \
    REAL(name) \
    va_list rest; \
    va_start(rest, flags); \
    mode_t mode = va_arg(rest, mode_t); \
    va_end(rest); \
    if ((flags & O_CREAT) != 0 && fails_below("create", dir, path)) return -1; \
    return real(dir, path, flags, mode); \
  }
OPENAT(openat)
OPENAT(openat64)

long syscall(long number, ...) {
  REAL(syscall)
  va_list rest;
  va_start(rest, number);
  long a = va_arg(rest, long), b = va_arg(rest, long), c = va_arg(rest, long);
  long d = va_arg(rest, long), e = va_arg(rest, long), f = va_arg(rest, long);
  va_end(rest);
  /* fsopen … fsmount, open_tree, move_mount: any of them is an act of mounting, of no path that is known here. */
  if (number == SYS_mount || (number >= 428 && number <= 432))
    if (fails_at("mount", part)) return -1;
  return real(number, a, b, c, d, e, f);
}

/* Those who look functions up by themselves get ours. */
void *dlsym(void *handle, const char *name) {
  static const struct {
    const char *name;
    void *function;
  } ours[] = {
#define OURS(name) {#name, (void *)name}
      OURS(read), OURS(write), OURS(fsync), OURS(fdatasync), OURS(syncfs), OURS(renameat2), OURS(mkdirat),
      OURS(linkat), OURS(symlinkat), OURS(openat), OURS(syscall), OURS(copy_file_range), OURS(fallocate),
  };
  if (handle != RTLD_NEXT)
    for (unsigned i = 0; i < sizeof ours / sizeof *ours; i++)
      if (strcmp(name, ours[i].name) == 0) return ours[i].function;
  return real_dlsym(handle, name);
}

/* A child that is given another environment gets ours back. */
static char **with_ours(char *const env[]) {
  static char *made[4096];
  unsigned n = 0;
  made[n++] = own_preload;
  made[n++] = own_faults;
  for (unsigned i = 0; env != NULL && env[i] != NULL && n < 4095; i++)
    if (strncmp(env[i], "LD_PRELOAD=", 11) != 0 && strncmp(env[i], "KERNEL_FAULTS=", 14) != 0) made[n++] = env[i];
  made[n] = NULL;
  return made;
}
int execvp(const char *file, char *const args[]) {
  REAL(execvp)
  if (state != NULL) environ = with_ours(environ);
  return real(file, args);
}
int execve(const char *file, char *const args[], char *const env[]) {
  REAL(execve)
  return real(file, args, state == NULL ? (char **)env : with_ours(env));
}

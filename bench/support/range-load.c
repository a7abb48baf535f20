/*
 * The load of bench/streaming.ts: keep-alive connections that each ask for one range (or one chunk) after another, from
 * one thread over epoll, because a client in a slower language would be what is measured.
 *
 *   range-load PORT CONNECTIONS WARMUP_S SECONDS LENGTH COUNT STATUS READ PATH [PID...]
 *
 * With STATUS 206 each request asks PATH for the LENGTH bytes at a random multiple of LENGTH below LENGTH * COUNT; with
 * STATUS 200 PATH holds one %08u for a random index below COUNT, and no range is sent. READ is `copy` (as a client that
 * wants the bytes) or `discard` (the kernel drops them: what the server can do when no client holds it back).
 *
 * Every response must have STATUS and a Content-Length of LENGTH; when copying, each body must also begin with its own
 * offset in the file as 8 bytes, little-endian, so that a wrong range cannot pass for a quick one.
 * Prints one line of JSON about the time after the warm-up; the CPU time is that of the processes PID... in that time.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { HEAD_MAX = 8192, READ_MAX = 256 * 1024 };

struct connection {
  int fd;
  uint64_t begun, left, offset;
  size_t head_length;
  int in_body, checked;
  char head[HEAD_MAX];
};

static int port, status_wanted, discards, pid_count;
static uint64_t length, count, bytes, requests, errors, reconnects, state = 88172645463325252ULL;
static const char *path;
static char **pids;
static uint32_t *samples;
static size_t sample_count, sample_space;
static int is_measuring;
static char buffer[READ_MAX];

static uint64_t now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + t.tv_nsec;
}

static uint64_t draw(void) {
  state ^= state << 13, state ^= state >> 7, state ^= state << 17;
  return state;
}

static double cpu_seconds(void) {
  double sum = 0;
  for (int i = 0; i < pid_count; i++) {
    char name[64], line[1024] = "";
    snprintf(name, sizeof name, "/proc/%s/stat", pids[i]);
    FILE *file = fopen(name, "r");
    if (!file) continue;
    if (fgets(line, sizeof line, file)) {
      unsigned long user, kernel;
      char *after = strrchr(line, ')');
      if (after && sscanf(after + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &kernel) == 2)
        sum += (double)(user + kernel) / sysconf(_SC_CLK_TCK);
    }
    fclose(file);
  }
  return sum;
}

static void ask(struct connection *c) {
  char request[1024], target[512];
  uint64_t index = draw() % count;
  int n;
  c->offset = index * length;
  if (status_wanted == 206)
    n = snprintf(request, sizeof request,
                 "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUser-Agent: range-load\r\nAccept: */*\r\n"
                 "Range: bytes=%llu-%llu\r\n\r\n",
                 path, port, (unsigned long long)c->offset, (unsigned long long)(c->offset + length - 1));
  else {
    snprintf(target, sizeof target, path, (unsigned)index);
    n = snprintf(request, sizeof request,
                 "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUser-Agent: range-load\r\nAccept: */*\r\n\r\n", target, port);
  }
  c->head_length = 0, c->in_body = 0, c->checked = 0, c->begun = now();
  if (write(c->fd, request, n) != n) errors++;
}

static void open_connection(struct connection *c, int poll) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
  struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
  int one = 1;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&address, sizeof address) < 0) {
    perror("connect");
    exit(1);
  }
  setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  fcntl(c->fd, F_SETFL, O_NONBLOCK);
  epoll_ctl(poll, EPOLL_CTL_ADD, c->fd, &event);
  ask(c);
}

static void reopen(struct connection *c, int poll) {
  reconnects++;
  close(c->fd);
  open_connection(c, poll);
}

static void finish(struct connection *c) {
  requests++;
  if (is_measuring) {
    if (sample_count == sample_space) {
      sample_space = sample_space ? sample_space * 2 : 65536;
      samples = realloc(samples, sample_space * sizeof *samples);
    }
    samples[sample_count++] = (uint32_t)((now() - c->begun) / 1000);
  }
  ask(c);
}

/* The bytes of a body that came with its head, or by copying reads. */
static void check_body(struct connection *c, const char *data, size_t n) {
  uint64_t found;
  if (c->checked || n < sizeof found) return;
  memcpy(&found, data, sizeof found);
  if (found != c->offset) errors++;
  c->checked = 1;
}

/* Takes what a read brought; returns 0 when the connection is of no more use. */
static int take_head(struct connection *c, const char *data, size_t n) {
  size_t before = c->head_length, room = HEAD_MAX - 1 - before, kept = n < room ? n : room;
  memcpy(c->head + before, data, kept);
  c->head_length += kept;
  c->head[c->head_length] = 0;
  char *end = strstr(c->head, "\r\n\r\n");
  if (!end) return kept == n;
  char *field = strcasestr(c->head, "\r\ncontent-length:");
  int status = atoi(c->head + 9);
  if (status != status_wanted || !field || field > end || strtoull(field + 17, 0, 10) != length) {
    if (errors == 0) fprintf(stderr, "unexpected answer:\n%.*s\n", (int)(end - c->head), c->head);
    errors++;
    return 0;
  }
  size_t rest = before + n - (end + 4 - c->head);
  c->in_body = 1;
  c->left = length - rest;
  bytes += rest;
  check_body(c, data + n - rest, rest);
  if (c->left == 0) finish(c);
  return 1;
}

static void on_readable(struct connection *c, int poll) {
  int skips = c->in_body && discards;
  /* A head is read with little beyond it, so that discarding discards nearly all. */
  size_t room = c->in_body ? (skips ? c->left : READ_MAX) : discards ? 2048 : READ_MAX;
  if (c->in_body && room > c->left) room = c->left;
  ssize_t n = recv(c->fd, buffer, room, skips ? MSG_TRUNC : 0);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (n <= 0) {
    if (c->in_body || c->head_length > 0) errors++;
    reopen(c, poll);
    return;
  }
  if (!c->in_body) {
    if (!take_head(c, buffer, n)) reopen(c, poll);
    return;
  }
  bytes += n;
  c->left -= n;
  if (!skips) check_body(c, buffer, n);
  if (c->left == 0) finish(c);
}

static int by_size(const void *a, const void *b) {
  uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
  return x < y ? -1 : x > y;
}

static uint32_t percentile(double part) {
  return sample_count ? samples[(size_t)(part * (sample_count - 1))] : 0;
}

int main(int argc, char **argv) {
  if (argc < 10) {
    fprintf(stderr, "usage: range-load PORT CONNECTIONS WARMUP_S SECONDS LENGTH COUNT STATUS READ PATH [PID...]\n");
    return 2;
  }
  port = atoi(argv[1]);
  int connections = atoi(argv[2]);
  uint64_t warmup = atof(argv[3]) * 1e9, span = atof(argv[4]) * 1e9;
  length = strtoull(argv[5], 0, 10), count = strtoull(argv[6], 0, 10), status_wanted = atoi(argv[7]);
  discards = strcmp(argv[8], "discard") == 0, path = argv[9];
  pids = argv + 10, pid_count = argc - 10;
  int poll = epoll_create1(EPOLL_CLOEXEC);
  struct connection *all = calloc(connections, sizeof *all);
  for (int i = 0; i < connections; i++) open_connection(&all[i], poll);

  uint64_t begun = now(), measured_from = 0, bytes_before = 0, requests_before = 0, ended;
  double cpu_before = 0;
  for (;;) {
    struct epoll_event events[256];
    int n = epoll_wait(poll, events, 256, 1000);
    for (int i = 0; i < n; i++) on_readable(events[i].data.ptr, poll);
    ended = now();
    if (!is_measuring && ended - begun >= warmup) {
      is_measuring = 1, bytes_before = bytes, requests_before = requests;
      cpu_before = cpu_seconds(), measured_from = now();
    } else if (is_measuring && ended - measured_from >= span) break;
    if (errors > 1000) break;
  }
  double cpu = cpu_seconds() - cpu_before, seconds = (ended - measured_from) / 1e9;
  struct timespec own;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &own);
  qsort(samples, sample_count, sizeof *samples, by_size);
  printf("{\"seconds\":%.4f,\"requests\":%llu,\"bytes\":%llu,\"server_cpu_s\":%.3f,\"p50_us\":%u,\"p99_us\":%u,"
         "\"max_us\":%u,\"errors\":%llu,\"reconnects\":%llu,\"client_cpu_s\":%.3f}\n",
         seconds, (unsigned long long)(requests - requests_before), (unsigned long long)(bytes - bytes_before), cpu,
         percentile(0.5), percentile(0.99), percentile(1), (unsigned long long)errors, (unsigned long long)reconnects,
         own.tv_sec + own.tv_nsec / 1e9);
  return errors > 0;
}

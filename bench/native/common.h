/* What the two native programs share: time, namespaces, cgroups and TCP sockets on fixed addresses. */
#ifndef BENCH_COMMON_H
#define BENCH_COMMON_H

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

/* Agrees with bench/wire.py. */
#define SERVER_ADDRESS "192.168.77.1"
#define FIRST_CLIENT 0x0a000003u
#define CLIENT_STEP 32

static inline uint64_t now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

__attribute__((noreturn)) static inline void die(const char *what)
{
	fprintf(stderr, "%s: %s\n", what, strerror(errno));
	exit(1);
}

static inline int open_namespace(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		die(path);
	return fd;
}

static inline void enter_namespace(int fd)
{
	if (setns(fd, CLONE_NEWNET))
		die("setns");
}

/* A socket keeps the cgroup that its creator was in: move before socket(). "-" leaves the process where it is. */
static inline void join_cgroup(const char *directory)
{
	char path[512];
	if (!strcmp(directory, "-"))
		return;
	snprintf(path, sizeof path, "%s/cgroup.procs", directory);
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, "0", 1) != 1)
		die(path);
	close(fd);
}

static inline void pin_to(int cpu)
{
	cpu_set_t set;
	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof set, &set))
		die("sched_setaffinity");
}

static inline void set_option(int fd, int level, int name, int value)
{
	if (setsockopt(fd, level, name, &value, sizeof value))
		die("setsockopt");
}

/* Closing sends a reset: no TIME_WAIT, and the conntrack entry goes after one second. */
static inline void reset_on_close(int fd)
{
	struct linger linger = {.l_onoff = 1, .l_linger = 0};
	if (setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger))
		die("SO_LINGER");
}

static inline int new_listener(int port)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
	if (fd < 0)
		die("socket");
	set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1);
	if (bind(fd, (struct sockaddr *)&address, sizeof address) || listen(fd, 4096))
		die("listen");
	return fd;
}

static inline int new_client(uint32_t address)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	struct sockaddr_in local = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(address)};
	if (fd < 0)
		die("socket");
	set_option(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1);
	reset_on_close(fd);
	if (bind(fd, (struct sockaddr *)&local, sizeof local))
		die("bind");
	return fd;
}

static inline struct sockaddr_in endpoint(const char *address, int port)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
	a.sin_addr.s_addr = inet_addr(address);
	return a;
}

#endif

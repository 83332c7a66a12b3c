/*
 * probes: connections that a policy change must not disturb, made as fast as one thread can.
 *
 *   probes CPU CLIENT_NS SERVER_NS PROCESS_CGROUP OTHER_CGROUP
 *
 * The rules under test live in SERVER_NS and, whatever their content at the moment, permit the process in
 * PROCESS_CGROUP to accept port 8080 and to connect to port 9090, and nothing else that is tried here. Every turn makes
 * five probes, each with a listener that would answer:
 *
 *   allowed in    client -> 8080       allowed out   PROCESS_CGROUP -> client 9090
 *   denied in     client -> 8081       denied out    PROCESS_CGROUP -> client 9091
 *   wrong process client -> 8082, where only PROCESS_CGROUP may accept and OTHER_CGROUP listens
 *
 * and a byte each way on one long-lived connection in and one out. An allowed connection is wrongly dropped when it is
 * not complete within PATIENCE_MS, or when either end had to retransmit: that is one lost packet, and needs no clock.
 * A denied one is wrongly allowed when its listener accepts it.
 *
 * Runs until its standard input ends. Prints a line every REPORT turns and one at the end:
 *   PROBES ALLOWED DENIED WRONGLY_DROPPED WRONGLY_ALLOWED EXCHANGES STALLED
 * and for each of the first MAX_TOLD wrong verdicts one to its standard error, in nanoseconds of CLOCK_MONOTONIC:
 *   FROM UNTIL WHAT
 */
#include "common.h"

#define PATIENCE_MS 900
#define CLIENTS 64
#define MAX_TOLD 100
#define REPORT 500
#define CLIENT_ADDRESS "192.168.77.2"

struct counts {
	uint64_t allowed, denied, wrongly_dropped, wrongly_allowed, exchanges, stalled;
};

struct connection {
	int near, far;
};

static struct counts counts;
static int client_ns, server_ns;

static int ready(int fd, short events)
{
	struct pollfd p = {.fd = fd, .events = events};
	return poll(&p, 1, PATIENCE_MS) == 1 && (p.revents & events) && !(p.revents & (POLLERR | POLLNVAL));
}

static struct tcp_info tcp_state(int fd)
{
	struct tcp_info info = {0};
	socklen_t length = sizeof info;
	if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length))
		die("TCP_INFO");
	return info;
}

static int pass_byte(int from, int to)
{
	char byte = 'x';
	return send(from, &byte, 1, MSG_NOSIGNAL) == 1 && ready(to, POLLIN) && recv(to, &byte, 1, 0) == 1;
}

static int round_trip(const struct connection *c)
{
	return pass_byte(c->near, c->far) && pass_byte(c->far, c->near) &&
	       tcp_state(c->near).tcpi_total_retrans == 0 && tcp_state(c->far).tcpi_total_retrans == 0;
}

static int connect_to(const char *address, int port, uint32_t from)
{
	struct sockaddr_in target = endpoint(address, port);
	int fd = new_client(from);
	if (connect(fd, (struct sockaddr *)&target, sizeof target) && errno != EINPROGRESS) {
		close(fd);
		return -1;
	}
	return fd;
}

static int accept_from(int listener)
{
	int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	if (fd >= 0)
		reset_on_close(fd);
	return fd;
}

static int open_connection(struct connection *c, int listener, const char *address, int port, uint32_t from)
{
	c->far = -1;
	c->near = connect_to(address, port, from);
	if (c->near >= 0 && ready(c->near, POLLOUT) && ready(listener, POLLIN))
		c->far = accept_from(listener);
	return c->near >= 0 && c->far >= 0;
}

static void close_connection(struct connection *c)
{
	if (c->near >= 0)
		close(c->near);
	if (c->far >= 0)
		close(c->far);
}

static void wrong(uint64_t since, const char *verdict, int port)
{
	static int told;
	if (told++ < MAX_TOLD)
		fprintf(stderr, "%lu %lu port %d %s\n", since, now_ns(), port, verdict);
}

static void probe_allowed(int listener, const char *address, int port, uint32_t from)
{
	struct connection c;
	uint64_t since = now_ns();
	counts.allowed++;
	if (!open_connection(&c, listener, address, port, from) || !round_trip(&c)) {
		counts.wrongly_dropped++;
		wrong(since, "dropped", port);
	}
	close_connection(&c);
	/* What came too late must not be taken for the next probe. */
	for (int late; (late = accept_from(listener)) >= 0;)
		close(late);
}

static void probe_denied(int listener, const char *address, int port, uint32_t from)
{
	uint64_t since = now_ns();
	int accepted, fd = connect_to(address, port, from);
	counts.denied++;
	uint64_t before = counts.wrongly_allowed;
	while ((accepted = accept_from(listener)) >= 0) {
		counts.wrongly_allowed++;
		close(accepted);
	}
	/* A SYN that got by and an answer that came back count too, though the listener never saw the last step. */
	if (fd >= 0 && counts.wrongly_allowed == before && tcp_state(fd).tcpi_state == TCP_ESTABLISHED)
		counts.wrongly_allowed++;
	if (counts.wrongly_allowed != before)
		wrong(since, "allowed", port);
	if (fd >= 0)
		close(fd);
}

static void exchange(struct connection *c, const char *what)
{
	uint64_t since = now_ns();
	counts.exchanges++;
	if (c->near < 0 || round_trip(c))
		return;
	fprintf(stderr, "%lu %lu long-lived connection %s stalled\n", since, now_ns(), what);
	counts.stalled++;
	close_connection(c);
	c->near = c->far = -1;
}

static void report(void)
{
	printf("%lu %lu %lu %lu %lu %lu %lu\n", counts.allowed + counts.denied, counts.allowed, counts.denied,
	       counts.wrongly_dropped, counts.wrongly_allowed, counts.exchanges, counts.stalled);
	fflush(stdout);
}

int main(int argc, char **argv)
{
	if (argc != 6) {
		fprintf(stderr, "usage: probes CPU CLIENT_NS SERVER_NS PROCESS_CGROUP OTHER_CGROUP\n");
		return 2;
	}
	pin_to(atoi(argv[1]));
	client_ns = open_namespace(argv[2]);
	server_ns = open_namespace(argv[3]);
	enter_namespace(server_ns);
	join_cgroup(argv[5]);
	int wrong_process = new_listener(8082);
	join_cgroup(argv[4]);
	int allowed_in = new_listener(8080), denied_in = new_listener(8081);
	enter_namespace(client_ns);
	int allowed_out = new_listener(9090), denied_out = new_listener(9091);

	struct connection in, out;
	if (!open_connection(&in, allowed_in, SERVER_ADDRESS, 8080, FIRST_CLIENT))
		die("long-lived connection in");
	enter_namespace(server_ns);
	if (!open_connection(&out, allowed_out, CLIENT_ADDRESS, 9090, INADDR_ANY))
		die("long-lived connection out");

	struct pollfd input = {.fd = STDIN_FILENO, .events = POLLIN};
	for (uint64_t turn = 0; !(turn % 64 == 0 && poll(&input, 1, 0) == 1); turn++) {
		uint32_t from = FIRST_CLIENT + (uint32_t)(turn % CLIENTS) * CLIENT_STEP;
		enter_namespace(client_ns);
		probe_allowed(allowed_in, SERVER_ADDRESS, 8080, from);
		probe_denied(denied_in, SERVER_ADDRESS, 8081, from);
		probe_denied(wrong_process, SERVER_ADDRESS, 8082, from);
		exchange(&in, "in");
		enter_namespace(server_ns);
		probe_allowed(allowed_out, CLIENT_ADDRESS, 9090, INADDR_ANY);
		probe_denied(denied_out, CLIENT_ADDRESS, 9091, INADDR_ANY);
		exchange(&out, "out");
		if (turn % REPORT == REPORT - 1)
			report();
	}
	report();
	return 0;
}

/*
 * connections: what a rule set costs a new connection.
 *
 *   connections SLICE_MS ROUNDS CPU CONFIG...
 *   CONFIG = NAME,CLIENT_NS,SERVER_NS,CLIENTS,STEP,CLIENT_CGROUP,SERVER_CGROUP,NFLOG_GROUP
 *
 * One thread, pinned to CPU, owns both ends, so no scheduler is in the way. Every configuration stays loaded and they
 * take turns in slices of SLICE_MS, forwards and backwards. One operation is connect, accept, a byte each way, close.
 * The client's address is drawn from CLIENTS addresses that lie STEP apart, so that lookups hit all of a large set.
 * "-" stands for no cgroup; NFLOG_GROUP -1 for no log listener.
 *
 * Prints one line a slice: ROUND NAME NANOSECONDS OPERATIONS FAILED, where NANOSECONDS is the mean of the operations between
 * the 40th and the 60th percentile: the median, less its grain.
 */
#include "common.h"

#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_log.h>
#include <linux/netlink.h>
#include <pthread.h>

#define PORT 8080
#define MAX_CONFIGS 32
#define MAX_OPERATIONS 1000000

struct config {
	char name[64], client_path[128], server_path[128], client_cgroup[256], server_cgroup[256];
	uint32_t clients, step;
	int nflog_group, client, server, listener;
};

static struct config configs[MAX_CONFIGS];
static uint32_t durations[MAX_OPERATIONS];
static uint64_t random_state = 88172645463325252u;

/* Marsaglia, Xorshift RNGs, 2003: enough to spread addresses, and cheap beside a system call. */
static uint64_t next_random(void)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return random_state;
}

static int compare(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
	return (x > y) - (x < y);
}

static void nflog_command(int fd, int group, uint16_t type, const void *data, uint16_t length)
{
	char buffer[128] = {0};
	struct nlmsghdr *header = (void *)buffer;
	struct nfgenmsg *family = NLMSG_DATA(header);
	struct nlattr *attribute = (void *)(family + 1);
	header->nlmsg_type = NFNL_SUBSYS_ULOG << 8 | NFULNL_MSG_CONFIG;
	header->nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
	family->res_id = htons((uint16_t)group);
	attribute->nla_type = type;
	attribute->nla_len = (uint16_t)(NLA_HDRLEN + length);
	memcpy(attribute + 1, data, length);
	header->nlmsg_len = NLMSG_LENGTH(sizeof *family) + NLA_ALIGN(attribute->nla_len);
	char answer[1024];
	if (send(fd, buffer, header->nlmsg_len, 0) < 0 || recv(fd, answer, sizeof answer, 0) < 0)
		die("NFLOG");
	struct nlmsgerr *error = NLMSG_DATA((struct nlmsghdr *)answer);
	if (error->error) {
		errno = -error->error;
		die("NFLOG configuration");
	}
}

/* Listens as the agent does, on the other CPU: the log statement then has somebody to copy packets to. */
static void *nflog_thread(void *argument)
{
	const struct config *config = argument;
	static char buffer[1 << 17];
	enter_namespace(config->server);
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER);
	if (fd < 0)
		die("netlink socket");
	struct nfulnl_msg_config_cmd bind_group = {.command = NFULNL_CFG_CMD_BIND};
	struct nfulnl_msg_config_mode mode = {.copy_range = htonl(96), .copy_mode = NFULNL_COPY_PACKET};
	nflog_command(fd, config->nflog_group, NFULA_CFG_CMD, &bind_group, sizeof bind_group);
	nflog_command(fd, config->nflog_group, NFULA_CFG_MODE, &mode, 6);
	for (;;)
		if (recv(fd, buffer, sizeof buffer, 0) < 0 && errno != ENOBUFS)
			die("NFLOG receive");
	return NULL;
}

static void parse(struct config *c, const char *text)
{
	int n = sscanf(text, "%63[^,],%127[^,],%127[^,],%u,%u,%255[^,],%255[^,],%d", c->name, c->client_path,
		       c->server_path, &c->clients, &c->step, c->client_cgroup, c->server_cgroup, &c->nflog_group);
	if (n != 8 || c->clients == 0) {
		fprintf(stderr, "configuration not understood: %s\n", text);
		exit(2);
	}
}

static void prepare(struct config *c, int cpu)
{
	c->client = open_namespace(c->client_path);
	c->server = open_namespace(c->server_path);
	join_cgroup(c->server_cgroup);
	enter_namespace(c->server);
	c->listener = new_listener(PORT);
	if (c->nflog_group >= 0) {
		pthread_t thread;
		pin_to(cpu ? 0 : 1);
		if (pthread_create(&thread, NULL, nflog_thread, c))
			die("pthread_create");
		pin_to(cpu);
	}
}

static int exchange(int client, int server)
{
	char byte;
	return send(client, "q", 1, MSG_NOSIGNAL) == 1 && recv(server, &byte, 1, 0) == 1 &&
	       send(server, "a", 1, MSG_NOSIGNAL) == 1 && recv(client, &byte, 1, 0) == 1;
}

static void slice(const struct config *c, int round, int milliseconds)
{
	struct sockaddr_in target = endpoint(SERVER_ADDRESS, PORT);
	uint64_t count = 0, failed = 0, start = now_ns(), end = start + (uint64_t)milliseconds * 1000000u;
	join_cgroup(c->client_cgroup);
	enter_namespace(c->client);
	while ((start = now_ns()) < end && count < MAX_OPERATIONS) {
		uint32_t number = (uint32_t)(next_random() % c->clients);
		int client = new_client(FIRST_CLIENT + number * c->step * CLIENT_STEP);
		connect(client, (struct sockaddr *)&target, sizeof target);
		int server = accept4(c->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
		if (server >= 0)
			reset_on_close(server);
		if (server < 0 || !exchange(client, server))
			failed++;
		close(client);
		if (server >= 0)
			close(server);
		durations[count++] = (uint32_t)(now_ns() - start);
	}
	if (round < 0)
		return;
	qsort(durations, count, sizeof *durations, compare);
	uint64_t low = count * 2 / 5, high = count * 3 / 5 + 1, sum = 0;
	for (uint64_t i = low; i < high; i++)
		sum += durations[i];
	printf("%d %s %.1f %lu %lu\n", round, c->name, (double)sum / (double)(high - low), count, failed);
}

int main(int argc, char **argv)
{
	if (argc < 5 || argc - 4 > MAX_CONFIGS) {
		fprintf(stderr, "usage: connections SLICE_MS ROUNDS CPU CONFIG...\n");
		return 2;
	}
	int milliseconds = atoi(argv[1]), rounds = atoi(argv[2]), cpu = atoi(argv[3]), count = argc - 4;
	pin_to(cpu);
	for (int i = 0; i < count; i++) {
		parse(&configs[i], argv[4 + i]);
		prepare(&configs[i], cpu);
	}
	/* Round -1 warms the caches and is not reported. */
	for (int round = -1; round < rounds; round++)
		for (int k = 0; k < count; k++)
			slice(&configs[round & 1 ? count - 1 - k : k], round, milliseconds);
	fflush(stdout);
	_exit(0);
}

/*
 * resolve.c
 *		getaddrinfo for tests, to be preloaded: names under .test are looked up here.
 *		And the machine has the address OWN, and cannot reach NOWHERE.
 *
 *	slow.test		takes a minute
 *	none.test		is none
 *	private.test	is 127.0.0.1
 *	rebind.test		is an address that leads nowhere when it is asked for first, and
 *					127.0.0.1 afterwards
 *
 * All others are looked up as ever.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <ifaddrs.h>
#include <netdb.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* addresses that could be anybody's */
#define NOWHERE	"8.9.10.11"
#define OWN		"8.9.10.12"

typedef int (*Connect) (int, const struct sockaddr *, socklen_t);
typedef int (*Lookup) (const char *, const char *, const struct addrinfo *, struct addrinfo **);

int
getaddrinfo(const char *name, const char *service, const struct addrinfo *hints, struct addrinfo **result)
{
	static int	asked = 0;
	Lookup		lookup = (Lookup) dlsym(RTLD_NEXT, "getaddrinfo");

	if (name != NULL && strcmp(name, "slow.test") == 0)
	{
		sleep(60);
		return EAI_NONAME;
	}
	if (name != NULL && strcmp(name, "none.test") == 0)
		return EAI_NONAME;
	if (name != NULL && strcmp(name, "private.test") == 0)
		name = "127.0.0.1";
	if (name != NULL && strcmp(name, "rebind.test") == 0)
		name = asked++ == 0 ? NOWHERE : "127.0.0.1";
	return lookup(name, service, hints, result);
}

/* No route leads there. */
int
connect(int fd, const struct sockaddr *address, socklen_t length)
{
	Connect		original = (Connect) dlsym(RTLD_NEXT, "connect");

	if (address->sa_family == AF_INET && ((const struct sockaddr_in *) address)->sin_addr.s_addr == inet_addr(NOWHERE))
	{
		errno = ENETUNREACH;
		return -1;
	}
	return original(fd, address, length);
}

/* The machine has another address. */
int
getifaddrs(struct ifaddrs **result)
{
	static struct sockaddr_in address = {.sin_family = AF_INET};
	static struct ifaddrs own = {.ifa_name = (char *) "own", .ifa_addr = (struct sockaddr *) &address};

	address.sin_addr.s_addr = inet_addr(OWN);
	*result = &own;
	return 0;
}

void
freeifaddrs(struct ifaddrs *list)
{
}

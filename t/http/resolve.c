/*
 * resolve.c
 *		getaddrinfo for tests, to be preloaded: names under .test are looked up here.
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
#include <dlfcn.h>
#include <netdb.h>
#include <string.h>
#include <unistd.h>

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
	/* TEST-NET-3, which no route leads to */
	if (name != NULL && strcmp(name, "rebind.test") == 0)
		name = asked++ == 0 ? "203.0.113.1" : "127.0.0.1";
	return lookup(name, service, hints, result);
}

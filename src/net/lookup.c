/*
 * lookup.c
 *		Looking host names up in threads.
 *
 * What a thread touches is in its Lookup, which is not PostgreSQL's memory, and is freed
 * only when the thread has done with it: that is under the lock. All signals are blocked
 * in it, so that no handler of PostgreSQL's runs there.
 *
 * How many names are looked up at once is limited, for a role and in all: a thread whose
 * name server is silent stays for as long as the resolver has patience.
 */
#include "postgres.h"

#include <netdb.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/ilist.h"
#include "net/lookup.h"
#include "port.h"
#include "storage/fd.h"
#include "utils/timestamp.h"

#include <arpa/inet.h>

#define MAX_LOOKUPS		64		/* at once */
#define MAX_OF_ROLE		16
#define MAX_ADDRESSES	16		/* of a name */
#define ADDRESS_SIZE	72		/* with a scope */
#define FRESH			5000	/* ms that an answer is used again */
#define UNREAD			60000	/* ms that one is kept which nobody has had the patience for */
#define STACK_SIZE		(512 * 1024)

struct Lookup
{
	dlist_node	node;
	char		name[NI_MAXHOST];
	Oid			role;
	int			users;
	int			fd;				/* readable when it is done */
	bool		read;			/* somebody has had the answer */
	TimestampTz done_at;		/* when that was noticed; 0: it was not */
	/* the thread's, until finished: under the lock */
	bool		finished;
	int			count;
	char		addresses[MAX_ADDRESSES][ADDRESS_SIZE];
	char		error[128];
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static dlist_head lookups = DLIST_STATIC_INIT(lookups);

bool
lookup_is_needed(const char *host)
{
	struct in6_addr address;
	struct in_addr old;

	return host[0] != '\0' && host[0] != '/' && host[0] != '@' &&
		inet_aton(host, &old) == 0 && inet_pton(AF_INET6, host, &address) != 1;
}

static void *
look_up(void *arg)
{
	Lookup	   *lookup = arg;
	struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
	struct addrinfo *found = NULL;
	uint64		one = 1;
	int			count = 0;
	int			failed = getaddrinfo(lookup->name, NULL, &hints, &found);

	for (struct addrinfo *a = failed ? NULL : found; a != NULL && count < MAX_ADDRESSES; a = a->ai_next)
		if ((a->ai_family == AF_INET || a->ai_family == AF_INET6) &&
			getnameinfo(a->ai_addr, a->ai_addrlen, lookup->addresses[count], ADDRESS_SIZE, NULL, 0, NI_NUMERICHOST) == 0)
			count++;
	if (failed)
		strlcpy(lookup->error, gai_strerror(failed), sizeof(lookup->error));
	else
	{
		if (count == 0)
			strlcpy(lookup->error, "it has no address", sizeof(lookup->error));
		freeaddrinfo(found);
	}
	pthread_mutex_lock(&lock);
	lookup->count = count;
	lookup->finished = true;
	if (write(lookup->fd, &one, sizeof(one)) < 0)
	{
		/* it has room for one: that cannot be */
	}
	pthread_mutex_unlock(&lock);
	return NULL;
}

static bool
start_thread(Lookup *lookup)
{
	pthread_attr_t attributes;
	pthread_t	thread;
	sigset_t	all,
				former;
	bool		started;

	if (pthread_attr_init(&attributes) != 0)
		return false;
	pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&attributes, STACK_SIZE);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &former);
	started = pthread_create(&thread, &attributes, look_up, lookup) == 0;
	pthread_sigmask(SIG_SETMASK, &former, NULL);
	pthread_attr_destroy(&attributes);
	return started;
}

bool
lookup_done(Lookup *lookup)
{
	bool		finished;

	pthread_mutex_lock(&lock);
	finished = lookup->finished;
	pthread_mutex_unlock(&lock);
	if (finished && lookup->done_at == 0)
		lookup->done_at = GetCurrentTimestamp();
	return finished;
}

static void
free_lookup(Lookup *lookup)
{
	dlist_delete(&lookup->node);
	close(lookup->fd);
	ReleaseExternalFD();
	free(lookup);
}

/* Forget what is of no more use; count what is still being looked up. */
static void
sweep(Oid role, int *of_role, int *of_all)
{
	TimestampTz now = GetCurrentTimestamp();
	dlist_mutable_iter iter;

	*of_role = *of_all = 0;
	dlist_foreach_modify(iter, &lookups)
	{
		Lookup	   *lookup = dlist_container(Lookup, node, iter.cur);

		if (!lookup_done(lookup))
		{
			(*of_all)++;
			*of_role += lookup->role == role;
		}
		/* also when the clock was set back */
		else if (lookup->users == 0 &&
				 (now < lookup->done_at || now >= TimestampTzPlusMilliseconds(lookup->done_at, lookup->read ? FRESH : UNREAD)))
			free_lookup(lookup);
	}
}

static Lookup *
find_lookup(const char *name, Oid role)
{
	TimestampTz now = GetCurrentTimestamp();
	dlist_iter	iter;

	dlist_foreach(iter, &lookups)
	{
		Lookup	   *lookup = dlist_container(Lookup, node, iter.cur);

		if (lookup->role == role && strcmp(lookup->name, name) == 0 &&
			(!lookup_done(lookup) || !lookup->read || now < TimestampTzPlusMilliseconds(lookup->done_at, FRESH)))
			return lookup;
	}
	return NULL;
}

Lookup *
lookup_start(const char *name, Oid role, const char **why)
{
	int			of_role,
				of_all;
	Lookup	   *lookup;

	sweep(role, &of_role, &of_all);
	lookup = find_lookup(name, role);
	if (lookup != NULL)
	{
		lookup->users++;
		return lookup;
	}
	*why = "too many host names are being looked up";
	if (strlen(name) >= sizeof(lookup->name))
	{
		*why = "it is too long";
		return NULL;
	}
	if (of_all >= MAX_LOOKUPS || of_role >= MAX_OF_ROLE)
		return NULL;
	*why = "there are too many open files on the local server";
	if (!AcquireExternalFD())
		return NULL;
	*why = "there is no thread to look it up";
	lookup = calloc(1, sizeof(Lookup));
	if (lookup != NULL)
		lookup->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (lookup == NULL || lookup->fd < 0)
	{
		free(lookup);
		ReleaseExternalFD();
		return NULL;
	}
	strlcpy(lookup->name, name, sizeof(lookup->name));
	lookup->role = role;
	lookup->users = 1;
	dlist_push_tail(&lookups, &lookup->node);
	if (!start_thread(lookup))
	{
		free_lookup(lookup);
		return NULL;
	}
	return lookup;
}

pgsocket
lookup_socket(Lookup *lookup)
{
	return lookup->fd;
}

int
lookup_count(Lookup *lookup)
{
	lookup->read = true;
	return lookup->count;
}

const char *
lookup_address(Lookup *lookup, int i)
{
	return lookup->addresses[i];
}

const char *
lookup_error(Lookup *lookup)
{
	return lookup->error;
}

void
lookup_release(Lookup *lookup)
{
	lookup->users--;
}

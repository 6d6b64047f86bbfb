/*
 * lookup.h
 *		Addresses of host names, found without waiting.
 *
 * getaddrinfo may take as long as a name server that does not answer likes. It is called
 * in a thread, which knows nothing of PostgreSQL and is waited for as for a socket. Who
 * waits no more leaves it behind; the next one who wants the same name finds it.
 */
#ifndef DTX_LOOKUP_H
#define DTX_LOOKUP_H

#include "postgres.h"

#include "storage/latch.h"

typedef struct Lookup Lookup;

/* Is it a name that has to be looked up, and no address, or path of a socket? */
extern bool lookup_is_needed(const char *host);

/*
 * Look a name up, for a role. NULL, with *why: it cannot be now. To be given back with
 * lookup_release. Throws nothing.
 */
extern Lookup *lookup_start(const char *name, Oid role, const char **why);

/* Is it known? Until then its socket is not readable. */
extern bool lookup_done(Lookup *lookup);
extern pgsocket lookup_socket(Lookup *lookup);

/* When it is done: how many addresses there are, and each of them as text; with none of
 * them, why. */
extern int	lookup_count(Lookup *lookup);
extern const char *lookup_address(Lookup *lookup, int i);
extern const char *lookup_error(Lookup *lookup);

/* Not needed any more, done or not. */
extern void lookup_release(Lookup *lookup);

#endif							/* DTX_LOOKUP_H */

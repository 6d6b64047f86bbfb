/*
 * endpoint.h
 *		HTTP endpoints: servers of dtx_fdw with the option url.
 */
#ifndef DTX_ENDPOINT_H
#define DTX_ENDPOINT_H

#include "postgres.h"

#include "nodes/pg_list.h"

typedef struct Endpoint
{
	/* of the server */
	const char *url;
	bool		allow_private;	/* private and loopback addresses, too */
	int			timeout;		/* ms for a request; 0: not said */
	int			max_requests;	/* at once */
	const char *sslrootcert;	/* NULL: the system's */
	/* of the user mapping */
	List	   *keys;			/* WebhookKey *; NIL: requests are not signed */
	List	   *headers;		/* char *, "Name: value", beside those of the signature */
	List	   *secrets;		/* char *: what must not be shown, should an answer repeat it */
} Endpoint;

/* Is it an option of such a server, or of its mapping? */
extern bool endpoint_option_is_known(const char *keyword, bool in_mapping);

/* ERROR HV024 when it cannot have that value, which is not shown, 42501 when the
 * current role may not set it. */
extern void endpoint_option_check(const char *keyword, const char *value);

/* Has the server the option url? */
extern bool endpoint_is_http(Oid server);

/*
 * What a role sends to an endpoint with, palloc'd. ERROR 42704 without a user mapping,
 * 55000 when that has no secret, and does not say that it needs none.
 */
extern Endpoint *endpoint_load(Oid server, Oid role);

/* Blot secrets out of a text that is to be shown, also where it ends in the middle of one. */
extern void endpoint_redact(const Endpoint *endpoint, char *text);

#endif							/* DTX_ENDPOINT_H */

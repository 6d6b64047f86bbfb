/*
 * target.h
 *		Whom the worker notifies: a server, as a role.
 */
#ifndef DTX_WORKER_TARGET_H
#define DTX_WORKER_TARGET_H

#include "postgres.h"

#include "lib/ilist.h"
#include "net/endpoint.h"
#include "net/http.h"
#include "notify/notification.h"
#include "worker/link.h"

/* Notifications that were claimed together, and the memory they live in. */
typedef struct Claim
{
	MemoryContext context;
	int			left;			/* that were not recorded yet */
} Claim;

/* What an endpoint's options said, for as long as requests use it. */
typedef struct SharedEndpoint
{
	MemoryContext context;		/* of this, too */
	Endpoint   *endpoint;
	int			users;			/* calls, and the target */
} SharedEndpoint;

/* An attempt, from its claim to its record. */
typedef struct Call
{
	dlist_node	node;			/* in its target's calls */
	struct Target *target;
	Claim	   *claim;
	Notification *notification;
	SharedEndpoint *endpoint;	/* NULL: a database is called */
	bool		over;			/* it is known what came of it */
	List	   *headers;		/* char *, of an HTTP request */
	HttpRequest request;
} Call;

typedef struct Target
{
	dlist_node	node;
	TargetKey	key;
	uint32		bucket;
	bool		listed;			/* at the last discovery */
	/* what it is */
	bool		known;			/* the next two are as its options say */
	SharedEndpoint *endpoint;	/* NULL: a database, or nothing that can be called */
	char	   *broken;			/* NULL, or why it cannot be called */
	/* what keeps it from getting any */
	bool		disabled;
	TimestampTz not_before;		/* 0: no time */
	bool		stop_changed;	/* to be written down, for this reason */
	const char *stop_reason;
	bool		stop_recorded;	/* if the transaction that does it commits */
	bool		met_recorded;
	/* what there is for it */
	bool		look;			/* there may be something due */
	TimestampTz look_at;		/* when the next one is due; 0: none */
	TimestampTz from;			/* what was due before that is done with, but for what commits late */
	bool		late;			/* something may have committed a little late */
	TimestampTz wide_at;		/* not before that is looked for it */
	bool		unsure;			/* or much too late */
	TimestampTz full_at;
	dlist_head	calls;
	Size		typical;		/* bytes of a payload, of late */
	int			under_way;		/* those that are not over */
	TimestampTz last_end;		/* when one of them ended, or the first of them began */
	/* how many at once */
	int			window;
	bool		failed;			/* it did not answer the last time */
	/* a database */
	Link		link;
	bool		calling;
	char		met[DTX_NODE_SIZE];	/* a node that is to be noted; empty: none */
	int			singles;		/* so many are to be sent one by one */
} Target;

/* --- targets.c --- */

/* All that are known. What was chosen in a turn moves to the end. */
extern dlist_head targets;

/* Compare them with dtx.notification, in a transaction. True: there are new ones, and
 * what stops them is not known. */
extern bool targets_discover(void);

/* Read which of them want none, or none now; in a transaction. */
extern void targets_read_stops(void);

/* Write down which of them want none, or none now, and which node answered; a Job. */
extern void targets_record_stops(void *arg);

/* Read what its options say, in a transaction of its own; what is wrong with them is in
 * its broken. Requests that are under way have what they began with. */
extern void target_read_options(Target *target);

/* A call, or the target, needs this no more; NULL: nothing to drop. */
extern void endpoint_drop(SharedEndpoint *endpoint);

/* --- notifier.c, for target_db.c and target_http.c --- */

/* What came of a call is known: it is in its notification. */
extern void call_over(Call *call);

/* The same for all calls of a database that are under way: they have failed. */
extern void calls_failed(Target *target, const char *why);

/* Is it one that waits for a database's answer? */
static inline bool
call_is_open(const Call *call)
{
	return !call->over && call->endpoint == NULL;
}

/* Text into a call's memory, valid in this database's encoding. */
extern char *call_text(Call *call, const char *text, int size);

/* --- target_db.c: a database is called with a batch of them --- */

/* Call with what was claimed, connecting first if need be; go on with it. */
extern void target_db_start(Target *target, const char *origin);
extern void target_db_step(Target *target, const char *origin);

/* --- target_http.c: an endpoint gets a request for each --- */

/* Its body and headers, in the transaction that claims it: signing needs one. */
extern void target_http_prepare(Call *call, const char *origin);
extern void target_http_start(Call *call);
extern void target_http_done(HttpRequest *request);

#endif							/* DTX_WORKER_TARGET_H */

/*
 * subscription.h
 *		Subscriptions: who gets which messages, and how.
 */
#ifndef DTX_SUBSCRIPTION_H
#define DTX_SUBSCRIPTION_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "nodes/pg_list.h"

typedef struct Subscription
{
	int			id;
	int64		uid;
	const char *name;
	const char *topic;			/* or a pattern */
	Oid			server;			/* InvalidOid: this database */
	const char *handler;		/* NULL: messages are fetched */
	Oid			role;
	bool		ordered;
	int64	   *schedule;		/* ms before the second, third, ... attempt */
	int			nschedule;
	int			max_attempts;
	int			batch_size;
	bool		paused;
	int			generation;
	Datum		start;			/* pg_snapshot */
	int64		since_id;		/* 0: none */
	TimestampTz since_time;		/* DT_NOBEGIN: none */
	Datum		since_seen;		/* pg_snapshot: these are for what is over in it; 0: neither */
} Subscription;

/* All of them, a List of Subscription *, palloc'd. */
extern List *subscriptions_read(void);

/* Is it there still, and was it not moved? */
extern bool subscription_is_current(const Subscription *subscription);

/* As it is now, palloc'd; NULL: it has ended, or was moved. */
extern Subscription *subscription_now(const Subscription *subscription);

/* Is it the same one, not moved in between? */
extern bool subscription_is_same(const Subscription *a, const Subscription *b);

/* A copy in the current context. */
extern Subscription *subscription_copy(const Subscription *subscription);

/* One by name. ERROR 42704 when there is none, 42501 without the rights of its role. */
extern Subscription *subscription_get(const char *name);

/* The ms until the next attempt after that many have failed, with jitter. */
extern int64 subscription_delay(const Subscription *subscription, int attempts);

/* A subscription that only dtx makes, in the current transaction, unless there is one
 * of that topic: at server, as the current role, with a name like this one. */
extern void subscription_ensure(const char *name, const char *topic, Oid server, const char *handler);

#endif							/* DTX_SUBSCRIPTION_H */

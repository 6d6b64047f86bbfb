/*
 * undelivered.h
 *		Messages that a subscription has gone on without: to be tried again, waiting
 *		for others, dead, or leased.
 */
#ifndef DTX_UNDELIVERED_H
#define DTX_UNDELIVERED_H

#include "postgres.h"

#include "msg/handler.h"
#include "msg/message.h"
#include "msg/subscription.h"
#include "utils/hsearch.h"

/*
 * Those of a subscription as it is, for SQL whose first parameters are these: what is
 * left of messages that were skipped is none of it, and goes by and by.
 */
#define UNDELIVERED_OF \
	"subscription = $1 AND generation = $2 AND NOT pg_visible_in_snapshot(xid, $3)"
#define UNDELIVERED_TYPES	INT4OID, INT4OID, PG_SNAPSHOTOID
#define UNDELIVERED_VALUES(s) \
	Int32GetDatum((s)->id), Int32GetDatum((s)->generation), (s)->start

/* All of these in a transaction. */

/* Those that are due, the longest overdue first, at most that many: a List of
 * Message *, palloc'd. */
extern List *undelivered_due(const Subscription *subscription, int most);

/* When the next one is due; 0: none. */
extern TimestampTz undelivered_next(const Subscription *subscription);

/*
 * What became of messages, one Handled each: those that failed are kept, or become
 * dead letters; those that came from here (retried) and were handled go, and what
 * waits for them is due. Returns how many were handled.
 */
extern int	undelivered_record(const Subscription *subscription, List *messages, const Handled *handled,
							   bool retried);

/* Of an ordered subscription: what waits for messages that are gone is due. A dead letter
 * that somebody discards while its successor is being written down is not waited for by
 * that for ever. Returns how many. */
extern int	undelivered_release_waiting(const Subscription *subscription);

/* Lease a message from the log to a consumer until then; 0: it waits for others. */
extern void undelivered_lease(const Subscription *subscription, const Message *message, TimestampTz until);

/* The rows in SPI_tuptable: id, topic, key, payload, headers, published_at, attempts. */
extern List *undelivered_of_result(MemoryContext context);

/* Of an ordered subscription: mark messages from the log as skipped whose key has
 * undelivered messages. */
extern void undelivered_mark_waiting(const Subscription *subscription, List *messages, Handled *handled);

#endif							/* DTX_UNDELIVERED_H */

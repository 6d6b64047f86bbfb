/*
 * notification.h
 *		Notifications: results of business transactions, and whom they are told.
 *
 * A row of dtx.notification, one for each target and tx_no, is both the queue and what
 * dtx_outcome answers: it has to be there long after it was delivered.
 */
#ifndef DTX_NOTIFICATION_H
#define DTX_NOTIFICATION_H

#include "postgres.h"

#include "common/hashfn.h"
#include "core/shmem.h"
#include "datatype/timestamp.h"
#include "nodes/pg_list.h"

/* One that an attempt is made of, from its claim to its record. */
typedef struct Notification
{
	int64		id;
	char	   *tx_no;
	char	   *payload;		/* as text */
	int			attempts;		/* this one included */
	int			begun_with;		/* attempts before its schedule began */
	int64	   *schedule;		/* ms; NULL: the default */
	int			nschedule;
	TimestampTz notified_at;
	TimestampTz due_at;			/* its next_attempt, in the row, while it is called */
	/* what came of the attempt */
	bool		delivered;
	bool		refused;		/* for good */
	bool		postponed;		/* by retry_after: it was no attempt */
	int			status;			/* of HTTP; 0: none */
	int64		retry_after;	/* ms until it is to come again, at least; -1: not said */
	char	   *error;			/* palloc'd, in this database's encoding */
	char	   *answer;
	char		state;			/* that was, or is to be, recorded */
	bool		recorded;
} Notification;

#define TX_NO_SIZE		255		/* bytes, at most */

/* Load time. */
extern void notify_register(void);

/* ERROR 22023 unless it can be a tx_no. */
extern void tx_no_check(const char *tx_no);

/* Which of the database slot's counters is counted up for a target. */
static inline uint32
target_bucket(Oid server, Oid role)
{
	return hash_combine(murmurhash32(server), murmurhash32(role)) % DTX_TARGET_BUCKETS;
}

/* Deliver those of these (int8[]) that are exhausted again, with a new schedule; or give
 * those up that are exhausted or pending; as far as the current role may. Returns how
 * many. */
extern uint64 notifications_redeliver(Datum ids);
extern uint64 notifications_discard(Datum ids);

/* Is something pending, to be told or asked for, that needs the server (InvalidOid: any)
 * and the role (the same)? */
extern bool notifications_need(Oid server, Oid role);

/* --- in the worker, in a transaction --- */

typedef struct TargetKey
{
	Oid			server;
	Oid			role;
} TargetKey;

/* Those that have something to be delivered, now or later: a List of TargetKey *, palloc'd. */
extern List *notification_targets(void);

/* What keeps a target from getting any. */
typedef struct TargetStop
{
	TargetKey	key;
	bool		disabled;
	TimestampTz not_before;		/* 0: no time */
} TargetStop;

/* All of them: a List of TargetStop *, palloc'd. */
extern List *target_stops_read(void);

/* Disable a target, or note that it is to be left alone until then. False: somebody has its
 * row locked. */
extern bool target_stop(Oid server, Oid role, bool disable, TimestampTz not_before, const char *reason);

/* That node was found there: when it asks for a result, its own is meant. False as above. */
extern bool target_met(Oid server, Oid role, const char *node);

/*
 * Count an attempt of up to most that are due now, and at `from` at the earliest, which
 * are not among except: a List of Notification *, palloc'd in context. Short: there were
 * no more. The transaction has to be durable before they are called.
 */
extern List *notifications_claim(Oid server, Oid role, TimestampTz from, TimestampTz now, List *except, int most,
								 MemoryContext context);

/* When the first one is due, from those due at `from` on, that is not among except; 0:
 * none. */
extern TimestampTz notifications_next(Oid server, Oid role, TimestampTz from, List *except);

/* Record what came of attempts, of those whose rows nobody has locked: these are marked as
 * recorded. */
extern void notifications_record(List *notifications);

/* One whose attempts were cut off again and again has had enough. */
extern bool notification_is_worn_out(const Notification *notification);

/* Forget some of what was delivered long ago, was received, or was expected. True: there
 * may be more. */
extern bool notifications_prune(void);

#endif							/* DTX_NOTIFICATION_H */

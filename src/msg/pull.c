/*
 * pull.c
 *		Subscriptions without a handler: consumers fetch messages, and say when they
 *		are done.
 *
 * What is given out is leased: a row of dtx.undelivered says until when. Consumers
 * of a subscription work side by side: what one has taken in a transaction that is
 * still open (taken.h) the others leave out. They are one at a time for as long as
 * dtx_receive looks, by LOCK_CONSUMER, which is given back at its end.
 *
 * The position is moved by the first of them who is not done, in his transaction,
 * which has LOCK_SUBSCRIPTION until it ends; the others leave it where it is. So:
 *
 *	- a message that the position of the log has not passed, and that anybody has
 *	  taken, has a row, until the position has passed it;
 *	- the position passes what has a row that stays, and nothing else.
 *
 * Who does not move the position looks whether it is still the same each time before he
 * takes a message without a row: else that might have been taken, done, and passed.
 *
 * Messages of one key are given out in turn, where the subscription is ordered: one whose
 * key is somebody's stays in the log, or, where that is certain to stay so for a time,
 * waits in dtx.undelivered.
 */
#include "postgres.h"

#include <math.h>

#include "access/transam.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "core/api.h"
#include "core/clock.h"
#include "core/compat.h"
#include "core/locks.h"
#include "core/own_sql.h"
#include "core/participant.h"
#include "core/relations.h"
#include "core/shmem.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/condition_variable.h"
#include "storage/ipc.h"
#include "msg/deliver.h"
#include "msg/position.h"
#include "msg/receivers.h"
#include "msg/taken.h"
#include "msg/undelivered.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"
#include "utils/xid8.h"

PG_FUNCTION_INFO_V1(dtx_receive);
ENTRY_POINT(dtx_ack, 1);
ENTRY_POINT(dtx_nack, 1);

#define FETCH_BYTES		(64 * 1024 * 1024)
#define MAX_FETCH		10000

/* waiting longer than that would keep vacuum from its work: the caller's snapshot is kept */
#define MAX_WAIT		60000
#define WAIT_SLICE		5000	/* ms: who waits looks by himself, should he not be woken */
#define WAIT_PREPARED	1000	/* and where prepared transactions may have published */
#define RELEASE_TIME	1000	/* ms: what waits for its key is looked for at least that often */

static void
check_may_fetch(void)
{
	if (current_branch.active)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("messages cannot be fetched inside a branch")));
	PreventCommandIfReadOnly("fetching messages");
}

static Subscription *
subscription_to_fetch(const char *name)
{
	Subscription *subscription = subscription_get(name);

	if (subscription->handler != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("subscription \"%s\" has a handler", subscription->name),
				 errdetail("Its messages are delivered, not fetched.")));
	return subscription;
}

static void
put_message(ReturnSetInfo *rsinfo, const Message *message)
{
	Datum		values[7] = {0};
	bool		nulls[7] = {0};

	values[0] = Int64GetDatum(message->id);
	values[1] = CStringGetTextDatum(message->topic);
	values[2] = PointerGetDatum(message->key);
	nulls[2] = message->key == NULL;
	values[3] = PointerGetDatum(message->payload);
	values[4] = PointerGetDatum(message->headers);
	nulls[4] = message->headers == NULL;
	values[5] = TimestampTzGetDatum(message->published_at);
	values[6] = Int32GetDatum(message->attempts);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/* What a call of dtx_receive asks for, and has got. */
typedef struct Receive
{
	ReturnSetInfo *rsinfo;
	const char *name;
	Interval   *visibility;
	int			most;
	int			count;
	bool		may_wait;		/* as long as there is nothing it may look again */

	/* where it reads on, since it looked last: kept in the call's context */
	MemoryContext context;
	MemoryContext of_place;		/* child, or NULL */
	Position   *place;			/* NULL: nowhere yet */
	Position	row;			/* of which row that is: its tid and writer */
	Datum		start;
	TimestampTz due;			/* when a lease ends, or something given back is due; 0: nothing is */
} Receive;

static TimestampTz
lease_end(const Receive *receive)
{
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz until = DatumGetTimestampTz(DirectFunctionCall2(timestamptz_pl_interval, TimestampTzGetDatum(now),
																IntervalPGetDatum(receive->visibility)));

	if (until <= now)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("visibility must be positive")));
	return until;
}

/* Give out again what came back, or whose lease is over; or let it die. What others are
 * at is left out. Returns how many. */
static int
fetch_returned(Receive *receive, const Subscription *subscription)
{
	static SPIPlanPtr bury = NULL;
	static SPIPlanPtr give = NULL;
	Oid			types[] = {UNDELIVERED_TYPES, INT4OID, INT4OID, TIMESTAMPTZOID};
	Datum		values[] = {UNDELIVERED_VALUES(subscription), Int32GetDatum(subscription->max_attempts),
		Int32GetDatum(receive->most - receive->count),
	TimestampTzGetDatum(lease_end(receive))};
	List	   *messages;
	ListCell   *cell;
	MemoryContext context = CurrentMemoryContext;
	OwnSql		sql;

	own_sql_begin(&sql);
	(void) own_sql_saved(&bury, "UPDATE dtx.undelivered SET state = 'd', changed_at = clock_timestamp(),"
						 " last_error = coalesce(last_error, 'it was not acknowledged in time')"
						 " WHERE subscription = $1 AND generation = $2 AND id = ANY (ARRAY(SELECT id FROM dtx.undelivered"
						 " WHERE " UNDELIVERED_OF " AND state = 'l' AND next_attempt <= clock_timestamp() AND attempts >= $4"
						 " FOR UPDATE SKIP LOCKED))", 4, types, values, NULL);
	stat_add(STAT_MESSAGES_DEAD, SPI_processed);
	(void) own_sql_saved(&give, "WITH due AS (SELECT id FROM dtx.undelivered WHERE " UNDELIVERED_OF
						 " AND state IN ('l', 'r') AND next_attempt <= clock_timestamp() ORDER BY id LIMIT $5 FOR UPDATE SKIP LOCKED),"
						 " again AS (UPDATE dtx.undelivered u SET state = 'l', attempts = u.attempts + 1, next_attempt = $6,"
						 " changed_at = clock_timestamp() FROM due WHERE u.subscription = $1 AND u.generation = $2 AND u.id = due.id AND $4 IS NOT NULL"
						 " RETURNING u.id, u.topic, u.key, u.payload, u.headers, u.published_at, u.attempts)"
						 " SELECT * FROM again ORDER BY id", lengthof(types), types, values, NULL);
	messages = undelivered_of_result(context);
	own_sql_end(&sql);
	foreach(cell, messages)
		put_message(receive->rsinfo, lfirst(cell));
	receive->count += list_length(messages);
	return list_length(messages);
}

/* --- from the log --- */

/* One look into the log. */
typedef struct Look
{
	Receive    *receive;
	const Subscription *subscription;
	bool		moves;			/* this transaction moves the position */
	Position   *row;			/* NULL: there is none */
	Taken		taken;
	Reader	   *reader;
	List	   *left;			/* keys of messages that stay in the log */
	Position   *stop;			/* NULL, or: the position may not go further */
	int64		passed;			/* how many given out before that */
	bool		began_anew;		/* the position was moved meanwhile */
} Look;

static bool
is_left(const Look *look, text *key)
{
	ListCell   *cell;

	foreach(cell, look->left)
	{
		text	   *other = lfirst(cell);

		if (VARSIZE_ANY_EXHDR(other) == VARSIZE_ANY_EXHDR(key) &&
			memcmp(VARDATA_ANY(other), VARDATA_ANY(key), VARSIZE_ANY_EXHDR(key)) == 0)
			return true;
	}
	return false;
}

/* Of a message that has been looked at: there may be many more. */
static void
free_content(Message *message)
{
	pfree(message->payload);
	if (message->headers != NULL)
		pfree(message->headers);
	message->payload = message->headers = NULL;
}

static void
leave_key(Look *look, Message *message)
{
	if (message->key != NULL && !is_left(look, message->key))
		look->left = lappend(look->left, message->key);
	free_content(message);
}

/* The message that comes next stays in the log, or may come back to it; and those of its key
 * after it: should it come back just now they were out of turn. Of a subscription that is
 * ordered it is read for that. */
static void
leave(Look *look)
{
	List	   *messages;

	if (look->stop == NULL)
	{
		look->stop = palloc0(sizeof(Position));
		reader_before(look->reader, look->stop);
	}
	if (!look->subscription->ordered)
		return;
	messages = reader_next(look->reader, 1, 1);
	if (messages != NIL)
		leave_key(look, linitial(messages));
}

/* May a message be given out, as far as its key goes? *waits: it is to wait for others. */
static bool
is_its_turn(Look *look, Message *message, bool *waits)
{
	TakenState	state;

	*waits = false;
	if (!look->subscription->ordered || message->key == NULL)
		return true;
	state = is_left(look, message->key) ? TAKEN_OPEN : taken_key(&look->taken, message->key);
	if (state == TAKEN_NO)
		return true;
	/* who has nothing yet writes nothing: he may go on waiting */
	*waits = state == TAKEN_YES && !(look->receive->may_wait && look->receive->count == 0);
	if (!*waits)
		leave_key(look, message);
	return false;
}

/* The message that is next, which has no row. False: begin anew. */
static bool
take(Look *look, int64 id, Size *bytes)
{
	Position	before = {0};
	List	   *messages;
	Message    *message;
	bool		waits;

	if (!look->moves && !position_is_unmoved(look->row))
		return false;
	if (look->stop == NULL)
		reader_before(look->reader, &before);
	messages = reader_next(look->reader, 1, 1);
	message = messages == NIL ? NULL : linitial(messages);
	if (message == NULL || message->id != id)
		return false;
	if (!is_its_turn(look, message, &waits) && !waits)
	{
		if (look->stop == NULL)
		{
			look->stop = palloc(sizeof(Position));
			*look->stop = before;
		}
		return true;
	}
	undelivered_lease(look->subscription, message, waits ? 0 : lease_end(look->receive));
	if (waits)
	{
		free_content(message);
		return true;
	}
	message->attempts = 1;
	put_message(look->receive->rsinfo, message);
	look->receive->count++;
	look->passed += look->stop == NULL;
	*bytes += VARSIZE_ANY(message->payload) + (message->headers != NULL ? VARSIZE_ANY(message->headers) : 0);
	free_content(message);
	return true;
}

static void
take_from_log(Look *look)
{
	Receive    *receive = look->receive;
	Size		bytes = 0;
	int64		id;

	while (receive->count < receive->most && bytes < FETCH_BYTES && (id = reader_peek(look->reader)) != 0)
	{
		TakenState	state = taken_message(&look->taken, id);

		CHECK_FOR_INTERRUPTS();
		if (state == TAKEN_NO)
		{
			if (!take(look, id, &bytes))
			{
				look->began_anew = true;
				return;
			}
			continue;
		}
		if (state == TAKEN_OPEN)
			leave(look);
		else if (look->stop == NULL)
			look->passed += look->taken.state != 'w';
		if (state != TAKEN_OPEN || !look->subscription->ordered)
			reader_skip(look->reader);
	}
}

/* Where it reads on: where it was, unless the position was moved. */
static Position *
place_to_go_on(Receive *receive, const Subscription *subscription, const Position *row)
{
	bool		moved;

	if (receive->place != NULL && row != NULL && ItemPointerEquals(&receive->row.tid, unconstify(ItemPointerData *, &row->tid)) &&
		row->writer == receive->row.writer && receive->place->generation == subscription->generation &&
		datumIsEqual(receive->start, subscription->start, false, -1))
	{
		Position   *place = palloc(sizeof(Position));

		*place = *receive->place;
		return place;
	}
	return position_to_go_on(subscription, row, &moved);
}

static void
keep_place(Receive *receive, const Subscription *subscription, const Position *position, const Position *row)
{
	MemoryContext fresh;
	MemoryContext old;

	if (row == NULL)
		return;
	fresh = AllocSetContextCreate(receive->context, "dtx place", ALLOCSET_SMALL_SIZES);
	old = MemoryContextSwitchTo(fresh);
	receive->place = palloc(sizeof(Position));
	*receive->place = *position;
	receive->place->last_error = position->last_error == NULL ? NULL : pstrdup(position->last_error);
	receive->place->passed = passed_copy(position->passed);
	receive->place->upto = position->upto == NULL ? NULL : passed_copy(position->upto);
	receive->row = *row;
	receive->start = datumCopy(subscription->start, false, -1);
	MemoryContextSwitchTo(old);
	/* position may have had parts of the former one */
	if (receive->of_place != NULL)
		MemoryContextDelete(receive->of_place);
	receive->of_place = fresh;
}

/* What is done and was passed needs no row any more. */
static void
sweep(const Subscription *subscription, const Position *position)
{
	static SPIPlanPtr plan = NULL;
	Oid			types[] = {INT4OID, INT4OID, PG_SNAPSHOTOID, PG_SNAPSHOTOID, INT8OID};
	Datum		values[] = {Int32GetDatum(subscription->id), Int32GetDatum(subscription->generation),
		passed_to_datum(position->passed), position->upto == NULL ? (Datum) 0 : passed_to_datum(position->upto),
	Int64GetDatum(position->cursor)};
	char		nulls[] = "     ";
	OwnSql		sql;

	if (position->upto == NULL)
		nulls[3] = 'n';
	own_sql_begin(&sql);
	(void) own_sql_saved(&plan, "DELETE FROM dtx.undelivered WHERE subscription = $1 AND generation = $2 AND id = ANY (ARRAY(SELECT id"
						 " FROM dtx.undelivered WHERE subscription = $1 AND generation = $2 AND state = 'k'"
						 " AND (pg_visible_in_snapshot(xid, $3) OR ($4 IS NOT NULL AND id <= $5 AND pg_visible_in_snapshot(xid, $4)))"
						 " FOR UPDATE SKIP LOCKED))", lengthof(types), types, values, nulls);
	note_garbage(SPI_processed);
	own_sql_end(&sql);
}

/* Write down where the subscription stands, and so does it now. */
static void
move_position(Look *look, Position *position, int64 counted)
{
	position_count(position, counted);
	if (look->row == NULL)
		position_insert(position);
	else
		position_update(position);
	/* that may have been marked while another passed it */
	sweep(look->subscription, position);
}

/* Of an ordered subscription: somebody may have been done with a message while that which
 * waits for it was being written down. Not at each look: there may be many keys. */
static bool
is_time_to_release(const Receive *receive)
{
	static int64 last = 0;
	int64		now = clock_monotonic();

	if (receive->count > 0 && now < last + RELEASE_TIME * INT64CONST(1000))
		return false;
	last = now;
	return true;
}

/* False: look again. */
static bool
fetch_new(Receive *receive, const Subscription *subscription)
{
	Look		look = {.receive = receive, .subscription = subscription};
	Position   *position;
	int			returned;

	look.moves = subscription_try_lock(subscription->uid);
	look.row = position_read(subscription->id);
	/* dtx_subscribe has made it: somebody must have deleted it, and who moves it makes it anew */
	if (look.row == NULL && !look.moves)
		return true;
	position = place_to_go_on(receive, subscription, look.row);
	look.reader = reader_open(subscription, position, CurrentMemoryContext);
	taken_open(&look.taken, subscription);
	take_from_log(&look);
	taken_close(&look.taken);
	if (look.began_anew)
		receive->place = NULL;
	else
	{
		if (look.stop != NULL)
		{
			position->passed = look.stop->passed;
			position->upto = look.stop->upto;
			position->cursor = look.stop->cursor;
		}
		else
			reader_position(look.reader, position);
		keep_place(receive, subscription, position, look.row);
	}
	reader_close(look.reader);
	returned = subscription->ordered && receive->count < receive->most && is_time_to_release(receive) &&
		undelivered_release_waiting(subscription) > 0 ? fetch_returned(receive, subscription) : 0;
	if (look.moves && !look.began_anew && (receive->count > 0 || !receive->may_wait))
		move_position(&look, position, look.passed + returned);
	else if (look.moves)
		own_unlock(LOCK_SUBSCRIPTION, subscription->uid, ExclusiveLock);
	return !look.began_anew || receive->count > 0;
}

/* When a lease ends, or something given back is due; 0: nothing. What is due by now is in
 * somebody's hands, whose end is told. */
static TimestampTz
next_due(const Subscription *subscription)
{
	static SPIPlanPtr plan = NULL;
	Oid			types[] = {UNDELIVERED_TYPES};
	Datum		values[] = {UNDELIVERED_VALUES(subscription)};
	TimestampTz due = 0;
	bool		isnull;
	OwnSql		sql;

	own_sql_begin(&sql);
	if (own_sql_saved(&plan, "SELECT next_attempt FROM dtx.undelivered WHERE " UNDELIVERED_OF " AND state IN ('l', 'r')"
					  " AND next_attempt > clock_timestamp() ORDER BY next_attempt LIMIT 1", lengthof(types), types, values, NULL) > 0)
		due = DatumGetTimestampTz(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	own_sql_end(&sql);
	return due;
}

/* Look once for what there is. */
static void
fetch(Receive *receive)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "dtx receive", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	Subscription *subscription = subscription_to_fetch(receive->name);
	int64		uid = subscription->uid;

	(void) own_lock(LOCK_CONSUMER, uid, ExclusiveLock, true);
	/* who had it may have waited for dtx_seek, or for the end of it */
	subscription = subscription_to_fetch(receive->name);
	if (!subscription->paused && fetch_returned(receive, subscription) < receive->most)
		while (!fetch_new(receive, subscription))
			CHECK_FOR_INTERRUPTS();
	own_unlock(LOCK_CONSUMER, uid, ExclusiveLock);
	receive->due = receive->may_wait && receive->count == 0 ? next_due(subscription) : 0;
	if (receive->count > 0)
	{
		receivers_note_subscription(subscription->id);
		stat_add(STAT_MESSAGES_DELIVERED, receive->count);
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}

/* --- waiting --- */

typedef struct Waiting
{
	DatabaseSlot *slot;
	Receivers  *receivers;
} Waiting;

/* Whatever ends it: the next one looks, who may have been meant to be woken instead. */
static void
stop_waiting(int code, Datum arg)
{
	Waiting    *waiting = (Waiting *) DatumGetPointer(arg);

	ConditionVariableCancelSleep();
	receivers_leave(waiting->slot, waiting->receivers);
}

/* ms until the next look, should nobody wake us. */
static long
time_to_sleep(const Receive *receive, DatabaseSlot *slot, int64 deadline)
{
	int64		remaining = (deadline - clock_monotonic() + 999) / 1000;
	int64		ms = Min(remaining, pg_atomic_read_u32(&slot->prepared) != 0 ? WAIT_PREPARED : WAIT_SLICE);

	if (receive->due != 0)
		ms = Min(ms, 1 + TimestampDifferenceMilliseconds(GetCurrentTimestamp(), receive->due));
	return (long) Max(ms, 1);
}

static void
wait_and_fetch(Receive *receive, int64 deadline)
{
	Subscription *subscription = subscription_to_fetch(receive->name);
	Waiting		waiting = {my_database_slot()};

	if (waiting.slot == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("dtx has no place for another database"),
				 errhint("Raise dtx.max_databases.")));
	waiting.receivers = receivers_enter(waiting.slot, subscription);
	PG_ENSURE_ERROR_CLEANUP(stop_waiting, PointerGetDatum(&waiting));
	{
		while (receive->count == 0 && receive->may_wait)
		{
			/* who publishes after this wakes us */
			ConditionVariablePrepareToSleep(&waiting.receivers->arrived);
			fetch(receive);
			if (receive->count == 0)
				(void) ConditionVariableTimedSleep(&waiting.receivers->arrived, time_to_sleep(receive, waiting.slot, deadline),
												   PG_WAIT_EXTENSION);
			CHECK_FOR_INTERRUPTS();
			receive->may_wait = clock_monotonic() < deadline;
		}
	}
	PG_END_ENSURE_ERROR_CLEANUP(stop_waiting, PointerGetDatum(&waiting));
	stop_waiting(0, PointerGetDatum(&waiting));
	/* the last look: it may write down where the subscription stands */
	if (receive->count == 0)
		fetch(receive);
}

/* How long to wait at most, in ms; 0: not at all. */
static int64
wait_time(const Interval *wait)
{
	double		ms = (((double) wait->month * DAYS_PER_MONTH + wait->day) * USECS_PER_DAY + (double) wait->time) / 1000.0;

	if (ms < 0 || ms > MAX_WAIT)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("wait must be between 0 and %d seconds", MAX_WAIT / 1000),
				 errhint("Who waits longer calls dtx_receive again, in another transaction.")));
	if (ms > 0 && IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_INAPPROPRIATE_ISOLATION_LEVEL_FOR_BRANCH_TRANSACTION),
				 errmsg("dtx_receive cannot wait in a transaction whose isolation level is not READ COMMITTED"),
				 errdetail("It would not see what others give back meanwhile.")));
	return (int64) ceil(ms);
}

/* dtx_receive(subscription text, max int4, visibility interval, wait interval) */
Datum
dtx_receive(PG_FUNCTION_ARGS)
{
	Receive		receive = {0};
	int64		wait;
	int64		begun = clock_monotonic();

	for (int i = 0; i < 4; i++)
		if (PG_ARGISNULL(i))
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("subscription, max, visibility and wait must not be null")));
	InitMaterializedSRF(fcinfo, 0);
	check_may_fetch();
	receive.rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	receive.context = CurrentMemoryContext;
	receive.name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	(void) subscription_to_fetch(receive.name);
	receive.most = PG_GETARG_INT32(1);
	if (receive.most < 1 || receive.most > MAX_FETCH)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("max must be between 1 and %d", MAX_FETCH)));
	receive.visibility = PG_GETARG_INTERVAL_P(2);
	(void) lease_end(&receive);
	wait = wait_time(PG_GETARG_INTERVAL_P(3));
	receive.may_wait = wait > 0;
	fetch(&receive);
	if (receive.may_wait && receive.count == 0)
		wait_and_fetch(&receive, begun + wait * 1000);
	return (Datum) 0;
}

/* --- what became of it --- */

/*
 * Messages of these that are the caller's to be done with: which the position has passed, and
 * which it has not, two arrays. What others are at is left out: nobody waits.
 */
static int
sort_out(const Subscription *subscription, Datum ids, Datum *passed, Datum *others)
{
	Oid			types[] = {UNDELIVERED_TYPES, INT8ARRAYOID};
	Datum		values[] = {UNDELIVERED_VALUES(subscription), ids};
	static SPIPlanPtr plan = NULL;
	uint64		count = own_sql_saved(&plan, "SELECT id, xid FROM dtx.undelivered WHERE " UNDELIVERED_OF " AND id = ANY ($4) AND state IN ('l', 'r')"
									  " AND attempts > 0 FOR UPDATE SKIP LOCKED", lengthof(types), types, values, NULL);
	bool		moved;
	/* after that: a message that is not passed here may be by now, and is swept away later */
	Position   *position = position_to_go_on(subscription, position_read(subscription->id), &moved);
	Datum	   *of_passed = palloc(Max(count, 1) * sizeof(Datum));
	Datum	   *of_others = palloc(Max(count, 1) * sizeof(Datum));
	int			npassed = 0;
	int			nothers = 0;

	for (uint64 i = 0; i < count; i++)
	{
		bool		isnull;
		Datum		id = SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &isnull);
		uint64		xid = U64FromFullTransactionId(DatumGetFullTransactionId(SPI_getbinval(SPI_tuptable->vals[i],
																						   SPI_tuptable->tupdesc, 2, &isnull)));

		if (passed_is_over(position->passed, xid) ||
			(position->upto != NULL && DatumGetInt64(id) <= position->cursor && passed_is_over(position->upto, xid)))
			of_passed[npassed++] = id;
		else
			of_others[nothers++] = id;
	}
	*passed = PointerGetDatum(construct_array(of_passed, npassed, INT8OID, 8, true, TYPALIGN_DOUBLE));
	*others = PointerGetDatum(construct_array(of_others, nothers, INT8OID, 8, true, TYPALIGN_DOUBLE));
	return nothers;
}

/* dtx_ack(subscription text, ids int8[]) */
static Datum
dtx_ack_given(PG_FUNCTION_ARGS)
{
	Subscription *subscription;
	Oid			types[] = {INT4OID, INT4OID, INT8ARRAYOID};
	Datum		values[3];
	Datum		not_passed;
	static SPIPlanPtr mark = NULL;
	static SPIPlanPtr remove = NULL;
	uint64		count;
	OwnSql		sql;

	/* array_agg of no message */
	if (PG_ARGISNULL(1))
		PG_RETURN_INT64(0);
	check_may_fetch();
	subscription = subscription_to_fetch(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	values[0] = Int32GetDatum(subscription->id);
	values[1] = Int32GetDatum(subscription->generation);
	own_sql_begin(&sql);
	if (sort_out(subscription, PG_GETARG_DATUM(1), &values[2], &not_passed) == 0)
		count = 0;
	else
	{
		Datum		marked[] = {values[0], values[1], not_passed};

		count = own_sql_saved(&mark, "UPDATE dtx.undelivered SET state = 'k', changed_at = clock_timestamp()"
							  " WHERE subscription = $1 AND generation = $2 AND id = ANY ($3)", lengthof(types), types, marked, NULL);
	}
	count += own_sql_saved(&remove, "DELETE FROM dtx.undelivered WHERE subscription = $1 AND generation = $2 AND id = ANY ($3)",
						   lengthof(types), types, values, NULL);
	own_sql_end(&sql);
	if (subscription->ordered)
		(void) undelivered_release_waiting(subscription);
	receivers_note_subscription(subscription->id);
	PG_RETURN_INT64((int64) count);
}

/* dtx_nack(subscription text, ids int8[], delay interval) */
static Datum
dtx_nack_given(PG_FUNCTION_ARGS)
{
	Subscription *subscription;
	Oid			types[] = {UNDELIVERED_TYPES, INT8ARRAYOID, INTERVALOID, INT4OID};
	uint64		count;
	OwnSql		sql;

	argument_required(fcinfo, 2);
	if (PG_ARGISNULL(1))
		PG_RETURN_INT64(0);
	check_may_fetch();
	subscription = subscription_to_fetch(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	own_sql_begin(&sql);
	{
		Datum		values[] = {UNDELIVERED_VALUES(subscription), PG_GETARG_DATUM(1), PG_GETARG_DATUM(2),
		Int32GetDatum(subscription->max_attempts)};

		count = own_sql("UPDATE dtx.undelivered SET next_attempt = clock_timestamp() + $5, changed_at = clock_timestamp(),"
						" last_error = 'it was given back',"
						" state = CASE WHEN attempts >= $6 THEN 'd' ELSE 'r' END::\"char\""
						" WHERE subscription = $1 AND generation = $2 AND id = ANY (ARRAY(SELECT id FROM dtx.undelivered"
						" WHERE " UNDELIVERED_OF " AND id = ANY ($4) AND state = 'l' FOR UPDATE SKIP LOCKED))",
						lengthof(types), types, values, NULL);
	}
	own_sql_end(&sql);
	receivers_note_subscription(subscription->id);
	PG_RETURN_INT64((int64) count);
}

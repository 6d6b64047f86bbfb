/*
 * pull.c
 *		Subscriptions without a handler: consumers fetch messages, and say when they
 *		are done.
 *
 * What is given out is leased: a row of dtx.undelivered says until when. Several
 * consumers share a subscription, one at a time while they fetch.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "core/compat.h"
#include "core/own_sql.h"
#include "core/participant.h"
#include "core/relations.h"
#include "core/shmem.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "msg/deliver.h"
#include "msg/position.h"
#include "msg/undelivered.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

PG_FUNCTION_INFO_V1(dtx_receive);
PG_FUNCTION_INFO_V1(dtx_ack);
PG_FUNCTION_INFO_V1(dtx_nack);

#define FETCH_BYTES		(64 * 1024 * 1024)
#define MAX_FETCH		10000

/* The subscription, whose consumers wait for this one until its transaction ends. */
static Subscription *
subscription_to_fetch(text *name)
{
	Subscription *subscription;

	if (current_branch.active)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("messages cannot be fetched inside a branch")));
	PreventCommandIfReadOnly("fetching messages");
	subscription = subscription_get(text_to_cstring(name));
	if (subscription->handler != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("subscription \"%s\" has a handler", subscription->name),
				 errdetail("Its messages are delivered, not fetched.")));
	subscription_lock(subscription->uid);
	/* who had it may have waited for dtx_seek, or ended it */
	return subscription_get(text_to_cstring(name));
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

/* Give out again what came back, or whose lease is over; or let it die. Returns how
 * many. */
static int
fetch_returned(ReturnSetInfo *rsinfo, const Subscription *subscription, int most, TimestampTz until)
{
	Oid			types[] = {UNDELIVERED_TYPES, INT4OID, INT4OID, TIMESTAMPTZOID};
	Datum		values[] = {UNDELIVERED_VALUES(subscription), Int32GetDatum(subscription->max_attempts), Int32GetDatum(most),
	TimestampTzGetDatum(until)};
	List	   *messages;
	ListCell   *cell;
	MemoryContext context = CurrentMemoryContext;
	OwnSql		sql;

	own_sql_begin(&sql);
	(void) own_sql("UPDATE dtx.undelivered SET state = 'd', changed_at = clock_timestamp(),"
				   " last_error = coalesce(last_error, 'it was not acknowledged in time')"
				   " WHERE " UNDELIVERED_OF " AND state = 'l' AND next_attempt <= clock_timestamp() AND attempts >= $4",
				   4, types, values, NULL);
	stat_add(STAT_MESSAGES_DEAD, SPI_processed);
	(void) own_sql("WITH due AS (SELECT id FROM dtx.undelivered WHERE " UNDELIVERED_OF
				   " AND state IN ('l', 'r') AND next_attempt <= clock_timestamp() ORDER BY id LIMIT $5),"
				   " again AS (UPDATE dtx.undelivered u SET state = 'l', attempts = u.attempts + 1, next_attempt = $6,"
				   " changed_at = clock_timestamp() FROM due WHERE u.subscription = $1 AND u.generation = $2 AND u.id = due.id AND $4 IS NOT NULL"
				   " RETURNING u.id, u.topic, u.key, u.payload, u.headers, u.published_at, u.attempts)"
				   " SELECT * FROM again ORDER BY id", lengthof(types), types, values, NULL);
	messages = undelivered_of_result(context);
	own_sql_end(&sql);
	foreach(cell, messages)
		put_message(rsinfo, lfirst(cell));
	return list_length(messages);
}

/* Is there an earlier one with the key of the i-th message? */
static bool
follows_its_like(List *messages, int i)
{
	Message    *message = list_nth(messages, i);

	for (int j = 0; j < i && message->key != NULL; j++)
	{
		Message    *other = list_nth(messages, j);

		if (other->key != NULL && VARSIZE_ANY_EXHDR(other->key) == VARSIZE_ANY_EXHDR(message->key) &&
			memcmp(VARDATA_ANY(other->key), VARDATA_ANY(message->key), VARSIZE_ANY_EXHDR(message->key)) == 0)
			return true;
	}
	return false;
}

/* Messages from the log. Returns how many; *more: there may be others. */
static int
fetch_new(ReturnSetInfo *rsinfo, const Subscription *subscription, Reader *reader, int most,
		  TimestampTz until, bool *more)
{
	List	   *messages = reader_next(reader, most, FETCH_BYTES);
	Handled    *handled = palloc0(Max(list_length(messages), 1) * sizeof(Handled));
	int			count = 0;

	*more = messages != NIL;
	if (subscription->ordered)
		undelivered_mark_waiting(subscription, messages, handled);
	for (int i = 0; i < list_length(messages); i++)
	{
		Message    *message = list_nth(messages, i);
		bool		waits = handled[i].skipped || (subscription->ordered && follows_its_like(messages, i));

		undelivered_lease(subscription, message, waits ? 0 : until);
		if (waits)
			continue;
		message->attempts = 1;
		put_message(rsinfo, message);
		count++;
	}
	return count;
}

/* dtx_receive(subscription text, max int4, visibility interval) */
Datum
dtx_receive(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Subscription *subscription;
	Position   *row;
	Position   *position;
	Reader	   *reader;
	TimestampTz until;
	int			most;
	int			count;
	bool		moved;
	bool		more = true;

	for (int i = 0; i < 3; i++)
		if (PG_ARGISNULL(i))
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("subscription, max and visibility must not be null")));
	InitMaterializedSRF(fcinfo, 0);
	subscription = subscription_to_fetch(PG_GETARG_TEXT_PP(0));
	most = PG_GETARG_INT32(1);
	if (most < 1 || most > MAX_FETCH)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("max must be between 1 and %d", MAX_FETCH)));
	until = DatumGetTimestampTz(DirectFunctionCall2(timestamptz_pl_interval,
													TimestampTzGetDatum(GetCurrentTimestamp()), PG_GETARG_DATUM(2)));
	if (until <= GetCurrentTimestamp())
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("visibility must be positive")));
	if (subscription->paused)
		return (Datum) 0;

	count = fetch_returned(rsinfo, subscription, most, until);
	row = position_read(subscription->id);
	position = position_to_go_on(subscription, row, &moved);
	if (row == NULL)
		position_insert(position);
	else if (moved)
		position_update(position);
	if (count == most)
		return (Datum) 0;
	reader = reader_open(subscription, position, CurrentMemoryContext);
	while (count < most && more)
	{
		int			fetched = fetch_new(rsinfo, subscription, reader, most - count, until, &more);

		count += fetched;
	}
	/* whom others wait for may have been discarded when these were written down */
	if (count == 0 && subscription->ordered && undelivered_release_waiting(subscription) > 0)
		count = fetch_returned(rsinfo, subscription, most, until);
	reader_position(reader, position);
	position_count(position, count);
	position_update(position);
	reader_close(reader);
	stat_add(STAT_MESSAGES_DELIVERED, count);
	return (Datum) 0;
}

/* dtx_ack(subscription text, ids int8[]) */
Datum
dtx_ack(PG_FUNCTION_ARGS)
{
	Subscription *subscription = subscription_to_fetch(PG_GETARG_TEXT_PP(0));
	Oid			types[] = {UNDELIVERED_TYPES, INT8ARRAYOID};
	Datum		values[] = {UNDELIVERED_VALUES(subscription), PG_GETARG_DATUM(1)};
	uint64		count;
	OwnSql		sql;

	own_sql_begin(&sql);
	count = own_sql("DELETE FROM dtx.undelivered WHERE " UNDELIVERED_OF " AND id = ANY ($4) AND state IN ('l', 'r')"
					" AND attempts > 0", lengthof(types), types, values, NULL);
	own_sql_end(&sql);
	if (subscription->ordered)
		(void) undelivered_release_waiting(subscription);
	PG_RETURN_INT64((int64) count);
}

/* dtx_nack(subscription text, ids int8[], delay interval) */
Datum
dtx_nack(PG_FUNCTION_ARGS)
{
	Subscription *subscription = subscription_to_fetch(PG_GETARG_TEXT_PP(0));
	Oid			types[] = {UNDELIVERED_TYPES, INT8ARRAYOID, INTERVALOID, INT4OID};
	Datum		values[] = {UNDELIVERED_VALUES(subscription), PG_GETARG_DATUM(1), PG_GETARG_DATUM(2),
	Int32GetDatum(subscription->max_attempts)};
	uint64		count;
	OwnSql		sql;

	own_sql_begin(&sql);
	count = own_sql("UPDATE dtx.undelivered SET next_attempt = clock_timestamp() + $5, changed_at = clock_timestamp(),"
					" last_error = 'it was given back',"
					" state = CASE WHEN attempts >= $6 THEN 'd' ELSE 'r' END::\"char\""
					" WHERE " UNDELIVERED_OF " AND id = ANY ($4) AND state = 'l'", lengthof(types), types, values, NULL);
	own_sql_end(&sql);
	PG_RETURN_INT64((int64) count);
}

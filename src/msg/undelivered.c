/*
 * undelivered.c
 *		dtx.undelivered: retries, what waits for them, and dead letters.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "core/compat.h"
#include "core/errors.h"
#include "core/own_sql.h"
#include "core/relations.h"
#include "core/shmem.h"
#include "msg/undelivered.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "utils/xid8.h"

/* The rows of a result: id, topic, key, payload, headers, published_at, attempts, and, if it
 * is there, whether that has ended a process. */
List *
undelivered_of_result(MemoryContext context)
{
	MemoryContext old = MemoryContextSwitchTo(context);
	List	   *messages = NIL;

	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple	tuple = SPI_tuptable->vals[i];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		Message    *message = palloc0(sizeof(Message));
		Datum		value;
		bool		isnull;

		message->id = DatumGetInt64(SPI_getbinval(tuple, desc, 1, &isnull));
		message->topic = TextDatumGetCString(SPI_getbinval(tuple, desc, 2, &isnull));
		value = SPI_getbinval(tuple, desc, 3, &isnull);
		message->key = isnull ? NULL : DatumGetTextPCopy(value);
		message->payload = DatumGetJsonbPCopy(SPI_getbinval(tuple, desc, 4, &isnull));
		value = SPI_getbinval(tuple, desc, 5, &isnull);
		message->headers = isnull ? NULL : DatumGetJsonbPCopy(value);
		message->published_at = DatumGetTimestampTz(SPI_getbinval(tuple, desc, 6, &isnull));
		message->attempts = DatumGetInt32(SPI_getbinval(tuple, desc, 7, &isnull));
		if (desc->natts > 7)
		{
			value = SPI_getbinval(tuple, desc, 8, &isnull);
			message->ended = !isnull && DatumGetBool(value);
		}
		messages = lappend(messages, message);
	}
	MemoryContextSwitchTo(old);
	return messages;
}

List *
undelivered_due(const Subscription *subscription, int most)
{
	MemoryContext context = CurrentMemoryContext;
	Oid			types[] = {UNDELIVERED_TYPES, INT4OID};
	Datum		values[] = {UNDELIVERED_VALUES(subscription), Int32GetDatum(most)};
	List	   *messages;
	OwnSql		sql;

	own_sql_begin(&sql);
	(void) own_sql("SELECT id, topic, key, payload, headers, published_at, attempts, last_error LIKE '57P02:%' FROM dtx.undelivered"
				   " WHERE " UNDELIVERED_OF " AND state = 'r' AND next_attempt <= clock_timestamp()"
				   " ORDER BY next_attempt, id LIMIT $4", lengthof(types), types, values, NULL);
	messages = undelivered_of_result(context);
	own_sql_end(&sql);
	return messages;
}

TimestampTz
undelivered_next(const Subscription *subscription)
{
	Oid			types[] = {UNDELIVERED_TYPES};
	Datum		values[] = {UNDELIVERED_VALUES(subscription)};
	TimestampTz next = 0;
	bool		isnull = true;
	Datum		value;
	OwnSql		sql;

	own_sql_begin(&sql);
	(void) own_sql("SELECT next_attempt FROM dtx.undelivered WHERE " UNDELIVERED_OF " AND state = 'r'"
				   " ORDER BY next_attempt LIMIT 1", lengthof(types), types, values, NULL);
	if (SPI_processed > 0)
	{
		value = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull);
		if (!isnull)
			next = DatumGetTimestampTz(value);
	}
	own_sql_end(&sql);
	return next;
}

static void
insert_row(const Subscription *subscription, const Message *message, char state, int attempts,
		   TimestampTz next_attempt, const char *error)
{
	Oid			types[] = {INT4OID, INT8OID, CHAROID, INT4OID, TIMESTAMPTZOID, TIMESTAMPTZOID, TEXTOID, TEXTOID,
	JSONBOID, JSONBOID, TEXTOID, INT4OID, XID8OID};
	Datum		values[] = {Int32GetDatum(subscription->id), Int64GetDatum(message->id), CharGetDatum(state),
		Int32GetDatum(attempts), TimestampTzGetDatum(next_attempt), TimestampTzGetDatum(message->published_at),
		CStringGetTextDatum(message->topic), PointerGetDatum(message->key), PointerGetDatum(message->payload),
		PointerGetDatum(message->headers), error != NULL ? CStringGetTextDatum(error) : (Datum) 0,
	Int32GetDatum(subscription->generation), FullTransactionIdGetDatum(FullTransactionIdFromU64(message->xid))};
	char		nulls[] = "             ";
	OwnSql		sql;

	if (next_attempt == 0)
		nulls[4] = 'n';
	if (message->key == NULL)
		nulls[7] = 'n';
	if (message->headers == NULL)
		nulls[9] = 'n';
	if (error == NULL)
		nulls[10] = 'n';
	own_sql_begin(&sql);
	(void) own_sql("INSERT INTO dtx.undelivered (subscription, id, state, attempts, next_attempt, changed_at,"
				   " published_at, topic, key, payload, headers, last_error, generation, xid)"
				   " VALUES ($1, $2, $3, $4, $5, clock_timestamp(), $6, $7, $8, $9, $10, $11, $12, $13)",
				   lengthof(types), types, values, nulls);
	own_sql_end(&sql);
}

void
undelivered_lease(const Subscription *subscription, const Message *message, TimestampTz until)
{
	if (until == 0)
		insert_row(subscription, message, 'w', 0, 0, NULL);
	else
		insert_row(subscription, message, 'l', 1, until, NULL);
}

static void
update_row(const Subscription *subscription, const Message *message, char state, int attempts,
		   TimestampTz next_attempt, const char *error)
{
	Oid			types[] = {INT4OID, INT8OID, CHAROID, INT4OID, TIMESTAMPTZOID, TEXTOID, INT4OID};
	Datum		values[] = {Int32GetDatum(subscription->id), Int64GetDatum(message->id), CharGetDatum(state),
		Int32GetDatum(attempts), TimestampTzGetDatum(next_attempt),
	error != NULL ? CStringGetTextDatum(error) : (Datum) 0, Int32GetDatum(subscription->generation)};
	char		nulls[] = "       ";
	OwnSql		sql;

	if (next_attempt == 0)
		nulls[4] = 'n';
	if (error == NULL)
		nulls[5] = 'n';
	own_sql_begin(&sql);
	(void) own_sql("UPDATE dtx.undelivered SET state = $3, attempts = $4, next_attempt = $5,"
				   " last_error = coalesce($6, last_error), changed_at = clock_timestamp()"
				   " WHERE subscription = $1 AND generation = $7 AND id = $2", lengthof(types), types, values, nulls);
	own_sql_end(&sql);
}

int
undelivered_release_waiting(const Subscription *subscription)
{
	Oid			types[] = {UNDELIVERED_TYPES};
	Datum		values[] = {UNDELIVERED_VALUES(subscription)};
	int			released;
	OwnSql		sql;

	own_sql_begin(&sql);
	/* the first one of each key, from one to the next; who holds such a row sees to it */
	released = (int) own_sql("WITH RECURSIVE first AS ("
							 "(SELECT key, id, state FROM dtx.undelivered WHERE " UNDELIVERED_OF " AND key IS NOT NULL AND state <> 'k'"
							 " ORDER BY key, id LIMIT 1) UNION ALL"
							 " SELECT n.key, n.id, n.state FROM first f CROSS JOIN LATERAL (SELECT key, id, state FROM dtx.undelivered"
							 " WHERE " UNDELIVERED_OF " AND key > f.key AND state <> 'k' ORDER BY key, id LIMIT 1) n)"
							 " UPDATE dtx.undelivered SET state = 'r', next_attempt = clock_timestamp(),"
							 " changed_at = clock_timestamp() WHERE subscription = $1 AND generation = $2 AND id = ANY (ARRAY(SELECT u.id FROM dtx.undelivered u"
							 " WHERE u.subscription = $1 AND u.generation = $2 AND u.state = 'w'"
							 " AND u.id = ANY (ARRAY(SELECT f.id FROM first f WHERE f.state = 'w')) FOR UPDATE SKIP LOCKED))",
							 lengthof(types), types, values, NULL);
	own_sql_end(&sql);
	return released;
}

/* Handled at last: what waits for it, if it was the last one before that, is due. */
static void
delete_row(const Subscription *subscription, const Message *message)
{
	Oid			types[] = {UNDELIVERED_TYPES, INT8OID, TEXTOID};
	Datum		values[] = {UNDELIVERED_VALUES(subscription), Int64GetDatum(message->id), PointerGetDatum(message->key)};
	char		nulls[] = "     ";
	OwnSql		sql;

	if (message->key == NULL)
		nulls[4] = 'n';
	own_sql_begin(&sql);
	(void) own_sql("DELETE FROM dtx.undelivered WHERE subscription = $1 AND generation = $2 AND id = $4"
				   " AND $3 IS NOT NULL AND $5 IS NOT DISTINCT FROM $5", lengthof(types), types, values, nulls);
	if (subscription->ordered && message->key != NULL)
		(void) own_sql("UPDATE dtx.undelivered SET state = 'r', next_attempt = clock_timestamp(), changed_at = clock_timestamp()"
					   " WHERE subscription = $1 AND generation = $2 AND key = $5 AND state = 'w'"
					   " AND id = (SELECT min(id) FROM dtx.undelivered WHERE " UNDELIVERED_OF " AND key = $5"
					   " AND $4 IS NOT NULL)", lengthof(types), types, values, NULL);
	own_sql_end(&sql);
}

static void
record_failure(const Subscription *subscription, const Message *message, const Handled *handled, bool retried)
{
	int			attempts = message->attempts + 1;
	char	   *error = psprintf("%s: %s", handled->state, handled->message);
	TimestampTz next = 0;
	char		state = 'r';

	if (strcmp(handled->state, DTX_REFUSED_STATE) == 0 ||
		(handled->retry_after < 0 && attempts >= subscription->max_attempts))
	{
		state = 'd';
		stat_add(STAT_MESSAGES_DEAD, 1);
	}
	else if (handled->retry_after >= 0)
	{
		/* it was put off, which is no failure */
		attempts = message->attempts;
		next = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), handled->retry_after);
	}
	else
		next = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), subscription_delay(subscription, attempts));
	stat_add(STAT_MESSAGES_FAILED, 1);
	if (retried)
		update_row(subscription, message, state, attempts, next, error);
	else
		insert_row(subscription, message, state, attempts, next, error);
}

int
undelivered_record(const Subscription *subscription, List *messages, const Handled *handled, bool retried)
{
	ListCell   *cell;
	int			count = 0;
	int			i = 0;

	foreach(cell, messages)
	{
		Message    *message = lfirst(cell);
		const Handled *h = &handled[i++];

		count += h->done;
		if (h->done && retried)
			delete_row(subscription, message);
		else if (h->skipped && !retried)
			insert_row(subscription, message, 'w', 0, 0, NULL);
		else if (h->skipped)
			update_row(subscription, message, 'w', message->attempts, 0, NULL);
		else if (!h->done)
			record_failure(subscription, message, h, retried);
	}
	return count;
}

void
undelivered_mark_waiting(const Subscription *subscription, List *messages, Handled *handled)
{
	MemoryContext context = CurrentMemoryContext;
	Oid			types[] = {UNDELIVERED_TYPES, TEXTARRAYOID};
	Datum		values[] = {UNDELIVERED_VALUES(subscription), 0};
	Datum	   *keys = palloc(Max(list_length(messages), 1) * sizeof(Datum));
	int			nkeys = 0;
	List	   *blocked = NIL;
	ListCell   *cell;
	OwnSql		sql;
	int			i = 0;

	foreach(cell, messages)
		if (((Message *) lfirst(cell))->key != NULL)
			keys[nkeys++] = PointerGetDatum(((Message *) lfirst(cell))->key);
	if (nkeys == 0)
		return;
	values[3] = PointerGetDatum(construct_array(keys, nkeys, TEXTOID, -1, false, TYPALIGN_INT));
	own_sql_begin(&sql);
	(void) own_sql("SELECT DISTINCT key FROM dtx.undelivered WHERE " UNDELIVERED_OF " AND key = ANY ($4)",
				   lengthof(types), types, values, NULL);
	for (uint64 row = 0; row < SPI_processed; row++)
	{
		MemoryContext old = MemoryContextSwitchTo(context);

		blocked = lappend(blocked, SPI_getvalue(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, 1));
		MemoryContextSwitchTo(old);
	}
	own_sql_end(&sql);
	foreach(cell, messages)
	{
		Message    *message = lfirst(cell);
		ListCell   *other;

		foreach(other, blocked)
			handled[i].skipped |= message->key != NULL &&
				strlen(lfirst(other)) == VARSIZE_ANY_EXHDR(message->key) &&
				memcmp(lfirst(other), VARDATA_ANY(message->key), VARSIZE_ANY_EXHDR(message->key)) == 0;
		i++;
	}
}

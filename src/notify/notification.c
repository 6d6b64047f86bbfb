/*
 * notification.c
 *		The worker's side of dtx.notification: claiming, and recording what came of it.
 *
 * An attempt is counted before it is made, durably: one that ends the process is
 * counted all the same. The time at which it was due stays in the row meanwhile. So
 * after a crash it is due still, and comes again; nothing has to be found out.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "core/own_sql.h"
#include "guc.h"
#include "msg/schedule.h"
#include "notify/notification.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

/* ms: 1, 5, 10, 30 minutes, 1, 2, 5, 10 hours after the attempt before */
static const int64 default_schedule[] = {60000, 300000, 600000, 1800000, 3600000, 7200000, 18000000, 36000000};

#define CUT_OFF			2		/* so many attempts beyond its schedule, when they were cut off */
#define PRUNE_ROWS		5000	/* at a time */

/*
 * Rows become due and are done with all the time: the index is what leads to the few
 * that count, whatever the statistics of a moment said when the plan was made. To a
 * planner that knows an empty table it costs nothing to read all of it. (Nor to read an
 * index from one end to the other: so no statement may have a use for its order, but by
 * what it asks for.)
 */
static void
own_sql_begin_by_index(OwnSql *sql)
{
	static const char *const off[] = {"enable_seqscan", "enable_bitmapscan", "enable_sort"};

	own_sql_begin(sql);
	for (int i = 0; i < lengthof(off); i++)
		(void) set_config_option(off[i], "off", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
}

/* --- targets --- */

bool
notifications_need(Oid server, Oid role)
{
	Oid			types[] = {OIDOID, OIDOID};
	Datum		values[] = {ObjectIdGetDatum(server), ObjectIdGetDatum(role)};
	bool		needed = false;
	ListCell   *cell;
	OwnSql		sql;

	foreach(cell, notification_targets())
	{
		TargetKey  *key = lfirst(cell);

		needed |= (!OidIsValid(server) || key->server == server) && (!OidIsValid(role) || key->role == role);
	}
	own_sql_begin(&sql);
	needed |= own_sql("SELECT 1 FROM dtx.expectation WHERE next_attempt IS NOT NULL AND ($1 = 0 OR server = $1)"
					  " AND ($2 = 0 OR role = $2) LIMIT 1", lengthof(types), types, values, NULL) > 0;
	own_sql_end(&sql);
	return needed;
}

List *
notification_targets(void)
{
	MemoryContext context = CurrentMemoryContext;
	static SPIPlanPtr plan = NULL;
	List	   *targets = NIL;
	bool		isnull;
	OwnSql		sql;

	own_sql_begin_by_index(&sql);
	/* one step down the index for each */
	(void) own_sql_saved(&plan, "WITH RECURSIVE t AS ("
						 " (SELECT server, role FROM dtx.notification WHERE next_attempt IS NOT NULL ORDER BY server, role LIMIT 1)"
						 " UNION ALL"
						 " SELECT l.server, l.role FROM t CROSS JOIN LATERAL"
						 " (SELECT n.server, n.role FROM dtx.notification n WHERE n.next_attempt IS NOT NULL"
						 "  AND (n.server, n.role) > (t.server, t.role) ORDER BY n.server, n.role LIMIT 1) l)"
						 " SELECT server, role FROM t", 0, NULL, NULL, NULL);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		TargetKey  *key = MemoryContextAlloc(context, sizeof(TargetKey));
		MemoryContext old = MemoryContextSwitchTo(context);

		key->server = DatumGetObjectId(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &isnull));
		key->role = DatumGetObjectId(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 2, &isnull));
		targets = lappend(targets, key);
		MemoryContextSwitchTo(old);
	}
	own_sql_end(&sql);
	return targets;
}

List *
target_stops_read(void)
{
	MemoryContext context = CurrentMemoryContext;
	List	   *stops = NIL;
	bool		isnull;
	OwnSql		sql;

	own_sql_begin(&sql);
	(void) own_sql("SELECT server, role, disabled_at IS NOT NULL, not_before FROM dtx.target WHERE disabled_at IS NOT NULL OR not_before IS NOT NULL", 0, NULL, NULL, NULL);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple	tuple = SPI_tuptable->vals[i];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		TargetStop *stop = MemoryContextAllocZero(context, sizeof(TargetStop));
		MemoryContext old = MemoryContextSwitchTo(context);
		Datum		value;

		stop->key.server = DatumGetObjectId(SPI_getbinval(tuple, desc, 1, &isnull));
		stop->key.role = DatumGetObjectId(SPI_getbinval(tuple, desc, 2, &isnull));
		stop->disabled = DatumGetBool(SPI_getbinval(tuple, desc, 3, &isnull));
		value = SPI_getbinval(tuple, desc, 4, &isnull);
		stop->not_before = isnull ? 0 : DatumGetTimestampTz(value);
		stops = lappend(stops, stop);
		MemoryContextSwitchTo(old);
	}
	own_sql_end(&sql);
	return stops;
}

/* A target's row, for this transaction alone. False: somebody else has it, or is about to
 * insert it. */
static bool
lock_target(Oid *types, Datum *values)
{
	if (own_sql("SELECT 1 FROM dtx.target WHERE server = $1 AND role = $2 FOR UPDATE SKIP LOCKED", 2, types, values, NULL) > 0)
		return true;
	/* there is none, or it is locked: then this does nothing, and waits for nobody */
	return own_sql("INSERT INTO dtx.target (server, role) VALUES ($1, $2) ON CONFLICT (server, role) DO NOTHING",
				   2, types, values, NULL) > 0;
}

bool
target_stop(Oid server, Oid role, bool disable, TimestampTz not_before, const char *reason)
{
	Oid			types[] = {OIDOID, OIDOID, BOOLOID, TIMESTAMPTZOID, TEXTOID};
	Datum		values[] = {ObjectIdGetDatum(server), ObjectIdGetDatum(role), BoolGetDatum(disable),
	TimestampTzGetDatum(not_before), CStringGetTextDatum(reason)};
	char		nulls[] = "     ";
	bool		locked;
	OwnSql		sql;

	if (not_before == 0)
		nulls[3] = 'n';
	own_sql_begin(&sql);
	locked = lock_target(types, values);
	if (locked)
		(void) own_sql("UPDATE dtx.target SET not_before = $4, planned_at = clock_timestamp(), reason = CASE WHEN disabled_at IS NULL THEN $5 ELSE reason END,"
					   " disabled_at = CASE WHEN $3 THEN coalesce(disabled_at, clock_timestamp()) ELSE disabled_at END"
					   " WHERE server = $1 AND role = $2", lengthof(types), types, values, nulls);
	own_sql_end(&sql);
	return locked;
}

bool
target_met(Oid server, Oid role, const char *node)
{
	Oid			types[] = {OIDOID, OIDOID, TEXTOID};
	Datum		values[] = {ObjectIdGetDatum(server), ObjectIdGetDatum(role), CStringGetTextDatum(node)};
	bool		known;
	OwnSql		sql;

	own_sql_begin(&sql);
	known = own_sql("SELECT 1 FROM dtx.target WHERE server = $1 AND role = $2 AND node = $3", lengthof(types), types, values, NULL) > 0;
	if (!known && lock_target(types, values))
		known = own_sql("UPDATE dtx.target SET node = $3 WHERE server = $1 AND role = $2", lengthof(types), types, values, NULL) > 0;
	own_sql_end(&sql);
	return known;
}

/* --- claiming --- */

static Datum
ids_of(List *notifications)
{
	Datum	   *ids = palloc(Max(list_length(notifications), 1) * sizeof(Datum));
	ListCell   *cell;
	int			n = 0;

	foreach(cell, notifications)
		ids[n++] = Int64GetDatum(((Notification *) lfirst(cell))->id);
	return PointerGetDatum(construct_array(ids, n, INT8OID, 8, true, TYPALIGN_DOUBLE));
}

static Notification *
form_notification(HeapTuple tuple, TupleDesc desc)
{
	Notification *n = palloc0(sizeof(Notification));
	Jsonb	   *payload;
	bool		isnull;
	Datum		value;

	n->retry_after = -1;
	n->id = DatumGetInt64(SPI_getbinval(tuple, desc, 1, &isnull));
	n->tx_no = TextDatumGetCString(SPI_getbinval(tuple, desc, 2, &isnull));
	payload = DatumGetJsonbP(SPI_getbinval(tuple, desc, 3, &isnull));
	n->payload = JsonbToCString(NULL, &payload->root, VARSIZE_ANY(payload));
	value = SPI_getbinval(tuple, desc, 4, &isnull);
	if (!isnull)
		n->schedule = schedule_parse(value, 0, &n->nschedule);
	n->attempts = DatumGetInt32(SPI_getbinval(tuple, desc, 5, &isnull));
	n->begun_with = DatumGetInt32(SPI_getbinval(tuple, desc, 6, &isnull));
	n->notified_at = DatumGetTimestampTz(SPI_getbinval(tuple, desc, 7, &isnull));
	n->due_at = DatumGetTimestampTz(SPI_getbinval(tuple, desc, 8, &isnull));
	return n;
}

List *
notifications_claim(Oid server, Oid role, TimestampTz from, TimestampTz now, List *except, int most,
					MemoryContext context)
{
	Oid			types[] = {OIDOID, OIDOID, TIMESTAMPTZOID, TIMESTAMPTZOID, INT8ARRAYOID, INT4OID};
	Datum		values[] = {ObjectIdGetDatum(server), ObjectIdGetDatum(role), TimestampTzGetDatum(now),
	TimestampTzGetDatum(from), ids_of(except), Int32GetDatum(most)};
	static SPIPlanPtr plan = NULL;
	List	   *claimed = NIL;
	OwnSql		sql;

	own_sql_begin_by_index(&sql);
	(void) own_sql_saved(&plan, "UPDATE dtx.notification n SET attempts = n.attempts + 1, called_at = clock_timestamp()"
						 " WHERE n.ctid = ANY (ARRAY(SELECT c.ctid FROM dtx.notification c"
						 " WHERE c.server = $1 AND c.role = $2 AND c.next_attempt <= $3 AND c.next_attempt >= $4 AND c.id <> ALL ($5)"
						 /* of a stop that was committed before a notification the worker may have yet to hear */
						 " AND NOT EXISTS (SELECT FROM dtx.target t WHERE t.server = $1 AND t.role = $2 AND t.disabled_at IS NOT NULL)"
						 " ORDER BY c.next_attempt LIMIT $6 FOR UPDATE SKIP LOCKED))"
						 " RETURNING n.id, n.tx_no, n.payload, n.schedule, n.attempts, n.begun_with, n.notified_at, n.next_attempt",
						 lengthof(types), types, values, NULL);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		MemoryContext old = MemoryContextSwitchTo(context);

		claimed = lappend(claimed, form_notification(SPI_tuptable->vals[i], SPI_tuptable->tupdesc));
		MemoryContextSwitchTo(old);
	}
	own_sql_end(&sql);
	stat_add(STAT_NOTIFICATION_ATTEMPTS, list_length(claimed));
	return claimed;
}

TimestampTz
notifications_next(Oid server, Oid role, TimestampTz from, List *except)
{
	Oid			types[] = {OIDOID, OIDOID, TIMESTAMPTZOID, INT8ARRAYOID};
	Datum		values[] = {ObjectIdGetDatum(server), ObjectIdGetDatum(role), TimestampTzGetDatum(from), ids_of(except)};
	static SPIPlanPtr plan = NULL;
	TimestampTz next = 0;
	bool		isnull;
	OwnSql		sql;

	own_sql_begin_by_index(&sql);
	if (own_sql_saved(&plan, "SELECT next_attempt FROM dtx.notification WHERE server = $1 AND role = $2 AND next_attempt >= $3"
					  " AND id <> ALL ($4) ORDER BY next_attempt LIMIT 1", lengthof(types), types, values, NULL) > 0)
		next = DatumGetTimestampTz(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	own_sql_end(&sql);
	return next;
}

bool
notification_is_worn_out(const Notification *n)
{
	int			nschedule = n->schedule == NULL ? lengthof(default_schedule) : n->nschedule;

	/* the last regular one is nschedule + 1 */
	return n->attempts - n->begun_with > nschedule + CUT_OFF;
}

/* --- recording --- */

/* What becomes of it after this attempt: its state, and when the next one is due, 0:
 * never. */
static char
state_after(const Notification *n, TimestampTz now, TimestampTz *next)
{
	const int64 *schedule = n->schedule == NULL ? default_schedule : n->schedule;
	int			nschedule = n->schedule == NULL ? lengthof(default_schedule) : n->nschedule;
	int			made = n->attempts - n->begun_with;

	*next = 0;
	if (n->delivered)
		return 'd';
	if (n->postponed)
		*next = TimestampTzPlusMilliseconds(now, n->retry_after);
	else if (n->refused || made > nschedule)
		return 'x';
	else
		*next = TimestampTzPlusMilliseconds(now, Max(schedule_delay(schedule, nschedule, made), n->retry_after));
	return 'p';
}

static int
compare_ids(const void *a, const void *b)
{
	int64		ia = *(const int64 *) a;
	int64		ib = *(const int64 *) b;

	return ia < ib ? -1 : ia > ib ? 1 : 0;
}

/* Mark those whose ids are in a result; present: in the first column, or not there. */
static void
mark_by_result(List *notifications, bool present)
{
	uint64		count = SPI_processed;
	int64	   *ids = palloc(Max(count, 1) * sizeof(int64));
	ListCell   *cell;
	bool		isnull;

	for (uint64 i = 0; i < count; i++)
		ids[i] = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &isnull));
	qsort(ids, count, sizeof(int64), compare_ids);
	foreach(cell, notifications)
	{
		Notification *n = lfirst(cell);

		n->recorded |= (bsearch(&n->id, ids, count, sizeof(int64), compare_ids) != NULL) == present;
	}
}

/* Those that the update has returned; and those that are gone: there is nothing left to
 * be recorded of them. The others are locked by somebody. */
static void
mark_recorded(List *notifications)
{
	Oid			types[] = {INT8ARRAYOID};
	Datum		values[] = {ids_of(notifications)};

	mark_by_result(notifications, true);
	if (SPI_processed == (uint64) list_length(notifications))
		return;
	(void) own_sql("SELECT id FROM dtx.notification WHERE id = ANY ($1)", 1, types, values, NULL);
	mark_by_result(notifications, false);
}

static Datum
array_of(Datum *items, bool *nulls, int count, Oid type)
{
	int			dimensions[1] = {count};
	int			lower[1] = {1};
	int16		length;
	bool		by_value;
	char		align;

	get_typlenbyvalalign(type, &length, &by_value, &align);
	return PointerGetDatum(construct_md_array(items, nulls, 1, dimensions, lower, type, length, by_value, align));
}

#define FAILURE_COLUMNS	5

/* A row for each attempt that failed, and whose notification was recorded. */
static void
record_failures(List *notifications, int most)
{
	static const Oid element[FAILURE_COLUMNS] = {INT8OID, INT4OID, INT4OID, TEXTOID, TEXTOID};
	Oid			types[FAILURE_COLUMNS] = {INT8ARRAYOID, INT4ARRAYOID, INT4ARRAYOID, TEXTARRAYOID, TEXTARRAYOID};
	static SPIPlanPtr plan = NULL;
	Datum	   *columns[FAILURE_COLUMNS];
	bool	   *nulls[FAILURE_COLUMNS];
	Datum		values[FAILURE_COLUMNS];
	ListCell   *cell;
	int			i = 0;

	for (int c = 0; c < FAILURE_COLUMNS; c++)
	{
		columns[c] = palloc0(most * sizeof(Datum));
		nulls[c] = palloc0(most * sizeof(bool));
	}
	foreach(cell, notifications)
	{
		Notification *n = lfirst(cell);

		if (n->delivered || n->postponed || n->error == NULL || !n->recorded)
			continue;
		columns[0][i] = Int64GetDatum(n->id);
		columns[1][i] = Int32GetDatum(n->attempts);
		columns[2][i] = Int32GetDatum(n->status);
		nulls[2][i] = n->status == 0;
		columns[3][i] = CStringGetTextDatum(n->error);
		nulls[4][i] = n->answer == NULL;
		if (n->answer != NULL)
			columns[4][i] = CStringGetTextDatum(n->answer);
		i++;
	}
	for (int c = 0; c < FAILURE_COLUMNS; c++)
		values[c] = array_of(columns[c], nulls[c], i, element[c]);
	(void) own_sql_saved(&plan, "INSERT INTO dtx.failed_attempt (notification, attempt, status, error, answer, failed_at)"
						 " SELECT r.*, clock_timestamp() FROM unnest($1, $2, $3, $4, $5) AS r", FAILURE_COLUMNS, types, values, NULL);
}

#define RECORD_COLUMNS	7

void
notifications_record(List *notifications)
{
	static const Oid element[RECORD_COLUMNS] = {INT8OID, TEXTOID, INT4OID, TIMESTAMPTZOID, INT4OID, TEXTOID, TEXTOID};
	Oid			types[RECORD_COLUMNS] = {INT8ARRAYOID, TEXTARRAYOID, INT4ARRAYOID, TIMESTAMPTZARRAYOID, INT4ARRAYOID,
	TEXTARRAYOID, TEXTARRAYOID};
	static SPIPlanPtr plan = NULL;
	int			count = list_length(notifications);
	Datum	   *columns[RECORD_COLUMNS];
	bool	   *nulls[RECORD_COLUMNS];
	Datum		values[RECORD_COLUMNS];
	TimestampTz now = GetCurrentTimestamp();
	int			failed = 0;
	int			delivered = 0;
	int			exhausted = 0;
	ListCell   *cell;
	int			i = 0;
	OwnSql		sql;

	for (int c = 0; c < RECORD_COLUMNS; c++)
	{
		columns[c] = palloc0(count * sizeof(Datum));
		nulls[c] = palloc0(count * sizeof(bool));
	}
	foreach(cell, notifications)
	{
		Notification *n = lfirst(cell);
		TimestampTz next;
		char		state = state_after(n, now, &next);
		char		text[2] = {state, '\0'};

		n->recorded = false;
		n->state = state;
		columns[0][i] = Int64GetDatum(n->id);
		columns[1][i] = CStringGetTextDatum(text);
		columns[2][i] = Int32GetDatum(n->attempts - (n->postponed ? 1 : 0));
		columns[3][i] = TimestampTzGetDatum(next);
		nulls[3][i] = next == 0;
		columns[4][i] = Int32GetDatum(n->status);
		nulls[4][i] = n->status == 0;
		nulls[5][i] = n->error == NULL;
		if (n->error != NULL)
			columns[5][i] = CStringGetTextDatum(n->error);
		nulls[6][i] = n->answer == NULL;
		if (n->answer != NULL)
			columns[6][i] = CStringGetTextDatum(n->answer);
		i++;
	}
	for (int c = 0; c < RECORD_COLUMNS; c++)
		values[c] = array_of(columns[c], nulls[c], count, element[c]);
	own_sql_begin_by_index(&sql);
	/* what somebody has given up meanwhile stays so */
	(void) own_sql_saved(&plan, "UPDATE dtx.notification n SET state = CASE n.state WHEN 'p' THEN r.state::\"char\" ELSE n.state END,"
						 " attempts = r.attempts, next_attempt = CASE n.state WHEN 'p' THEN r.next_attempt END,"
						 " planned_at = clock_timestamp(), called_at = NULL, last_status = r.status, last_error = coalesce(r.error, n.last_error), answer = r.answer,"
						 " changed_at = CASE WHEN r.state = 'p' OR n.state <> 'p' THEN n.changed_at ELSE clock_timestamp() END"
						 " FROM unnest($1, $2, $3, $4, $5, $6, $7) AS r(id, state, attempts, next_attempt, status, error, answer),"
						 " LATERAL (SELECT c.ctid FROM dtx.notification c WHERE c.id = r.id FOR UPDATE SKIP LOCKED) AS l"
						 " WHERE n.ctid = l.ctid RETURNING n.id", RECORD_COLUMNS, types, values, NULL);
	mark_recorded(notifications);
	foreach(cell, notifications)
	{
		Notification *n = lfirst(cell);

		failed += n->recorded && !n->delivered && !n->postponed && n->error != NULL;
		delivered += n->recorded && n->state == 'd';
		exhausted += n->recorded && n->state == 'x';
	}
	if (failed > 0)
		record_failures(notifications, failed);
	own_sql_end(&sql);
	stat_add(STAT_NOTIFICATIONS_DELIVERED, delivered);
	stat_add(STAT_NOTIFICATIONS_EXHAUSTED, exhausted);
}

/* --- pruning --- */

/* Delete rows that nobody has locked. True: there may be more. */
static bool
prune(const char *statement, int retention)
{
	Oid			types[] = {INT4OID, INT4OID};
	Datum		values[] = {Int32GetDatum(retention), Int32GetDatum(PRUNE_ROWS)};
	uint64		count;
	OwnSql		sql;

	if (retention < 0)
		return false;
	own_sql_begin(&sql);
	count = own_sql(statement, lengthof(types), types, values, NULL);
	own_sql_end(&sql);
	return count == PRUNE_ROWS;
}

/*
 * The same for dtx.notification, which may be large, and has no index for this: a piece
 * of it at a time, in the order of its ids, which is that of time, up to what is too
 * young. What is exhausted stays until somebody decides.
 */
static bool
prune_notifications(void)
{
	static int64 done = 0;		/* ids up to this were looked at in this round */
	Oid			types[] = {INT4OID, INT4OID, INT8OID, INT8OID};
	Datum		values[] = {Int32GetDatum(guc_notification_retention), Int32GetDatum(PRUNE_ROWS), Int64GetDatum(done), 0};
	bool		isnull;
	bool		over;
	OwnSql		sql;

	if (guc_notification_retention < 0)
		return false;
	own_sql_begin_by_index(&sql);
	(void) own_sql("SELECT max(id), count(*) < $2 OR bool_or(notified_at > clock_timestamp() - make_interval(secs => $1))"
				   " FROM (SELECT id, notified_at FROM dtx.notification WHERE id > $3 ORDER BY id LIMIT $2) AS n",
				   3, types, values, NULL);
	values[3] = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull);
	over = DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2, &over)) || isnull;
	if (!isnull)
		(void) own_sql("WITH gone AS (DELETE FROM dtx.notification WHERE id = ANY (ARRAY(SELECT id FROM dtx.notification"
					   " WHERE id > $3 AND id <= $4 AND $2 IS NOT NULL AND state IN ('d', 'r', 'g')"
					   " AND changed_at < clock_timestamp() - make_interval(secs => $1) FOR UPDATE SKIP LOCKED)) RETURNING id)"
					   " DELETE FROM dtx.failed_attempt f USING gone g WHERE f.notification = g.id",
					   lengthof(types), types, values, NULL);
	own_sql_end(&sql);
	done = over ? 0 : DatumGetInt64(values[3]);
	return !over;
}

bool
notifications_prune(void)
{
	bool		more = prune_notifications();

	more |= prune("DELETE FROM dtx.expectation WHERE ctid = ANY (ARRAY(SELECT ctid FROM dtx.expectation"
				  " WHERE state = 'c' AND ended_at < clock_timestamp() - make_interval(secs => $1) LIMIT $2 FOR UPDATE SKIP LOCKED))",
				  guc_notification_retention);
	more |= prune("DELETE FROM dtx.received WHERE ctid = ANY (ARRAY(SELECT ctid FROM dtx.received"
				  " WHERE received_at < clock_timestamp() - make_interval(secs => $1) LIMIT $2 FOR UPDATE SKIP LOCKED))",
				  guc_received_retention);
	return more;
}

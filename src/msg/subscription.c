/*
 * subscription.c
 *		Subscriptions: their rows, and the functions that change them.
 *
 * A subscription's row says what is wanted; where it stands is in dtx.position,
 * which the process that delivers writes alone. So a position is moved by asking:
 * a new generation, with a place to start from.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "core/api.h"
#include "core/compat.h"
#include "core/global.h"
#include "core/locks.h"
#include "core/own_sql.h"
#include "core/participant.h"
#include "core/peer_use.h"
#include "core/relations.h"
#include "core/tell.h"
#include "fmgr.h"
#include "guc.h"
#include "miscadmin.h"
#include "msg/deliver.h"
#include "msg/handler.h"
#include "msg/position.h"
#include "msg/receivers.h"
#include "msg/schedule.h"
#include "msg/subscription.h"
#include "msg/undelivered.h"
#include "net/peer.h"
#include "notify/notification.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgroids.h"
#include "utils/jsonb.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "worker/control.h"

PG_FUNCTION_INFO_V1(dtx_subscribe);
ENTRY_POINT(dtx_unsubscribe, 1);
ENTRY_POINT(dtx_pause, 1);
ENTRY_POINT(dtx_resume, 1);
ENTRY_POINT(dtx_seek_time, 2);
ENTRY_POINT(dtx_seek_message, 2);
ENTRY_POINT(dtx_seek_text, 2);
PG_FUNCTION_INFO_V1(dtx_redeliver_ids);
PG_FUNCTION_INFO_V1(dtx_redeliver_where);
PG_FUNCTION_INFO_V1(dtx_discard);

/* where dtx_subscribe is told none: attempts follow for about a day and a half */
#define DEFAULT_SCHEDULE		"{1s,5s,15s,1min,5min,15min,1h,2h,4h,8h}"
#define DEFAULT_MAX_ATTEMPTS	15
#define DEFAULT_BATCH_SIZE		500
#define MAX_BATCH_SIZE			10000

static Subscription *
form_subscription(OwnScan *scan, HeapTuple tuple)
{
	Subscription *s = palloc0(sizeof(Subscription));
	Datum		value;
	bool		isnull;

	s->id = DatumGetInt32(own_column(scan, tuple, Anum_subscription_id, NULL));
	s->uid = DatumGetInt64(own_column(scan, tuple, Anum_subscription_uid, NULL));
	s->name = TextDatumGetCString(own_column(scan, tuple, Anum_subscription_name, NULL));
	s->topic = TextDatumGetCString(own_column(scan, tuple, Anum_subscription_topic, NULL));
	s->server = DatumGetObjectId(own_column(scan, tuple, Anum_subscription_server, NULL));
	value = own_column(scan, tuple, Anum_subscription_handler, &isnull);
	s->handler = isnull ? NULL : TextDatumGetCString(value);
	s->role = DatumGetObjectId(own_column(scan, tuple, Anum_subscription_role, NULL));
	s->ordered = DatumGetBool(own_column(scan, tuple, Anum_subscription_ordered, NULL));
	s->schedule = schedule_parse(own_column(scan, tuple, Anum_subscription_schedule, NULL), 1, &s->nschedule);
	s->max_attempts = DatumGetInt32(own_column(scan, tuple, Anum_subscription_max_attempts, NULL));
	s->batch_size = DatumGetInt32(own_column(scan, tuple, Anum_subscription_batch_size, NULL));
	s->paused = DatumGetBool(own_column(scan, tuple, Anum_subscription_paused, NULL));
	s->generation = DatumGetInt32(own_column(scan, tuple, Anum_subscription_generation, NULL));
	value = own_column(scan, tuple, Anum_subscription_start, NULL);
	s->start = PointerGetDatum(PG_DETOAST_DATUM_COPY(value));
	value = own_column(scan, tuple, Anum_subscription_since_id, &isnull);
	s->since_id = isnull ? 0 : DatumGetInt64(value);
	value = own_column(scan, tuple, Anum_subscription_since_time, &isnull);
	s->since_time = isnull ? DT_NOBEGIN : DatumGetTimestampTz(value);
	value = own_column(scan, tuple, Anum_subscription_since_seen, &isnull);
	s->since_seen = isnull ? 0 : PointerGetDatum(PG_DETOAST_DATUM_COPY(value));
	return s;
}

List *
subscriptions_read(void)
{
	List	   *subscriptions = NIL;
	OwnScan		scan;
	HeapTuple	tuple;

	own_scan_all(&scan, OWN_SUBSCRIPTION, AccessShareLock);
	while (HeapTupleIsValid(tuple = own_scan_next(&scan)))
		subscriptions = lappend(subscriptions, form_subscription(&scan, tuple));
	own_scan_end(&scan);
	return subscriptions;
}

bool
subscription_is_current(const Subscription *subscription)
{
	ListCell   *cell;

	foreach(cell, subscriptions_read())
		if (((Subscription *) lfirst(cell))->id == subscription->id &&
			((Subscription *) lfirst(cell))->generation == subscription->generation)
			return true;
	return false;
}

Subscription *
subscription_now(const Subscription *subscription)
{
	Subscription *found = NULL;
	OwnScan		scan;
	HeapTuple	tuple;

	own_scan_all(&scan, OWN_SUBSCRIPTION, AccessShareLock);
	while (found == NULL && HeapTupleIsValid(tuple = own_scan_next(&scan)))
		if (DatumGetInt32(own_column(&scan, tuple, Anum_subscription_id, NULL)) == subscription->id)
			found = form_subscription(&scan, tuple);
	own_scan_end(&scan);
	return found != NULL && subscription_is_same(found, subscription) ? found : NULL;
}

bool
subscription_is_same(const Subscription *a, const Subscription *b)
{
	return a->id == b->id && a->generation == b->generation && datumIsEqual(a->start, b->start, false, -1);
}

Subscription *
subscription_copy(const Subscription *subscription)
{
	Subscription *copy = palloc(sizeof(Subscription));

	*copy = *subscription;
	copy->name = pstrdup(subscription->name);
	copy->topic = pstrdup(subscription->topic);
	copy->handler = subscription->handler == NULL ? NULL : pstrdup(subscription->handler);
	copy->schedule = palloc(subscription->nschedule * sizeof(int64));
	memcpy(copy->schedule, subscription->schedule, subscription->nschedule * sizeof(int64));
	copy->start = PointerGetDatum(PG_DETOAST_DATUM_COPY(subscription->start));
	if (subscription->since_seen != 0)
		copy->since_seen = PointerGetDatum(PG_DETOAST_DATUM_COPY(subscription->since_seen));
	return copy;
}

static Subscription *
find_subscription(const char *name)
{
	ListCell   *cell;

	foreach(cell, subscriptions_read())
		if (strcmp(((Subscription *) lfirst(cell))->name, name) == 0)
			return lfirst(cell);
	return NULL;
}

Subscription *
subscription_get(const char *name)
{
	Subscription *subscription;

	shmem_require();
	subscription = find_subscription(name);
	if (subscription == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("subscription \"%s\" does not exist", name)));
	if (!has_privs_of_role(GetUserId(), subscription->role))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must have the rights of the role of subscription \"%s\"", name)));
	return subscription;
}

int64
subscription_delay(const Subscription *subscription, int attempts)
{
	return schedule_delay(subscription->schedule, subscription->nschedule, attempts);
}

/* What delivers has to look at the subscriptions again when this commits. */
static void
subscriptions_changed(void)
{
	Outcome		changed = {.kind = OUTCOME_SUBSCRIPTIONS, .commit = true};

	tell_worker_at_commit(&changed);
	receivers_note_all();
}

static void
refuse_in_branch(void)
{
	if (current_branch.active)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("subscriptions cannot be changed inside a branch")));
	PreventCommandDuringRecovery("changing a subscription");
	PreventCommandIfReadOnly("changing a subscription");
}

/* The present end of the log, as a position. */
static Datum
position_of_now(void)
{
	Snapshot	snapshot;
	Datum		now;

	segments_hold();
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	now = passed_to_datum(passed_now(snapshot));
	UnregisterSnapshot(snapshot);
	return now;
}

static void
insert_subscription(const Subscription *s, Datum schedule)
{
	Oid			types[] = {INT8OID, TEXTOID, TEXTOID, OIDOID, TEXTOID, OIDOID, BOOLOID, INTERVALARRAYOID,
	INT4OID, INT4OID, PG_SNAPSHOTOID};
	Datum		values[lengthof(types)];
	char		nulls[lengthof(types) + 1];
	OwnSql		sql;

	memset(nulls, ' ', sizeof(nulls));
	values[0] = Int64GetDatum(s->uid);
	values[1] = s->name != NULL ? CStringGetTextDatum(s->name) : (Datum) 0;
	values[2] = CStringGetTextDatum(s->topic);
	values[3] = ObjectIdGetDatum(s->server);
	values[4] = s->handler != NULL ? CStringGetTextDatum(s->handler) : (Datum) 0;
	nulls[4] = s->handler != NULL ? ' ' : 'n';
	values[5] = ObjectIdGetDatum(s->role);
	values[6] = BoolGetDatum(s->ordered);
	values[7] = schedule;
	values[8] = Int32GetDatum(s->max_attempts);
	values[9] = Int32GetDatum(s->batch_size);
	values[10] = s->start;
	own_sql_begin(&sql);
	if (own_sql("INSERT INTO dtx.subscription (uid, name, topic, server, handler, role, ordered, schedule,"
				" max_attempts, batch_size, paused, generation, start, created_at)"
				" VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, false, 1, $11, clock_timestamp())"
				" ON CONFLICT (name) DO NOTHING", lengthof(types), types, values, nulls) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("subscription \"%s\" already exists", s->name)));
	own_sql_end(&sql);
	subscriptions_changed();
}

/* A name that is not taken: topic at server, and a number where that is. */
static const char *
make_up_name(const Subscription *s, const char *server)
{
	char	   *base = server != NULL ? psprintf("%s at %s", s->topic, server) : pstrdup(s->topic);
	char	   *name = base;

	for (int i = 2; find_subscription(name) != NULL; i++)
		name = psprintf("%s %d", base, i);
	return name;
}

static int
positive(FunctionCallInfo fcinfo, int arg, int standard, int most, const char *what)
{
	int			value = PG_ARGISNULL(arg) ? standard : PG_GETARG_INT32(arg);

	if (value < 1 || value > most)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must be between 1 and %d", what, most)));
	return value;
}

/* Record the server's use, as branches do: it is not dropped meanwhile. */
static Oid
server_to_deliver_to(const char *name)
{
	Oid			server = peer_server_by_name(name, GetUserId());

	peer_require_database(server);
	peer_require_mapping(server, name, GetUserId());
	peer_use(server, GetUserId());
	return server;
}

/* Each is looked after by the worker of all: of one role's there may be so many. */
static void
check_number(Oid role)
{
	Oid			types[] = {OIDOID};
	Datum		values[] = {ObjectIdGetDatum(role)};
	int64		number;
	bool		isnull;
	OwnSql		sql;

	if (superuser_arg(role))
		return;
	own_sql_begin(&sql);
	(void) own_sql("SELECT count(*) FROM dtx.subscription WHERE role = $1", lengthof(types), types, values, NULL);
	number = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	own_sql_end(&sql);
	if (number >= guc_subscriptions_per_role)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("role \"%s\" has " INT64_FORMAT " subscriptions already", GetUserNameFromId(role, false), number),
				 errhint("A superuser can raise dtx.subscriptions_per_role.")));
}

/* What consumers fetch begins here: of several, which come before one has committed, one alone
 * writes the row. */
static void
begin_position(const char *name)
{
	bool		moved;

	position_insert(position_to_go_on(find_subscription(name), NULL, &moved));
}

/* dtx_subscribe(topic, server, handler, name, ordered, schedule, max_attempts, batch_size, from_start) */
Datum
dtx_subscribe(PG_FUNCTION_ARGS)
{
	Subscription s = {0};
	const char *server = PG_ARGISNULL(1) ? NULL : NameStr(*PG_GETARG_NAME(1));
	Datum		schedule;

	shmem_require();
	refuse_in_branch();
	if (PG_ARGISNULL(0) || PG_ARGISNULL(4) || PG_ARGISNULL(8))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("topic, ordered and from_start of a subscription must not be null")));
	s.topic = text_to_cstring(PG_GETARG_TEXT_PP(0));
	topic_check(s.topic, true);
	topic_check_foreign(s.topic);
	s.handler = PG_ARGISNULL(2) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(2));
	if (server != NULL && s.handler == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a subscription of server \"%s\" needs a handler", server),
				 errdetail("Without a handler, messages are fetched here with dtx_receive.")));
	if (s.handler != NULL && s.handler[0] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("handler of a subscription must not be empty")));
	s.role = GetUserId();
	if (server != NULL)
		s.server = server_to_deliver_to(server);
	else if (s.handler != NULL)
	{
		/* it is called with another search path */
		s.handler = handler_qualified_name(handler_lookup(s.handler, HANDLES_MESSAGES));
		handler_check_role(s.role);
	}
	s.ordered = !PG_ARGISNULL(4) && PG_GETARG_BOOL(4);
	schedule = PG_ARGISNULL(5) ?
		schedule_datum(DEFAULT_SCHEDULE) : PG_GETARG_DATUM(5);
	s.schedule = schedule_parse(schedule, 1, &s.nschedule);
	s.max_attempts = positive(fcinfo, 6, DEFAULT_MAX_ATTEMPTS, INT_MAX, "max_attempts");
	s.batch_size = positive(fcinfo, 7, DEFAULT_BATCH_SIZE, MAX_BATCH_SIZE, "batch_size");
	segments_hold();
	s.start = !PG_ARGISNULL(8) && PG_GETARG_BOOL(8) ? passed_to_datum(passed_nothing()) : position_of_now();
	s.uid = (int64) global_draw_r();
	s.name = PG_ARGISNULL(3) ? make_up_name(&s, server) : text_to_cstring(PG_GETARG_TEXT_PP(3));
	if (s.name[0] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("name of a subscription must not be empty")));
	check_number(s.role);
	insert_subscription(&s, schedule);
	if (s.handler == NULL)
		begin_position(s.name);
	PG_RETURN_TEXT_P(cstring_to_text(s.name));
}

static bool
topic_is_subscribed(const char *topic)
{
	ListCell   *cell;

	foreach(cell, subscriptions_read())
		if (strcmp(((Subscription *) lfirst(cell))->topic, topic) == 0)
			return true;
	return false;
}

void
subscription_ensure(const char *name, const char *topic, Oid server, const char *handler)
{
	Subscription s = {0};
	char	   *free_name = pstrdup(name);
	Datum		schedule;

	if (topic_is_subscribed(topic))
		return;
	refuse_in_branch();
	/* who is at the same waits for this transaction */
	(void) own_lock(LOCK_TOPIC, (int64) hash_bytes_extended((const unsigned char *) topic, strlen(topic), 0), ExclusiveLock, true);
	if (topic_is_subscribed(topic))
		return;
	for (int i = 2; find_subscription(free_name) != NULL; i++)
		free_name = psprintf("%s %d", name, i);
	schedule = schedule_datum(DEFAULT_SCHEDULE);
	s.name = free_name;
	s.topic = topic;
	s.server = server;
	s.handler = handler;
	s.role = GetUserId();
	s.max_attempts = DEFAULT_MAX_ATTEMPTS;
	s.batch_size = DEFAULT_BATCH_SIZE;
	s.start = position_of_now();
	s.uid = (int64) global_draw_r();
	insert_subscription(&s, schedule);
}

/* A statement on one subscription, whose id is $1. What is left of it elsewhere the
 * worker removes, which waits for nobody. */
static void
change_subscription(const Subscription *subscription, const char *statement, int nargs, Oid *more_types, Datum *more)
{
	Oid			types[3] = {INT4OID};
	Datum		values[3] = {Int32GetDatum(subscription->id)};
	OwnSql		sql;

	for (int i = 0; i < nargs; i++)
	{
		types[i + 1] = more_types[i];
		values[i + 1] = more[i];
	}
	own_sql_begin(&sql);
	(void) own_sql(statement, nargs + 1, types, values, NULL);
	own_sql_end(&sql);
	subscriptions_changed();
}

static Datum
change_by_name(FunctionCallInfo fcinfo, const char *statement)
{
	Subscription *subscription = subscription_get(text_to_cstring(PG_GETARG_TEXT_PP(0)));

	refuse_in_branch();
	change_subscription(subscription, statement, 0, NULL, NULL);
	PG_RETURN_VOID();
}

/* dtx_unsubscribe(name text) */
static Datum
dtx_unsubscribe_given(PG_FUNCTION_ARGS)
{
	return change_by_name(fcinfo, "DELETE FROM dtx.subscription WHERE id = $1");
}

/* dtx_pause(name text) */
static Datum
dtx_pause_given(PG_FUNCTION_ARGS)
{
	return change_by_name(fcinfo, "UPDATE dtx.subscription SET paused = true WHERE id = $1");
}

/* dtx_resume(name text) */
static Datum
dtx_resume_given(PG_FUNCTION_ARGS)
{
	return change_by_name(fcinfo, "UPDATE dtx.subscription SET paused = false WHERE id = $1");
}

/* A new generation, that starts at the beginning with a filter: $2. It is for what can
 * be seen now: a transaction that is still open has yet to be delivered. */
static void
move_subscription(const Subscription *subscription, const char *statement, Oid type, Datum value)
{
	Oid			types[] = {type, PG_SNAPSHOTOID};
	Datum		values[] = {value, position_of_now()};

	refuse_in_branch();
	change_subscription(subscription, statement, 2, types, values);
}

/* The last id that a message has. */
static int64
last_id(void)
{
	bool		isnull;
	int64		last;
	OwnSql		sql;

	own_sql_begin(&sql);
	(void) own_sql("SELECT last_value FROM dtx.message_id", 0, NULL, NULL, NULL);
	last = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	own_sql_end(&sql);
	return last;
}

/*
 * All there is now is skipped: the start moves forward. It is the same generation, whose
 * position is not moved back by that: what has been delivered since, until this commits,
 * was delivered. But one that the receiver refuses needs a new one.
 */
static void
skip_all(const Subscription *subscription)
{
	Position   *position = position_read(subscription->id);
	bool		refused = position != NULL && position->generation == subscription->generation && position->refused;
	Oid			types[] = {PG_SNAPSHOTOID, INT4OID};
	Datum		values[] = {position_of_now(), Int32GetDatum(refused ? 1 : 0)};

	refuse_in_branch();
	change_subscription(subscription,
						"UPDATE dtx.subscription SET generation = generation + $3, start = $2,"
						" since_id = NULL, since_time = NULL, since_seen = NULL WHERE id = $1", 2, types, values);
}

/* dtx_seek(name text, to_time timestamptz) */
static Datum
dtx_seek_time_given(PG_FUNCTION_ARGS)
{
	Subscription *subscription = subscription_get(text_to_cstring(PG_GETARG_TEXT_PP(0)));

	/* what is there now is older */
	if (PG_GETARG_TIMESTAMPTZ(1) > GetCurrentTimestamp())
		skip_all(subscription);
	else
		move_subscription(subscription,
						  "UPDATE dtx.subscription SET generation = generation + 1, start = '3:3:',"
						  " since_id = NULL, since_time = $2, since_seen = $3 WHERE id = $1",
						  TIMESTAMPTZOID, PG_GETARG_DATUM(1));
	PG_RETURN_VOID();
}

/* dtx_seek(name text, to_message int8) */
static Datum
dtx_seek_message_given(PG_FUNCTION_ARGS)
{
	Subscription *subscription = subscription_get(text_to_cstring(PG_GETARG_TEXT_PP(0)));

	if (PG_GETARG_INT64(1) > last_id())
		skip_all(subscription);
	else
		move_subscription(subscription,
						  "UPDATE dtx.subscription SET generation = generation + 1, start = '3:3:',"
						  " since_id = $2, since_time = NULL, since_seen = $3 WHERE id = $1", INT8OID, PG_GETARG_DATUM(1));
	PG_RETURN_VOID();
}

/*
 * dtx_seek(name text, to text): a time or a message's id from a client that says of neither
 * which it is. Digits alone are an id; a day can be written so too, and would be
 * an id to come, at which all would be skipped: that is refused.
 */
static Datum
dtx_seek_text_given(PG_FUNCTION_ARGS)
{
	char	   *to = text_to_cstring(PG_GETARG_TEXT_PP(1));
	const char *digits = to + strspn(to, " +-");
	int64		id;

	(void) subscription_get(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	if (digits[0] == '\0' || strspn(digits, "0123456789 ") != strlen(digits))
		return DirectFunctionCall2(dtx_seek_time, PG_GETARG_DATUM(0),
								   DirectFunctionCall3(timestamptz_in, CStringGetDatum(to),
													   ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)));
	id = DatumGetInt64(DirectFunctionCall1(int8in, CStringGetDatum(to)));
	if (id > last_id())
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("there is no message " INT64_FORMAT " yet", id),
				 errhint("For a time write to_time => ..., for an id to come to_message => ... .")));
	return DirectFunctionCall2(dtx_seek_message, PG_GETARG_DATUM(0), Int64GetDatum(id));
}

/* --- dead letters --- */

/* Dead letters become due, or go; those that the caller may see. A key's next one
 * is due when its first is gone. */
#define DEAD_LETTERS \
	" WHERE EXISTS (SELECT FROM dtx.subscription s WHERE s.id = u.subscription AND s.generation = u.generation" \
	" AND NOT pg_visible_in_snapshot(u.xid, s.start)" \
	" AND pg_has_role($1, s.role, 'USAGE') AND ($2::text IS NULL OR s.name = $2)) AND u.state = 'd'"
/* A consumer's letter that the position has not passed: it stays, as done, or it would come again. */
#define NOT_PASSED \
	" EXISTS (SELECT FROM dtx.subscription s WHERE s.id = u.subscription AND s.handler IS NULL AND NOT EXISTS" \
	" (SELECT FROM dtx.position p WHERE p.subscription = u.subscription AND p.generation = u.generation" \
	" AND (pg_visible_in_snapshot(u.xid, p.passed) OR (p.upto IS NOT NULL AND u.id <= p.cursor" \
	" AND pg_visible_in_snapshot(u.xid, p.upto)))))"
#define REVIVE \
	"UPDATE dtx.undelivered u SET state = 'r', attempts = 0, next_attempt = clock_timestamp()," \
	" changed_at = clock_timestamp()"

/* ids: int8[]; subscription: a name, or 0 for all and for notifications too */
static int64
redeliver_ids(Datum ids, Datum subscription)
{
	Oid			types[] = {OIDOID, TEXTOID, INT8ARRAYOID};
	Datum		values[] = {ObjectIdGetDatum(GetUserId()), subscription, ids};
	char		nulls[] = "   ";
	uint64		count;
	OwnSql		sql;

	if (subscription == (Datum) 0)
		nulls[1] = 'n';
	else
		(void) subscription_get(TextDatumGetCString(subscription));
	own_sql_begin(&sql);
	count = own_sql(REVIVE DEAD_LETTERS " AND u.id = ANY ($3)", lengthof(types), types, values, nulls);
	own_sql_end(&sql);
	subscriptions_changed();
	/* notifications have ids of the same sequence */
	if (subscription == (Datum) 0)
		count += notifications_redeliver(ids);
	return (int64) count;
}

/* dtx_redeliver(ids int8[], subscription text) */
Datum
dtx_redeliver_ids(PG_FUNCTION_ARGS)
{
	shmem_require();
	refuse_in_branch();
	if (PG_ARGISNULL(0))
		PG_RETURN_INT64(0);
	PG_RETURN_INT64(redeliver_ids(PG_GETARG_DATUM(0), PG_ARGISNULL(1) ? (Datum) 0 : PG_GETARG_DATUM(1)));
}

/* Does a client that says nothing of types mean ids, as an array's text? No subscription
 * is called that. */
static bool
means_ids(FunctionCallInfo fcinfo)
{
	const char *given = text_to_cstring(PG_GETARG_TEXT_PP(0));

	return given[0] == '{' && PG_ARGISNULL(2) && PG_ARGISNULL(3) && find_subscription(given) == NULL;
}

/* dtx_redeliver(subscription text, topic text, since timestamptz, error text) */
Datum
dtx_redeliver_where(PG_FUNCTION_ARGS)
{
	Oid			types[] = {OIDOID, TEXTOID, TEXTOID, TIMESTAMPTZOID, TEXTOID};
	Datum		values[] = {ObjectIdGetDatum(GetUserId()), 0, 0, 0, 0};
	char		nulls[] = "     ";
	uint64		count;
	OwnSql		sql;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("subscription must not be null")));
	if (means_ids(fcinfo))
	{
		FmgrInfo	input;
		Datum		ids;

		shmem_require();
		refuse_in_branch();
		fmgr_info(F_ARRAY_IN, &input);
		ids = InputFunctionCall(&input, text_to_cstring(PG_GETARG_TEXT_PP(0)), INT8OID, -1);
		PG_RETURN_INT64(redeliver_ids(ids, PG_ARGISNULL(1) ? (Datum) 0 : PG_GETARG_DATUM(1)));
	}
	(void) subscription_get(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	refuse_in_branch();
	for (int i = 0; i < 4; i++)
	{
		nulls[i + 1] = PG_ARGISNULL(i) ? 'n' : ' ';
		if (!PG_ARGISNULL(i))
			values[i + 1] = PG_GETARG_DATUM(i);
	}
	own_sql_begin(&sql);
	count = own_sql(REVIVE DEAD_LETTERS
					" AND ($3::text IS NULL OR dtx.topic_matches($3, u.topic))"
					" AND ($4::timestamptz IS NULL OR u.changed_at >= $4)"
					" AND ($5::text IS NULL OR u.last_error LIKE $5)",
					lengthof(types), types, values, nulls);
	own_sql_end(&sql);
	subscriptions_changed();
	PG_RETURN_INT64((int64) count);
}

/* dtx_discard(ids int8[], subscription text) */
Datum
dtx_discard(PG_FUNCTION_ARGS)
{
	Oid			types[] = {OIDOID, TEXTOID, INT8ARRAYOID};
	Datum		values[] = {ObjectIdGetDatum(GetUserId()), 0, 0};
	char		nulls[] = "   ";
	static const char *const discards[] = {
		"UPDATE dtx.undelivered u SET state = 'k', changed_at = clock_timestamp()" DEAD_LETTERS
		" AND u.id = ANY ($3) AND" NOT_PASSED " RETURNING u.subscription",
		"DELETE FROM dtx.undelivered u" DEAD_LETTERS " AND u.id = ANY ($3) AND NOT" NOT_PASSED " RETURNING u.subscription"
	};
	uint64		count = 0;
	MemoryContext context = CurrentMemoryContext;
	Bitmapset  *of = NULL;
	bool		isnull;
	ListCell   *cell;
	OwnSql		sql;

	shmem_require();
	refuse_in_branch();
	if (PG_ARGISNULL(0))
		PG_RETURN_INT64(0);
	if (PG_ARGISNULL(1))
		nulls[1] = 'n';
	else
	{
		values[1] = PG_GETARG_DATUM(1);
		(void) subscription_get(TextDatumGetCString(values[1]));
	}
	values[2] = PG_GETARG_DATUM(0);
	own_sql_begin(&sql);
	for (int i = 0; i < lengthof(discards); i++)
	{
		uint64		rows = own_sql(discards[i], lengthof(types), types, values, nulls);
		MemoryContext old = MemoryContextSwitchTo(context);

		for (uint64 row = 0; row < rows; row++)
			of = bms_add_member(of, DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, 1, &isnull)));
		MemoryContextSwitchTo(old);
		count += rows;
	}
	own_sql_end(&sql);
	foreach(cell, subscriptions_read())
		if (bms_is_member(((Subscription *) lfirst(cell))->id, of))
			(void) undelivered_release_waiting(lfirst(cell));
	subscriptions_changed();
	if (PG_ARGISNULL(1))
		count += notifications_discard(PG_GETARG_DATUM(0));
	PG_RETURN_INT64((int64) count);
}

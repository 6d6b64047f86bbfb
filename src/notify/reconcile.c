/*
 * reconcile.c
 *		Reconciliation at the receiver: dtx_reconcile asks the sender and applies, and
 *		dtx_expect has that done for what did not come in time.
 *
 * What is asked for goes through the same handler and the same row of dtx.received as
 * what is told: in either order, or at once, it is applied once.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "core/api.h"
#include "core/clock.h"
#include "core/compat.h"
#include "core/errors.h"
#include "core/fault.h"
#include "core/node.h"
#include "core/own_sql.h"
#include "core/participant.h"
#include "core/peer_use.h"
#include "core/settle.h"
#include "core/shmem.h"
#include "fmgr.h"
#include "foreign/foreign.h"
#include "guc.h"
#include "miscadmin.h"
#include "msg/handler.h"
#include "msg/message.h"
#include "msg/schedule.h"
#include "net/peer.h"
#include "net/remote.h"
#include "notify/notification.h"
#include "notify/receive.h"
#include "notify/reconcile.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"
#include "worker/dispatch.h"

ENTRY_POINT(dtx_reconcile, 2);
PG_FUNCTION_INFO_V1(dtx_expect);
ENTRY_POINT(dtx_unexpect, 2);

#define LOOK_AGAIN		1000	/* ms: what is due was not asked for yet */
#define MAX_ATTEMPT		3		/* of a call that lost its prepared statement */
#define ASK_TIMEOUT		5000	/* ms until an answer is there, connecting included */

/* What the sender answers. */
typedef struct Answer
{
	char	   *origin;
	bool		found;
	Message		message;
} Answer;

#define OUTCOME_SQL \
	"SELECT o.origin, o.found, o.payload, o.notified_at, o.attempts FROM dtx.outcome($1::pg_catalog.text, $2::pg_catalog.text[]) AS o"

static void
read_answer(RemoteCall *call, const char *server, const char *tx_no, Answer *answer)
{
	PGresult   *result = call->results[0];

	if (!remote_has_rows(call, 0, 1, 5))
		ereport(ERROR,
				(errcode(ERRCODE_FDW_REPLY_HANDLE),
				 errmsg("server \"%s\" gave an unexpected answer", server)));
	answer->origin = remote_id(PQgetvalue(result, 0, 0), DTX_NODE_SIZE - 1);
	answer->found = PQgetvalue(result, 0, 1)[0] == 't';
	if (!answer->found)
		return;
	answer->message.key = cstring_to_text(tx_no);
	answer->message.payload = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(PQgetvalue(result, 0, 2))));
	answer->message.published_at = strtoll(PQgetvalue(result, 0, 3), NULL, 10);
}

/* One call. False: it lost its prepared statement, and may be made again. */
static bool
try_to_ask(PeerConnection *pc, const char *tx_no, Answer *answer)
{
	RemoteCall	call = {.pc = pc, .nstatements = 1};
	const char *values[2];
	const char **nodes;
	List	   *ids = node_all_ids();
	ListCell   *cell;
	volatile bool answered = true;
	int			call_timeout = guc_call_timeout;
	int			n = 0;

	nodes = palloc(list_length(ids) * sizeof(char *));
	foreach(cell, ids)
		nodes[n++] = lfirst(cell);
	values[0] = tx_no;
	values[1] = text_array_literal(nodes, n);
	call.statements[0].sql = OUTCOME_SQL;
	call.statements[0].nparams = 2;
	call.statements[0].values = values;
	PG_TRY();
	{
		/* one row by its key: who takes longer hangs */
		guc_call_timeout = call_timeout == 0 ? ASK_TIMEOUT : Min(call_timeout, ASK_TIMEOUT);
		/* no snapshot is held while the peer is waited for, but the caller's */
		InvalidateCatalogSnapshot();
		remote_run(&call, 0);
		if (call.error != NULL && !call.broken && remote_failed_on_statement(&call))
			answered = false;
		else if (call.error != NULL || call.broken)
			remote_throw(&call);
		else
			read_answer(&call, pc->server_name, tx_no, answer);
	}
	PG_FINALLY();
	{
		guc_call_timeout = call_timeout;
		remote_free(&call);
	}
	PG_END_TRY();
	return answered;
}

static char *
name_of(const char *node)
{
	const char *dot = strrchr(node, '.');

	return dot == NULL ? pstrdup(node) : pnstrdup(node, dot - node);
}

/* Ask a server, as the current role. */
static void
ask(Oid server, const char *tx_no, Answer *answer)
{
	TimestampTz deadline = TimestampTzPlusMilliseconds(clock_now(), ASK_TIMEOUT);
	bool		answered = false;
	PeerConnection *pc = NULL;

	for (int i = 0; i < MAX_ATTEMPT && !answered; i++)
	{
		pc = connection_get(server, GetUserId(), deadline);
		answered = try_to_ask(pc, tx_no, answer);
	}
	if (!answered)
		remote_throw_swapped();
	/* its tag may have been another one, but it speaks for itself only */
	if (strcmp(name_of(answer->origin), name_of(pc->peer_node)) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_REPLY_HANDLE),
				 errmsg("server \"%s\" answers for node \"%s\"", pc->server_name, answer->origin),
				 errdetail("It is node \"%s\".", pc->peer_node)));
}

static Oid
server_to_ask(const char *name)
{
	Oid			server = peer_server_by_name(name, GetUserId());

	peer_require_database(server);
	peer_require_mapping(server, name, GetUserId());
	peer_use(server, GetUserId());
	return server;
}

static void
refuse_in_branch(const char *function)
{
	if (current_branch.active)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("results cannot be asked for inside a branch")));
	PreventCommandIfReadOnly(function);
	PreventCommandDuringRecovery(function);
}

/* dtx_reconcile(server name, tx_no text) */
static Datum
dtx_reconcile_given(PG_FUNCTION_ARGS)
{
	char	   *tx_no = text_to_cstring(PG_GETARG_TEXT_PP(1));
	Answer		answer = {0};

	shmem_require();
	refuse_in_branch("dtx_reconcile()");
	tx_no_check(tx_no);
	ask(server_to_ask(NameStr(*PG_GETARG_NAME(0))), tx_no, &answer);
	if (!answer.found)
		PG_RETURN_TEXT_P(cstring_to_text("unknown"));
	if (result_apply_one(NULL, answer.origin, RECEIVED_ASKED, &answer.message))
		PG_RETURN_TEXT_P(cstring_to_text("applied"));
	PG_RETURN_TEXT_P(cstring_to_text("known"));
}

/* --- what is expected --- */

/* dtx_expect(server name, tx_no text, after interval, schedule interval[]) */
Datum
dtx_expect(PG_FUNCTION_ARGS)
{
	Oid			types[] = {OIDOID, OIDOID, TEXTOID, TIMESTAMPTZOID, INTERVALARRAYOID};
	Datum		values[5];
	char		nulls[] = "     ";
	char	   *tx_no;
	int			n;
	bool		said;
	OwnSql		sql;

	shmem_require();
	for (int i = 0; i < 3; i++)
		if (PG_ARGISNULL(i))
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("server, tx_no and after of an expectation must not be null")));
	refuse_in_branch("dtx_expect()");
	tx_no = text_to_cstring(PG_GETARG_TEXT_PP(1));
	tx_no_check(tx_no);
	if (PG_ARGISNULL(3))
		nulls[4] = 'n';
	else
		(void) schedule_parse(PG_GETARG_DATUM(3), 0, &n);
	handler_check_role(GetUserId());
	values[0] = ObjectIdGetDatum(server_to_ask(NameStr(*PG_GETARG_NAME(0))));
	values[1] = ObjectIdGetDatum(GetUserId());
	values[2] = PG_GETARG_DATUM(1);
	values[3] = DirectFunctionCall2(timestamptz_pl_interval, TimestampTzGetDatum(GetCurrentTimestamp()), PG_GETARG_DATUM(2));
	values[4] = PG_ARGISNULL(3) ? (Datum) 0 : PG_GETARG_DATUM(3);
	own_sql_begin(&sql);
	/* said again, it is the earlier time that counts; what has come has come */
	said = own_sql("INSERT INTO dtx.expectation AS e (server, role, tx_no, due_at, next_attempt, schedule, attempts, expected_at, state)"
				   " VALUES ($1, $2, $3, $4, $4, $5, 0, clock_timestamp(), 'w')"
				   " ON CONFLICT (tx_no, server) DO UPDATE SET role = excluded.role, attempts = 0, state = 'w', last_error = NULL, ended_at = NULL,"
				   " due_at = least(e.due_at, excluded.due_at), next_attempt = least(e.next_attempt, excluded.next_attempt), planned_at = clock_timestamp(), schedule = excluded.schedule"
				   " WHERE e.state <> 'c' AND pg_has_role($2, e.role, 'USAGE')",
				   lengthof(types), types, values, nulls) > 0 ||
		own_sql("SELECT 1 FROM dtx.expectation e WHERE tx_no = $3 AND server = $1 AND $4 IS NOT NULL AND ($5 IS NULL OR $5 IS NOT NULL)"
				" AND pg_has_role($2, e.role, 'USAGE')", lengthof(types), types, values, nulls) > 0;
	own_sql_end(&sql);
	if (!said)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("transaction \"%s\" is expected from there by another role", tx_no)));
	message_must_be_durable();
	message_changed();
	PG_RETURN_VOID();
}

/* dtx_unexpect(server name, tx_no text) */
static Datum
dtx_unexpect_given(PG_FUNCTION_ARGS)
{
	Oid			types[] = {TEXTOID, NAMEOID, OIDOID};
	Datum		values[] = {PG_GETARG_DATUM(1), PG_GETARG_DATUM(0), ObjectIdGetDatum(GetUserId())};
	uint64		count;
	OwnSql		sql;

	shmem_require();
	refuse_in_branch("dtx_unexpect()");
	own_sql_begin(&sql);
	count = own_sql("DELETE FROM dtx.expectation e USING pg_foreign_server s WHERE s.srvname = $2 AND e.server = s.oid"
					" AND e.tx_no = $1 AND pg_has_role($3, e.role, 'USAGE')", lengthof(types), types, values, NULL);
	own_sql_end(&sql);
	if (count == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("transaction \"%s\" is not expected from server \"%s\"", text_to_cstring(PG_GETARG_TEXT_PP(1)),
						NameStr(*PG_GETARG_NAME(0)))));
	PG_RETURN_VOID();
}

List *
expectations_due(TimestampTz *next)
{
	MemoryContext context = CurrentMemoryContext;
	List	   *roles = NIL;
	bool		isnull;
	OwnSql		sql;

	*next = 0;
	own_sql_begin(&sql);
	/* one step down the index for each role */
	(void) own_sql("WITH RECURSIVE t AS ("
				   " (SELECT role, next_attempt FROM dtx.expectation WHERE next_attempt IS NOT NULL ORDER BY role, next_attempt LIMIT 1)"
				   " UNION ALL"
				   " SELECT l.role, l.next_attempt FROM t CROSS JOIN LATERAL (SELECT e.role, e.next_attempt FROM dtx.expectation e"
				   "  WHERE e.next_attempt IS NOT NULL AND e.role > t.role ORDER BY e.role, e.next_attempt LIMIT 1) l)"
				   " SELECT role, next_attempt FROM t", 0, NULL, NULL, NULL);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple	tuple = SPI_tuptable->vals[i];
		TimestampTz due = DatumGetTimestampTz(SPI_getbinval(tuple, SPI_tuptable->tupdesc, 2, &isnull));
		MemoryContext old = MemoryContextSwitchTo(context);

		if (due <= GetCurrentTimestamp())
		{
			roles = lappend_oid(roles, DatumGetObjectId(SPI_getbinval(tuple, SPI_tuptable->tupdesc, 1, &isnull)));
			due = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), LOOK_AGAIN);
		}
		*next = *next == 0 ? due : Min(*next, due);
		MemoryContextSwitchTo(old);
	}
	own_sql_end(&sql);
	return roles;
}

typedef struct Expectation
{
	Oid			server;
	char	   *tx_no;
	char	   *origin;			/* who is behind the server, as far as is known; or NULL */
	int			attempts;		/* this one included */
	int64	   *schedule;
	int			nschedule;
} Expectation;

/* as for notifications */
#define DEFAULT_SCHEDULE	"{1min,5min,10min,30min,1h,2h,5h,10h}"

/*
 * One that is due: the attempt is counted, and the next one set as if this one failed,
 * before anything is asked, whatever that does to the process.
 */
static bool
claim_due(Oid role, Expectation *e, TimestampTz *next)
{
	MemoryContext context = CurrentMemoryContext;
	Oid			types[] = {OIDOID, TEXTOID, OIDOID, TIMESTAMPTZOID, INT4OID};
	Datum		values[5] = {ObjectIdGetDatum(role)};
	char		nulls[] = "     ";
	bool		found;
	bool		isnull;
	Datum		value;
	OwnSql		sql;

	*next = 0;
	own_sql_begin(&sql);
	found = own_sql("SELECT e.server, e.tx_no, e.attempts, e.schedule,"
					" coalesce(e.origin, (SELECT min(c.node) FROM dtx.contact c WHERE c.server = e.server),"
					"  (SELECT o.origin FROM dtx.expectation o WHERE o.server = e.server AND o.origin IS NOT NULL LIMIT 1))"
					" FROM dtx.expectation e WHERE e.role = $1 AND e.next_attempt <= clock_timestamp()"
					" ORDER BY e.next_attempt LIMIT 1 FOR UPDATE OF e SKIP LOCKED", 1, types, values, NULL) > 0;
	if (found)
	{
		HeapTuple	tuple = SPI_tuptable->vals[0];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		MemoryContext old = MemoryContextSwitchTo(context);

		e->server = DatumGetObjectId(SPI_getbinval(tuple, desc, 1, &isnull));
		e->tx_no = TextDatumGetCString(SPI_getbinval(tuple, desc, 2, &isnull));
		e->attempts = DatumGetInt32(SPI_getbinval(tuple, desc, 3, &isnull)) + 1;
		value = SPI_getbinval(tuple, desc, 4, &isnull);
		e->schedule = schedule_parse(isnull ? schedule_datum(DEFAULT_SCHEDULE) : value, 0, &e->nschedule);
		value = SPI_getbinval(tuple, desc, 5, &isnull);
		e->origin = isnull ? NULL : TextDatumGetCString(value);
		MemoryContextSwitchTo(old);
		values[1] = CStringGetTextDatum(e->tx_no);
		values[2] = ObjectIdGetDatum(e->server);
		if (e->attempts > e->nschedule)
			nulls[3] = 'n';
		else
			values[3] = TimestampTzGetDatum(TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
																	   schedule_delay(e->schedule, e->nschedule, e->attempts)));
		values[4] = Int32GetDatum(e->attempts);
		(void) own_sql("UPDATE dtx.expectation SET attempts = $5, next_attempt = $4, planned_at = clock_timestamp(), last_error = 'the answer is not known',"
					   " state = CASE WHEN $4 IS NULL THEN 'x' ELSE 'w' END, ended_at = CASE WHEN $4 IS NULL THEN clock_timestamp() END"
					   " WHERE tx_no = $2 AND server = $3 AND role = $1", lengthof(types), types, values, nulls);
	}
	else if (own_sql("SELECT min(next_attempt) FROM dtx.expectation WHERE role = $1", 1, types, values, NULL) > 0)
	{
		value = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull);
		/* what is due, and not to be had, is locked by somebody */
		if (!isnull && DatumGetTimestampTz(value) <= GetCurrentTimestamp())
			*next = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), LOOK_AGAIN);
		else if (!isnull)
			*next = DatumGetTimestampTz(value);
	}
	own_sql_end(&sql);
	return found;
}

/* What came of it: it has come (error NULL), or why not. */
static void
note_outcome(const Expectation *e, bool come, const char *error)
{
	Oid			types[] = {TEXTOID, OIDOID, TEXTOID, TEXTOID, BOOLOID};
	Datum		values[] = {CStringGetTextDatum(e->tx_no), ObjectIdGetDatum(e->server),
		error != NULL ? CStringGetTextDatum(error) : (Datum) 0, e->origin != NULL ? CStringGetTextDatum(e->origin) : (Datum) 0,
	BoolGetDatum(come)};
	char		nulls[] = "     ";
	OwnSql		sql;

	if (error == NULL)
		nulls[2] = 'n';
	if (e->origin == NULL)
		nulls[3] = 'n';
	own_sql_begin(&sql);
	(void) own_sql("UPDATE dtx.expectation SET last_error = $3, origin = coalesce($4, origin),"
				   " state = CASE WHEN $5 THEN 'c' ELSE state END, next_attempt = CASE WHEN NOT $5 THEN next_attempt END,"
				   " ended_at = CASE WHEN $5 THEN clock_timestamp() ELSE ended_at END"
				   " WHERE tx_no = $1 AND server = $2", lengthof(types), types, values, nulls);
	own_sql_end(&sql);
}

static void
begin(void)
{
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
}

static void
commit(void)
{
	PopActiveSnapshot();
	CommitTransactionCommand();
}

/* Has it come? If not, ask. No snapshot is held meanwhile. True: there is something to be
 * applied. */
static bool
look_and_ask(Expectation *e, Answer *answer)
{
	bool		known;
	MemoryContext context = CurrentMemoryContext;

	begin();
	MemoryContextSwitchTo(context);
	DTX_FAULT_POINT("expect-before-ask");
	known = e->origin != NULL && result_is_known(e->origin, e->tx_no);
	if (known)
		note_outcome(e, true, NULL);
	PopActiveSnapshot();
	if (!known)
	{
		peer_use(e->server, GetUserId());
		(void) peer_server_by_name(GetForeignServer(e->server)->servername, GetUserId());
		ask(e->server, e->tx_no, answer);
		e->origin = answer->origin;
	}
	CommitTransactionCommand();
	MemoryContextSwitchTo(context);
	return !known;
}

/* Apply what was answered. */
static void
apply(Expectation *e, Answer *answer)
{
	MemoryContext context = CurrentMemoryContext;

	begin();
	MemoryContextSwitchTo(context);
	/* as what is told, it may not take for ever */
	handling_limit_own();
	if (answer->found)
		(void) result_apply_one(NULL, answer->origin, RECEIVED_ASKED, &answer->message);
	note_outcome(e, answer->found, answer->found ? NULL : "the server knows no result of that transaction");
	DTX_FAULT_POINT("expect-after-ask");
	commit();
	handling_unlimit_own();
	MemoryContextSwitchTo(context);
}

/* The server cannot be reached: others that are due there are not tried one after the
 * other, each for its time. */
static void
put_others_off(const Expectation *e, Oid role)
{
	Oid			types[] = {OIDOID, OIDOID, TIMESTAMPTZOID};
	Datum		values[] = {ObjectIdGetDatum(e->server), ObjectIdGetDatum(role),
	TimestampTzGetDatum(TimestampTzPlusMilliseconds(GetCurrentTimestamp(), guc_retry_max))};
	OwnSql		sql;

	own_sql_begin(&sql);
	(void) own_sql("UPDATE dtx.expectation SET next_attempt = $3, planned_at = clock_timestamp() WHERE ctid = ANY (ARRAY(SELECT ctid FROM dtx.expectation"
				   " WHERE server = $1 AND role = $2 AND next_attempt < $3 FOR UPDATE SKIP LOCKED))", lengthof(types), types, values, NULL);
	own_sql_end(&sql);
}

bool
expectation_check(Oid role, TimestampTz *next)
{
	MemoryContext context = CurrentMemoryContext;
	Expectation e = {0};
	Answer		answer = {0};
	char	   *volatile why = NULL;
	volatile bool asked = false;
	volatile bool unreachable = false;
	bool		found;

	begin();
	MemoryContextSwitchTo(context);
	found = claim_due(role, &e, next);
	/* whatever the handler does to the server */
	if (found)
		ForceSyncCommit();
	commit();
	MemoryContextSwitchTo(context);
	if (!found)
		return false;
	PG_TRY();
	{
		asked = look_and_ask(&e, &answer);
		if (asked)
			apply(&e, &answer);
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		handling_unlimit_own();
		error = CopyErrorData();
		FlushErrorState();
		AbortCurrentTransaction();
		MemoryContextSwitchTo(context);
		if (error->sqlerrcode == ERRCODE_ADMIN_SHUTDOWN)
			ReThrowError(error);
		/* what a handler raises says nothing of the server */
		unreachable = !asked && (error->sqlerrcode == ERRCODE_DTX_PEER_UNAVAILABLE ||
								 error->sqlerrcode == ERRCODE_QUERY_CANCELED);
		why = psprintf("%s: %s", unpack_sql_state(error->sqlerrcode), error->message);
	}
	PG_END_TRY();
	if (why != NULL)
	{
		e.origin = NULL;
		begin();
		MemoryContextSwitchTo(context);
		note_outcome(&e, false, why);
		if (unreachable)
			put_others_off(&e, role);
		commit();
	}
	MemoryContextSwitchTo(context);
	return true;
}

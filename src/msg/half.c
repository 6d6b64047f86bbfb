/*
 * half.c
 *		Half messages: prepared, and sent or given up later.
 *
 * A producer whose business transaction is elsewhere prepares the message first,
 * does its business, and then says commit or rollback. When it says nothing, a
 * function of its own is asked what became of the business.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "commands/sequence.h"
#include "core/api.h"
#include "core/compat.h"
#include "core/fault.h"
#include "core/own_sql.h"
#include "core/participant.h"
#include "core/relations.h"
#include "fmgr.h"
#include "guc.h"
#include "miscadmin.h"
#include "msg/half.h"
#include "msg/handler.h"
#include "msg/message.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/regproc.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(dtx_message_prepare);
ENTRY_POINT(dtx_message_commit, 1);
ENTRY_POINT(dtx_message_rollback, 1);

#define LOOK_AGAIN	1000		/* ms: a check that is due was not made yet */

static void
refuse_in_branch(void)
{
	if (current_branch.active)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("half messages are not for branches"),
				 errhint("dtx_publish holds a message back until the branch is committed.")));
}

static void
check_function(Oid function)
{
	Oid		   *types;
	int			nargs;
	Oid			result;

	if (!SearchSysCacheExists1(PROCOID, ObjectIdGetDatum(function)))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("the check function does not exist any more")));
	result = get_func_signature(function, &types, &nargs);
	if (nargs != 1 || types[0] != INT8OID || result != TEXTOID || get_func_retset(function) ||
		get_func_prokind(function) != PROKIND_FUNCTION)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_FUNCTION_DEFINITION),
				 errmsg("%s cannot be a check function", format_procedure(function)),
				 errdetail("It must take the id, a bigint, and return text: commit, rollback or unknown.")));
	if (dtx_function_aclcheck(function, GetUserId()) != ACLCHECK_OK)
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_FUNCTION, get_func_name(function));
	handler_check_role(GetUserId());
}

/* dtx_message_prepare(topic text, payload jsonb, key text, check text, headers jsonb) */
Datum
dtx_message_prepare(PG_FUNCTION_ARGS)
{
	Message		message = {0};
	Datum		values[Natts_half_message] = {0};
	bool		nulls[Natts_half_message] = {0};
	Oid			function = InvalidOid;

	shmem_require();
	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("topic and payload of a message must not be null")));
	refuse_in_branch();
	PreventCommandIfReadOnly("dtx_message_prepare()");
	PreventCommandDuringRecovery("dtx_message_prepare()");
	message.topic = text_to_cstring(PG_GETARG_TEXT_PP(0));
	message.payload = PG_GETARG_JSONB_P(1);
	message.key = PG_ARGISNULL(2) ? NULL : PG_GETARG_TEXT_PP(2);
	message.headers = PG_ARGISNULL(4) ? NULL : PG_GETARG_JSONB_P(4);
	topic_check(message.topic, false);
	topic_check_foreign(message.topic);
	message_check_size(&message);
	if (!PG_ARGISNULL(3))
	{
		function = function_by_name(text_to_cstring(PG_GETARG_TEXT_PP(3)));
		check_function(function);
	}
	message.id = nextval_internal(own_relid(OWN_MESSAGE_ID), false);
	values[Anum_half_message_id - 1] = Int64GetDatum(message.id);
	values[Anum_half_message_role - 1] = ObjectIdGetDatum(GetUserId());
	values[Anum_half_message_topic - 1] = PG_GETARG_DATUM(0);
	values[Anum_half_message_key - 1] = PointerGetDatum(message.key);
	nulls[Anum_half_message_key - 1] = message.key == NULL;
	values[Anum_half_message_payload - 1] = PointerGetDatum(message.payload);
	values[Anum_half_message_headers - 1] = PointerGetDatum(message.headers);
	nulls[Anum_half_message_headers - 1] = message.headers == NULL;
	values[Anum_half_message_checker - 1] = ObjectIdGetDatum(function);
	nulls[Anum_half_message_checker - 1] = !OidIsValid(function);
	values[Anum_half_message_prepared_at - 1] = TimestampTzGetDatum(GetCurrentTimestamp());
	values[Anum_half_message_attempts - 1] = Int32GetDatum(0);
	values[Anum_half_message_next_check - 1] =
		TimestampTzGetDatum(TimestampTzPlusMilliseconds(GetCurrentTimestamp(), guc_message_check_first));
	nulls[Anum_half_message_next_check - 1] = !OidIsValid(function);
	nulls[Anum_half_message_last_error - 1] = true;
	values[Anum_half_message_planned_at - 1] = values[Anum_half_message_prepared_at - 1];
	own_insert(OWN_HALF_MESSAGE, values, nulls);
	message_changed();
	PG_RETURN_INT64(message.id);
}

/* Take a half message out of its table, for the role: NULL when there is none. Who
 * comes second waits, and finds none. */
static Message *
take(int64 id, Oid role)
{
	MemoryContext context = CurrentMemoryContext;
	Oid			types[] = {INT8OID, OIDOID};
	Datum		values[] = {Int64GetDatum(id), ObjectIdGetDatum(role)};
	Message    *message = NULL;
	OwnSql		sql;

	own_sql_begin(&sql);
	if (own_sql("DELETE FROM dtx.half_message WHERE id = $1 AND pg_has_role($2, role, 'USAGE')"
				" RETURNING id, topic, key, payload, headers", lengthof(types), types, values, NULL) > 0)
	{
		HeapTuple	tuple = SPI_tuptable->vals[0];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		MemoryContext old = MemoryContextSwitchTo(context);
		bool		isnull;
		Datum		value;

		message = palloc0(sizeof(Message));
		message->id = id;
		message->topic = TextDatumGetCString(SPI_getbinval(tuple, desc, 2, &isnull));
		value = SPI_getbinval(tuple, desc, 3, &isnull);
		message->key = isnull ? NULL : DatumGetTextPCopy(value);
		message->payload = DatumGetJsonbPCopy(SPI_getbinval(tuple, desc, 4, &isnull));
		value = SPI_getbinval(tuple, desc, 5, &isnull);
		message->headers = isnull ? NULL : DatumGetJsonbPCopy(value);
		MemoryContextSwitchTo(old);
	}
	own_sql_end(&sql);
	return message;
}

static Message *
take_or_error(int64 id)
{
	Message    *message;

	shmem_require();
	refuse_in_branch();
	message = take(id, GetUserId());
	if (message == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("half message " INT64_FORMAT " does not exist", id),
				 errdetail("It was committed or rolled back, or is another role's.")));
	return message;
}

/* dtx_message_commit(id int8) */
static Datum
dtx_message_commit_given(PG_FUNCTION_ARGS)
{
	(void) message_publish(take_or_error(PG_GETARG_INT64(0)), 0);
	PG_RETURN_VOID();
}

/* dtx_message_rollback(id int8) */
static Datum
dtx_message_rollback_given(PG_FUNCTION_ARGS)
{
	(void) take_or_error(PG_GETARG_INT64(0));
	PG_RETURN_VOID();
}

/* --- checking --- */

List *
half_messages_due(TimestampTz *next)
{
	MemoryContext context = CurrentMemoryContext;
	List	   *roles = NIL;
	bool		isnull;
	Datum		value;
	OwnSql		sql;

	*next = 0;
	own_sql_begin(&sql);
	(void) own_sql("SELECT DISTINCT role FROM dtx.half_message WHERE next_check <= clock_timestamp()",
				   0, NULL, NULL, NULL);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		MemoryContext old = MemoryContextSwitchTo(context);

		roles = lappend_oid(roles, DatumGetObjectId(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc,
																   1, &isnull)));
		MemoryContextSwitchTo(old);
	}
	if (roles != NIL)
		*next = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), LOOK_AGAIN);
	else if (own_sql("SELECT next_check FROM dtx.half_message WHERE next_check IS NOT NULL ORDER BY next_check LIMIT 1",
					 0, NULL, NULL, NULL) > 0)
	{
		value = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull);
		*next = DatumGetTimestampTz(value);
	}
	own_sql_end(&sql);
	return roles;
}

typedef struct CheckWork
{
	int64		id;
	Oid			function;
	char	   *answer;
} CheckWork;

static void
ask(CheckWork *work)
{
	FmgrInfo	flinfo;
	LOCAL_FCINFO(fcinfo, 1);
	Datum		answer;
	int			nest;

	check_function(work->function);
	fmgr_info(work->function, &flinfo);
	InitFunctionCallInfoData(*fcinfo, &flinfo, 1, InvalidOid, NULL, NULL);
	fcinfo->args[0].value = Int64GetDatum(work->id);
	fcinfo->args[0].isnull = false;
	nest = NewGUCNestLevel();
	answer = FunctionCallInvoke(fcinfo);
	/* what it has set is not the next one's */
	AtEOXact_GUC(false, nest);
	work->answer = fcinfo->isnull ? NULL : TextDatumGetCString(answer);
}

/*
 * One that is due: its attempt is counted before the function is called, whatever
 * that does to the process.
 */
static bool
claim_due(Oid role, CheckWork *work, TimestampTz *next)
{
	Oid			types[] = {OIDOID, INT4OID, TIMESTAMPTZOID};
	Datum		values[] = {ObjectIdGetDatum(role), Int32GetDatum(guc_message_check_attempts),
	TimestampTzGetDatum(TimestampTzPlusMilliseconds(GetCurrentTimestamp(), guc_message_check_interval))};
	bool		found;
	bool		isnull;
	OwnSql		sql;

	*next = 0;
	own_sql_begin(&sql);
	found = own_sql("UPDATE dtx.half_message SET attempts = attempts + 1,"
					" next_check = CASE WHEN attempts + 1 < $2 THEN $3 END, planned_at = clock_timestamp(),"
					" last_error = 'the check function has not answered'"
					" WHERE id = (SELECT id FROM dtx.half_message WHERE role = $1 AND next_check <= clock_timestamp()"
					" ORDER BY next_check LIMIT 1 FOR UPDATE SKIP LOCKED) RETURNING id, checker::oid",
					lengthof(types), types, values, NULL) > 0;
	if (found)
	{
		work->id = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
		work->function = DatumGetObjectId(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2, &isnull));
	}
	else if (own_sql("SELECT min(next_check) FROM dtx.half_message WHERE role = $1", 1, types, values, NULL) > 0)
	{
		Datum		value = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull);

		if (!isnull)
			*next = Max(DatumGetTimestampTz(value), TimestampTzPlusMilliseconds(GetCurrentTimestamp(), LOOK_AGAIN));
	}
	own_sql_end(&sql);
	return found;
}

/* What the last attempt came to, where it was no decision. */
static void
note_answer(int64 id, const char *error)
{
	Oid			types[] = {INT8OID, TEXTOID};
	Datum		values[] = {Int64GetDatum(id), error != NULL ? CStringGetTextDatum(error) : (Datum) 0};
	char		nulls[] = "  ";
	OwnSql		sql;

	if (error == NULL)
		nulls[1] = 'n';
	own_sql_begin(&sql);
	(void) own_sql("UPDATE dtx.half_message SET last_error = $2 WHERE id = $1", lengthof(types), types, values, nulls);
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

/* Ask, and do as the answer says. */
static void
check(CheckWork *work, Oid role)
{
	begin();
	DTX_FAULT_POINT("half-before-check");
	/* one that waits for ever must not keep the role's other messages waiting */
	handling_limit_own();
	ask(work);
	if (work->answer != NULL && strcmp(work->answer, "commit") == 0)
	{
		Message    *message = take(work->id, role);

		/* the function may have said so by itself */
		if (message != NULL)
			(void) message_publish(message, 0);
	}
	else if (work->answer != NULL && strcmp(work->answer, "rollback") == 0)
		(void) take(work->id, role);
	else if (work->answer != NULL && strcmp(work->answer, "unknown") == 0)
		note_answer(work->id, NULL);
	else
		note_answer(work->id, psprintf("the check function answered \"%s\", which is not commit, rollback or unknown",
									   work->answer == NULL ? "NULL" : work->answer));
	DTX_FAULT_POINT("half-after-check");
	commit();
	handling_unlimit_own();
}

bool
half_message_check(Oid role, TimestampTz *next)
{
	MemoryContext context = CurrentMemoryContext;
	CheckWork	work = {0};
	char	   *volatile why = NULL;
	bool		found;

	begin();
	found = claim_due(role, &work, next);
	/* whatever the function does to the server, its attempt is counted */
	if (found)
		ForceSyncCommit();
	commit();
	if (!found)
		return false;
	PG_TRY();
	{
		check(&work, role);
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
		why = error->message;
	}
	PG_END_TRY();
	if (why != NULL)
	{
		begin();
		note_answer(work.id, why);
		commit();
	}
	MemoryContextSwitchTo(context);
	return true;
}

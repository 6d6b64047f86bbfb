/*
 * handler.c
 *		Calling handlers.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_collation_d.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "core/compat.h"
#include "core/errors.h"
#include "core/leftover.h"
#include "core/override.h"
#include "core/restricted.h"
#include "core/subxact.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "guc.h"
#include "miscadmin.h"
#include "msg/handler.h"
#include "tcop/tcopprot.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/regproc.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

static const struct
{
	const char *name;
	Oid			type;
	bool		nullable;
	int			kinds;			/* HandlerKind */
}			fields[] = {
	{"id", INT8OID, false, HANDLES_MESSAGES},
	{"topic", TEXTOID, false, HANDLES_MESSAGES},
	{"key", TEXTOID, true, HANDLES_MESSAGES},
	{"payload", JSONBOID, false, HANDLES_MESSAGES | HANDLES_NOTIFICATIONS},
	{"headers", JSONBOID, true, HANDLES_MESSAGES},
	{"published_at", TIMESTAMPTZOID, false, HANDLES_MESSAGES},
	{"attempt", INT4OID, false, HANDLES_MESSAGES | HANDLES_NOTIFICATIONS},
	{"tx_no", TEXTOID, false, HANDLES_NOTIFICATIONS},
	{"sender", TEXTOID, false, HANDLES_NOTIFICATIONS},
	{"notified_at", TIMESTAMPTZOID, false, HANDLES_NOTIFICATIONS},
};
#define FIELD_PAYLOAD	3

static void
refuse_handler(HandlerKind kind, Oid function, const char *why)
{
	bool		messages = kind == HANDLES_MESSAGES;

	ereport(ERROR,
			(errcode(ERRCODE_INVALID_FUNCTION_DEFINITION),
			 errmsg("%s cannot be a handler of %s", format_procedure(function), messages ? "messages" : "notifications"),
			 errdetail_internal("%s", why),
			 !messages ?
			 errhint("Its arguments are among tx_no text, payload jsonb, sender text, notified_at timestamptz and attempt integer.") :
			 errhint("Its arguments are among id bigint, topic text, key text, payload jsonb, headers jsonb, published_at timestamptz and attempt integer.")));
}

Oid
function_by_name(const char *name)
{
	if (strchr(name, '(') != NULL)
		return DatumGetObjectId(DirectFunctionCall1(regprocedurein, CStringGetDatum(name)));
	return DatumGetObjectId(DirectFunctionCall1(regprocin, CStringGetDatum(name)));
}

char *
handler_qualified_name(const Handler *handler)
{
	if (strchr(handler->name, '(') != NULL)
		return format_procedure_qualified(handler->function);
	return quote_qualified_identifier(get_namespace_name(get_func_namespace(handler->function)),
									  get_func_name(handler->function));
}

Handler *
handler_lookup(const char *name, HandlerKind kind)
{
	Handler    *handler = palloc0(sizeof(Handler));
	HeapTuple	tuple;
	Form_pg_proc form;
	Oid		   *types;
	char	  **names;
	char	   *modes;
	bool		strict;

	handler->name = pstrdup(name);
	handler->kind = kind;
	handler->function = function_by_name(name);
	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(handler->function));
	if (!HeapTupleIsValid(tuple))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("function \"%s\" does not exist", name)));
	form = (Form_pg_proc) GETSTRUCT(tuple);
	strict = form->proisstrict;
	if (form->prokind != PROKIND_FUNCTION || form->proretset)
		refuse_handler(kind, handler->function, "It must be a plain function that does not return a set.");
	handler->nargs = get_func_arg_info(tuple, &types, &names, &modes);
	if (handler->nargs > lengthof(handler->fields))
		refuse_handler(kind, handler->function, "It has too many arguments.");
	for (int i = 0; i < handler->nargs; i++)
	{
		int			field;

		if (modes != NULL && modes[i] != PROARGMODE_IN)
			refuse_handler(kind, handler->function, "It must have plain IN arguments only.");
		for (field = 0; field < lengthof(fields); field++)
			if (names != NULL && names[i] != NULL && (fields[field].kinds & kind) != 0 &&
				strcmp(names[i], fields[field].name) == 0)
				break;
		if (field == lengthof(fields) && handler->nargs == 1 && types[i] == JSONBOID)
			field = FIELD_PAYLOAD;
		if (field == lengthof(fields))
		{
			refuse_handler(kind, handler->function, names == NULL || names[i] == NULL || names[i][0] == '\0' ?
						   "Its arguments must have names." :
						   psprintf("A %s has no \"%s\".", kind == HANDLES_MESSAGES ? "message" : "notification", names[i]));
			break;
		}
		if (types[i] != fields[field].type)
			refuse_handler(kind, handler->function, psprintf("Argument \"%s\" must be of type %s.", fields[field].name,
													   format_type_be(fields[field].type)));
		if (strict && fields[field].nullable)
			refuse_handler(kind, handler->function, psprintf("It is STRICT, and would not be called where there is no %s.",
													   fields[field].name));
		handler->fields[i] = field;
	}
	ReleaseSysCache(tuple);
	if (dtx_function_aclcheck(handler->function, GetUserId()) != ACLCHECK_OK)
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_FUNCTION, get_func_name(handler->function));
	fmgr_info(handler->function, &handler->flinfo);
	return handler;
}

void
handler_check_role(Oid role)
{
	if (!role_may_log_in(role))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("role \"%s\" cannot log in", GetUserNameFromId(role, true)),
				 errdetail("Functions are called in this database by a process that runs as the role."),
				 errhint("The role needs LOGIN, and CONNECT on the database.")));
}

static void
set_field(NullableDatum *arg, int field, const Message *message)
{
	arg->isnull = false;
	switch (field)
	{
		case 0:
			arg->value = Int64GetDatum(message->id);
			break;
		case 1:
		case 8:
			arg->value = CStringGetTextDatum(message->topic);
			break;
		case 2:
		case 7:
			arg->isnull = message->key == NULL;
			arg->value = PointerGetDatum(message->key);
			break;
		case FIELD_PAYLOAD:
			arg->value = PointerGetDatum(message->payload);
			break;
		case 4:
			arg->isnull = message->headers == NULL;
			arg->value = PointerGetDatum(message->headers);
			break;
		case 5:
		case 9:
			arg->value = TimestampTzGetDatum(message->published_at);
			break;
		default:
			arg->value = Int32GetDatum(message->attempts + 1);
			break;
	}
}

static void
call_handler(Handler *handler, const Message *message)
{
	LOCAL_FCINFO(fcinfo, lengthof(handler->fields));

	if (handler->first != NULL && !handler->first(message, handler->first_arg))
		return;
	InitFunctionCallInfoData(*fcinfo, &handler->flinfo, handler->nargs, DEFAULT_COLLATION_OID, NULL, NULL);
	for (int i = 0; i < handler->nargs; i++)
		set_field(&fcinfo->args[i], handler->fields[i], message);
	(void) FunctionCallInvoke(fcinfo);
}

/* --- limits of a call --- */

#define CONNECTION_CHECK_INTERVAL	200		/* ms between looks whether the sender is there */

/* A handler that waits ends when its sender has gone. */
void
handling_watch_sender(void)
{
	if (client_connection_check_interval != 0 || MyProcPort == NULL)
		return;
	setting_local("client_connection_check_interval", CppAsString2(CONNECTION_CHECK_INTERVAL));
	if (!get_timeout_active(CLIENT_CONNECTION_CHECK_TIMEOUT))
		enable_timeout_after(CLIENT_CONNECTION_CHECK_TIMEOUT, CONNECTION_CHECK_INTERVAL);
}

/* As statement_timeout does, unless that comes first: what is ended so was not done,
 * for certain. True: it has to be disabled. */
bool
handling_limit(int timeout)
{
	if (timeout <= 0 ||
		(get_timeout_active(STATEMENT_TIMEOUT) &&
		 get_timeout_finish_time(STATEMENT_TIMEOUT) <= TimestampTzPlusMilliseconds(GetCurrentTimestamp(), timeout)))
		return false;
	enable_timeout_after(STATEMENT_TIMEOUT, timeout);
	return true;
}

void
handling_limit_own(void)
{
	enable_timeout_after(STATEMENT_TIMEOUT, guc_call_timeout > 0 ? guc_call_timeout : HANDLE_TIMEOUT);
}

void
handling_unlimit_own(void)
{
	disable_timeout(STATEMENT_TIMEOUT, false);
	/* it may have come too late to end anything */
	QueryCancelPending = false;
}

/* --- handling --- */

typedef struct HandleWork
{
	Handler    *handler;
	List	   *messages;
	MemoryContext context;		/* reset after each message */
	int64		retry_after;
} HandleWork;

static void
run_handler(void *arg)
{
	HandleWork *work = arg;
	ListCell   *cell;

	work->retry_after = -1;
	PG_TRY();
	{
		foreach(cell, work->messages)
		{
			MemoryContext old = MemoryContextSwitchTo(work->context);

			int			nest = NewGUCNestLevel();

			CHECK_FOR_INTERRUPTS();
			PushActiveSnapshot(GetTransactionSnapshot());
			call_handler(work->handler, lfirst(cell));
			PopActiveSnapshot();
			leftovers_clear();
			/* what it has set is not the next one's */
			AtEOXact_GUC(false, nest);
			CommandCounterIncrement();
			MemoryContextSwitchTo(old);
			MemoryContextReset(work->context);
		}
	}
	PG_CATCH();
	{
		/* what it has set goes with the subtransaction */
		work->retry_after = guc_retry_after;
		PG_RE_THROW();
	}
	PG_END_TRY();
}

static bool
same_key(const Message *a, const Message *b)
{
	return a->key != NULL && b->key != NULL &&
		VARSIZE_ANY_EXHDR(a->key) == VARSIZE_ANY_EXHDR(b->key) &&
		memcmp(VARDATA_ANY(a->key), VARDATA_ANY(b->key), VARSIZE_ANY_EXHDR(a->key)) == 0;
}

static void
handle_one(HandleWork *work, Message *message, Handled *handled)
{
	ErrorData  *error;

	work->messages = list_make1(message);
	error = subxact_run(run_handler, work);
	if (error != NULL)
		leftovers_release();
	MemoryContextReset(work->context);
	handled->done = error == NULL;
	handled->retry_after = -1;
	if (error == NULL)
		return;
	handled->retry_after = work->retry_after;
	handled->state = pstrdup(unpack_sql_state(error->sqlerrcode));
	handled->message = error->detail == NULL ? error->message :
		psprintf("%s: %s", error->message, error->detail);
}

static int
compare_ids(const void *a, const void *b)
{
	int64		ia = *(const int64 *) a;
	int64		ib = *(const int64 *) b;

	return ia < ib ? -1 : ia > ib ? 1 : 0;
}

int64
messages_twice(List *messages)
{
	int			n = list_length(messages);
	int64	   *ids = palloc(Max(n, 1) * sizeof(int64));
	int64		twice = 0;

	for (int i = 0; i < n; i++)
		ids[i] = ((Message *) list_nth(messages, i))->id;
	qsort(ids, n, sizeof(int64), compare_ids);
	for (int i = 1; i < n && twice == 0; i++)
		if (ids[i] == ids[i - 1])
			twice = ids[i];
	pfree(ids);
	return twice;
}

Handled *
handle_messages(Handler *handler, List *messages, bool ordered)
{
	Handled    *handled = palloc0(Max(list_length(messages), 1) * sizeof(Handled));
	HandleWork	work = {.handler = handler, .messages = messages};
	List	   *failed = NIL;
	ListCell   *cell;
	int			i = 0;

	work.context = AllocSetContextCreate(CurrentMemoryContext, "dtx handler", ALLOCSET_DEFAULT_SIZES);
	if (list_length(messages) > 1 && subxact_run(run_handler, &work) == NULL)
	{
		for (i = 0; i < list_length(messages); i++)
			handled[i].done = true;
		MemoryContextDelete(work.context);
		return handled;
	}
	foreach(cell, messages)
	{
		Message    *message = lfirst(cell);
		ListCell   *other;

		foreach(other, failed)
			handled[i].skipped |= ordered && same_key(lfirst(other), message);
		if (!handled[i].skipped)
			handle_one(&work, message, &handled[i]);
		if (!handled[i].done && !handled[i].skipped)
			failed = lappend(failed, message);
		i++;
	}
	MemoryContextDelete(work.context);
	return handled;
}

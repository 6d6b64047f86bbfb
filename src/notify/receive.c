/*
 * receive.c
 *		The receiver's side: applying each result once.
 *
 * A row of dtx.received is inserted before the handler is called, and commits with
 * what that does. Whoever else has the same result, told or asked for, waits for that
 * row, and then finds that there is nothing to be done.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "core/compat.h"
#include "core/errors.h"
#include "core/fault.h"
#include "core/leftover.h"
#include "core/own_sql.h"
#include "core/participant.h"
#include "core/shmem.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "msg/deliver.h"
#include "notify/notification.h"
#include "notify/receive.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

PG_FUNCTION_INFO_V1(dtx_on_notification);
PG_FUNCTION_INFO_V1(dtx_receive_notifications);

/* The name of a node, as it stands in its id, is that without the tag. */
static char *
sender_name(const char *origin)
{
	const char *dot = strrchr(origin, '.');

	return dot == NULL ? pstrdup(origin) : pnstrdup(origin, dot - origin);
}

/* --- handlers --- */

/* The function that is named for a sender, or for all others: palloc'd. told: by the current
 * role, which may not be the one that this sender has. */
static char *
handler_of(const char *sender, bool told)
{
	MemoryContext context = CurrentMemoryContext;
	Oid			types[] = {TEXTOID};
	Datum		values[] = {CStringGetTextDatum(node_name_normal(sender))};
	char	   *name = NULL;
	Oid			role = InvalidOid;
	bool		isnull;
	OwnSql		sql;

	own_sql_begin(&sql);
	if (own_sql("SELECT handler, role FROM dtx.notification_handler WHERE sender IN ($1, '') ORDER BY sender DESC LIMIT 1",
				lengthof(types), types, values, NULL) > 0)
	{
		MemoryContext old = MemoryContextSwitchTo(context);

		name = TextDatumGetCString(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
		role = DatumGetObjectId(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2, &isnull));
		if (isnull)
			role = InvalidOid;
		MemoryContextSwitchTo(old);
	}
	own_sql_end(&sql);
	if (told && OidIsValid(role) && !is_member_of_role_nosuper(GetUserId(), role))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("role \"%s\" may not notify for node \"%s\"", GetUserNameFromId(GetUserId(), false), sender)));
	if (name == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("there is no handler of notifications from \"%s\"", sender),
				 errhint("Name one with dtx_on_notification.")));
	return name;
}

/* dtx_on_notification(handler text, sender text, role regrole) */
Datum
dtx_on_notification(PG_FUNCTION_ARGS)
{
	Oid			types[] = {TEXTOID, TEXTOID, OIDOID};
	Datum		values[3];
	char		nulls[] = "   ";
	OwnSql		sql;

	shmem_require();
	if (current_branch.active)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("handlers cannot be named inside a branch")));
	PreventCommandIfReadOnly("dtx_on_notification()");
	if (!PG_ARGISNULL(1) && VARSIZE_ANY_EXHDR(PG_GETARG_TEXT_PP(1)) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("name of a node must not be empty")));
	values[0] = CStringGetTextDatum(PG_ARGISNULL(1) ? "" : node_name_normal(text_to_cstring(PG_GETARG_TEXT_PP(1))));
	if (!PG_ARGISNULL(0))
	{
		Handler    *handler = handler_lookup(text_to_cstring(PG_GETARG_TEXT_PP(0)), HANDLES_NOTIFICATIONS);

		if (!PG_ARGISNULL(2) && dtx_function_aclcheck(handler->function, PG_GETARG_OID(2)) != ACLCHECK_OK)
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
					 errmsg("permission denied for function %s", get_func_name(handler->function)),
					 errdetail("It is called as role \"%s\".", GetUserNameFromId(PG_GETARG_OID(2), true))));
		/* it is called with other search paths */
		values[1] = CStringGetTextDatum(format_procedure_qualified(handler->function));
	}
	if (PG_ARGISNULL(2))
		nulls[2] = 'n';
	else
		values[2] = PG_GETARG_DATUM(2);
	own_sql_begin(&sql);
	if (PG_ARGISNULL(0))
		(void) own_sql("DELETE FROM dtx.notification_handler WHERE sender = $1", 1, types, values, NULL);
	else
		(void) own_sql("INSERT INTO dtx.notification_handler (sender, handler, role) VALUES ($1, $2, $3)"
					   " ON CONFLICT (sender) DO UPDATE SET handler = excluded.handler, role = excluded.role",
					   lengthof(types), types, values, nulls);
	own_sql_end(&sql);
	PG_RETURN_VOID();
}

/* --- applying --- */

typedef struct Applying
{
	const char *origin;
	char		how;
	Oid			role;
} Applying;

/* The row first: false when there is one. */
static bool
insert_received(const Message *message, void *arg)
{
	Applying   *applying = arg;
	Oid			types[] = {TEXTOID, TEXTOID, OIDOID, CHAROID};
	Datum		values[] = {PointerGetDatum(message->key), CStringGetTextDatum(applying->origin),
	ObjectIdGetDatum(applying->role), CharGetDatum(applying->how)};
	static SPIPlanPtr plan = NULL;
	bool		inserted;
	OwnSql		sql;

	own_sql_begin(&sql);
	inserted = own_sql_saved(&plan, "INSERT INTO dtx.received (tx_no, origin, role, how, received_at)"
							 " VALUES ($1, $2, $3, $4, clock_timestamp()) ON CONFLICT (tx_no, origin) DO NOTHING",
							 lengthof(types), types, values, NULL) > 0;
	own_sql_end(&sql);
	/* it may be called again, when another one of its batch has failed */
	((Message *) unconstify(Message *, message))->known = !inserted;
	return inserted;
}

Handled *
results_apply(const char *name, const char *origin, char how, List *messages)
{
	Applying	applying = {.origin = origin, .how = how, .role = GetUserId()};
	char	   *sender = sender_name(origin);
	Handler    *handler;
	Handled    *handled;
	ListCell   *cell;
	int			applied = 0;
	int			i = 0;

	handler = handler_lookup(name != NULL ? name : handler_of(sender, how == RECEIVED_TOLD), HANDLES_NOTIFICATIONS);
	handler->first = insert_received;
	handler->first_arg = &applying;
	foreach(cell, messages)
		((Message *) lfirst(cell))->topic = sender;
	/* once it is said that it was applied, there is no way back */
	message_must_be_durable();
	handled = handle_messages(handler, messages, false);
	foreach(cell, messages)
		applied += handled[i++].done && !((Message *) lfirst(cell))->known;
	stat_add(STAT_NOTIFICATIONS_APPLIED, applied);
	return handled;
}

bool
result_apply_one(const char *name, const char *origin, char how, Message *message)
{
	Handled    *handled = results_apply(name, origin, how, list_make1(message));

	if (!handled->done)
		ereport(ERROR,
				(errcode(MAKE_SQLSTATE(handled->state[0], handled->state[1], handled->state[2], handled->state[3],
									   handled->state[4])),
				 errmsg_internal("%s", handled->message),
				 errcontext("result of transaction \"%s\" of node \"%s\"", text_to_cstring(message->key), origin)));
	return !message->known;
}

bool
result_is_known(const char *origin, const char *tx_no)
{
	Oid			types[] = {TEXTOID, TEXTOID};
	Datum		values[] = {CStringGetTextDatum(tx_no), CStringGetTextDatum(origin)};
	bool		known;
	OwnSql		sql;

	own_sql_begin(&sql);
	known = own_sql("SELECT 1 FROM dtx.received WHERE tx_no = $1 AND origin = $2", lengthof(types), types, values, NULL) > 0;
	own_sql_end(&sql);
	return known;
}

/* --- being told --- */

static void
check_origin(const char *origin)
{
	const char *dot = strrchr(origin, '.');

	if (dot == NULL || dot == origin || dot[1] == '\0' || strlen(origin) >= DTX_NODE_SIZE)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" is not the id of a node", origin)));
}

/* dtx.receive(origin text, timeout int4, notifications jsonb); receive.h has what comes back */
Datum
dtx_receive_notifications(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	char	   *origin = text_to_cstring(PG_GETARG_TEXT_PP(0));
	List	   *messages;
	Handled    *handled;
	ListCell   *cell;
	bool		timed;
	int			i = 0;

	shmem_require();
	InitMaterializedSRF(fcinfo, 0);
	session_lend();
	PreventCommandDuringRecovery("dtx.receive()");
	participant_serve();
	if (current_branch.active)
		ereport(ERROR,
				(errcode(ERRCODE_DTX_BRANCH_STATE),
				 errmsg("notifications cannot be received inside a branch")));
	check_origin(origin);
	messages = messages_parse(PG_GETARG_JSONB_P(2));
	foreach(cell, messages)
	{
		if (((Message *) lfirst(cell))->key == NULL)
			tx_no_check("");
		tx_no_check(text_to_cstring(((Message *) lfirst(cell))->key));
	}
	timed = handling_limit(PG_GETARG_INT32(1));
	handling_watch_sender();
	DTX_FAULT_POINT("receive-before-handling");
	handled = results_apply(NULL, origin, RECEIVED_TOLD, messages);
	if (timed)
		disable_timeout(STATEMENT_TIMEOUT, false);
	DTX_FAULT_POINT("receive-after-handling");
	foreach(cell, messages)
	{
		Handled    *h = &handled[i++];
		Datum		values[4];
		bool		nulls[4] = {0};

		if (h->done)
			continue;
		values[0] = Int64GetDatum(((Message *) lfirst(cell))->id);
		values[1] = CStringGetTextDatum(h->state);
		values[2] = CStringGetTextDatum(h->message);
		values[3] = Int64GetDatum(h->retry_after);
		nulls[3] = h->retry_after < 0;
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

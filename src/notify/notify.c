/*
 * notify.c
 *		Notifying: the functions that businesses call.
 *
 * The row is inserted by the caller's transaction: a notification exists exactly if
 * the business change does. A branch's is held back until the branch is committed.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "catalog/pg_type.h"
#include "commands/sequence.h"
#include "core/compat.h"
#include "core/own_sql.h"
#include "core/participant.h"
#include "core/peer_use.h"
#include "core/relations.h"
#include "core/settle.h"
#include "core/tell.h"
#include "fmgr.h"
#include "foreign/foreign.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "msg/message.h"
#include "msg/schedule.h"
#include "net/endpoint.h"
#include "net/peer.h"
#include "notify/notification.h"
#include "storage/bufmgr.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(dtx_notify);
PG_FUNCTION_INFO_V1(dtx_target_enable);
PG_FUNCTION_INFO_V1(dtx_target_disable);

/* What is to be a row of dtx.notification. */
typedef struct Entry
{
	int64		id;
	Oid			server;			/* InvalidOid: registered only */
	Oid			role;
	Datum		tx_no;			/* text */
	Datum		payload;		/* jsonb */
	Datum		schedule;		/* interval[]; 0: the default */
} Entry;

void
tx_no_check(const char *tx_no)
{
	bool		valid = *tx_no != '\0' && strlen(tx_no) <= TX_NO_SIZE;

	for (const unsigned char *p = (const unsigned char *) tx_no; *p && valid; p++)
		valid = *p >= ' ' && *p != 0x7f;
	if (!valid)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("tx_no is not the number of a transaction"),
				 errdetail("It has from 1 to %d bytes, and no control characters.", TX_NO_SIZE)));
}

/* The row that there is already for the same target, or that this branch (gid; NULL: none)
 * holds, or another one of its global transaction: is it the same? Then its id; 0: there is
 * none. What a stranger's branch holds may never be. */
static int64
find_same(const Entry *entry, const char *gid)
{
	Oid			types[] = {TEXTOID, OIDOID, JSONBOID, TEXTOID, INT8OID};
	Datum		values[] = {entry->tx_no, ObjectIdGetDatum(entry->server), entry->payload,
	CStringGetTextDatum(gid == NULL ? "" : gid), Int64GetDatum(gid == NULL ? 0 : current_branch.key)};
	static SPIPlanPtr plan = NULL;
	int64		id = 0;
	Oid			role = InvalidOid;
	bool		same = false;
	bool		isnull;
	OwnSql		sql;

	own_sql_begin(&sql);
	if (own_sql_saved(&plan, "SELECT id, role, payload = $3 FROM dtx.notification WHERE tx_no = $1 AND server = $2"
					  " UNION ALL SELECT id, role, payload = $3 FROM dtx.held_notification h WHERE tx_no = $1 AND server = $2"
					  " AND (branch = $5 OR EXISTS (SELECT FROM dtx.joined_branch j WHERE j.branch = h.branch"
					  " AND dtx.gid_xid(j.gid) = dtx.gid_xid($4)))",
					  lengthof(types), types, values, NULL) > 0)
	{
		HeapTuple	tuple = SPI_tuptable->vals[0];

		id = DatumGetInt64(SPI_getbinval(tuple, SPI_tuptable->tupdesc, 1, &isnull));
		role = DatumGetObjectId(SPI_getbinval(tuple, SPI_tuptable->tupdesc, 2, &isnull));
		same = DatumGetBool(SPI_getbinval(tuple, SPI_tuptable->tupdesc, 3, &isnull));
	}
	own_sql_end(&sql);
	if (id == 0)
		return 0;
	if (!has_privs_of_role(entry->role, role))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("transaction \"%s\" was notified there by another role", TextDatumGetCString(entry->tx_no))));
	if (!same)
		ereport(ERROR,
				(errcode(ERRCODE_UNIQUE_VIOLATION),
				 errmsg("transaction \"%s\" was notified there with another payload", TextDatumGetCString(entry->tx_no)),
				 errdetail("A business transaction has one result, which may have been told already."),
				 errhint("See dtx_outcome; what happens later is a transaction with a number of its own.")));
	return id;
}

/* Insert the row; false: there is one for the same target. */
static bool
insert_row(const Entry *entry)
{
	Oid			types[] = {INT8OID, TEXTOID, OIDOID, OIDOID, JSONBOID, INTERVALARRAYOID, TIMESTAMPTZOID, CHAROID};
	bool		registered = !OidIsValid(entry->server);
	Datum		values[] = {Int64GetDatum(entry->id), entry->tx_no, ObjectIdGetDatum(entry->server),
		ObjectIdGetDatum(entry->role), entry->payload, entry->schedule, TimestampTzGetDatum(GetCurrentTimestamp()),
	CharGetDatum(registered ? 'r' : 'p')};
	char		nulls[] = "        ";
	static SPIPlanPtr plan = NULL;
	bool		inserted;
	OwnSql		sql;

	if (entry->schedule == 0)
		nulls[5] = 'n';
	own_sql_begin(&sql);
	inserted = own_sql_saved(&plan, "INSERT INTO dtx.notification (id, tx_no, server, role, payload, schedule, notified_at, state,"
							 " attempts, begun_with, next_attempt, changed_at)"
							 " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 0, 0, CASE WHEN $8 = 'p' THEN $7 END, $7)"
							 " ON CONFLICT (tx_no, server) DO NOTHING", lengthof(types), types, values, nulls) > 0;
	own_sql_end(&sql);
	if (!inserted)
		return false;
	stat_add(STAT_NOTIFICATIONS_MADE, 1);
	message_must_be_durable();
	if (!registered)
		message_notifies(target_bucket(entry->server, entry->role));
	return true;
}

static void
hold(const Entry *entry)
{
	Datum		values[Natts_held_notification] = {0};
	bool		nulls[Natts_held_notification] = {0};

	values[Anum_held_notification_branch - 1] = Int64GetDatum(current_branch.key);
	values[Anum_held_notification_id - 1] = Int64GetDatum(entry->id);
	values[Anum_held_notification_server - 1] = ObjectIdGetDatum(entry->server);
	values[Anum_held_notification_role - 1] = ObjectIdGetDatum(entry->role);
	values[Anum_held_notification_tx_no - 1] = entry->tx_no;
	values[Anum_held_notification_schedule - 1] = entry->schedule;
	nulls[Anum_held_notification_schedule - 1] = entry->schedule == 0;
	values[Anum_held_notification_payload - 1] = entry->payload;
	own_insert(OWN_HELD_NOTIFICATION, values, nulls);
}

/* A server that can be told something, as a role. */
static Oid
target_by_name(const char *name, Oid role)
{
	Oid			server = peer_server_by_name(name, role);

	peer_require_mapping(server, name, role);
	if (endpoint_is_http(server))
		(void) endpoint_load(server, role);
	else
		peer_require_database(server);
	return server;
}

/* ERROR 22P05 or 22021 for what cannot be sent, as it has no form in UTF-8. */
static void
check_utf8(Jsonb *payload, const char *tx_no)
{
	const char *texts[2];

	if (GetDatabaseEncoding() == PG_UTF8)
		return;
	texts[0] = JsonbToCString(NULL, &payload->root, VARSIZE_ANY(payload));
	texts[1] = tx_no;
	for (int i = 0; i < lengthof(texts); i++)
	{
		const char *utf8 = pg_server_to_any(texts[i], strlen(texts[i]), PG_UTF8);

		/* of SQL_ASCII nothing is converted */
		(void) pg_verify_mbstr(PG_UTF8, utf8, strlen(utf8), false);
	}
}

/* dtx_notify(server name, tx_no text, payload jsonb, schedule interval[]) */
Datum
dtx_notify(PG_FUNCTION_ARGS)
{
	Entry		entry = {0};
	Message		message = {.topic = ""};
	int			n;

	shmem_require();
	if (PG_ARGISNULL(1) || PG_ARGISNULL(2))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("tx_no and payload of a notification must not be null")));
	PreventCommandIfReadOnly("dtx_notify()");
	PreventCommandDuringRecovery("dtx_notify()");
	entry.tx_no = PG_GETARG_DATUM(1);
	tx_no_check(TextDatumGetCString(entry.tx_no));
	entry.role = GetUserId();
	message.payload = PG_GETARG_JSONB_P(2);
	message_check_size(&message);
	entry.payload = JsonbPGetDatum(message.payload);
	if (!PG_ARGISNULL(3))
	{
		entry.schedule = PG_GETARG_DATUM(3);
		(void) schedule_parse(entry.schedule, 0, &n);
	}
	if (!PG_ARGISNULL(0))
	{
		entry.server = target_by_name(NameStr(*PG_GETARG_NAME(0)), entry.role);
		peer_use(entry.server, entry.role);
		if (endpoint_is_http(entry.server))
			check_utf8(message.payload, TextDatumGetCString(entry.tx_no));
	}
	else if (entry.schedule != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a result that is only registered has no schedule"),
				 errdetail("Without a server it is told to who asks.")));
	entry.id = nextval_internal(own_relid(OWN_MESSAGE_ID), false);
	/* a branch that is prepared holds its rows back by itself */
	if (current_branch.active && !current_branch.mode->settle_held)
	{
		int64		same = find_same(&entry, current_branch.gid_text);

		if (same != 0)
			PG_RETURN_INT64(same);
		hold(&entry);
	}
	else if (!insert_row(&entry))
	{
		int64		same = find_same(&entry, NULL);

		/* who inserted it is not seen yet: repeatable read */
		if (same == 0)
			ereport(ERROR,
					(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
					 errmsg("could not serialize access due to concurrent update")));
		PG_RETURN_INT64(same);
	}
	PG_RETURN_INT64(entry.id);
}

/* A branch is settled: what it notifies goes out, or never was. */
static void
settle_held_notifications(const JoinedBranch *branch, bool commit)
{
	OwnScan		scan;
	HeapTuple	tuple;
	Relation	rel = own_open(OWN_HELD_NOTIFICATION, AccessShareLock);
	bool		empty = RelationGetNumberOfBlocks(rel) == 0;

	table_close(rel, AccessShareLock);
	if (empty)
		return;
	own_scan_int8(&scan, OWN_HELD_NOTIFICATION, OWN_HELD_NOTIFICATION_BRANCH_IDX, RowExclusiveLock, branch->key);
	while (HeapTupleIsValid(tuple = own_scan_next(&scan)))
	{
		Entry		entry;
		bool		isnull;

		entry.id = DatumGetInt64(own_column(&scan, tuple, Anum_held_notification_id, NULL));
		entry.server = DatumGetObjectId(own_column(&scan, tuple, Anum_held_notification_server, NULL));
		entry.role = DatumGetObjectId(own_column(&scan, tuple, Anum_held_notification_role, NULL));
		entry.tx_no = own_column(&scan, tuple, Anum_held_notification_tx_no, NULL);
		entry.schedule = own_column(&scan, tuple, Anum_held_notification_schedule, &isnull);
		if (isnull)
			entry.schedule = 0;
		entry.payload = own_column(&scan, tuple, Anum_held_notification_payload, NULL);
		if (commit && !insert_row(&entry))
			ereport(WARNING,
					(errmsg("transaction \"%s\" was notified by another transaction before this branch was committed",
							TextDatumGetCString(entry.tx_no)),
					 errdetail("What the branch notifies is not sent.")));
		own_delete(&scan, tuple);
	}
	own_scan_end(&scan);
}

void
notify_register(void)
{
	settle_listen(settle_held_notifications);
}

/* --- targets --- */

static void
refuse_in_branch(void)
{
	if (current_branch.active)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("targets of notifications cannot be changed inside a branch")));
	PreventCommandIfReadOnly("changing a target");
	PreventCommandDuringRecovery("changing a target");
}

static void
targets_changed(void)
{
	Outcome		changed = {.kind = OUTCOME_SUBSCRIPTIONS, .commit = true};

	tell_worker_at_commit(&changed);
}

/* The role whose target is meant: the second argument, or the current one. ERROR 22004
 * without a server, 42501 without the rights of the role. */
static Oid
role_of_target(FunctionCallInfo fcinfo)
{
	Oid			role = PG_ARGISNULL(1) ? GetUserId() : PG_GETARG_OID(1);

	shmem_require();
	refuse_in_branch();
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("server of a target must not be null")));
	if (!has_privs_of_role(GetUserId(), role))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must have the rights of the role whose notifications these are")));
	return role;
}

/* dtx_target_enable(server name, role regrole) */
Datum
dtx_target_enable(PG_FUNCTION_ARGS)
{
	Oid			role = role_of_target(fcinfo);
	Oid			types[] = {OIDOID, OIDOID};
	Datum		values[] = {0, ObjectIdGetDatum(role)};
	Datum		waiting;
	bool		isnull;
	OwnSql		sql;

	values[0] = ObjectIdGetDatum(peer_server_by_name(NameStr(*PG_GETARG_NAME(0)), role));
	own_sql_begin(&sql);
	(void) own_sql("UPDATE dtx.target SET disabled_at = NULL, not_before = NULL, reason = NULL WHERE server = $1 AND role = $2", lengthof(types), types, values, NULL);
	(void) own_sql("SELECT count(*) FROM dtx.notification WHERE server = $1 AND role = $2 AND next_attempt IS NOT NULL",
				   lengthof(types), types, values, NULL);
	waiting = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull);
	own_sql_end(&sql);
	targets_changed();
	PG_RETURN_DATUM(waiting);
}

/* dtx_target_disable(server name, role regrole) */
Datum
dtx_target_disable(PG_FUNCTION_ARGS)
{
	Oid			role = role_of_target(fcinfo);

	target_stop(target_by_name(NameStr(*PG_GETARG_NAME(0)), role), role, true, 0, "dtx_target_disable");
	targets_changed();
	PG_RETURN_VOID();
}

/* --- dead ones: the functions of messages take their ids too --- */

/* Those of the ids whose role's rights the caller has. */
#define MINE	" WHERE n.id = ANY ($1) AND pg_has_role($2, n.role, 'USAGE')"

static uint64
change_rows(const char *statement, Datum ids, bool wake)
{
	Oid			types[] = {INT8ARRAYOID, OIDOID};
	Datum		values[] = {ids, ObjectIdGetDatum(GetUserId())};
	uint64		count;
	bool		isnull;
	OwnSql		sql;

	own_sql_begin(&sql);
	count = own_sql(statement, lengthof(types), types, values, NULL);
	for (uint64 i = 0; i < count && wake; i++)
	{
		HeapTuple	tuple = SPI_tuptable->vals[i];

		message_notifies(target_bucket(DatumGetObjectId(SPI_getbinval(tuple, SPI_tuptable->tupdesc, 1, &isnull)),
									   DatumGetObjectId(SPI_getbinval(tuple, SPI_tuptable->tupdesc, 2, &isnull))));
	}
	own_sql_end(&sql);
	return count;
}

uint64
notifications_redeliver(Datum ids)
{
	return change_rows("UPDATE dtx.notification n SET state = 'p', begun_with = attempts,"
							" next_attempt = clock_timestamp(), changed_at = clock_timestamp(), planned_at = clock_timestamp()" MINE
							" AND n.state = 'x' AND EXISTS (SELECT FROM pg_foreign_server s WHERE s.oid = n.server) RETURNING n.server, n.role", ids, true);
}

uint64
notifications_discard(Datum ids)
{
	return change_rows("UPDATE dtx.notification n SET state = 'g', next_attempt = NULL, changed_at = clock_timestamp()" MINE
					   " AND n.state IN ('x', 'p')", ids, false);
}

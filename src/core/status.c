/*
 * status.c
 *		What is known of a global transaction: dtx_status and dtx_wait.
 */
#include "postgres.h"

#include "access/transam.h"
#include "catalog/pg_authid.h"
#include "core/api.h"
#include "core/clock.h"
#include "core/compat.h"
#include "core/global.h"
#include "core/node.h"
#include "core/branch_row.h"
#include "core/history.h"
#include "core/mode.h"
#include "core/relations.h"
#include "core/shared.h"
#include "core/shmem.h"
#include "core/status.h"
#include "fmgr.h"
#include "net/connection.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/xid8.h"
#include "utils/fmgrprotos.h"
#include "utils/timestamp.h"

ENTRY_POINT(dtx_status, 1);
ENTRY_POINT(dtx_wait, 2);

TransactionState
transaction_state(uint64 n)
{
	LOCAL_FCINFO(fcinfo, 1);
	Datum		status;
	char	   *word;

	if (n >= U64FromFullTransactionId(ReadNextFullTransactionId()))
		return XACT_NEVER_FLUSHED;
	InitFunctionCallInfoData(*fcinfo, NULL, 1, InvalidOid, NULL, NULL);
	fcinfo->args[0].value = FullTransactionIdGetDatum(FullTransactionIdFromU64(n));
	fcinfo->args[0].isnull = false;
	status = pg_xact_status(fcinfo);
	if (fcinfo->isnull)
		return XACT_FORGOTTEN;
	word = TextDatumGetCString(status);
	return strcmp(word, "in progress") == 0 ? XACT_RUNNING :
		strcmp(word, "committed") == 0 ? XACT_COMMITTED : XACT_ABORTED;
}

/* Is there a session here that coordinates it? */
static bool
is_active_here(const GlobalXid *xid)
{
	for (int i = 0; i < shared->nprocesses; i++)
	{
		ProcessSlot *slot = process_slot(i);
		bool		same;

		SpinLockAcquire(&slot->mutex);
		same = slot->n == xid->n && slot->r == xid->r && slot->database == MyDatabaseId;
		SpinLockRelease(&slot->mutex);
		if (same)
			return true;
	}
	return false;
}

/* As a participant: in doubt, or settled not long ago? */
static const char *
participant_status(const GlobalXid *xid)
{
	OwnScan		scan;
	HeapTuple	tuple;
	const char *word = "unknown";
	ListCell   *cell;

	foreach(cell, modes_list_held())
	{
		Gid			gid;

		if (gid_parse(((HeldBranch *) lfirst(cell))->gid_text, &gid) && xid_equal(&gid.xid, xid))
			return "in doubt";
	}
	own_scan_all(&scan, OWN_JOINED_BRANCH, AccessShareLock);
	while (HeapTupleIsValid(tuple = own_scan_next(&scan)))
	{
		Gid			gid;

		if (!gid_parse(TextDatumGetCString(own_column(&scan, tuple, Anum_joined_branch_gid, NULL)), &gid) ||
			!xid_equal(&gid.xid, xid))
			continue;
		word = DatumGetChar(own_column(&scan, tuple, Anum_joined_branch_state, NULL)) == 't' ?
			"rolled back" : "in doubt";
		if (strcmp(word, "in doubt") == 0)
			break;
	}
	own_scan_end(&scan);
	return word;
}

const char *
global_status(const GlobalXid *xid)
{
	char		decision;
	TransactionState state;
	DatabaseSlot *slot;

	shmem_require();
	if (!node_is_self(xid->node))
		return participant_status(xid);
	if (is_active_here(xid))
		return "active";
	decision = shared_state(xid->n);
	if (decision != 0)
		return decision == 'o' ? "active" : decision == 'c' ? "committing" : "rolling back";
	state = transaction_state(xid->n);
	if (branch_row_exists(xid))
		return "committing";
	slot = my_database_slot();
	if (slot != NULL && open_rollback_exists(slot, xid->n, xid->r, false))
		return "rolling back";
	/* branches that a savepoint's rollback took back are on their way too */
	if (slot != NULL && open_rollback_exists(slot, xid->n, xid->r, true))
		return "committing";
	/* last: what is on its way is history before it is taken off the list */
	decision = history_decision(xid->node, xid->n, xid->r, 0);
	if (decision != 0)
		return decision == 'r' || decision == 'h' ? "rolled back" : "committed";
	if (xid->n < node_memory_from(xid->node))
		return "unknown";
	/*
	 * No trace of it. It was rolled back before it had a branch; or N was lost
	 * in a crash, and may have been handed out again; or the id is from another
	 * time. Until all peers have been asked they may have branches of it.
	 */
	if (slot != NULL && open_rollback_possible(slot, xid->n, xid->r))
		return "rolling back";
	return state == XACT_ABORTED ? "rolled back" : "unknown";
}

/* Roles whose sessions coordinate it here, whose rollbacks of it are under way, or who
 * have branches of it. */
static List *
roles_of(const GlobalXid *xid)
{
	List	   *roles = NIL;
	Outcome    *outcomes = palloc(DTX_OPEN_ROLLBACKS * sizeof(Outcome));
	DatabaseSlot *slot = my_database_slot();
	int			n = slot == NULL ? 0 : open_rollbacks_copy(slot, outcomes);
	ListCell   *cell;
	OwnScan		scan;
	HeapTuple	tuple;
	Gid			gid;

	for (int i = 0; i < shared->nprocesses; i++)
	{
		ProcessSlot *process = process_slot(i);
		Oid			role;
		bool		same;

		SpinLockAcquire(&process->mutex);
		same = process->n == xid->n && process->r == xid->r && process->database == MyDatabaseId;
		role = process->role;
		SpinLockRelease(&process->mutex);
		if (same && node_is_self(xid->node))
			roles = lappend_oid(roles, role);
	}
	for (int i = 0; i < n; i++)
		if (outcomes[i].n == xid->n && outcomes[i].r == xid->r && node_is_self(xid->node))
			roles = lappend_oid(roles, outcomes[i].role);
	foreach(cell, modes_list_held())
		if (gid_parse(((HeldBranch *) lfirst(cell))->gid_text, &gid) && xid_equal(&gid.xid, xid))
			roles = lappend_oid(roles, ((HeldBranch *) lfirst(cell))->role);
	own_scan_int8(&scan, OWN_BRANCH, OWN_BRANCH_N_IDX, AccessShareLock, (int64) xid->n);
	while (HeapTupleIsValid(tuple = own_scan_next(&scan)))
		if (gid_parse(TextDatumGetCString(own_column(&scan, tuple, Anum_branch_gid, NULL)), &gid) && xid_equal(&gid.xid, xid))
			roles = lappend_oid(roles, DatumGetObjectId(own_column(&scan, tuple, Anum_branch_role, NULL)));
	own_scan_end(&scan);
	own_scan_all(&scan, OWN_JOINED_BRANCH, AccessShareLock);
	while (HeapTupleIsValid(tuple = own_scan_next(&scan)))
		if (gid_parse(TextDatumGetCString(own_column(&scan, tuple, Anum_joined_branch_gid, NULL)), &gid) && xid_equal(&gid.xid, xid))
			roles = lappend_oid(roles, DatumGetObjectId(own_column(&scan, tuple, Anum_joined_branch_role, NULL)));
	own_scan_end(&scan);
	roles = list_concat(roles, shared_roles(xid));
	return list_concat(roles, history_roles(xid->node, xid->n, xid->r));
}

/* Is it the current role's to know? What leaves no trace of anybody is everybody's. */
static bool
is_known(const GlobalXid *xid)
{
	List	   *roles;
	ListCell   *cell;

	if (has_privs_of_role(GetUserId(), ROLE_PG_MONITOR))
		return true;
	roles = roles_of(xid);
	foreach(cell, roles)
		if (has_privs_of_role(GetUserId(), lfirst_oid(cell)))
			return true;
	return roles == NIL;
}

/* dtx_status(xid text) */
static Datum
dtx_status_given(PG_FUNCTION_ARGS)
{
	GlobalXid	xid;

	shmem_require();
	xid_parse_or_error(text_to_cstring(PG_GETARG_TEXT_PP(0)), &xid);
	if (!is_known(&xid))
		PG_RETURN_TEXT_P(cstring_to_text("unknown"));
	PG_RETURN_TEXT_P(cstring_to_text(global_status(&xid)));
}

/* dtx_wait(xid text, timeout interval) */
static Datum
dtx_wait_given(PG_FUNCTION_ARGS)
{
	GlobalXid	xid;
	const GlobalXid *current = global_current();
	int64		ms = interval_to_ms(PG_GETARG_INTERVAL_P(1));
	TimestampTz deadline = TimestampTzPlusMilliseconds(clock_now(), ms);
	DatabaseSlot *slot = my_database_slot();
	const char *word;

	xid_parse_or_error(text_to_cstring(PG_GETARG_TEXT_PP(0)), &xid);
	shmem_require();
	if (current != NULL && xid_equal(current, &xid))
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("a transaction cannot wait for its own end"),
				 errhint("Call dtx_wait after COMMIT or ROLLBACK.")));
	if (!is_known(&xid))
		PG_RETURN_TEXT_P(cstring_to_text("unknown"));
	if (slot != NULL)
		ConditionVariablePrepareToSleep(&slot->changed);
	for (;;)
	{
		long		remaining;

		word = global_status(&xid);
		remaining = deadline_remaining(deadline);
		if ((strcmp(word, "active") != 0 && strcmp(word, "committing") != 0 &&
			 strcmp(word, "rolling back") != 0 && strcmp(word, "in doubt") != 0) ||
			remaining == 0 || slot == NULL)
			break;
		/* settlings are told; the end of another session's transaction is not */
		(void) ConditionVariableTimedSleep(&slot->changed, Min(remaining, 50), PG_WAIT_EXTENSION);
	}
	ConditionVariableCancelSleep();
	/* it may have left its first trace meanwhile */
	PG_RETURN_TEXT_P(cstring_to_text(is_known(&xid) ? word : "unknown"));
}

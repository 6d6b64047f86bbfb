/*
 * views.c
 *		What the views show of shared memory.
 */
#include "postgres.h"

#include "core/gid.h"
#include "core/mode.h"
#include "core/node.h"
#include "core/shmem.h"
#include "fmgr.h"
#include "funcapi.h"
#include "catalog/pg_authid.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

PG_FUNCTION_INFO_V1(dtx_sessions);
PG_FUNCTION_INFO_V1(dtx_rollbacks);
PG_FUNCTION_INFO_V1(dtx_runner_trouble);
PG_FUNCTION_INFO_V1(dtx_held_branches);
PG_FUNCTION_INFO_V1(dtx_stats);

static const char *const stat_names[STAT_COUNT] = {
	[STAT_BEGUN] = "transactions_begun",
	[STAT_COMMITTED] = "transactions_committed",
	[STAT_ROLLED_BACK] = "transactions_rolled_back",
	[STAT_BRANCHES_STARTED] = "branches_started",
	[STAT_BRANCHES_JOINED] = "branches_joined",
	[STAT_SETTLED_COMMIT] = "branches_settled_with_commit",
	[STAT_SETTLED_ROLLBACK] = "branches_settled_with_rollback",
	[STAT_CONFIRMED] = "tries_confirmed",
	[STAT_CANCELLED] = "tries_cancelled",
	[STAT_SETTLE_CALLS] = "settle_calls",
	[STAT_SETTLE_RETRIES] = "settle_retries",
	[STAT_CONFLICTS] = "conflicts",
	[STAT_LOST_BRANCHES] = "lost_branches",
	[STAT_HEURISTIC_CONFLICTS] = "heuristic_conflicts",
	[STAT_ROWS_CAPTURED] = "rows_captured",
	[STAT_ROWS_COMPENSATED] = "rows_compensated",
	[STAT_LOCK_WAITS] = "row_lock_waits",
	[STAT_LOCK_TIMEOUTS] = "row_lock_timeouts",
	[STAT_LOCK_GIVE_UPS] = "row_lock_give_ups",
	[STAT_CALLS_REPEATED] = "calls_repeated",
	[STAT_RECOVERY_PASSES] = "recovery_passes",
	[STAT_MESSAGES_PUBLISHED] = "messages_published",
	[STAT_MESSAGES_DELIVERED] = "messages_delivered",
	[STAT_MESSAGES_HANDLED] = "messages_handled",
	[STAT_MESSAGES_FAILED] = "messages_failed",
	[STAT_MESSAGES_DEAD] = "messages_dead",
	[STAT_NOTIFICATIONS_MADE] = "notifications_made",
	[STAT_NOTIFICATION_ATTEMPTS] = "notification_attempts",
	[STAT_NOTIFICATIONS_DELIVERED] = "notifications_delivered",
	[STAT_NOTIFICATIONS_EXHAUSTED] = "notifications_exhausted",
	[STAT_NOTIFICATIONS_APPLIED] = "notifications_applied",
	[STAT_OUTCOMES_ASKED] = "outcomes_asked",
};

static bool
may_see(Oid role)
{
	return has_privs_of_role(GetUserId(), role) ||
		has_privs_of_role(GetUserId(), ROLE_PG_MONITOR);
}

/* dtx.sessions(): global transactions that sessions of this database coordinate,
 * as far as the caller may see them */
Datum
dtx_sessions(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;

	shmem_require();
	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i < shared->nprocesses; i++)
	{
		ProcessSlot *slot = process_slot(i);
		ProcessSlot copy;
		GlobalXid	xid;
		char		id[DTX_GID_SIZE];
		Datum		values[5];
		bool		nulls[5] = {0};

		SpinLockAcquire(&slot->mutex);
		copy = *slot;
		SpinLockRelease(&slot->mutex);
		if (copy.n == 0 || copy.database != MyDatabaseId ||
			!may_see(copy.role))
			continue;
		strlcpy(xid.node, node_self(), sizeof(xid.node));
		xid.n = copy.n;
		xid.r = copy.r;
		xid_format(&xid, id);
		values[0] = Int32GetDatum(copy.pid);
		values[1] = CStringGetTextDatum(id);
		values[2] = TimestampTzGetDatum(copy.begun_at);
		values[3] = TimestampTzGetDatum(copy.deadline);
		nulls[3] = copy.deadline == 0;
		values[4] = Int32GetDatum(copy.branches);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/* dtx.runner_trouble(role oid): why the role's functions are not called in this database,
 * or NULL */
Datum
dtx_runner_trouble(PG_FUNCTION_ARGS)
{
	DatabaseSlot *slot = my_database_slot();
	Oid			role = PG_GETARG_OID(0);
	int			failures = 0;

	if (slot == NULL || !may_see(role))
		PG_RETURN_NULL();
	SpinLockAcquire(&slot->mutex);
	for (int i = 0; i < DTX_RUNNERS; i++)
		if (slot->runners[i].role == role && slot->runners[i].latch == NULL)
			failures = slot->runners[i].failures;
	SpinLockRelease(&slot->mutex);
	/* one may be on its way up */
	if (failures < 2)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text("the process that calls the role's functions ends, or does not come up, again and again: see the server's log"));
}

/* dtx.rollbacks(): branches of this node that are being rolled back, as far as
 * the caller may see them */
Datum
dtx_rollbacks(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Outcome    *outcomes = palloc(DTX_OPEN_ROLLBACKS * sizeof(Outcome));
	DatabaseSlot *slot;
	int			n;

	shmem_require();
	slot = my_database_slot();
	InitMaterializedSRF(fcinfo, 0);
	n = slot == NULL ? 0 : open_rollbacks_copy(slot, outcomes);
	for (int i = 0; i < n; i++)
	{
		GlobalXid	xid;
		char		id[DTX_GID_SIZE];
		Datum		values[3];
		bool		nulls[3] = {0};

		if (!may_see(outcomes[i].role))
			continue;
		strlcpy(xid.node, node_self(), sizeof(xid.node));
		xid.n = outcomes[i].n;
		xid.r = outcomes[i].r;
		xid_format(&xid, id);
		values[0] = CStringGetTextDatum(id);
		values[1] = Int32GetDatum((int32) outcomes[i].b);
		values[2] = ObjectIdGetDatum(outcomes[i].server);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/* dtx.held_branches(): prepared branches in doubt here, whose rows cannot be seen,
 * as far as the caller may see them */
Datum
dtx_held_branches(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	ListCell   *cell;

	shmem_require();
	InitMaterializedSRF(fcinfo, 0);
	foreach(cell, modes_list_held())
	{
		HeldBranch *branch = lfirst(cell);
		Datum		values[3];
		bool		nulls[3] = {0};

		/* a role that is gone is nobody's to see but a monitor's */
		if (!may_see(branch->role))
			continue;
		values[0] = CStringGetTextDatum(branch->gid_text);
		values[1] = ObjectIdGetDatum(branch->role);
		values[2] = TimestampTzGetDatum(branch->held_since);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/* dtx.stats() */
Datum
dtx_stats(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	DatabaseSlot *slot;

	shmem_require();
	slot = my_database_slot();
	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i < STAT_COUNT; i++)
	{
		Datum		values[2];
		bool		nulls[2] = {0};

		values[0] = CStringGetTextDatum(stat_names[i]);
		values[1] = Int64GetDatum(slot == NULL ? 0 : (int64) pg_atomic_read_u64(&slot->stats[i]));
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

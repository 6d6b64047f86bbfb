/*
 * resolve.c
 *		Operators: dtx_resolve decides branches whose coordinator is gone for
 *		good, dtx_retry makes the worker try at once.
 *
 * A resolution is recorded. Should the coordinator come back after all, its
 * decision is compared: that it had decided otherwise is reported on both
 * sides, never hidden. A coordinator that has decided to commit has a row of
 * the branch, and tells. One that has nothing, which means roll back, is told by
 * this participant: until it has answered, dtx.branch_pending counts the branch
 * among those in doubt. So the coordinator finds it over the connections that
 * it has anyway; no server that leads from here to there is needed.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_collation_d.h"
#include "core/api.h"
#include "core/compat.h"
#include "core/errors.h"
#include "core/node.h"
#include "core/override.h"
#include "core/participant.h"
#include "core/relations.h"
#include "core/resolve.h"
#include "core/settle.h"
#include "core/shmem.h"
#include "core/tombstone.h"
#include "fmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/timestamp.h"

ENTRY_POINT(dtx_resolve, 2);
ENTRY_POINT(dtx_retry, 1);

/* A scan for the row of a gid. */
static void
scan_gid(OwnScan *scan, const char *gid, LOCKMODE lockmode)
{
	ScanKeyData key;

	ScanKeyInit(&key, Anum_resolution_gid, BTEqualStrategyNumber, F_TEXTEQ, CStringGetTextDatum(gid));
	key.sk_collation = C_COLLATION_OID;
	own_scan_begin(scan, OWN_RESOLUTION, OWN_RESOLUTION_PKEY, lockmode, 1, &key);
}

bool
resolution_compare(const char *gid, bool commit, const char **outcome, char **detail)
{
	OwnScan		scan;
	HeapTuple	tuple;
	Datum		values[Natts_resolution] = {0};
	bool		nulls[Natts_resolution] = {0};
	bool		replace[Natts_resolution] = {0};
	bool		committed;
	bool		found;

	scan_gid(&scan, gid, RowExclusiveLock);
	found = HeapTupleIsValid(tuple = own_scan_next(&scan));
	if (found && !has_privs_of_role(GetUserId(), DatumGetObjectId(own_column(&scan, tuple, Anum_resolution_role, NULL))))
		*outcome = SETTLE_DENIED;
	else if (found)
	{
		committed = DatumGetChar(own_column(&scan, tuple, Anum_resolution_decision, NULL)) == 'c';
		*outcome = committed == commit ? SETTLE_SETTLED : SETTLE_HEURISTIC;
		if (committed != commit)
			*detail = psprintf("An operator has %s it with dtx_resolve at %s.",
							   committed ? "committed" : "rolled back",
							   timestamptz_to_str(DatumGetTimestampTz(own_column(&scan, tuple, Anum_resolution_resolved_at, NULL))));
		if (DatumGetChar(own_column(&scan, tuple, Anum_resolution_state, NULL)) == 'd')
		{
			values[Anum_resolution_state - 1] = CharGetDatum(committed == commit ? 'a' : 'h');
			values[Anum_resolution_compared_at - 1] = TimestampTzGetDatum(GetCurrentTimestamp());
			replace[Anum_resolution_state - 1] = replace[Anum_resolution_compared_at - 1] = true;
			if (committed != commit)
				stat_add(STAT_HEURISTIC_CONFLICTS, 1);
			own_update(&scan, tuple, values, nulls, replace);
		}
	}
	own_scan_end(&scan);
	return found;
}

void
resolutions_open(ResolutionFound found, void *arg)
{
	OwnScan		scan;
	HeapTuple	tuple;

	own_scan_all(&scan, OWN_RESOLUTION, AccessShareLock);
	while (HeapTupleIsValid(tuple = own_scan_next(&scan)))
		if (DatumGetChar(own_column(&scan, tuple, Anum_resolution_state, NULL)) == 'd' &&
			has_privs_of_role(GetUserId(), DatumGetObjectId(own_column(&scan, tuple, Anum_resolution_role, NULL))))
			found(TextDatumGetCString(own_column(&scan, tuple, Anum_resolution_gid, NULL)),
				  TextDatumGetCString(own_column(&scan, tuple, Anum_resolution_superior, NULL)),
				  (uint64) DatumGetInt64(own_column(&scan, tuple, Anum_resolution_superior_n, NULL)), arg);
	own_scan_end(&scan);
}

void
resolutions_prune(TimestampTz limit)
{
	OwnScan		scan;
	HeapTuple	tuple;

	own_scan_all(&scan, OWN_RESOLUTION, RowExclusiveLock);
	while (HeapTupleIsValid(tuple = own_scan_next(&scan)))
		if (DatumGetChar(own_column(&scan, tuple, Anum_resolution_state, NULL)) == 'a' &&
			DatumGetTimestampTz(own_column(&scan, tuple, Anum_resolution_compared_at, NULL)) < limit)
			own_delete(&scan, tuple);
	own_scan_end(&scan);
}

/* A branch in doubt here. */
typedef struct InDoubt
{
	char		gid_text[DTX_GID_SIZE];
	Oid			role;
	char		mode;
	char		superior[DTX_NODE_SIZE];	/* the node that began it */
	uint64		superior_n;		/* and its local transaction */
} InDoubt;

static void
record_resolution(const InDoubt *branch, bool commit)
{
	Datum		values[Natts_resolution] = {0};
	bool		nulls[Natts_resolution] = {0};

	values[Anum_resolution_gid - 1] = CStringGetTextDatum(branch->gid_text);
	values[Anum_resolution_decision - 1] = CharGetDatum(commit ? 'c' : 'r');
	values[Anum_resolution_role - 1] = ObjectIdGetDatum(branch->role);
	values[Anum_resolution_resolved_by - 1] = ObjectIdGetDatum(GetSessionUserId());
	values[Anum_resolution_resolved_at - 1] = TimestampTzGetDatum(GetCurrentTimestamp());
	values[Anum_resolution_mode - 1] = CharGetDatum(branch->mode);
	values[Anum_resolution_state - 1] = CharGetDatum('d');
	nulls[Anum_resolution_compared_at - 1] = true;
	values[Anum_resolution_superior - 1] = CStringGetTextDatum(branch->superior);
	values[Anum_resolution_superior_n - 1] = Int64GetDatum((int64) branch->superior_n);
	own_insert(OWN_RESOLUTION, values, nulls);
}

static List *
add_in_doubt(List *list, const char *gid_text, Oid role, char mode, const char *superior, uint64 superior_n)
{
	InDoubt    *branch = palloc0(sizeof(InDoubt));

	strlcpy(branch->gid_text, gid_text, sizeof(branch->gid_text));
	branch->role = role;
	branch->mode = mode;
	strlcpy(branch->superior, superior, sizeof(branch->superior));
	branch->superior_n = superior_n;
	return lappend(list, branch);
}

/* The branches in doubt here of a global transaction. */
static List *
branches_in_doubt(const GlobalXid *xid)
{
	List	   *list = NIL;
	ListCell   *cell;
	OwnScan		scan;
	HeapTuple	tuple;
	Gid			gid;

	foreach(cell, modes_list_held())
	{
		HeldBranch *held = lfirst(cell);

		if (gid_parse(held->gid_text, &gid) && xid_equal(&gid.xid, xid))
			list = add_in_doubt(list, held->gid_text, held->role, 'x', held->superior, held->superior_n);
	}
	own_scan_all(&scan, OWN_JOINED_BRANCH, AccessShareLock);
	while (HeapTupleIsValid(tuple = own_scan_next(&scan)))
	{
		char	   *gid_text = TextDatumGetCString(own_column(&scan, tuple, Anum_joined_branch_gid, NULL));

		bool		direct;
		Datum		superior = own_column(&scan, tuple, Anum_joined_branch_superior, &direct);

		if (DatumGetChar(own_column(&scan, tuple, Anum_joined_branch_state, NULL)) == 'd' &&
			gid_parse(gid_text, &gid) && xid_equal(&gid.xid, xid))
			list = add_in_doubt(list, gid_text,
								DatumGetObjectId(own_column(&scan, tuple, Anum_joined_branch_role, NULL)),
								DatumGetChar(own_column(&scan, tuple, Anum_joined_branch_mode, NULL)),
								direct ? gid.xid.node : TextDatumGetCString(superior),
								direct ? gid.xid.n : (uint64) DatumGetInt64(own_column(&scan, tuple, Anum_joined_branch_superior_n, NULL)));
	}
	own_scan_end(&scan);
	return list;
}

/* Has dtx_resolve said so before of a branch of this transaction, or the contrary? */
static bool
was_resolved(const GlobalXid *xid, bool commit)
{
	OwnScan		scan;
	HeapTuple	tuple;
	bool		found = false;
	Gid			gid;

	own_scan_all(&scan, OWN_RESOLUTION, AccessShareLock);
	while (!found && HeapTupleIsValid(tuple = own_scan_next(&scan)))
		found = DatumGetChar(own_column(&scan, tuple, Anum_resolution_decision, NULL)) == (commit ? 'c' : 'r') &&
			gid_parse(TextDatumGetCString(own_column(&scan, tuple, Anum_resolution_gid, NULL)), &gid) &&
			xid_equal(&gid.xid, xid);
	own_scan_end(&scan);
	return found;
}

static int64
resolve_branches(const GlobalXid *xid, const char *xid_text, bool commit)
{
	List	   *list = branches_in_doubt(xid);
	int			count = list_length(list);
	SettleRequest *requests = palloc0(Max(count, 1) * sizeof(SettleRequest));
	SettleCaller operator = {0};

	/* a statement over dtx_branches comes here once for each branch */
	if (count == 0 && was_resolved(xid, commit))
		return 0;
	if (count == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("global transaction \"%s\" has no branch in doubt here", xid_text),
				 was_resolved(xid, !commit) ?
				 errdetail("It was %s with dtx_resolve.", commit ? "rolled back" : "committed") : 0,
				 errhint("See the view dtx_branches.")));
	for (int i = 0; i < count; i++)
	{
		requests[i].gid = ((InDoubt *) list_nth(list, i))->gid_text;
		requests[i].commit = commit;
		requests[i].mode = ((InDoubt *) list_nth(list, i))->mode;
	}
	settle_branches(requests, count, &operator);
	for (int i = 0; i < count; i++)
	{
		InDoubt    *branch = list_nth(list, i);

		if (strcmp(requests[i].outcome, SETTLE_SETTLED) != 0)
			ereport(ERROR,
					(errcode(strcmp(requests[i].outcome, SETTLE_DENIED) == 0 ?
							 ERRCODE_INSUFFICIENT_PRIVILEGE : ERRCODE_DTX_CONFLICT),
					 errmsg("could not resolve branch \"%s\": %s", branch->gid_text, requests[i].outcome),
					 requests[i].detail ? errdetail_internal("%s", requests[i].detail) : 0,
					 strcmp(requests[i].outcome, SETTLE_DENIED) == 0 ?
					 errhint("Confirms and cancels run in a session of the role that ran the try: resolve it as that role.") : 0));
		record_resolution(branch, commit);
	}
	/* settling commits without waiting for the flush, since a coordinator asks
	 * for that; here nobody does */
	setting_local("synchronous_commit", "on");
	/* the next call in this statement finds them resolved */
	CommandCounterIncrement();
	return count;
}

/* Forget what stands here of a global transaction: rows that wait for a
 * participant that is gone, resolutions, and rollbacks of branches that never came. */
static int64
forget_branches(const GlobalXid *xid)
{
	int64		count = 0;
	OwnScan		scan;
	HeapTuple	tuple;
	Gid			gid;

	own_scan_all(&scan, OWN_BRANCH, RowExclusiveLock);
	while (HeapTupleIsValid(tuple = own_scan_next(&scan)))
	{
		bool		failed;

		(void) own_column(&scan, tuple, Anum_branch_last_error, &failed);
		if (!gid_parse(TextDatumGetCString(own_column(&scan, tuple, Anum_branch_gid, NULL)), &gid) ||
			!xid_equal(&gid.xid, xid) || failed)
			continue;
		own_delete(&scan, tuple);
		count++;
	}
	own_scan_end(&scan);
	own_scan_all(&scan, OWN_RESOLUTION, RowExclusiveLock);
	while (HeapTupleIsValid(tuple = own_scan_next(&scan)))
	{
		if (!gid_parse(TextDatumGetCString(own_column(&scan, tuple, Anum_resolution_gid, NULL)), &gid) ||
			!xid_equal(&gid.xid, xid))
			continue;
		own_delete(&scan, tuple);
		count++;
	}
	own_scan_end(&scan);
	count += tombstones_forget(xid);
	/* the next call in this statement does not find them */
	CommandCounterIncrement();
	return count;
}

/* dtx_resolve(xid text, decision text) */
static Datum
dtx_resolve_given(PG_FUNCTION_ARGS)
{
	char	   *xid_text = text_to_cstring(PG_GETARG_TEXT_PP(0));
	char	   *decision = text_to_cstring(PG_GETARG_TEXT_PP(1));
	GlobalXid	xid;

	shmem_require();
	xid_parse_or_error(xid_text, &xid);
	if (current_branch.active)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("branches cannot be resolved inside a branch")));
	if (strcmp(decision, "forget") != 0 && node_is_self(xid.node))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("global transaction \"%s\" is this node's own", xid_text),
				 errhint("dtx_commit and dtx_rollback decide what dtx_open began; all else decides itself.")));
	if (strcmp(decision, "commit") == 0 || strcmp(decision, "rollback") == 0)
		PG_RETURN_INT64(resolve_branches(&xid, xid_text, strcmp(decision, "commit") == 0));
	if (strcmp(decision, "forget") == 0)
		PG_RETURN_INT64(forget_branches(&xid));
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("unrecognized decision: \"%s\"", decision),
			 errhint("It is 'commit', 'rollback' or 'forget'.")));
}

/* dtx_retry(xid text) */
static Datum
dtx_retry_given(PG_FUNCTION_ARGS)
{
	DatabaseSlot *slot;
	GlobalXid	xid;
	bool		taken;

	shmem_require();
	xid_parse_or_error(text_to_cstring(PG_GETARG_TEXT_PP(0)), &xid);
	slot = my_database_slot();
	if (slot == NULL)
		PG_RETURN_VOID();
	SpinLockAcquire(&slot->mutex);
	taken = slot->nretries < DTX_RETRY_REQUESTS;
	if (taken)
		slot->retries[slot->nretries++] = (RetryRequest) {GetUserId(), xid.r};
	/* when there is no room for one more, all of the role's are tried */
	for (int i = 0; i < slot->nretries && !taken; i++)
		if (slot->retries[i].role == GetUserId())
		{
			slot->retries[i].r = 0;
			taken = true;
		}
	SpinLockRelease(&slot->mutex);
	worker_wake(slot);
	if (!taken)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("too many roles have asked for another attempt just now"),
				 errhint("Try again.")));
	PG_RETURN_VOID();
}

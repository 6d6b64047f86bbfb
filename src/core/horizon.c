/*
 * horizon.c
 *		What is kept of coordinators: their horizons and timelines.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "core/horizon.h"
#include "core/locks.h"
#include "core/participant.h"
#include "core/relations.h"
#include "core/shmem.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

/* The coordinator's row is rewritten when its horizon has moved by this much. */
#define HORIZON_STEP	1000

/* No more are kept of a role: nodes are told apart by name, and anybody may make up names. */
#define COORDINATORS_OF_ROLE	1000

/* Does the coordinator's row, if there is one, have that timeline? */
static bool
timeline_is_stored(const char *node, Oid role, uint32 timeline)
{
	OwnScan		scan;
	HeapTuple	tuple;
	bool		is_stored = timeline <= 1;	/* the first one is nobody's successor */

	if (is_stored)
		return true;
	own_scan_all(&scan, OWN_COORDINATOR, AccessShareLock);
	while (!is_stored && HeapTupleIsValid(tuple = own_scan_next(&scan)))
		is_stored = DatumGetObjectId(own_column(&scan, tuple, Anum_coordinator_role, NULL)) == role &&
			strcmp(TextDatumGetCString(own_column(&scan, tuple, Anum_coordinator_node, NULL)), node) == 0 &&
			(uint32) DatumGetInt32(own_column(&scan, tuple, Anum_coordinator_timeline, NULL)) >= timeline;
	own_scan_end(&scan);
	return is_stored;
}

static bool
is_among(const char *node, List *nodes)
{
	ListCell   *cell;

	foreach(cell, nodes)
		if (strcmp(lfirst(cell), node) == 0)
			return true;
	return false;
}

/* Delete what is remembered of the caller's transactions below the horizon. */
static void
forget_below(const SettleCaller *caller)
{
	Oid			role = GetUserId();
	OwnScan		scan;
	HeapTuple	tuple;

	own_scan_all(&scan, OWN_SETTLED, RowExclusiveLock);
	while (HeapTupleIsValid(tuple = own_scan_next(&scan)))
	{
		Datum	   *keys;
		int			nkeys;

		if ((uint64) DatumGetInt64(own_column(&scan, tuple, Anum_settled_max_n, NULL)) >= caller->horizon ||
			DatumGetObjectId(own_column(&scan, tuple, Anum_settled_role, NULL)) != role ||
			!is_among(TextDatumGetCString(own_column(&scan, tuple, Anum_settled_coordinator, NULL)), caller->nodes))
			continue;
		deconstruct_array(DatumGetArrayTypePCopy(own_column(&scan, tuple, Anum_settled_branches, NULL)),
						  INT8OID, 8, true, TYPALIGN_DOUBLE, &keys, NULL, &nkeys);
		modes_forget(keys, nkeys);
		note_garbage(nkeys + 1);
		own_delete(&scan, tuple);
	}
	own_scan_end(&scan);

	own_scan_all(&scan, OWN_JOINED_BRANCH, RowExclusiveLock);
	while (HeapTupleIsValid(tuple = own_scan_next(&scan)))
	{
		Datum		key;

		if (DatumGetChar(own_column(&scan, tuple, Anum_joined_branch_state, NULL)) != 't' ||
			DatumGetObjectId(own_column(&scan, tuple, Anum_joined_branch_role, NULL)) != role ||
			(uint64) DatumGetInt64(own_column(&scan, tuple, Anum_joined_branch_superior_n, NULL)) >= caller->horizon ||
			!is_among(TextDatumGetCString(own_column(&scan, tuple, Anum_joined_branch_superior, NULL)), caller->nodes))
			continue;
		key = own_column(&scan, tuple, Anum_joined_branch_branch, NULL);
		modes_forget(&key, 1);
		own_delete(&scan, tuple);
	}
	own_scan_end(&scan);
}

/*
 * Keep the coordinator's horizon and timeline, and forget what is below the
 * horizon. They are of the role that says so, and concern that role's branches
 * only: nobody can make others' branches be forgotten or refused.
 */
void
horizon_advance(const SettleCaller *caller)
{
	const char *node = linitial(caller->nodes);
	Oid			role = GetUserId();
	Datum		values[Natts_coordinator] = {0};
	bool		nulls[Natts_coordinator] = {0};
	bool		replace[Natts_coordinator] = {false, false, true, true, true};
	uint32		timeline;
	uint64		known = coordinator_horizon(node, &timeline);
	OwnScan		scan;
	HeapTuple	tuple;
	bool		found = false;
	bool		stored = false;
	int			nodes = 0;
	static int	inserted = 0;	/* in this transaction, and perhaps not visible yet */
	static TransactionId inserted_in = InvalidTransactionId;

	if (caller->horizon != 0 && caller->horizon >= known + HORIZON_STEP)
		known = caller->horizon;
	else if (timeline_is_stored(node, role, Max(timeline, caller->timeline)))
		return;
	else
		stored = true;			/* the horizon; only the timeline is new */
	/* one session at a time; whoever comes second leaves it to the first */
	if (!own_lock(LOCK_COORDINATOR, (int64) hash_combine(hash_bytes((const unsigned char *) node, strlen(node)), role),
				  ExclusiveLock, false))
		return;
	/* what the coordinator says holds whether or not this transaction commits */
	timeline = Max(timeline, caller->timeline);
	horizon_remember(node, role, known, timeline);

	values[Anum_coordinator_node - 1] = CStringGetTextDatum(node);
	values[Anum_coordinator_role - 1] = ObjectIdGetDatum(role);
	values[Anum_coordinator_horizon - 1] = Int64GetDatum((int64) known);
	values[Anum_coordinator_timeline - 1] = Int32GetDatum((int32) timeline);
	values[Anum_coordinator_updated_at - 1] = TimestampTzGetDatum(GetCurrentTimestamp());
	own_scan_all(&scan, OWN_COORDINATOR, RowExclusiveLock);
	while (!found && HeapTupleIsValid(tuple = own_scan_next(&scan)))
	{
		if (DatumGetObjectId(own_column(&scan, tuple, Anum_coordinator_role, NULL)) != role)
			continue;
		nodes++;
		if (strcmp(TextDatumGetCString(own_column(&scan, tuple, Anum_coordinator_node, NULL)), node) != 0)
			continue;
		found = true;
		own_update(&scan, tuple, values, nulls, replace);
	}
	own_scan_end(&scan);
	/* what is not stored is told again by the next call */
	if (inserted_in != GetTopTransactionId())
		inserted = 0;
	inserted_in = GetTopTransactionId();
	if (!found && nodes + inserted++ >= COORDINATORS_OF_ROLE)
		return;
	if (!found)
		own_insert(OWN_COORDINATOR, values, nulls);
	if (!stored)
		forget_below(caller);
}

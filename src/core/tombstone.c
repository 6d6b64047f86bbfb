/*
 * tombstone.c
 *		Rollbacks that came before their branch, which phase 1 runs into.
 *
 * A coordinator that goes on takes its tombstones away by its horizon. A node that is
 * gone, or never was, does not: what is old goes by itself, and no role has more than
 * some. Without one, phase 1 that still comes is in doubt for a moment: its coordinator
 * does not know it, and has it rolled back.
 *
 * What a role says binds that role's branches only.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_type_d.h"
#include "core/own_sql.h"
#include "core/relations.h"
#include "core/shmem.h"
#include "core/tombstone.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/pg_lsn.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#define TOMBSTONES_OF_ROLE	10000

/* s; nothing is on its way for that long */
#define TOMBSTONE_TIME		86400
#define COORDINATOR_TIME	(30 * TOMBSTONE_TIME)

#define PRUNE_AT_ONCE		5000

/* of the current role, those that this transaction leaves among them */
static int	ntombstones = 0;
static TransactionId counted_in = InvalidTransactionId;
static Oid	counted_for = InvalidOid;

bool
tombstone_binds(Oid tombstone, Oid role)
{
	return has_privs_of_role(tombstone, role);
}

static bool
are_many(void)
{
	OwnScan		scan;
	HeapTuple	tuple;

	if (counted_in != GetTopTransactionId() || counted_for != GetUserId())
	{
		counted_in = GetTopTransactionId();
		counted_for = GetUserId();
		ntombstones = 0;
		own_scan_all(&scan, OWN_JOINED_BRANCH, AccessShareLock);
		while (ntombstones < TOMBSTONES_OF_ROLE && HeapTupleIsValid(tuple = own_scan_next(&scan)))
			ntombstones += DatumGetChar(own_column(&scan, tuple, Anum_joined_branch_state, NULL)) == 't' &&
				DatumGetObjectId(own_column(&scan, tuple, Anum_joined_branch_role, NULL)) == GetUserId();
		own_scan_end(&scan);
	}
	return ntombstones++ >= TOMBSTONES_OF_ROLE;
}

bool
tombstone_insert(const JoinedBranch *branch, const char *node, uint64 n, ItemPointer others)
{
	Datum		values[Natts_joined_branch] = {0};
	bool		nulls[Natts_joined_branch] = {0};

	if (are_many())
		return false;
	if (others != NULL)
		own_delete_tid(OWN_JOINED_BRANCH, others);
	values[Anum_joined_branch_branch - 1] = Int64GetDatum(branch->key);
	values[Anum_joined_branch_lsn - 1] = LSNGetDatum(InvalidXLogRecPtr);
	values[Anum_joined_branch_changes - 1] = Int64GetDatum(0);
	values[Anum_joined_branch_joined_at - 1] = TimestampTzGetDatum(GetCurrentTimestamp());
	values[Anum_joined_branch_role - 1] = ObjectIdGetDatum(GetUserId());
	values[Anum_joined_branch_attempts - 1] = Int32GetDatum(0);
	values[Anum_joined_branch_mode - 1] = CharGetDatum('-');
	values[Anum_joined_branch_state - 1] = CharGetDatum('t');
	values[Anum_joined_branch_gid - 1] = CStringGetTextDatum(branch->gid_text);
	nulls[Anum_joined_branch_first_entry - 1] = true;
	nulls[Anum_joined_branch_last_entry - 1] = true;
	nulls[Anum_joined_branch_conflict - 1] = true;
	nulls[Anum_joined_branch_last_error - 1] = true;
	nulls[Anum_joined_branch_local_n - 1] = true;
	values[Anum_joined_branch_children - 1] = Int32GetDatum(0);
	values[Anum_joined_branch_superior - 1] = CStringGetTextDatum(node);
	values[Anum_joined_branch_superior_n - 1] = Int64GetDatum((int64) n);
	nulls[Anum_joined_branch_step - 1] = true;
	own_insert(OWN_JOINED_BRANCH, values, nulls);
	return true;
}

bool
transaction_is_others(const JoinedBranch *branch)
{
	int64		low = branch->key & ~INT64CONST(0xffffffff);
	ScanKeyData keys[2];
	OwnScan		scan;
	HeapTuple	tuple;
	bool		any = false;
	bool		own = false;

	/* keys of branches of one N lie together */
	ScanKeyInit(&keys[0], Anum_joined_branch_branch, BTGreaterEqualStrategyNumber, F_INT8GE,
				Int64GetDatum(low));
	ScanKeyInit(&keys[1], Anum_joined_branch_branch, BTLessEqualStrategyNumber, F_INT8LE,
				Int64GetDatum(low | INT64CONST(0xffffffff)));
	own_scan_begin(&scan, OWN_JOINED_BRANCH, OWN_JOINED_BRANCH_PKEY, AccessShareLock, 2, keys);
	while (!own && HeapTupleIsValid(tuple = own_scan_next(&scan)))
	{
		Gid			gid;

		if (DatumGetChar(own_column(&scan, tuple, Anum_joined_branch_state, NULL)) != 'd' ||
			!gid_parse(TextDatumGetCString(own_column(&scan, tuple, Anum_joined_branch_gid, NULL)), &gid) ||
			!xid_equal(&gid.xid, &branch->gid.xid))
			continue;
		any = true;
		own = has_privs_of_role(GetUserId(),
								DatumGetObjectId(own_column(&scan, tuple, Anum_joined_branch_role, NULL)));
	}
	own_scan_end(&scan);
	return any && !own;
}

/* Run a DELETE that returns the keys, and forget what modes keep of them. */
static int64
delete_tombstones(const char *sql, int nargs, Oid *types, Datum *values)
{
	OwnSql		state;
	Datum	   *keys;
	int			count;
	MemoryContext context = CurrentMemoryContext;

	own_sql_begin(&state);
	count = (int) own_sql(sql, nargs, types, values, NULL);
	keys = MemoryContextAlloc(context, Max(count, 1) * sizeof(Datum));
	for (int i = 0; i < count; i++)
	{
		bool		isnull;

		keys[i] = SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &isnull);
	}
	own_sql_end(&state);
	modes_forget(keys, count);
	note_garbage(count);
	return count;
}

int64
tombstones_forget(const GlobalXid *xid)
{
	char		xid_text[DTX_GID_SIZE];
	Oid			types[] = {TEXTOID};
	Datum		values[1];

	xid_format(xid, xid_text);
	values[0] = CStringGetTextDatum(xid_text);
	return delete_tombstones("DELETE FROM dtx.joined_branch WHERE state = 't' AND dtx.gid_xid(gid) = $1 RETURNING branch",
							 1, types, values);
}

bool
tombstones_prune(void)
{
	Oid			types[] = {INT4OID, INT4OID};
	Datum		values[] = {Int32GetDatum(TOMBSTONE_TIME), Int32GetDatum(PRUNE_AT_ONCE)};
	OwnSql		state;
	int64		count;

	count = delete_tombstones("DELETE FROM dtx.joined_branch WHERE branch IN (SELECT branch FROM dtx.joined_branch"
							  " WHERE state = 't' AND joined_at < clock_timestamp() - make_interval(secs => $1) LIMIT $2)"
							  " AND state = 't' RETURNING branch", 2, types, values);
	/* a coordinator that speaks again tells its horizon again; that it was replaced by a
	 * standby, which the timeline tells, is never forgotten */
	values[0] = Int32GetDatum(COORDINATOR_TIME);
	own_sql_begin(&state);
	(void) own_sql("DELETE FROM dtx.coordinator WHERE timeline <= 1 AND updated_at < clock_timestamp() - make_interval(secs => $1)",
				   1, types, values, NULL);
	own_sql_end(&state);
	return count == PRUNE_AT_ONCE;
}

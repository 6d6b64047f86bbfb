/*
 * branch_row.c
 *		Writing and reading rows of dtx.branch.
 */
#include "postgres.h"

#include "core/branch_row.h"
#include "core/shared.h"
#include "core/shmem.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

void
branch_row_insert(const BranchRow *row)
{
	Datum		values[Natts_branch] = {0};
	bool		nulls[Natts_branch] = {0};

	values[Anum_branch_n - 1] = Int64GetDatum((int64) row->n);
	values[Anum_branch_b - 1] = Int32GetDatum((int32) row->b);
	values[Anum_branch_server - 1] = ObjectIdGetDatum(row->server);
	values[Anum_branch_role - 1] = ObjectIdGetDatum(row->role);
	values[Anum_branch_created_at - 1] = TimestampTzGetDatum(GetCurrentTimestamp());
	nulls[Anum_branch_next_attempt - 1] = true;
	values[Anum_branch_attempts - 1] = Int32GetDatum(0);
	values[Anum_branch_mode - 1] = CharGetDatum(row->mode);
	values[Anum_branch_gid - 1] = CStringGetTextDatum(row->gid);
	values[Anum_branch_participant - 1] = CStringGetTextDatum(row->participant);
	nulls[Anum_branch_last_error - 1] = true;
	values[Anum_branch_state - 1] = CharGetDatum(row->state);
	nulls[Anum_branch_parent - 1] = row->parent == NULL;
	if (row->parent != NULL)
		values[Anum_branch_parent - 1] = CStringGetTextDatum(row->parent);
	values[Anum_branch_step - 1] = Int64GetDatum(row->step);
	nulls[Anum_branch_step - 1] = row->step == 0;
	own_insert(OWN_BRANCH, values, nulls);
	/* one in this very database is not begun anywhere else */
	if (OidIsValid(row->server))
		stat_add(STAT_BRANCHES_STARTED, 1);
}

char
branch_row_decision(OwnScan *scan, HeapTuple tuple)
{
	char		state = DatumGetChar(own_column(scan, tuple, Anum_branch_state, NULL));

	if (state != 's')
		return state;
	state = shared_state((uint64) DatumGetInt64(own_column(scan, tuple, Anum_branch_n, NULL)));
	return state == 'o' ? 'd' : state == 0 ? 'r' : state;
}

char
branch_decision(const char *gid_text, uint64 n)
{
	OwnScan		scan;
	HeapTuple	tuple;
	char		decision = 0;

	own_scan_int8(&scan, OWN_BRANCH, OWN_BRANCH_N_IDX, AccessShareLock, (int64) n);
	while (decision == 0 && HeapTupleIsValid(tuple = own_scan_next(&scan)))
		if (strcmp(TextDatumGetCString(own_column(&scan, tuple, Anum_branch_gid, NULL)), gid_text) == 0)
			decision = branch_row_decision(&scan, tuple);
	own_scan_end(&scan);
	return decision;
}

bool
branch_row_exists(const GlobalXid *xid)
{
	OwnScan		scan;
	HeapTuple	tuple;
	bool		found = false;

	own_scan_int8(&scan, OWN_BRANCH, OWN_BRANCH_N_IDX, AccessShareLock, (int64) xid->n);
	while (!found && HeapTupleIsValid(tuple = own_scan_next(&scan)))
	{
		Gid			gid;

		found = gid_parse(TextDatumGetCString(own_column(&scan, tuple, Anum_branch_gid, NULL)), &gid) &&
			xid_equal(&gid.xid, xid);
	}
	own_scan_end(&scan);
	return found;
}

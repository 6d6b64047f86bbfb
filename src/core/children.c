/*
 * children.c
 *		Deciding the branches of a branch.
 *
 * Their rows in dtx.branch committed with phase 1 of the superior branch, and
 * say nothing until that is settled: then the same transaction turns them into
 * decisions. Rolling back is written down too: "no row" is an answer only as far
 * back as dtx.history reaches, and the superior may have been in doubt longer.
 */
#include "postgres.h"

#include "core/children.h"
#include "core/clock.h"
#include "core/relations.h"
#include "core/shmem.h"
#include "core/tell.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

/* ms for which a server that came up may owe its peers the rollback of branches
 * that it does not remember, without having asked all of them */
#define ORPHANS_AFTER_START	60000

/* A branch of a branch in this very database. */
static void
settle_local(OwnScan *scan, HeapTuple tuple, bool commit)
{
	JoinedBranch branch = {0};
	const BranchMode *mode;
	Datum		key;

	text_to_cstring_buffer(DatumGetTextPP(own_column(scan, tuple, Anum_branch_gid, NULL)),
						   branch.gid_text, sizeof(branch.gid_text));
	gid_parse_or_error(branch.gid_text, &branch.gid);
	branch.key = gid_branch_key(&branch.gid, branch.gid_text);
	branch.role = DatumGetObjectId(own_column(scan, tuple, Anum_branch_role, NULL));
	/* a role's functions run in that role's own session only */
	if (branch.role != GetUserId())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("branch \"%s\" belongs to role \"%s\"", branch.gid_text,
						GetUserNameFromId(branch.role, true))));
	branch.mode = DatumGetChar(own_column(scan, tuple, Anum_branch_mode, NULL));
	mode = mode_by_letter(branch.mode);
	if (commit)
		mode->settle_commit(&branch);
	else
		mode->settle_rollback(list_make1(&branch));
	/* its row goes with this transaction: nobody can ask again */
	key = Int64GetDatum(branch.key);
	modes_forget(&key, 1);
}

bool
children_here(const JoinedBranch *superior)
{
	OwnScan		scan;
	HeapTuple	tuple;
	bool		found = false;

	if (superior->children == 0)
		return false;
	own_scan_int8(&scan, OWN_BRANCH, OWN_BRANCH_N_IDX, AccessShareLock, (int64) superior->local_n);
	while (!found && HeapTupleIsValid(tuple = own_scan_next(&scan)))
		found = !OidIsValid(DatumGetObjectId(own_column(&scan, tuple, Anum_branch_server, NULL)));
	own_scan_end(&scan);
	return found;
}

void
children_decide(const JoinedBranch *superior, bool commit)
{
	Outcome		rows = {.kind = OUTCOME_ROWS, .n = superior->local_n, .commit = true};
	bool		any = false;
	OwnScan		scan;
	HeapTuple	tuple;

	own_scan_int8(&scan, OWN_BRANCH, OWN_BRANCH_N_IDX, RowExclusiveLock, (int64) superior->local_n);
	while (HeapTupleIsValid(tuple = own_scan_next(&scan)))
	{
		bool		isnull;
		Datum		parent = own_column(&scan, tuple, Anum_branch_parent, &isnull);
		Oid			server = DatumGetObjectId(own_column(&scan, tuple, Anum_branch_server, NULL));

		if (isnull || strcmp(TextDatumGetCString(parent), superior->gid_text) != 0)
			continue;
		if (!OidIsValid(server))
		{
			settle_local(&scan, tuple, commit);
			own_delete(&scan, tuple);
		}
		else
		{
			Datum		values[Natts_branch] = {0};
			bool		nulls[Natts_branch] = {0};
			bool		replace[Natts_branch] = {0};

			values[Anum_branch_state - 1] = CharGetDatum(commit ? 'c' : 'r');
			replace[Anum_branch_state - 1] = true;
			own_update(&scan, tuple, values, nulls, replace);
			any = true;
		}
	}
	own_scan_end(&scan);
	if (any)
		tell_worker_at_commit(&rows);
}

bool
children_rolling_back(const char *gid)
{
	OwnScan		scan;
	HeapTuple	tuple;
	bool		found = false;

	own_scan_all(&scan, OWN_BRANCH, AccessShareLock);
	while (!found && HeapTupleIsValid(tuple = own_scan_next(&scan)))
	{
		bool		isnull;
		Datum		parent = own_column(&scan, tuple, Anum_branch_parent, &isnull);

		found = !isnull && strcmp(TextDatumGetCString(parent), gid) == 0;
	}
	own_scan_end(&scan);
	return found;
}

bool
children_orphaned(const char *gid)
{
	DatabaseSlot *slot = my_database_slot();

	if (slot == NULL)
		return false;
	return nested_rollback_exists(slot, gid) ||
		(!slot->recovered &&
		 clock_monotonic() < shared->started + ORPHANS_AFTER_START * INT64CONST(1000));
}

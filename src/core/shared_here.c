/*
 * shared_here.c
 *		Branches of shared global transactions in the opener's own database.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_authid.h"
#include "core/compat.h"
#include "core/locks.h"
#include "core/relations.h"
#include "core/restricted.h"
#include "core/settle.h"
#include "core/shared_here.h"
#include "core/shmem.h"
#include "core/tell.h"
#include "guc.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

/* What the rows of dtx.branch say of those in this database. */
typedef struct BranchesHere
{
	List	   *gids;
	Oid			role;			/* the first that has joined and can log in */
	int			attempts;
	TimestampTz next_attempt;
} BranchesHere;

bool
shared_lock(uint64 n, LOCKMODE mode, bool wait)
{
	return own_lock(LOCK_SHARED_TRANSACTION, (int64) n, mode, wait);
}

static bool
is_here(OwnScan *scan, HeapTuple tuple)
{
	return DatumGetChar(own_column(scan, tuple, Anum_branch_state, NULL)) == 's' &&
		!OidIsValid(DatumGetObjectId(own_column(scan, tuple, Anum_branch_server, NULL)));
}

static void
read_here(uint64 n, BranchesHere *here)
{
	OwnScan		scan;
	HeapTuple	tuple;

	memset(here, 0, sizeof(*here));
	own_scan_int8(&scan, OWN_BRANCH, OWN_BRANCH_N_IDX, AccessShareLock, (int64) n);
	while (HeapTupleIsValid(tuple = own_scan_next(&scan)))
	{
		Oid			role;
		Datum		next;
		bool		isnull;

		if (!is_here(&scan, tuple))
			continue;
		here->gids = lappend(here->gids, TextDatumGetCString(own_column(&scan, tuple, Anum_branch_gid, NULL)));
		role = DatumGetObjectId(own_column(&scan, tuple, Anum_branch_role, NULL));
		if (!OidIsValid(here->role) && role_may_log_in(role))
			here->role = role;
		here->attempts = Max(here->attempts, DatumGetInt32(own_column(&scan, tuple, Anum_branch_attempts, NULL)));
		next = own_column(&scan, tuple, Anum_branch_next_attempt, &isnull);
		if (!isnull)
			here->next_attempt = Max(here->next_attempt, DatumGetTimestampTz(next));
	}
	own_scan_end(&scan);
	/* no attempt is put off for so long: the clock was set back since */
	if (here->next_attempt > TimestampTzPlusMilliseconds(GetCurrentTimestamp(), (int64) guc_retry_max + 1000))
		here->next_attempt = 0;
}

/* Their rows go (why NULL), or say why they are still there, and when they are
 * tried again (0: as it was, and not an attempt more). */
static void
write_here(uint64 n, const char *why, TimestampTz next_attempt)
{
	OwnScan		scan;
	HeapTuple	tuple;

	own_scan_int8(&scan, OWN_BRANCH, OWN_BRANCH_N_IDX, RowExclusiveLock, (int64) n);
	while (HeapTupleIsValid(tuple = own_scan_next(&scan)))
	{
		Datum		values[Natts_branch] = {0};
		bool		nulls[Natts_branch] = {0};
		bool		replace[Natts_branch] = {0};

		if (!is_here(&scan, tuple))
			continue;
		if (why == NULL)
		{
			own_delete(&scan, tuple);
			continue;
		}
		values[Anum_branch_last_error - 1] = CStringGetTextDatum(why);
		replace[Anum_branch_last_error - 1] = true;
		if (next_attempt != 0)
		{
			values[Anum_branch_attempts - 1] =
				Int32GetDatum(DatumGetInt32(own_column(&scan, tuple, Anum_branch_attempts, NULL)) + 1);
			values[Anum_branch_next_attempt - 1] = TimestampTzGetDatum(next_attempt);
			replace[Anum_branch_attempts - 1] = replace[Anum_branch_next_attempt - 1] = true;
		}
		own_update(&scan, tuple, values, nulls, replace);
	}
	own_scan_end(&scan);
	CommandCounterIncrement();
}

void
shared_settle_here(uint64 n, bool commit)
{
	BranchesHere here;

	read_here(n, &here);
	if (here.gids != NIL)
		write_here(n, settle_own(here.gids, commit), 0);
}

Oid
shared_rollback_role(uint64 n, Oid opener)
{
	BranchesHere here;
	TimestampTz now = GetCurrentTimestamp();

	read_here(n, &here);
	if (here.gids == NIL || now < here.next_attempt)
		return InvalidOid;
	if (OidIsValid(here.role))
		return here.role;
	if (role_may_log_in(opener))
		return opener;
	write_here(n, "no role that has joined it can log in: there is no process to roll it back in; dtx_rollback does it",
			   TimestampTzPlusMilliseconds(now, guc_retry_max));
	return InvalidOid;
}

static TimestampTz
try_again_at(int attempts)
{
	int64		delay = guc_retry_base;

	for (int i = 0; i < attempts && delay < guc_retry_max; i++)
		delay *= 2;
	return TimestampTzPlusMilliseconds(GetCurrentTimestamp(), Min(delay, guc_retry_max));
}

typedef struct RolledBack
{
	uint64		n;
	Oid			opener;
} RolledBack;

/* Shared transactions that were rolled back, whether or not anything is left of them. */
static List *
list_rolled_back(void)
{
	List	   *list = NIL;
	OwnScan		scan;
	HeapTuple	tuple;

	own_scan_all(&scan, OWN_GLOBAL, AccessShareLock);
	while (HeapTupleIsValid(tuple = own_scan_next(&scan)))
	{
		RolledBack *one = palloc(sizeof(RolledBack));

		one->n = (uint64) DatumGetInt64(own_column(&scan, tuple, Anum_global_n, NULL));
		one->opener = DatumGetObjectId(own_column(&scan, tuple, Anum_global_role, NULL));
		if (DatumGetChar(own_column(&scan, tuple, Anum_global_state, NULL)) == 'r')
			list = lappend(list, one);
	}
	own_scan_end(&scan);
	return list;
}

/* Of those that are this role's and due, the one that has waited longest, first those
 * that were not tried yet. 0: none. */
static uint64
find_due(Oid role, TimestampTz *next)
{
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz first_at = 0;
	uint64		first = 0;
	ListCell   *cell;

	*next = 0;
	foreach(cell, list_rolled_back())
	{
		RolledBack *one = lfirst(cell);
		BranchesHere here;

		read_here(one->n, &here);
		if (here.gids == NIL || (OidIsValid(here.role) ? here.role : one->opener) != role)
			continue;
		if (now < here.next_attempt)
			*next = *next == 0 ? here.next_attempt : Min(*next, here.next_attempt);
		/* else somebody is deciding, or has decided and settles it */
		else if ((first == 0 || here.next_attempt < first_at) && shared_lock(one->n, ExclusiveLock, false))
		{
			first = one->n;
			first_at = here.next_attempt;
		}
	}
	return first;
}

/* The attempt is counted before anybody's code is called, whatever that does to the
 * process. */
static uint64
claim_due(Oid role, TimestampTz *next)
{
	uint64		n = find_due(role, next);
	BranchesHere here;

	if (n != 0)
	{
		read_here(n, &here);
		write_here(n, "rolling it back has not come to an end", try_again_at(here.attempts));
	}
	return n;
}

static void
begin(void)
{
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
}

bool
shared_rollback_here(Oid role, TimestampTz *next)
{
	MemoryContext context = CurrentMemoryContext;
	Outcome		rows = {.kind = OUTCOME_ROWS, .commit = true};
	volatile uint64 n;

	begin();
	n = claim_due(role, next);
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(context);
	if (n == 0)
		return false;
	PG_TRY();
	{
		begin();
		if (shared_lock(n, ExclusiveLock, false))
			shared_settle_here(n, false);
		/* the worker files it away */
		rows.n = n;
		tell_worker_at_commit(&rows);
		PopActiveSnapshot();
		CommitTransactionCommand();
		MemoryContextSwitchTo(context);
	}
	PG_CATCH();
	{
		ErrorData  *error;

		/* it was cancelled: the row says already that it has not come to an end */
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		AbortCurrentTransaction();
		MemoryContextSwitchTo(context);
		if (error->sqlerrcode == ERRCODE_ADMIN_SHUTDOWN)
			ReThrowError(error);
	}
	PG_END_TRY();
	return true;
}

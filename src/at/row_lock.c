/*
 * row_lock.c
 *		Waiting for a row that a branch in doubt holds.
 *
 * The waiter has changed the row already, so it holds the row's heap lock, and
 * whoever settles the holder with rollback needs just that. The settling
 * announces itself in shared memory before it touches a row; the waiter looks
 * there after it has announced that it waits. One of the two sees the other,
 * and the waiter gives up. The error tells the waiter's coordinator to whom: it
 * waits for the end of that, without a lock, and repeats the call.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "at/image.h"
#include "at/row_lock.h"
#include "at/undo_log.h"
#include "core/clock.h"
#include "core/compat.h"
#include "core/gid.h"
#include "core/participant.h"
#include "core/relations.h"
#include "core/settle.h"
#include "core/shmem.h"
#include "guc.h"
#include "net/connection.h"
#include "nodes/pg_list.h"
#include "net/remote.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/timestamp.h"

typedef struct LockHolder
{
	char		gid_text[DTX_GID_SIZE];
	Gid			gid;
	uint64		xid_hash;
	TimestampTz joined_at;
} LockHolder;

/* The branch of an entry, unless it is one of this very global transaction. */
static bool
read_holder(int64 branch, LockHolder *holder)
{
	OwnScan		scan;
	HeapTuple	tuple;
	bool		found = false;

	own_scan_int8(&scan, OWN_JOINED_BRANCH, OWN_JOINED_BRANCH_PKEY, AccessShareLock, branch);
	if (HeapTupleIsValid(tuple = own_scan_next(&scan)))
	{
		text_to_cstring_buffer(DatumGetTextPP(own_column(&scan, tuple, Anum_joined_branch_gid, NULL)),
							   holder->gid_text, sizeof(holder->gid_text));
		holder->joined_at = DatumGetTimestampTz(own_column(&scan, tuple, Anum_joined_branch_joined_at, NULL));
		found = gid_parse(holder->gid_text, &holder->gid) &&
			!(current_branch.active && xid_equal(&holder->gid.xid, &current_branch.gid.xid)) &&
			!settle_is_of(&holder->gid.xid);
		holder->xid_hash = xid_hash(&holder->gid.xid);
	}
	own_scan_end(&scan);
	return found;
}

/* Who holds the row, as of now? */
static bool
find_holder(Relation rel, AttachedRelation *ar, HeapTuple row, int64 hash,
			LockHolder *holder)
{
	TupleDesc	desc = RelationGetDescr(rel);
	OwnScan		scan;
	HeapTuple	tuple;
	bool		found = false;

	own_scan_int8(&scan, OWN_UNDO_LOG, OWN_UNDO_LOG_KEY_IDX, AccessShareLock, hash);
	while (!found && HeapTupleIsValid(tuple = own_scan_next(&scan)))
	{
		bool		isnull;
		Datum		image;

		if (DatumGetObjectId(own_column(&scan, tuple, Anum_undo_log_relation, NULL)) != ar->relid)
			continue;
		image = own_column(&scan, tuple, Anum_undo_log_after, &isnull);
		if (isnull)
			image = own_column(&scan, tuple, Anum_undo_log_before, NULL);
		if (!key_equal(ar, image_tuple(DatumGetByteaPP(image)), row, desc))
			continue;
		found = read_holder(DatumGetInt64(own_column(&scan, tuple, Anum_undo_log_branch, NULL)),
							holder);
	}
	own_scan_end(&scan);
	return found;
}

static bool
is_rolling_back(uint64 xid)
{
	for (int i = 0; i < shared->nprocesses; i++)
	{
		ProcessSlot *slot = process_slot(i);
		bool		rolling = false;

		if (slot->nrolling == 0)
			continue;
		SpinLockAcquire(&slot->mutex);
		for (int j = 0; j < slot->nrolling; j++)
			rolling |= slot->rolling[j] == xid;
		SpinLockRelease(&slot->mutex);
		if (rolling)
			return true;
	}
	return false;
}

/* Does that process wait, through whatever chain of heavyweight locks, for this one? */
static bool
waits_behind_me(int pid)
{
	int			queue[64];
	int			head = 0,
				tail = 0;

	queue[tail++] = pid;
	while (head < tail)
	{
		ArrayType  *blockers = DatumGetArrayTypeP(DirectFunctionCall1(pg_blocking_pids,
																	  Int32GetDatum(queue[head++])));
		int32	   *pids = (int32 *) ARR_DATA_PTR(blockers);
		int			n = ArrayGetNItems(ARR_NDIM(blockers), ARR_DIMS(blockers));

		for (int i = 0; i < n; i++)
		{
			bool		seen = false;

			if (pids[i] == MyProcPid)
				return true;
			for (int j = 0; j < tail; j++)
				seen |= queue[j] == pids[i];
			if (!seen && tail < lengthof(queue))
				queue[tail++] = pids[i];
		}
	}
	return false;
}

/* Is another branch of the holder's global transaction blocked behind this one?
 * *others: is there another one running at all? */
static bool
holder_needs_me(uint64 xid, bool *others)
{
	*others = false;
	for (int i = 0; i < shared->nprocesses; i++)
	{
		ProcessSlot *slot = process_slot(i);

		if (pg_atomic_read_u64(&slot->in_branch_of) != xid || slot->pid == MyProcPid)
			continue;
		*others = true;
		if (waits_behind_me(slot->pid))
			return true;
	}
	return false;
}

static bool waiting = false;

static void
stop_waiting(ProcessSlot *slot)
{
	waiting = false;
	if (pg_atomic_exchange_u64(&slot->waits_for, 0) != 0)
		pg_atomic_fetch_sub_u32(&shared->waiters, 1);
}

static void
give_up(Relation rel, AttachedRelation *ar, HeapTuple row, LockHolder *holder, const char *why)
{
	stat_add(STAT_LOCK_GIVE_UPS, 1);
	ereport(ERROR,
			(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
			 errmsg("could not serialize access to row %s of \"%s\" due to global transaction \"%s\"",
					key_describe(ar, row, RelationGetDescr(rel), GetUserId()), RelationGetRelationName(rel),
					holder->gid_text),
			 errdetail_internal("%s", why),
			 errhint("The transaction might succeed if retried."),
			 errtable(rel),
			 participant_user_statement() ? err_generic_string(REMOTE_GAVE_WAY_TO, holder->gid_text) : 0));
}

/* One round: true when there is no holder any more. */
static bool
wait_once(Relation rel, AttachedRelation *ar, HeapTuple row, int64 hash,
		  ProcessSlot *slot, TimestampTz deadline)
{
	LockHolder	holder;
	bool		others;
	long		timeout = deadline_remaining(deadline);

	if (!find_holder(rel, ar, row, hash, &holder))
		return true;
	if (pg_atomic_read_u64(&slot->waits_for) != holder.xid_hash)
	{
		pg_atomic_write_u64(&slot->give_up_for, 0);
		if (pg_atomic_exchange_u64(&slot->waits_for, holder.xid_hash) == 0)
			pg_atomic_fetch_add_u32(&shared->waiters, 1);
		stat_add(STAT_LOCK_WAITS, 1);
		/* look again, now that those who settle can see this process */
		pg_memory_barrier();
		return false;
	}
	if (is_rolling_back(holder.xid_hash) ||
		pg_atomic_read_u64(&slot->give_up_for) == holder.xid_hash)
		give_up(rel, ar, row, &holder, "The global transaction that holds the row is being rolled back.");
	if (holder_needs_me(holder.xid_hash, &others))
		give_up(rel, ar, row, &holder, "Another branch of the global transaction that holds the row waits for this transaction.");
	if (timeout == 0)
	{
		stat_add(STAT_LOCK_TIMEOUTS, 1);
		ereport(ERROR,
				(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
				 errmsg("could not change row %s of \"%s\": it is held by global transaction \"%s\"",
						key_describe(ar, row, RelationGetDescr(rel), GetUserId()), RelationGetRelationName(rel),
						holder.gid_text),
				 errdetail("Its branch here was joined at %s and is in doubt.",
						   timestamptz_to_str(holder.joined_at)),
				 errhint("Retry, or see the view dtx_locks.")));
	}
	/*
	 * Settling sets the latch, and so does another branch of the holder that
	 * joins. Whether such a branch has run into a lock of this transaction
	 * nobody tells: while there is one, look as often as a deadlock check would.
	 */
	if (others)
		timeout = timeout < 0 ? 20 : Min(timeout, 20);
	else
		timeout = timeout < 0 ? 1000 : Min(timeout, 1000);
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, timeout,
					 PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
	return false;
}

void
row_lock_wait(Relation rel, AttachedRelation *ar, HeapTuple row, int64 hash)
{
	int			timeout = current_branch.active ? current_branch.lock_timeout : guc_lock_timeout;
	volatile TimestampTz deadline = 0;
	ProcessSlot *slot;
	LockHolder	holder;

	if (!undo_filter_may_hold(hash) || !find_holder(rel, ar, row, hash, &holder))
		return;

	slot = my_process_slot();
	if (timeout > 0)
		deadline = TimestampTzPlusMilliseconds(clock_now(), timeout);
	waiting = true;
	PG_TRY();
	{
		while (!wait_once(rel, ar, row, hash, slot, deadline))
			;
	}
	PG_FINALLY();
	{
		stop_waiting(slot);
	}
	PG_END_TRY();
}

/* A branch in doubt that has changed a table. */
typedef struct ChangedBy
{
	int64		branch;
	uint64		xid_hash;
} ChangedBy;

/* The branches in doubt that have changed the table, as of now: ChangedBy *. */
static List *
branches_on(Oid relid)
{
	List	   *branches = NIL;
	OwnScan		scan;
	HeapTuple	tuple;
	int64		last = 0;

	if (!own_table_exists(OWN_UNDO_LOG))
		return NIL;
	own_scan_all(&scan, OWN_UNDO_LOG, AccessShareLock);
	while (HeapTupleIsValid(tuple = own_scan_next(&scan)))
	{
		int64		branch = DatumGetInt64(own_column(&scan, tuple, Anum_undo_log_branch, NULL));
		LockHolder	holder;

		/* a branch's entries lie side by side */
		if (DatumGetObjectId(own_column(&scan, tuple, Anum_undo_log_relation, NULL)) != relid ||
			branch == last)
			continue;
		last = branch;
		if (read_holder(branch, &holder))
		{
			ChangedBy  *changed = palloc(sizeof(ChangedBy));

			changed->branch = branch;
			changed->xid_hash = holder.xid_hash;
			branches = lappend(branches, changed);
		}
	}
	own_scan_end(&scan);
	return branches;
}

static bool
are_of(List *branches, uint64 xid)
{
	ListCell   *cell;

	foreach(cell, branches)
		if (((ChangedBy *) lfirst(cell))->xid_hash == xid)
			return true;
	return false;
}

/* Is one of the branches being rolled back by that process? */
static bool
is_rolling_back_one(ProcessSlot *slot, List *branches)
{
	bool		rolling = false;

	SpinLockAcquire(&slot->mutex);
	for (int i = 0; i < slot->nrolling; i++)
		rolling |= are_of(branches, slot->rolling[i]);
	SpinLockRelease(&slot->mutex);
	return rolling;
}

/*
 * Does a process wait for this one without which the branches will not be settled? One that
 * compensates: what is to be settled after that, maybe by the same process, waits with it;
 * who has locked the table need not wait to see it wait. Or one that runs another
 * branch of the same global transaction, without which that does not come to its end.
 * *others: is there a process that may come to that?
 */
static bool
settling_needs_me(List *branches, bool locked, bool *others)
{
	*others = false;
	for (int i = 0; i < shared->nprocesses; i++)
	{
		ProcessSlot *slot = process_slot(i);
		uint64		branch_of = pg_atomic_read_u64(&slot->in_branch_of);
		bool		rolling = slot->nrolling > 0;

		if (slot->pid == MyProcPid || !(rolling || (branch_of != 0 && are_of(branches, branch_of))))
			continue;
		*others = true;
		if ((rolling && locked && is_rolling_back_one(slot, branches)) || waits_behind_me(slot->pid))
			return true;
	}
	return false;
}

/* One round: true when *result says how it ended. */
static bool
wait_once_for_branch(List *branches, bool locked, TimestampTz deadline, char *holder_gid,
					 RelationWait *result)
{
	LockHolder	holder;
	bool		others;
	long		timeout = deadline_remaining(deadline);
	long		most;

	*result = RELATION_SETTLED;
	if (!read_holder(((ChangedBy *) linitial(branches))->branch, &holder))
		return true;
	strlcpy(holder_gid, holder.gid_text, DTX_GID_SIZE);
	*result = RELATION_NEEDED;
	if (settling_needs_me(branches, locked, &others))
		return true;
	*result = RELATION_TIMEOUT;
	if (timeout == 0)
		return true;
	/* nobody tells when a branch comes to wait for the lock */
	most = others || locked ? 20 : 1000;
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 timeout < 0 ? most : Min(timeout, most), PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
	return false;
}

static RelationWait
wait_for_branches(List *branches, bool locked, TimestampTz deadline, char *holder_gid)
{
	RelationWait result = RELATION_SETTLED;

	for (; branches != NIL && result == RELATION_SETTLED; branches = list_delete_first(branches))
		while (!wait_once_for_branch(branches, locked, deadline, holder_gid, &result))
			;
	return result;
}

RelationWait
row_lock_wait_relation(Oid relid, bool locked, TimestampTz deadline, char *holder_gid)
{
	volatile RelationWait result = RELATION_SETTLED;
	ProcessSlot *slot = my_process_slot();

	waiting = true;
	PG_TRY();
	{
		/* those who settle see this process, or it sees them */
		pg_atomic_write_u64(&slot->waits_for, DTX_WAITS_FOR_ANY);
		pg_atomic_fetch_add_u32(&shared->waiters, 1);
		pg_memory_barrier();
		result = wait_for_branches(branches_on(relid), locked, deadline, holder_gid);
	}
	PG_FINALLY();
	{
		stop_waiting(slot);
	}
	PG_END_TRY();
	return result;
}

void
row_lock_xact_end(void)
{
	/* the end of a session by FATAL passes by PG_FINALLY */
	if (waiting)
		stop_waiting(my_process_slot());
}

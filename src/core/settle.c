/*
 * settle.c
 *		Phase 2 at the participant.
 *
 * A batch of branches is settled in one transaction. It never waits for
 * another settling: a gid that somebody else works on is answered "busy".
 *
 * Phase 2 is idempotent. What was settled is remembered in dtx.settled, a row
 * a batch, until the coordinator's horizon has passed it: the coordinator may
 * ask again after a lost reply or a crash, and must be able to tell "done
 * already" from "never had it".
 *
 * A rollback that comes before phase 1 leaves a row in state 't' (tombstone),
 * which phase 1 runs into.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "core/children.h"
#include "core/compat.h"
#include "core/errors.h"
#include "core/fault.h"
#include "core/horizon.h"
#include "core/leftover.h"
#include "core/node.h"
#include "core/participant.h"
#include "core/relations.h"
#include "core/override.h"
#include "core/readable.h"
#include "core/resolve.h"
#include "core/settle.h"
#include "core/shmem.h"
#include "core/subxact.h"
#include "core/tombstone.h"
#include "guc.h"
#include "miscadmin.h"
#include "storage/proc.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/pg_lsn.h"
#include "utils/timestamp.h"

/* whose branch's functions are running, or rows being undone */
static const GlobalXid *settling_xid = NULL;

/* xids settled in this transaction, whose waiters are woken when it ends */
static uint64 *woken = NULL;	/* TopMemoryContext */
static int	nwoken = 0;
static int	woken_room = 0;

/*
 * A batch holds what it has settled so far until its end: nothing in it may wait
 * for others for long, who may wait for just that. What a confirm or a cancel
 * waits for longer than this is busy, and tried again; so are all that come when
 * the batch has taken its time.
 */
#define SETTLE_LOCK_TIMEOUT	100			/* ms, for a lock */
#define SETTLE_ROW_TIMEOUT	10			/* ms, for a row in doubt */
#define SETTLE_TIME			500			/* ms */

bool
settle_is_of(const GlobalXid *xid)
{
	return settling_xid != NULL && xid_equal(settling_xid, xid);
}

XLogRecPtr
durable_position(void)
{
	XLogRecPtr	position = GetFlushRecPtr(NULL);

	if (dtx_waits_for_standbys())
	{
		XLogRecPtr	replicated = dtx_flushed_by_standbys();

		position = Min(position, replicated);
	}
	return position;
}

static void
wake_later(uint64 xid)
{
	if (nwoken == woken_room)
	{
		woken_room = Max(64, woken_room * 2);
		woken = woken == NULL ?
			MemoryContextAlloc(TopMemoryContext, woken_room * sizeof(uint64)) :
			repalloc(woken, woken_room * sizeof(uint64));
	}
	woken[nwoken++] = xid;
}

void
settle_pre_prepare(void)
{
	if (nwoken > 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot PREPARE a transaction that has settled branches")));
}

void
settle_xact_end(bool commit)
{
	ProcessSlot *mine;

	settling_xid = NULL;
	if (nwoken == 0)
		return;
	mine = my_process_slot();
	SpinLockAcquire(&mine->mutex);
	mine->nrolling = 0;
	SpinLockRelease(&mine->mutex);
	if (pg_atomic_read_u32(&shared->waiters) > 0)
	{
		for (int i = 0; i < shared->nprocesses; i++)
		{
			ProcessSlot *slot = process_slot(i);
			uint64		waits_for = pg_atomic_read_u64(&slot->waits_for);

			for (int j = 0; waits_for != 0 && slot->latch != NULL && j < nwoken; j++)
				if (woken[j] == waits_for || waits_for == DTX_WAITS_FOR_ANY)
					SetLatch(slot->latch);
		}
	}
	nwoken = 0;
	if (my_database_slot() != NULL)
		ConditionVariableBroadcast(&my_database_slot()->changed);
}

/*
 * From now on, until this transaction ends, those who wait for a row of this
 * global transaction give up: they hold the rows' heap locks, which
 * compensation needs.
 */
static void
announce_rollback(uint64 xid)
{
	ProcessSlot *mine = my_process_slot();

	SpinLockAcquire(&mine->mutex);
	if (mine->nrolling < DTX_ROLLING_BACK)
		mine->rolling[mine->nrolling++] = xid;
	SpinLockRelease(&mine->mutex);
	pg_memory_barrier();
	if (pg_atomic_read_u32(&shared->waiters) == 0)
		return;
	for (int i = 0; i < shared->nprocesses; i++)
	{
		ProcessSlot *slot = process_slot(i);

		if (slot->latch == NULL)
			continue;
		if (pg_atomic_read_u64(&slot->waits_for) == DTX_WAITS_FOR_ANY)
			SetLatch(slot->latch);
		if (pg_atomic_read_u64(&slot->waits_for) != xid)
			continue;
		/* the decision is final: it holds even if this attempt is over before
		 * the waiter gets to run */
		pg_atomic_write_u64(&slot->give_up_for, xid);
		SetLatch(slot->latch);
	}
}

/* Was this branch settled before? Then *commit says how. */
static bool
was_settled(uint64 n, int64 key, bool *commit)
{
	OwnScan		scan;
	HeapTuple	tuple;
	bool		found = false;

	own_scan_all(&scan, OWN_SETTLED, AccessShareLock);
	while (!found && HeapTupleIsValid(tuple = own_scan_next(&scan)))
	{
		ArrayType  *branches;
		int64	   *keys;
		int			count;

		if ((uint64) DatumGetInt64(own_column(&scan, tuple, Anum_settled_max_n, NULL)) < n ||
			(DatumGetObjectId(own_column(&scan, tuple, Anum_settled_role, NULL)) != GetUserId() &&
			 !superuser()))
			continue;
		branches = DatumGetArrayTypePCopy(own_column(&scan, tuple, Anum_settled_branches, NULL));
		keys = (int64 *) ARR_DATA_PTR(branches);
		count = ArrayGetNItems(ARR_NDIM(branches), ARR_DIMS(branches));
		for (int i = 0; !found && i < count; i++)
			found = keys[i] == key;
		*commit = DatumGetChar(own_column(&scan, tuple, Anum_settled_decision, NULL)) == 'c';
	}
	own_scan_end(&scan);
	return found;
}

/* Remember a batch that was settled one way, in one row. */
static void
remember_settled(const SettleRequest *requests, const JoinedBranch *branches,
				 const bool *done, int count, bool commit, const SettleCaller *caller)
{
	Datum	   *keys = palloc(count * sizeof(Datum));
	Datum		values[Natts_settled] = {0};
	bool		nulls[Natts_settled] = {0};
	uint64		max_n = 0;
	int			nkeys = 0;

	for (int i = 0; i < count; i++)
	{
		if (!done[i] || requests[i].commit != commit)
			continue;
		keys[nkeys++] = Int64GetDatum(branches[i].key);
		max_n = Max(max_n, requests[i].n);
	}
	if (nkeys == 0 || caller->nodes == NIL)
		return;
	values[Anum_settled_settled_at - 1] = TimestampTzGetDatum(GetCurrentTimestamp());
	values[Anum_settled_max_n - 1] = Int64GetDatum((int64) max_n);
	values[Anum_settled_role - 1] = ObjectIdGetDatum(GetUserId());
	values[Anum_settled_decision - 1] = CharGetDatum(commit ? 'c' : 'r');
	values[Anum_settled_coordinator - 1] = CStringGetTextDatum(linitial(caller->nodes));
	values[Anum_settled_branches - 1] =
		PointerGetDatum(construct_array(keys, nkeys, INT8OID, 8, true, TYPALIGN_DOUBLE));
	own_insert(OWN_SETTLED, values, nulls);
}

/* Take a joined row's columns, but for its gid and key. */
static void
read_joined(OwnScan *scan, HeapTuple tuple, JoinedBranch *branch, char *state)
{
	bool		isnull;
	Datum		entry;

	branch->role = DatumGetObjectId(own_column(scan, tuple, Anum_joined_branch_role, NULL));
	branch->mode = DatumGetChar(own_column(scan, tuple, Anum_joined_branch_mode, NULL));
	branch->lsn = DatumGetLSN(own_column(scan, tuple, Anum_joined_branch_lsn, NULL));
	branch->changes = DatumGetInt64(own_column(scan, tuple, Anum_joined_branch_changes, NULL));
	branch->children = DatumGetInt32(own_column(scan, tuple, Anum_joined_branch_children, NULL));
	entry = own_column(scan, tuple, Anum_joined_branch_local_n, &isnull);
	branch->local_n = isnull ? 0 : (uint64) DatumGetInt64(entry);
	branch->tid = tuple->t_self;
	entry = own_column(scan, tuple, Anum_joined_branch_first_entry, &isnull);
	ItemPointerSetInvalid(&branch->first);
	if (!isnull)
		branch->first = *(ItemPointer) DatumGetPointer(entry);
	entry = own_column(scan, tuple, Anum_joined_branch_last_entry, &isnull);
	ItemPointerSetInvalid(&branch->last);
	if (!isnull)
		branch->last = *(ItemPointer) DatumGetPointer(entry);
	*state = DatumGetChar(own_column(scan, tuple, Anum_joined_branch_state, NULL));
}

/* The joined row of a branch. False when there is none of that whole gid. */
static bool
find_joined(const char *gid_text, int64 key, JoinedBranch *branch, char *state)
{
	OwnScan		scan;
	HeapTuple	tuple;
	bool		found;

	own_scan_int8(&scan, OWN_JOINED_BRANCH, OWN_JOINED_BRANCH_PKEY, RowExclusiveLock, key);
	tuple = own_scan_next(&scan);
	found = HeapTupleIsValid(tuple) &&
		strcmp(TextDatumGetCString(own_column(&scan, tuple, Anum_joined_branch_gid, NULL)), gid_text) == 0;
	if (found)
		read_joined(&scan, tuple, branch, state);
	own_scan_end(&scan);
	return found;
}

/* Record why a branch could not be settled; it stays in doubt, and is shown. */
static void
mark_joined(const JoinedBranch *branch, bool conflict, const char *message)
{
	Datum		values[Natts_joined_branch] = {0};
	bool		nulls[Natts_joined_branch] = {0};
	bool		replace[Natts_joined_branch] = {0};
	OwnScan		scan;
	HeapTuple	tuple;

	own_scan_int8(&scan, OWN_JOINED_BRANCH, OWN_JOINED_BRANCH_PKEY, RowExclusiveLock, branch->key);
	if (HeapTupleIsValid(tuple = own_scan_next(&scan)))
	{
		int32		attempts = DatumGetInt32(own_column(&scan, tuple, Anum_joined_branch_attempts, NULL));

		values[Anum_joined_branch_attempts - 1] = Int32GetDatum(attempts + 1);
		replace[Anum_joined_branch_attempts - 1] = true;
		values[Anum_joined_branch_conflict - 1] = CStringGetTextDatum(message);
		nulls[Anum_joined_branch_conflict - 1] = !conflict;
		replace[Anum_joined_branch_conflict - 1] = true;
		values[Anum_joined_branch_last_error - 1] = CStringGetTextDatum(message);
		replace[Anum_joined_branch_last_error - 1] = true;
		own_update(&scan, tuple, values, nulls, replace);
	}
	own_scan_end(&scan);
}

bool
settle_allowed(const JoinedBranch *branch)
{
	if (branch->role == GetUserId())
		return true;
	/* a role's own code runs in that role's session */
	return has_privs_of_role(GetUserId(), branch->role) &&
		!mode_by_letter(branch->mode)->runs_user_code && !children_here(branch);
}

/* The branch is not in doubt here, as far as rows that can be seen tell. */
static void
examine_absent(SettleRequest *request, JoinedBranch *branch, const SettleCaller *caller, ItemPointer others)
{
	bool		committed = false;

	if (resolution_compare(branch->gid_text, request->commit, &request->outcome, &request->detail))
	{
		if (strcmp(request->outcome, SETTLE_DENIED) == 0)
			gid_unlock(branch->key);
		return;
	}
	if (was_settled(request->n, branch->key, &committed))
	{
		request->outcome = committed == request->commit ? SETTLE_SETTLED : SETTLE_LOST;
		if (committed != request->commit)
			request->detail = psprintf("It was settled with %s before.",
									   committed ? "commit" : "rollback");
		else if (!committed && children_rolling_back(branch->gid_text))
			request->detail = pstrdup(SETTLE_CHILDREN);
	}
	else if (request->commit)
	{
		request->outcome = SETTLE_LOST;
		request->detail = pstrdup("This participant has no such branch in doubt.");
		stat_add(STAT_LOST_BRANCHES, 1);
	}
	else
	{
		request->outcome = SETTLE_SETTLED;
		if (children_orphaned(branch->gid_text))
			request->detail = pstrdup(SETTLE_CHILDREN);
		if (caller->nodes == NIL ||
			request->n < coordinator_horizon(linitial(caller->nodes), NULL) ||
			!tombstone_insert(branch, linitial(caller->nodes), request->n, others))
			return;
		if (request->mode != '?' && mode_by_letter(request->mode)->settle_absent)
			mode_by_letter(request->mode)->settle_absent(branch);
	}
}

/* Another role's: who may not settle a branch does not hold it up. */
static void
deny(SettleRequest *request, const JoinedBranch *branch, char *detail)
{
	request->outcome = SETTLE_DENIED;
	request->detail = detail;
	gid_unlock(branch->key);
}

/*
 * Look at one request. True when the branch is in doubt here and this
 * transaction has it alone; otherwise the outcome is decided already.
 */
static bool
examine(SettleRequest *request, JoinedBranch *branch, const SettleCaller *caller)
{
	char		state;
	bool		found,
				others;

	gid_parse_or_error(request->gid, &branch->gid);
	if (request->n == 0)
		request->n = branch->gid.xid.n;
	strlcpy(branch->gid_text, request->gid, sizeof(branch->gid_text));
	branch->key = gid_branch_key(&branch->gid, branch->gid_text);
	if (!gid_try_lock(branch->key) &&
		!(modes_settle_held(branch, request->commit) && gid_try_lock(branch->key)))
	{
		request->outcome = SETTLE_BUSY;
		return false;
	}
	/* what another role has said of a branch that had not come says nothing */
	found = find_joined(branch->gid_text, branch->key, branch, &state);
	others = found && state == 't' && !tombstone_binds(branch->role, GetUserId());
	if ((!found || others) && transaction_is_others(branch))
	{
		deny(request, branch, pstrdup("Its global transaction has branches here, and they are other roles'."));
		return false;
	}
	if (!found || others)
	{
		examine_absent(request, branch, caller, others ? &branch->tid : NULL);
		return false;
	}
	if (state == 't')
	{
		request->outcome = request->commit ? SETTLE_LOST : SETTLE_SETTLED;
		if (request->commit)
			request->detail = pstrdup("It was rolled back before it came.");
		else if (children_orphaned(branch->gid_text))
			request->detail = pstrdup(SETTLE_CHILDREN);
		return false;
	}
	if (!settle_allowed(branch))
	{
		deny(request, branch, psprintf("It was joined by role \"%s\".",
									   GetUserNameFromId(branch->role, true)));
		return false;
	}
	if (!request->commit && mode_by_letter(branch->mode)->settle_rollback == NULL)
	{
		request->outcome = SETTLE_LOST;
		request->detail = pstrdup("It was committed here by other means.");
		return false;
	}
	return true;
}

#define MAX_LISTENERS	4

static SettleListener listeners[MAX_LISTENERS];
static int	nlisteners = 0;

void
settle_listen(SettleListener function)
{
	Assert(nlisteners < MAX_LISTENERS);
	listeners[nlisteners++] = function;
}

static void
tell_listeners(const JoinedBranch *branch, bool commit)
{
	for (int i = 0; i < nlisteners; i++)
		listeners[i] (branch, commit);
}

/* Settle a branch that this transaction has alone with commit; its row too. */
static void
settle_with_commit(const JoinedBranch *branch)
{
	if (mode_by_letter(branch->mode)->settle_commit)
		mode_by_letter(branch->mode)->settle_commit(branch);
	tell_listeners(branch, true);
	if (branch->children > 0)
		children_decide(branch, true);
	own_delete_tid(OWN_JOINED_BRANCH, (ItemPointer) &branch->tid);
	wake_later(xid_hash(&branch->gid.xid));
}

typedef struct SettleWork
{
	List	   *branches;
	bool		commit;
} SettleWork;

static void
settle_group(void *arg)
{
	SettleWork *work = arg;
	JoinedBranch *first = linitial(work->branches);
	ListCell   *cell;

	/* rows that the transaction's other branches hold are not a stranger's */
	settling_xid = &first->gid.xid;
	if (!work->commit)
		mode_by_letter(first->mode)->settle_rollback(work->branches);
	foreach(cell, work->branches)
	{
		JoinedBranch *branch = lfirst(cell);

		if (work->commit)
			settle_with_commit(branch);
		else
		{
			tell_listeners(branch, false);
			if (branch->children > 0)
				children_decide(branch, false);
			own_delete_tid(OWN_JOINED_BRANCH, &branch->tid);
		}
	}
	leftovers_clear();
}

/* End branches in a subtransaction: what fails here is their matter, not the
 * batch's. NULL: done. Otherwise why not, and in *outcome what that is called. */
static char *
settle_in_subtransaction(List *branches, bool commit, const char **outcome)
{
	SettleWork	work = {branches, commit};
	ErrorData  *error = subxact_run(settle_group, &work);

	settling_xid = NULL;
	if (error == NULL)
		return NULL;
	leftovers_release();
	if (error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE)
		*outcome = SETTLE_BUSY;
	else if (!commit && !mode_by_letter(((JoinedBranch *) linitial(branches))->mode)->runs_user_code &&
			 (error->sqlerrcode == ERRCODE_DTX_CONFLICT ||
			  ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_INTEGRITY_CONSTRAINT_VIOLATION))
		*outcome = SETTLE_CONFLICT;
	else
		*outcome = SETTLE_FAILED;
	return error_for_role(error, ((JoinedBranch *) linitial(branches))->role);
}

static int
later_first(const ListCell *a, const ListCell *b)
{
	XLogRecPtr	la = ((JoinedBranch *) lfirst(a))->lsn;
	XLogRecPtr	lb = ((JoinedBranch *) lfirst(b))->lsn;

	return la > lb ? -1 : la < lb ? 1 : 0;
}

/*
 * Does a branch that is to be rolled back have to wait for a later one? Of another role,
 * only for what that did to the same rows: an xid is no secret, and anybody who is
 * admitted here may join by it, and leave that in doubt for ever.
 */
static bool
waits_for(const JoinedBranch *branch, const JoinedBranch *later)
{
	const BranchMode *mode = mode_by_letter(branch->mode);

	return has_privs_of_role(later->role, branch->role) ||
		(later->mode == branch->mode && mode->overlaps != NULL && mode->overlaps(branch, later));
}

/*
 * Where the last branch of this global transaction ends that is in doubt here
 * and not in the group, and is to be rolled back before it: it came through another
 * server or another role. Branches before it have to wait until it is settled.
 */
static XLogRecPtr
last_other_branch(List *group)
{
	JoinedBranch *first = linitial(group);
	int64		low = first->key & ~INT64CONST(0xffffffff);
	ScanKeyData keys[2];
	OwnScan		scan;
	HeapTuple	tuple;
	XLogRecPtr	last = InvalidXLogRecPtr;

	/* keys of branches of one N lie together */
	ScanKeyInit(&keys[0], Anum_joined_branch_branch, BTGreaterEqualStrategyNumber, F_INT8GE,
				Int64GetDatum(low));
	ScanKeyInit(&keys[1], Anum_joined_branch_branch, BTLessEqualStrategyNumber, F_INT8LE,
				Int64GetDatum(low | INT64CONST(0xffffffff)));
	own_scan_begin(&scan, OWN_JOINED_BRANCH, OWN_JOINED_BRANCH_PKEY, AccessShareLock, 2, keys);
	while (HeapTupleIsValid(tuple = own_scan_next(&scan)))
	{
		JoinedBranch other = {.key = DatumGetInt64(own_column(&scan, tuple, Anum_joined_branch_branch, NULL))};
		bool		member = false;
		char		state;
		ListCell   *cell;

		read_joined(&scan, tuple, &other, &state);
		foreach(cell, group)
			member |= ((JoinedBranch *) lfirst(cell))->key == other.key;
		if (member || state != 'd' ||
			!gid_parse(TextDatumGetCString(own_column(&scan, tuple, Anum_joined_branch_gid, NULL)), &other.gid) ||
			!xid_equal(&other.gid.xid, &first->gid.xid))
			continue;
		foreach(cell, group)
			if (other.lsn > last && ((JoinedBranch *) lfirst(cell))->lsn <= other.lsn && waits_for(lfirst(cell), &other))
				last = other.lsn;
	}
	own_scan_end(&scan);
	return last;
}

/* May settling it call functions of somebody's: its own, or those of a branch of
 * it in this database? */
static bool
may_run_user_code(const JoinedBranch *branch)
{
	return mode_by_letter(branch->mode)->runs_user_code || branch->children > 0;
}

/* Settle with rollback all requests of the batch that share first's xid and mode. */
static void
settle_rollbacks_of(SettleRequest *requests, JoinedBranch *branches, bool *open,
					bool *done, int count, int first)
{
	List	   *group = NIL;
	const char *outcome = SETTLE_SETTLED;
	char	   *message = NULL;
	uint64		hash = xid_hash(&branches[first].gid.xid);
	XLogRecPtr	other;

	for (int i = first; i < count; i++)
		if (open[i] && !requests[i].commit && branches[i].mode == branches[first].mode &&
			xid_equal(&branches[i].gid.xid, &branches[first].gid.xid))
			group = lappend(group, &branches[i]);
	other = last_other_branch(group);
	for (int i = first; i < count; i++)
	{
		if (!list_member_ptr(group, &branches[i]) || branches[i].lsn > other)
			continue;
		group = list_delete_ptr(group, &branches[i]);
		open[i] = false;
		requests[i].outcome = SETTLE_BUSY;
		requests[i].detail = pstrdup("A later branch of its global transaction is in doubt here.");
	}
	if (group == NIL)
		return;
	list_sort(group, later_first);
	wake_later(hash);
	announce_rollback(hash);
	message = settle_in_subtransaction(group, false, &outcome);

	for (int i = first; i < count; i++)
	{
		if (!list_member_ptr(group, &branches[i]))
			continue;
		open[i] = false;
		done[i] = message == NULL;
		if (done[i] && branches[i].children > 0)
			requests[i].detail = pstrdup(SETTLE_CHILDREN);
		requests[i].outcome = outcome;
		if (message != NULL)
			requests[i].detail = message;
		if (strcmp(outcome, SETTLE_CONFLICT) == 0 || strcmp(outcome, SETTLE_FAILED) == 0 ||
			(message != NULL && may_run_user_code(&branches[i])))
			mark_joined(&branches[i], strcmp(outcome, SETTLE_CONFLICT) == 0, message);
		if (strcmp(outcome, SETTLE_CONFLICT) == 0)
			stat_add(STAT_CONFLICTS, 1);
	}
}

bool
joined_allowed(const char *gid_text)
{
	JoinedBranch branch = {0};
	char		state;

	return !gid_parse(gid_text, &branch.gid) ||
		!find_joined(gid_text, gid_branch_key(&branch.gid, gid_text), &branch, &state) ||
		state != 'd' || settle_allowed(&branch);
}

bool
joined_in_doubt(const char *gid_text)
{
	JoinedBranch branch = {0};
	char		state;

	return gid_parse(gid_text, &branch.gid) &&
		find_joined(gid_text, gid_branch_key(&branch.gid, gid_text), &branch, &state) &&
		state == 'd';
}

char *
settle_own(List *gids, bool commit)
{
	List	   *branches = NIL;
	const char *outcome = NULL;
	char	   *why;
	ListCell   *cell;
	int			nest = NewGUCNestLevel();

	foreach(cell, gids)
	{
		JoinedBranch *branch = palloc0(sizeof(JoinedBranch));
		char		state;

		gid_parse_or_error(lfirst(cell), &branch->gid);
		strlcpy(branch->gid_text, lfirst(cell), sizeof(branch->gid_text));
		branch->key = gid_branch_key(&branch->gid, branch->gid_text);
		if (find_joined(branch->gid_text, branch->key, branch, &state))
			branches = lappend(branches, branch);
	}
	if (branches == NIL)
		return NULL;			/* settled before, or they never came */
	list_sort(branches, later_first);
	/* who settles for others waits for nobody */
	(void) set_config_option("lock_timeout", CppAsString2(SETTLE_LOCK_TIMEOUT), PGC_USERSET,
							 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	(void) set_config_option("dtx.lock_timeout", CppAsString2(SETTLE_ROW_TIMEOUT), PGC_USERSET,
							 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	wake_later(xid_hash(&((JoinedBranch *) linitial(branches))->gid.xid));
	if (!commit)
		announce_rollback(xid_hash(&((JoinedBranch *) linitial(branches))->gid.xid));
	why = settle_in_subtransaction(branches, commit, &outcome);
	if (why != NULL && strcmp(outcome, SETTLE_BUSY) != 0)
		foreach(cell, branches)
			mark_joined(lfirst(cell), strcmp(outcome, SETTLE_CONFLICT) == 0, why);
	AtEOXact_GUC(false, nest);
	return why;
}

/* Settle one branch with commit. */
static bool
settle_commit_of(SettleRequest *request, const JoinedBranch *branch)
{
	request->outcome = SETTLE_SETTLED;
	if (!may_run_user_code(branch))
		settle_with_commit(branch);
	else
	{
		request->detail = settle_in_subtransaction(list_make1((void *) branch), true, &request->outcome);
		if (request->detail != NULL)
			mark_joined(branch, false, request->detail);
	}
	return strcmp(request->outcome, SETTLE_SETTLED) == 0;
}

void
settle_branches(SettleRequest *requests, int count, const SettleCaller *caller)
{
	JoinedBranch *branches = palloc0(count * sizeof(JoinedBranch));
	bool	   *open = palloc0(count * sizeof(bool));
	bool	   *done = palloc0(count * sizeof(bool));
	uint64		garbage = 0;
	TimestampTz started = GetCurrentTimestamp();

	if (current_branch.active)
		ereport(ERROR,
				(errcode(ERRCODE_DTX_BRANCH_STATE),
				 errmsg("branches cannot be settled from inside a branch")));
	PreventCommandDuringRecovery("dtx.branch_settle()");
	if (caller->nodes != NIL)
	{
		/* an operator's statement, and session, are his own */
		settings_of_settling();
		session_lend();
		participant_check_timeline(linitial(caller->nodes), caller->timeline);
	}
	DTX_FAULT_POINT("participant-before-settle");

	/* durable once the coordinator asks; it keeps its row until then */
	setting_local("synchronous_commit", "off");
	if (LockTimeout != SETTLE_LOCK_TIMEOUT)
		setting_local("lock_timeout", CppAsString2(SETTLE_LOCK_TIMEOUT));
	if (guc_lock_timeout != SETTLE_ROW_TIMEOUT)
		setting_local("dtx.lock_timeout", CppAsString2(SETTLE_ROW_TIMEOUT));

	for (int i = 0; i < count; i++)
		open[i] = examine(&requests[i], &branches[i], caller);
	/* first what cannot take long */
	for (int users = 0; users < 2; users++)
		for (int i = 0; i < count; i++)
		{
			if (!open[i] || may_run_user_code(&branches[i]) != users)
				continue;
			if (users && TimestampDifferenceExceeds(started, GetCurrentTimestamp(), SETTLE_TIME))
			{
				open[i] = false;
				requests[i].outcome = SETTLE_BUSY;
				continue;
			}
			garbage += branches[i].changes + 1;
			if (requests[i].commit)
			{
				open[i] = false;
				done[i] = settle_commit_of(&requests[i], &branches[i]);
			}
			else
				settle_rollbacks_of(requests, branches, open, done, count, i);
			DTX_FAULT_POINT("participant-during-settle");
		}
	remember_settled(requests, branches, done, count, true, caller);
	remember_settled(requests, branches, done, count, false, caller);
	if (caller->nodes != NIL)
		horizon_advance(caller);
	else
	{
		/* dtx.resolution remembers what an operator has decided */
		for (int i = 0; i < count; i++)
		{
			Datum		key = Int64GetDatum(branches[i].key);

			if (done[i])
				modes_forget(&key, 1);
		}
	}

	for (int i = 0; i < count; i++)
		if (done[i])
			stat_add(requests[i].commit ? STAT_SETTLED_COMMIT : STAT_SETTLED_ROLLBACK, 1);
	if (garbage > 0)
		note_garbage(garbage);
	DTX_FAULT_POINT("participant-after-settle");
}

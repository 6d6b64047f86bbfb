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
#include "core/compat.h"
#include "core/errors.h"
#include "core/fault.h"
#include "core/participant.h"
#include "core/relations.h"
#include "core/override.h"
#include "core/settle.h"
#include "core/shmem.h"
#include "guc.h"
#include "miscadmin.h"
#include "storage/proc.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/pg_lsn.h"
#include "utils/resowner.h"
#include "utils/timestamp.h"

/* xids settled in this transaction, whose waiters are woken when it ends */
static uint64 *woken = NULL;	/* TopMemoryContext */
static int	nwoken = 0;
static int	woken_room = 0;

/* The coordinator's row is rewritten when its horizon has moved by this much. */
#define HORIZON_STEP	1000

/* ms: compensation waits no longer than this for a row's heap lock */
#define SETTLE_LOCK_TIMEOUT	"1000"

XLogRecPtr
durable_position(void)
{
	XLogRecPtr	position = GetFlushRecPtr(NULL);

	if (dtx_waits_for_standbys())
	{
		volatile WalSndCtlData *walsnd = WalSndCtl;
		XLogRecPtr	replicated = walsnd->lsn[SYNC_REP_WAIT_FLUSH];

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
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot PREPARE a transaction that has settled branches")));
}

void
settle_xact_end(bool commit)
{
	ProcessSlot *mine;

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
				if (woken[j] == waits_for)
					SetLatch(slot->latch);
		}
	}
	nwoken = 0;
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

		if (pg_atomic_read_u64(&slot->waits_for) != xid || slot->latch == NULL)
			continue;
		/* the decision is final: it holds even if this attempt is over before
		 * the waiter gets to run */
		pg_atomic_write_u64(&slot->give_up_for, xid);
		SetLatch(slot->latch);
	}
}

/* Was this branch settled before? Then *commit says how. */
static bool
was_settled(const Gid *gid, int64 key, bool *commit)
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

		if ((uint64) DatumGetInt64(own_column(&scan, tuple, Anum_settled_max_n, NULL)) < gid->xid.n ||
			(DatumGetObjectId(own_column(&scan, tuple, Anum_settled_role, NULL)) != GetUserId() &&
			 !superuser()) ||
			strcmp(TextDatumGetCString(own_column(&scan, tuple, Anum_settled_coordinator, NULL)),
				   gid->xid.node) != 0)
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
				 const bool *done, int count, bool commit)
{
	Datum	   *keys = palloc(count * sizeof(Datum));
	Datum		values[Natts_settled] = {0};
	bool		nulls[Natts_settled] = {0};
	const char *node = NULL;
	uint64		max_n = 0;
	int			nkeys = 0;

	for (int i = 0; i < count; i++)
	{
		if (!done[i] || requests[i].commit != commit)
			continue;
		keys[nkeys++] = Int64GetDatum(branches[i].key);
		max_n = Max(max_n, branches[i].gid.xid.n);
		node = branches[i].gid.xid.node;
	}
	if (nkeys == 0)
		return;
	values[Anum_settled_settled_at - 1] = TimestampTzGetDatum(GetCurrentTimestamp());
	values[Anum_settled_max_n - 1] = Int64GetDatum((int64) max_n);
	values[Anum_settled_role - 1] = ObjectIdGetDatum(GetUserId());
	values[Anum_settled_decision - 1] = CharGetDatum(commit ? 'c' : 'r');
	values[Anum_settled_coordinator - 1] = CStringGetTextDatum(node);
	values[Anum_settled_branches - 1] =
		PointerGetDatum(construct_array(keys, nkeys, INT8OID, 8, true, TYPALIGN_DOUBLE));
	own_insert(OWN_SETTLED, values, nulls);
}

/* The joined row of a branch. False when there is none of that whole gid. */
static bool
find_joined(const char *gid_text, int64 key, JoinedBranch *branch, char *state)
{
	OwnScan		scan;
	HeapTuple	tuple;
	bool		found = false;
	bool		isnull;
	Datum		entry;

	own_scan_int8(&scan, OWN_JOINED_BRANCH, OWN_JOINED_BRANCH_PKEY, RowExclusiveLock, key);
	if (HeapTupleIsValid(tuple = own_scan_next(&scan)) &&
		strcmp(TextDatumGetCString(own_column(&scan, tuple, Anum_joined_branch_gid, NULL)),
			   gid_text) == 0)
	{
		branch->role = DatumGetObjectId(own_column(&scan, tuple, Anum_joined_branch_role, NULL));
		branch->mode = DatumGetChar(own_column(&scan, tuple, Anum_joined_branch_mode, NULL));
		branch->lsn = DatumGetLSN(own_column(&scan, tuple, Anum_joined_branch_lsn, NULL));
		branch->changes = DatumGetInt64(own_column(&scan, tuple, Anum_joined_branch_changes, NULL));
		branch->tid = tuple->t_self;
		entry = own_column(&scan, tuple, Anum_joined_branch_first_entry, &isnull);
		ItemPointerSetInvalid(&branch->first);
		if (!isnull)
			branch->first = *(ItemPointer) DatumGetPointer(entry);
		entry = own_column(&scan, tuple, Anum_joined_branch_last_entry, &isnull);
		ItemPointerSetInvalid(&branch->last);
		if (!isnull)
			branch->last = *(ItemPointer) DatumGetPointer(entry);
		*state = DatumGetChar(own_column(&scan, tuple, Anum_joined_branch_state, NULL));
		found = true;
	}
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

static void
insert_tombstone(const JoinedBranch *branch)
{
	Datum		values[Natts_joined_branch] = {0};
	bool		nulls[Natts_joined_branch] = {0};

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
	own_insert(OWN_JOINED_BRANCH, values, nulls);
}

/*
 * Look at one request. True when the branch is in doubt here and this
 * transaction has it alone; otherwise the outcome is decided already.
 */
static bool
examine(SettleRequest *request, JoinedBranch *branch)
{
	char		state;
	bool		committed;

	gid_parse_or_error(request->gid, &branch->gid);
	strlcpy(branch->gid_text, request->gid, sizeof(branch->gid_text));
	branch->key = gid_branch_key(&branch->gid, branch->gid_text);
	if (!gid_try_lock(branch->key))
	{
		request->outcome = SETTLE_BUSY;
		return false;
	}
	if (!find_joined(branch->gid_text, branch->key, branch, &state))
	{
		if (was_settled(&branch->gid, branch->key, &committed))
		{
			request->outcome = committed == request->commit ? SETTLE_SETTLED : SETTLE_LOST;
			if (committed != request->commit)
				request->detail = psprintf("It was settled with %s before.",
										   committed ? "commit" : "rollback");
		}
		else if (request->commit)
		{
			request->outcome = SETTLE_LOST;
			request->detail = pstrdup("This participant has no such branch in doubt.");
			stat_add(STAT_LOST_BRANCHES, 1);
		}
		else
		{
			if (branch->gid.xid.n >= coordinator_horizon(branch->gid.xid.node))
				insert_tombstone(branch);
			request->outcome = SETTLE_SETTLED;
		}
		return false;
	}
	if (state == 't')
	{
		request->outcome = request->commit ? SETTLE_LOST : SETTLE_SETTLED;
		if (request->commit)
			request->detail = pstrdup("It was rolled back before it came.");
		return false;
	}
	if (branch->role != GetUserId() && !superuser())
	{
		request->outcome = SETTLE_DENIED;
		request->detail = psprintf("It was joined by role \"%s\".",
								   GetUserNameFromId(branch->role, true));
		return false;
	}
	return true;
}

/* Undo the branches of one global transaction in a subtransaction. */
static bool
roll_back_group(List *branches, const char **outcome, char **message)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	const BranchMode *mode = mode_by_letter(((JoinedBranch *) linitial(branches))->mode);
	volatile bool ok = true;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		ListCell   *cell;

		mode->settle_rollback(branches);
		foreach(cell, branches)
			own_delete_tid(OWN_JOINED_BRANCH, &((JoinedBranch *) lfirst(cell))->tid);
		ReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(context);
		CurrentResourceOwner = owner;
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(context);
		CurrentResourceOwner = owner;
		/* who cancels or ends this session means it */
		if (error->sqlerrcode == ERRCODE_QUERY_CANCELED ||
			error->sqlerrcode == ERRCODE_ADMIN_SHUTDOWN)
			ReThrowError(error);
		ok = false;
		if (error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE)
			*outcome = SETTLE_BUSY;
		else if (error->sqlerrcode == ERRCODE_DTX_CONFLICT ||
				 ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_INTEGRITY_CONSTRAINT_VIOLATION)
			*outcome = SETTLE_CONFLICT;
		else
			*outcome = SETTLE_FAILED;
		*message = error->detail == NULL ? pstrdup(error->message) :
			psprintf("%s: %s", error->message, error->detail);
	}
	PG_END_TRY();
	return ok;
}

static int
later_first(const ListCell *a, const ListCell *b)
{
	XLogRecPtr	la = ((JoinedBranch *) lfirst(a))->lsn;
	XLogRecPtr	lb = ((JoinedBranch *) lfirst(b))->lsn;

	return la > lb ? -1 : la < lb ? 1 : 0;
}

/*
 * Where the last branch of this global transaction ends that is in doubt here
 * and not in the group: it came through another server or another role.
 * Branches before it have to wait until it is settled.
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
		int64		key = DatumGetInt64(own_column(&scan, tuple, Anum_joined_branch_branch, NULL));
		bool		member = false;
		ListCell   *cell;
		Gid			gid;

		foreach(cell, group)
			member |= ((JoinedBranch *) lfirst(cell))->key == key;
		if (!member &&
			DatumGetChar(own_column(&scan, tuple, Anum_joined_branch_state, NULL)) == 'd' &&
			gid_parse(TextDatumGetCString(own_column(&scan, tuple, Anum_joined_branch_gid, NULL)), &gid) &&
			xid_equal(&gid.xid, &first->gid.xid))
			last = Max(last, DatumGetLSN(own_column(&scan, tuple, Anum_joined_branch_lsn, NULL)));
	}
	own_scan_end(&scan);
	return last;
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
	bool		ok;

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
	ok = roll_back_group(group, &outcome, &message);

	for (int i = first; i < count; i++)
	{
		if (!list_member_ptr(group, &branches[i]))
			continue;
		open[i] = false;
		done[i] = ok;
		requests[i].outcome = outcome;
		requests[i].detail = message;
		if (strcmp(outcome, SETTLE_CONFLICT) == 0 || strcmp(outcome, SETTLE_FAILED) == 0)
			mark_joined(&branches[i], strcmp(outcome, SETTLE_CONFLICT) == 0, message);
		if (strcmp(outcome, SETTLE_CONFLICT) == 0)
			stat_add(STAT_CONFLICTS, 1);
	}
}

/*
 * Keep the coordinator's horizon, and forget what is below it. It is one of
 * the role that says it, and concerns that role's branches only: nobody can
 * make others' branches be forgotten or refused.
 */
static void
advance_horizon(const char *node, uint64 horizon)
{
	Oid			role = GetUserId();
	Datum		values[Natts_coordinator] = {0};
	bool		nulls[Natts_coordinator] = {0};
	uint64		known = coordinator_horizon(node);
	OwnScan		scan;
	HeapTuple	tuple;
	bool		found = false;

	if (horizon == 0 || horizon < known + HORIZON_STEP)
		return;
	/* one session at a time; whoever comes second leaves it to the first */
	if (!gid_try_lock((int64) hash_combine(hash_bytes((const unsigned char *) node, strlen(node)), role)))
		return;
	/* what the coordinator says holds whether or not this transaction commits */
	horizon_remember(node, role, horizon);

	values[Anum_coordinator_node - 1] = CStringGetTextDatum(node);
	values[Anum_coordinator_role - 1] = ObjectIdGetDatum(role);
	values[Anum_coordinator_horizon - 1] = Int64GetDatum((int64) horizon);
	values[Anum_coordinator_updated_at - 1] = TimestampTzGetDatum(GetCurrentTimestamp());
	own_scan_all(&scan, OWN_COORDINATOR, RowExclusiveLock);
	while (!found && HeapTupleIsValid(tuple = own_scan_next(&scan)))
	{
		bool		replace[Natts_coordinator] = {false, false, true, true};

		if (DatumGetObjectId(own_column(&scan, tuple, Anum_coordinator_role, NULL)) != role ||
			strcmp(TextDatumGetCString(own_column(&scan, tuple, Anum_coordinator_node, NULL)), node) != 0)
			continue;
		found = true;
		own_update(&scan, tuple, values, nulls, replace);
	}
	own_scan_end(&scan);
	if (!found)
		own_insert(OWN_COORDINATOR, values, nulls);

	own_scan_all(&scan, OWN_SETTLED, RowExclusiveLock);
	while (HeapTupleIsValid(tuple = own_scan_next(&scan)))
		if ((uint64) DatumGetInt64(own_column(&scan, tuple, Anum_settled_max_n, NULL)) < horizon &&
			DatumGetObjectId(own_column(&scan, tuple, Anum_settled_role, NULL)) == role &&
			strcmp(TextDatumGetCString(own_column(&scan, tuple, Anum_settled_coordinator, NULL)), node) == 0)
			own_delete(&scan, tuple);
	own_scan_end(&scan);

	own_scan_all(&scan, OWN_JOINED_BRANCH, RowExclusiveLock);
	while (HeapTupleIsValid(tuple = own_scan_next(&scan)))
	{
		Gid			gid;

		if (DatumGetChar(own_column(&scan, tuple, Anum_joined_branch_state, NULL)) == 't' &&
			DatumGetObjectId(own_column(&scan, tuple, Anum_joined_branch_role, NULL)) == role &&
			gid_parse(TextDatumGetCString(own_column(&scan, tuple, Anum_joined_branch_gid, NULL)), &gid) &&
			gid.xid.n < horizon && strcmp(gid.xid.node, node) == 0)
			own_delete(&scan, tuple);
	}
	own_scan_end(&scan);
}

void
settle_branches(SettleRequest *requests, int count, uint64 horizon)
{
	JoinedBranch *branches = palloc0(count * sizeof(JoinedBranch));
	bool	   *open = palloc0(count * sizeof(bool));
	bool	   *done = palloc0(count * sizeof(bool));
	uint64		garbage = 0;

	if (current_branch.active)
		ereport(ERROR,
				(errcode(ERRCODE_DTX_BRANCH_STATE),
				 errmsg("branches cannot be settled from inside a branch")));
	PreventCommandDuringRecovery("dtx.branch_settle()");
	DTX_FAULT_POINT("participant-before-settle");

	/* durable once the coordinator asks; it keeps its row until then */
	setting_local("synchronous_commit", "off");
	if (LockTimeout == 0 || LockTimeout > 1000)
		setting_local("lock_timeout", SETTLE_LOCK_TIMEOUT);

	for (int i = 0; i < count; i++)
		open[i] = examine(&requests[i], &branches[i]);
	for (int i = 0; i < count; i++)
	{
		if (!open[i])
			continue;
		garbage += branches[i].changes + 1;
		if (requests[i].commit)
		{
			mode_by_letter(branches[i].mode)->settle_commit(&branches[i]);
			own_delete_tid(OWN_JOINED_BRANCH, &branches[i].tid);
			wake_later(xid_hash(&branches[i].gid.xid));
			requests[i].outcome = SETTLE_SETTLED;
			open[i] = false;
			done[i] = true;
		}
		else
			settle_rollbacks_of(requests, branches, open, done, count, i);
		DTX_FAULT_POINT("participant-during-settle");
	}
	remember_settled(requests, branches, done, count, true);
	remember_settled(requests, branches, done, count, false);
	if (count > 0)
		advance_horizon(branches[0].gid.xid.node, horizon);

	for (int i = 0; i < count; i++)
		if (done[i])
			stat_add(requests[i].commit ? STAT_SETTLED_COMMIT : STAT_SETTLED_ROLLBACK, 1);
	if (garbage > 0 && my_database_slot() != NULL)
		pg_atomic_fetch_add_u64(&my_database_slot()->garbage, garbage);
	DTX_FAULT_POINT("participant-after-settle");
}

char *
text_array_literal(const char *const *items, int count)
{
	StringInfoData buf;

	initStringInfo(&buf);
	appendStringInfoChar(&buf, '{');
	for (int i = 0; i < count; i++)
	{
		appendStringInfoString(&buf, i > 0 ? ",\"" : "\"");
		for (const char *p = items[i]; *p; p++)
		{
			if (*p == '"' || *p == '\\')
				appendStringInfoChar(&buf, '\\');
			appendStringInfoChar(&buf, *p);
		}
		appendStringInfoChar(&buf, '"');
	}
	appendStringInfoChar(&buf, '}');
	return buf.data;
}

char *
bool_array_literal(const bool *items, int count)
{
	StringInfoData buf;

	initStringInfo(&buf);
	appendStringInfoChar(&buf, '{');
	for (int i = 0; i < count; i++)
		appendStringInfo(&buf, "%s%c", i > 0 ? "," : "", items[i] ? 't' : 'f');
	appendStringInfoChar(&buf, '}');
	return buf.data;
}

/* One call; returns the outcome's word and sets *detail. */
static char *
ask_for_rollback(PeerConnection *pc, const char *gid, TimestampTz deadline, char **detail)
{
	char	   *gids = text_array_literal(&gid, 1);
	const char *values[3] = {gids, "{f}", "0"};
	RemoteCall	call = {.pc = pc, .nstatements = 3};
	char	   *volatile outcome = NULL;

	call.statements[0].sql = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE";
	call.statements[1].sql = SETTLE_SQL;
	call.statements[1].nparams = 3;
	call.statements[1].values = values;
	call.statements[2].sql = "COMMIT";
	PG_TRY();
	{
		remote_run(&call, deadline);
		if (call.error != NULL || call.broken)
			remote_throw(&call);
		if (!remote_has_rows(&call, 1, 1, 2))
			ereport(ERROR,
					(errcode(ERRCODE_FDW_REPLY_HANDLE),
					 errmsg("server \"%s\" gave an unexpected answer", pc->server_name)));
		outcome = pstrdup(PQgetvalue(call.results[1], 0, 0));
		*detail = pstrdup(PQgetvalue(call.results[1], 0, 1));
	}
	PG_FINALLY();
	{
		remote_free(&call);
	}
	PG_END_TRY();
	return outcome;
}

void
settle_rollback_now(PeerConnection *pc, const char *gid, TimestampTz deadline)
{
	long		delay = 1;
	TimestampTz until = deadline;

	if (until == 0 && guc_lock_timeout > 0)
		until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), guc_lock_timeout);
	for (;;)
	{
		char	   *detail = NULL;
		char	   *outcome = ask_for_rollback(pc, gid, deadline, &detail);
		long		remaining = deadline_remaining(until);

		if (strcmp(outcome, SETTLE_SETTLED) == 0)
			return;
		if (strcmp(outcome, SETTLE_BUSY) == 0 && remaining == 0)
			ereport(ERROR,
					(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
					 errmsg("could not roll back branch \"%s\" at server \"%s\" in time", gid, pc->server_name),
					 errdetail_internal("%s", detail[0] != '\0' ? detail : "Another connection is working on it."),
					 errhint("Roll the whole transaction back; the branch is settled when its obstacle is gone.")));
		if ((strcmp(outcome, SETTLE_BUSY) != 0 && strcmp(outcome, SETTLE_FAILED) != 0) ||
			remaining == 0)
			ereport(ERROR,
					(errcode(ERRCODE_DTX_CONFLICT),
					 errmsg("could not roll back branch \"%s\" at server \"%s\": %s",
							gid, pc->server_name, outcome),
					 errdetail_internal("%s", detail),
					 errhint("Roll the whole transaction back; the branch is settled when its obstacle is gone.")));
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 remaining < 0 ? delay : Min(delay, remaining), PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		delay = Min(delay * 2, 100);
	}
}

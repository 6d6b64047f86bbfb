/*
 * participant.c
 *		Joining a global transaction, and phase 1.
 *
 * A branch is one transaction here. The call that makes it is a pipeline: the
 * join, the statement, and the Sync that commits both. What the participant
 * has to remember is written when the transaction is about to commit, so it is
 * there exactly if the branch's changes are.
 *
 * A branch is joined under a lock on its gid. Phase 2 may arrive before phase
 * 1: it finds either the lock held, and answers "busy", or no branch, and then
 * leaves a row that phase 1, should it still come, runs into.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/transam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "core/compat.h"
#include "core/errors.h"
#include "core/fault.h"
#include "core/global.h"
#include "core/node.h"
#include "core/override.h"
#include "core/locks.h"
#include "core/participant.h"
#include "core/relations.h"
#include "core/settle.h"
#include "core/shmem.h"
#include "core/tombstone.h"
#include "catalog/pg_collation_d.h"
#include "miscadmin.h"
#include "storage/proc.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/float.h"
#include "utils/pg_lsn.h"
#include "utils/timestamp.h"

/* ms between looks whether the coordinator is still connected */
#define CONNECTION_CHECK_INTERVAL	200

CurrentBranch current_branch;

bool
gid_try_lock(int64 key)
{
	return own_lock(LOCK_BRANCH, key, ExclusiveLock, false);
}

bool
gid_is_free(int64 key)
{
	if (!gid_try_lock(key))
		return false;
	gid_unlock(key);
	return true;
}

void
gid_unlock(int64 key)
{
	own_unlock(LOCK_BRANCH, key, ExclusiveLock);
}

/* A function has run here that serves another node. */
static bool serving = false;

void
participant_serve(void)
{
	/* in a branch, whose coordinator may prepare it, none of them leaves anything */
	serving |= !current_branch.active;
}

uint64
coordinator_horizon(const char *node, uint32 *timeline)
{
	ScanKeyData keys[2];
	OwnScan		scan;
	HeapTuple	tuple;
	uint64		horizon = 0;
	uint32		dummy;

	if (timeline == NULL)
		timeline = &dummy;
	if (horizon_recall(node, GetUserId(), &horizon, timeline))
		return horizon;
	ScanKeyInit(&keys[0], Anum_coordinator_node, BTEqualStrategyNumber, F_TEXTEQ,
				CStringGetTextDatum(node));
	keys[0].sk_collation = C_COLLATION_OID;
	ScanKeyInit(&keys[1], Anum_coordinator_role, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(GetUserId()));
	own_scan_begin(&scan, OWN_COORDINATOR, OWN_COORDINATOR_PKEY, AccessShareLock, 2, keys);
	horizon = 0;
	*timeline = 0;
	if (HeapTupleIsValid(tuple = own_scan_next(&scan)))
	{
		horizon = (uint64) DatumGetInt64(own_column(&scan, tuple, Anum_coordinator_horizon, NULL));
		*timeline = DatumGetInt32(own_column(&scan, tuple, Anum_coordinator_timeline, NULL));
	}
	own_scan_end(&scan);
	horizon_remember(node, GetUserId(), horizon, *timeline);
	return horizon;
}

void
participant_check_timeline(const char *node, uint32 timeline)
{
	uint32		last;

	(void) coordinator_horizon(node, &last);
	if (timeline < last)
		ereport(ERROR,
				(errcode(ERRCODE_DTX_BRANCH_STATE),
				 errmsg("node \"%s\" is not obeyed any more on timeline %u", node, timeline),
				 errdetail("It has spoken on timeline %u: that server was promoted in its place.", last),
				 errhint("Stop the old server; its database can live on as a new node after dtx_node_reset().")));
	if (timeline > last)
		horizon_remember(node, GetUserId(), 0, timeline);
}

void
participant_settings(int lock_timeout)
{
	/* heap locks are waited for no longer than row locks of branches */
	if (lock_timeout > 0 && (LockTimeout == 0 || LockTimeout > lock_timeout))
		setting_override(&LockTimeout, lock_timeout);
	/* the coordinator cancels a call by closing the connection */
	if (client_connection_check_interval == 0)
		setting_override(&client_connection_check_interval, CONNECTION_CHECK_INTERVAL);
	/* values travel as text */
	if (DateStyle != USE_ISO_DATES)
		setting_override(&DateStyle, USE_ISO_DATES);
	if (IntervalStyle != INTSTYLE_POSTGRES)
		setting_override(&IntervalStyle, INTSTYLE_POSTGRES);
	if (extra_float_digits < 1)
		setting_override(&extra_float_digits, 1);
}

static void
refuse_join(const char *gid_text, const char *why)
{
	ereport(ERROR,
			(errcode(ERRCODE_DTX_BRANCH_STATE),
			 gid_text != NULL ? errmsg("could not join branch \"%s\"", gid_text) :
			 errmsg("could not join the global transaction that is to be opened"),
			 errdetail_internal("%s", why)));
}

/* Wake those who wait for a row of this global transaction: they may stand in its way. */
static void
wake_waiters_for(uint64 xid_hash)
{
	if (pg_atomic_read_u32(&shared->waiters) == 0)
		return;
	for (int i = 0; i < shared->nprocesses; i++)
	{
		ProcessSlot *slot = process_slot(i);
		uint64		waits_for = pg_atomic_read_u64(&slot->waits_for);

		if ((waits_for == xid_hash || waits_for == DTX_WAITS_FOR_ANY) && slot->latch != NULL)
			SetLatch(slot->latch);
	}
}

void
participant_refuse_unless_joinable(const char *gid_text, int flags)
{
	PreventCommandDuringRecovery("dtx.branch_join()");
	PreventCommandIfReadOnly("dtx.branch_join()");
	if (current_branch.active)
		refuse_join(gid_text, "This transaction is another branch already.");
	/* a coordinator's session has none. A user's own may have: without anything written
	 * there is nothing that the branch would leave out */
	if (!(flags & JOIN_OWN_SESSION) && GetCurrentTransactionNestLevel() > 1)
		refuse_join(gid_text, "It cannot be joined in a subtransaction.");
	if (!(flags & JOIN_OPENING) && FullTransactionIdIsValid(GetTopFullTransactionIdIfAny()))
		refuse_join(gid_text, "The transaction has written before it joined.");
}

bool
participant_take_up(const GlobalXid *xid, const char *step)
{
	/* what has opened it was rolled back as well: nobody would ever decide the branch */
	if (!current_branch.active || !current_branch.taken_back || (current_branch.flags & JOIN_OPENING) ||
		!xid_equal(&current_branch.gid.xid, xid) ||
		(step == NULL) != (current_branch.step == NULL) || (step != NULL && strcmp(step, current_branch.step) != 0))
		return false;
	current_branch.taken_back = false;
	current_branch.joined_in = GetCurrentSubTransactionId();
	return true;
}

/* Who is above this branch? Nobody may be there twice: its branches would wait
 * for each other. */
static void
set_superiors(CurrentBranch *joining, const JoinRequest *request, const char *self)
{
	int			n = list_length(request->superiors);
	const char **nodes = palloc((n + 3) * sizeof(char *));
	int			count = 0;
	ListCell   *cell;

	/* the coordinator is the gid's, whatever else is said */
	if (n == 0 || strcmp(linitial(request->superiors), joining->gid.xid.node) != 0)
		nodes[count++] = joining->gid.xid.node;
	foreach(cell, request->superiors)
		nodes[count++] = lfirst(cell);
	for (int i = 0; i < count; i++)
		if (node_is_self(nodes[i]) && !(request->flags & JOIN_OWN_SESSION))
			refuse_join(request->gid_text, i == 0 ?
						"The coordinator is this very database; its own changes need no branch." :
						"It leads back to this database, which is above it already.");
	strlcpy(joining->superior, nodes[count - 1], sizeof(joining->superior));
	joining->superior_n = request->superior_n != 0 ? request->superior_n : joining->gid.xid.n;
	nodes[count++] = self;
	joining->superiors = MemoryContextStrdup(TopTransactionContext,
											 text_array_literal(nodes, count));
}

const char *
participant_join(const JoinRequest *request)
{
	const char *gid_text = request->gid_text;
	ProcessSlot *slot = my_process_slot();
	const char *self = node_self();
	CurrentBranch joining = {0};

	gid_parse_or_error(gid_text, &joining.gid);
	joining.mode = mode_by_name(request->mode);
	participant_refuse_unless_joinable(gid_text, request->flags);
	set_superiors(&joining, request, self);
	if (!(request->flags & JOIN_OWN_SESSION))
		participant_check_timeline(joining.superior, request->timeline);

	strlcpy(joining.gid_text, gid_text, sizeof(joining.gid_text));
	joining.key = gid_branch_key(&joining.gid, gid_text);
	joining.xid_hash = xid_hash(&joining.gid.xid);
	joining.role = GetUserId();
	joining.flags = request->flags;
	joining.lock_timeout = request->lock_timeout;
	joining.token = request->token;
	joining.joined_in = GetCurrentSubTransactionId();
	if (request->step != NULL)
		joining.step = MemoryContextStrdup(TopTransactionContext, request->step);

	DTX_FAULT_POINT("participant-before-join");
	if (!gid_try_lock(joining.key))
		refuse_join(gid_text, "Another connection is working on it.");
	if (joining.superior_n < coordinator_horizon(joining.superior, NULL))
		refuse_join(gid_text, "Its global transaction has ended long ago.");
	if (!(request->flags & JOIN_OWN_SESSION))
	{
		participant_settings(request->lock_timeout);
		/* the session serves other branches: whatever this one sets ends with it */
		joining.guc_nest = NewGUCNestLevel();
	}
	else
		own_lock_keep(LOCK_BRANCH, joining.key, ExclusiveLock);
	joining.active = true;
	current_branch = joining;
	pg_atomic_write_u64(&slot->in_branch_of, joining.xid_hash);
	wake_waiters_for(joining.xid_hash);
	return self;
}

const char *
participant_superiors(void)
{
	return current_branch.superiors;
}

void
participant_control(int64 token)
{
	if (!current_branch.active || current_branch.token == 0 || current_branch.token != token)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("only the coordinator controls a branch")));
	current_branch.controlled = true;
}

void
participant_enter(int flags)
{
	current_branch.controlled = false;
	current_branch.flags = (current_branch.flags & ~JOIN_NO_ROWS) | (flags & JOIN_NO_ROWS);
}

/*
 * There is a row with this branch's key already: tell which. But what another role
 * has said of it says nothing: such a tombstone makes way.
 */
static void
refuse_second_join(void)
{
	OwnScan		scan;
	HeapTuple	tuple;
	bool		tombstone = false;
	bool		others = false;

	own_scan_int8(&scan, OWN_JOINED_BRANCH, OWN_JOINED_BRANCH_PKEY, RowExclusiveLock,
				  current_branch.key);
	if (HeapTupleIsValid(tuple = own_scan_next(&scan)))
	{
		tombstone = DatumGetChar(own_column(&scan, tuple, Anum_joined_branch_state, NULL)) == 't';
		others = tombstone &&
			!tombstone_binds(DatumGetObjectId(own_column(&scan, tuple, Anum_joined_branch_role, NULL)),
							 current_branch.role);
		if (others)
			own_delete(&scan, tuple);
	}
	own_scan_end(&scan);
	if (others)
		return;
	refuse_join(current_branch.gid_text,
				tombstone ? "It was rolled back before it came." : "It was joined before.");
}

/*
 * Insert the row that says: this branch is in doubt here. A row that is there
 * already was left by a rollback that came first; the unique index says so.
 */
static void
insert_joined_branch(PhaseOne *phase_one)
{
	Datum		values[Natts_joined_branch] = {0};
	bool		nulls[Natts_joined_branch] = {0};
	uint64		local_n = 0;
	int			children;

	values[Anum_joined_branch_branch - 1] = Int64GetDatum(current_branch.key);
	values[Anum_joined_branch_lsn - 1] = LSNGetDatum(GetXLogInsertRecPtr());
	values[Anum_joined_branch_changes - 1] = Int64GetDatum(phase_one->changes);
	values[Anum_joined_branch_first_entry - 1] = PointerGetDatum(&phase_one->first);
	nulls[Anum_joined_branch_first_entry - 1] = phase_one->changes == 0;
	values[Anum_joined_branch_last_entry - 1] = PointerGetDatum(&phase_one->last);
	nulls[Anum_joined_branch_last_entry - 1] = phase_one->changes == 0;
	values[Anum_joined_branch_joined_at - 1] = TimestampTzGetDatum(GetCurrentTimestamp());
	values[Anum_joined_branch_role - 1] = ObjectIdGetDatum(current_branch.role);
	values[Anum_joined_branch_attempts - 1] = Int32GetDatum(0);
	values[Anum_joined_branch_mode - 1] = CharGetDatum(current_branch.mode->letter);
	values[Anum_joined_branch_state - 1] = CharGetDatum('d');
	values[Anum_joined_branch_gid - 1] = CStringGetTextDatum(current_branch.gid_text);
	nulls[Anum_joined_branch_conflict - 1] = true;
	nulls[Anum_joined_branch_last_error - 1] = true;
	children = global_children(&local_n);
	values[Anum_joined_branch_children - 1] = Int32GetDatum(children);
	values[Anum_joined_branch_local_n - 1] = Int64GetDatum((int64) local_n);
	nulls[Anum_joined_branch_local_n - 1] = children == 0;
	if (current_branch.gid.depth > 1)
	{
		values[Anum_joined_branch_superior - 1] = CStringGetTextDatum(current_branch.superior);
		values[Anum_joined_branch_superior_n - 1] = Int64GetDatum((int64) current_branch.superior_n);
	}
	else
		nulls[Anum_joined_branch_superior - 1] = nulls[Anum_joined_branch_superior_n - 1] = true;
	nulls[Anum_joined_branch_step - 1] = current_branch.step == NULL;
	if (current_branch.step != NULL)
		values[Anum_joined_branch_step - 1] = CStringGetTextDatum(current_branch.step);
	if (!own_insert_unique(OWN_JOINED_BRANCH, values, nulls))
		refuse_second_join();
}

/* The end of phase 1: nothing of the user's runs after it. */
static void
end_phase_one(void)
{
	PhaseOne	phase_one = {0};

	DTX_FAULT_POINT("participant-before-phase-one");
	if (current_branch.mode->phase_one)
		current_branch.mode->phase_one(&phase_one);
	insert_joined_branch(&phase_one);
	if (!(current_branch.flags & JOIN_OWN_SESSION))
		AtEOXact_GUC(false, current_branch.guc_nest);
}

/* The savepoint in which it has joined is rolled back: what is written from now on is
 * the branch's all the same. */
void
participant_subxact_end(bool commit, SubTransactionId id, SubTransactionId parent)
{
	if (!current_branch.active || current_branch.joined_in != id)
		return;
	current_branch.joined_in = parent;
	current_branch.taken_back |= !commit;
}

/*
 * Who has taken the join back, and not joined again, must not commit what it has written
 * since: neither as the branch, whose work it may have taken back too, nor beside it. With
 * nothing written it commits, and the branch never does: the vote finds it unknown.
 */
static bool
was_taken_back(void)
{
	if (!current_branch.taken_back)
		return false;
	if (FullTransactionIdIsValid(GetTopFullTransactionIdIfAny()))
		ereport(ERROR,
				(errcode(ERRCODE_DTX_BRANCH_STATE),
				 errmsg("could not commit branch \"%s\"", current_branch.gid_text),
				 errdetail("The savepoint in which this transaction has joined was rolled back."),
				 current_branch.flags & JOIN_OPENING ? errhint("Roll the transaction back.") :
				 errhint("After ROLLBACK TO SAVEPOINT call dtx_join again, or roll the transaction back.")));
	return true;
}

void
participant_pre_commit(void)
{
	if (!current_branch.active || was_taken_back())
		return;
	if (current_branch.mode->settle_held)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TRANSACTION_TERMINATION),
				 errmsg("branch \"%s\" has to be prepared, not committed", current_branch.gid_text)));
	end_phase_one();
	if (synchronous_commit < SYNCHRONOUS_COMMIT_REMOTE_FLUSH)
		setting_local("synchronous_commit", "on");
	DTX_FAULT_POINT("participant-before-commit");
}

void
participant_pre_prepare(void)
{
	/* its locks would stay without a session, and over a restart */
	if (serving)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot PREPARE a transaction that has called functions of schema dtx"),
				 errdetail("They are for other nodes to call.")));
	if (!current_branch.active)
		return;
	if (!current_branch.mode->settle_held)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot PREPARE a transaction that is a branch of a global transaction")));
	end_phase_one();
	/* PREPARE waits for standbys as this says */
	if (synchronous_commit < SYNCHRONOUS_COMMIT_REMOTE_FLUSH)
		setting_local("synchronous_commit", "on");
}

void
participant_xact_end(bool commit)
{
	serving = false;
	if (!current_branch.active)
		return;
	if (commit && !current_branch.taken_back)
	{
		DTX_FAULT_POINT_NOTHROW("participant-after-phase-one");
		stat_add(STAT_BRANCHES_JOINED, 1);
	}
	current_branch.active = false;
	pg_atomic_write_u64(&my_process_slot()->in_branch_of, 0);
}

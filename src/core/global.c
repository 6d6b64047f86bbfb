/*
 * global.c
 *		The coordinator's side of a global transaction.
 *
 * The local commit is the decision. A branch's phase 1 commits at the peer
 * first; then its row goes into dtx.branch, in the local transaction. So
 *
 *	- a crash before the row leaves a branch without a row: it is rolled back
 *	  when the peer is asked what it has in doubt;
 *	- a crash after the row, but before the local commit, leaves no row either;
 *	- once the local transaction has committed, the row is visible, and the
 *	  worker settles the branch with commit, now or after a crash.
 *
 * The commit and abort callbacks only hand the outcomes to the worker. If that
 * fails, or the worker dies, the rows and the peers still know everything.
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "common/pg_prng.h"
#include "core/branch_row.h"
#include "core/clock.h"
#include "core/compat.h"
#include "core/contact.h"
#include "core/errors.h"
#include "core/fault.h"
#include "core/global.h"
#include "core/node.h"
#include "core/override.h"
#include "core/participant.h"
#include "core/peer_use.h"
#include "core/relations.h"
#include "core/settle.h"
#include "core/shmem.h"
#include "guc.h"
#include "lib/ilist.h"
#include "miscadmin.h"
#include "net/peer.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

typedef struct GlobalTransaction
{
	bool		active;
	bool		nested;			/* it is that of the branch that this transaction is */
	GlobalXid	xid;
	char		parent[DTX_GID_SIZE];	/* what gids of branches begin with */
	uint64		local_n;		/* this transaction's xid8; the same as N unless nested */
	const BranchMode *mode;
	TimestampTz deadline;		/* 0: none */
	uint32		last_b;			/* numbers are never used twice */
	int			doomed;			/* branches in that state */
	int			recorded;		/* rows in dtx.branch, some maybe rolled back again */
	SubTransactionId begun_in;	/* where dtx_begin was said */
	bool		lapsed;			/* that was rolled back: it may be said again */
	dlist_head	branches;		/* in TopTransactionContext */
} GlobalTransaction;

static GlobalTransaction global;

/* The one table of legal moves. */
static bool
move_is_legal(BranchState from, BranchState to)
{
	switch (from)
	{
		case BRANCH_OPEN:
			return to == BRANCH_SENT || to == BRANCH_FAILED;
		case BRANCH_SENT:
			return to == BRANCH_FAILED || to == BRANCH_PHASE_ONE || to == BRANCH_DOOMED;
		case BRANCH_FAILED:
		case BRANCH_PHASE_ONE:
			return to == BRANCH_DOOMED;
		case BRANCH_DOOMED:
			return to == BRANCH_SETTLED;
		default:
			return false;
	}
}

void
global_branch_advance(Branch *branch, BranchState to)
{
	Assert(move_is_legal(branch->state, to));
	if (move_is_legal(branch->state, to))
		branch->state = to;
}

void
global_branch_doom(Branch *branch)
{
	global_branch_advance(branch, BRANCH_DOOMED);
	global.doomed++;
}

const GlobalXid *
global_current(void)
{
	return global.active ? &global.xid : NULL;
}

TimestampTz
global_deadline(void)
{
	return global.active ? global.deadline : 0;
}

static void
publish_global(void)
{
	ProcessSlot *slot = my_process_slot();

	SpinLockAcquire(&slot->mutex);
	slot->role = GetUserId();
	slot->n = global.active && !global.nested ? global.xid.n : 0;
	slot->r = global.xid.r;
	slot->begun_at = GetCurrentTransactionStartTimestamp();
	slot->deadline = global.deadline;
	slot->branches = 0;
	SpinLockRelease(&slot->mutex);
}

/*
 * R tells apart ids with the same N, which only a crash brings about: it has to
 * be random, not secret. One call for true randomness a process is enough.
 */
uint64
global_draw_r(void)
{
	static pg_prng_state state;
	static int	seeded_by = 0;

	if (seeded_by != MyProcPid)
	{
		if (!pg_prng_strong_seed(&state))
			ereport(ERROR,
					(errcode(ERRCODE_INTERNAL_ERROR),
					 errmsg("could not generate random values")));
		seeded_by = MyProcPid;
	}
	return pg_prng_uint64(&state);
}

static void
publish_terms(void)
{
	ProcessSlot *slot = my_process_slot();

	SpinLockAcquire(&slot->mutex);
	slot->deadline = global.deadline;
	SpinLockRelease(&slot->mutex);
}

/* What was said of it: until its savepoint is rolled back. */
static void
set_terms(const BranchMode *mode, int64 timeout)
{
	global.mode = mode;
	global.deadline = timeout > 0 ? TimestampTzPlusMilliseconds(clock_now(), timeout) : 0;
	global.begun_in = GetCurrentSubTransactionId();
	global.lapsed = false;
	publish_terms();
}

void
global_begin(const BranchMode *mode, int64 timeout)
{
	shmem_require();
	/* what has become of its branches is known: it goes on under the same id */
	if (global.active && global.lapsed)
	{
		set_terms(mode, timeout);
		return;
	}
	if (global.active)
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("there is already a global transaction in progress"),
				 errdetail("The session's transaction can begin only one.")));
	PreventCommandDuringRecovery("a global transaction");
	PreventCommandIfReadOnly("a global transaction");

	memset(&global, 0, sizeof(global));
	dlist_init(&global.branches);
	global.local_n = U64FromFullTransactionId(GetTopFullTransactionId());
	if (current_branch.active)
	{
		global.nested = true;
		/*
		 * Who does a step again has the gid of who has failed, and its branches would have those
		 * of that one's, which may yet be rolled back, or be told so a second time. Who opens the
		 * transaction has its N, and its branches would be numbered as those that join it.
		 */
		if (current_branch.step != NULL || (current_branch.flags & JOIN_OPENING))
			global.last_b = DTX_SHARED_B_END | (uint32) (global_draw_r() >> 36);
		global.xid = current_branch.gid.xid;
		strlcpy(global.parent, current_branch.gid_text, sizeof(global.parent));
	}
	else
	{
		strlcpy(global.xid.node, node_self(), sizeof(global.xid.node));
		global.xid.r = global_draw_r();
		global.xid.n = global.local_n;
		xid_format(&global.xid, global.parent);
	}
	global.active = true;
	publish_global();
	set_terms(mode, timeout);
	if (!global.nested)
		stat_add(STAT_BEGUN, 1);
}

void
global_ensure(void)
{
	if (!global.active || global.lapsed)
		global_begin(mode_by_name("at"), 0);
}

static void
check_deadline(void)
{
	char		xid[DTX_GID_SIZE];

	if (!global.active || global.deadline == 0 || clock_now() < global.deadline)
		return;
	xid_format(&global.xid, xid);
	ereport(ERROR,
			(errcode(ERRCODE_DTX_TIMEOUT),
			 errmsg("global transaction \"%s\" timed out", xid),
			 errhint("It is rolled back. dtx_begin sets the timeout.")));
}

/* --- branches --- */

void
global_branch_gid(const Branch *branch, char *text)
{
	gid_of_child(global.parent, branch->b, text);
}

Branch *
global_branch_new(const BranchMode *mode, Oid server, Oid role)
{
	Branch	   *branch = MemoryContextAllocZero(TopTransactionContext, sizeof(Branch));
	ProcessSlot *slot = my_process_slot();

	branch->b = ++global.last_b;
	branch->mode = mode;
	branch->server = server;
	branch->role = role;
	branch->subid = GetCurrentSubTransactionId();
	branch->state = BRANCH_OPEN;
	/* last first: the order in which rollbacks are to be carried out */
	dlist_push_head(&global.branches, &branch->node);
	slot->branches++;
	return branch;
}

void
global_branch_record(Branch *branch, const char *participant)
{
	BranchRow	row = {.n = global.local_n, .b = branch->b, .server = branch->server,
		.role = branch->role, .mode = branch->mode->letter, .participant = participant};
	char		text[DTX_GID_SIZE];

	global_branch_gid(branch, text);
	row.gid = text;
	row.state = global.nested ? 'd' : 'c';
	row.parent = global.nested ? global.parent : NULL;
	branch_row_insert(&row);
	global.recorded++;
	global_branch_advance(branch, BRANCH_PHASE_ONE);
}

int
global_children(uint64 *local_n)
{
	if (!global.active || !global.nested)
		return 0;
	*local_n = global.local_n;
	return global.recorded;
}

/*
 * Have the peers roll back the branches that a savepoint's rollback doomed,
 * before anything more of this global transaction runs there: what comes next
 * may touch the same rows. All of them, since two servers may name one node; and
 * those that failed, since what they had called may be rolled back a while later.
 */
static void
settle_doomed(void)
{
	dlist_iter	iter;

	if (global.doomed == 0)
		return;
	dlist_foreach(iter, &global.branches)
	{
		Branch	   *branch = dlist_container(Branch, node, iter.cur);
		char		text[DTX_GID_SIZE];

		if (branch->state != BRANCH_DOOMED)
			continue;
		global_branch_gid(branch, text);
		settle_rollback_now(connection_get(branch->server, branch->role, global.deadline), text,
							branch->mode->letter, global.local_n, global.deadline);
		global_branch_advance(branch, BRANCH_SETTLED);
		global.doomed--;
	}
}

PeerConnection *
global_connection(Oid server, Oid role)
{
	PeerConnection *pc;

	PreventCommandIfReadOnly("a branch of a global transaction");
	check_deadline();
	settle_doomed();
	peer_use(server, role);
	pc = connection_get(server, role, global.deadline);
	if (node_is_self(pc->peer_node))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("server \"%s\" is this very database", pc->server_name),
				 errhint("Run the statement without dtx: the local transaction is part of the global one.")));
	contact_ensure(server, role, global.deadline);
	return pc;
}

PGresult *
global_run(const char *server_name, const BranchMode *mode, const RemoteStatement *statement,
		   int flags)
{
	Oid			role = GetUserId();
	Oid			server = peer_server_by_name(server_name, role);

	PreventCommandIfReadOnly("a branch of a global transaction");
	global_ensure();
	check_deadline();
	settle_doomed();
	if (mode == NULL)
		mode = global.mode;
	return mode->run(server, role, statement, flags);
}

/* --- the end --- */

static bool
has_branches(void)
{
	return global.active && !dlist_is_empty(&global.branches);
}

void
global_pre_commit(void)
{
	if (!has_branches())
		return;
	check_deadline();
	modes_end_phase_one();
}

/* The last thing before the decision. */
void
global_decide(void)
{
	if (!has_branches())
		return;
	check_deadline();
	/* after all user code: whatever it set, the decision is durable when it is told */
	if (synchronous_commit < SYNCHRONOUS_COMMIT_REMOTE_FLUSH)
		setting_local("synchronous_commit", "on");
	DTX_FAULT_POINT("coordinator-before-commit");
}

void
global_pre_prepare(void)
{
	if (!global.active)
		return;
	if (!global.nested)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot PREPARE a transaction that has begun a global transaction")));
	global_pre_commit();
}

/* Hand a branch that the peer may have to the worker. True: it has to be woken. */
static bool
hand_over(const Branch *branch, bool commit)
{
	Outcome		outcome = {0};

	outcome.n = global.local_n;
	outcome.r = global.xid.r;
	outcome.b = branch->b;
	outcome.server = branch->server;
	outcome.role = branch->role;
	outcome.mode = branch->mode->letter;
	outcome.commit = commit && branch->state == BRANCH_PHASE_ONE;
	if (global.nested)
	{
		/* rows are decided when this branch is; what has no row is rolled back */
		if (outcome.commit)
			return false;
		return nested_rollback_push(&outcome, global.parent);
	}
	outcome.by_savepoint = commit && !outcome.commit;
	outcome.decided_at = commit ? XactLastCommitEnd : InvalidXLogRecPtr;
	return outcome_push(&outcome);
}

/* Never throws. */
void
global_xact_end(bool commit)
{
	dlist_iter	iter;
	bool		wake = false;

	if (!global.active)
		return;
	if (commit && has_branches())
		DTX_FAULT_POINT_NOTHROW("coordinator-after-commit");
	dlist_foreach(iter, &global.branches)
	{
		Branch	   *branch = dlist_container(Branch, node, iter.cur);

		if (OidIsValid(branch->server) &&
			!branch->failed_inside &&
			(branch->state == BRANCH_SENT || branch->state == BRANCH_PHASE_ONE ||
			 branch->state == BRANCH_DOOMED))
			wake |= hand_over(branch, commit);
	}
	if (wake)
		worker_wake(my_database_slot());
	if (!global.nested)
		stat_add(commit ? STAT_COMMITTED : STAT_ROLLED_BACK, 1);
	global.active = false;
	dlist_init(&global.branches);
	publish_global();
}

void
global_subxact_end(bool commit, SubTransactionId id, SubTransactionId parent)
{
	dlist_iter	iter;

	if (!global.active)
		return;
	if (global.begun_in == id)
	{
		global.begun_in = parent;
		if (!commit)
		{
			global.lapsed = true;
			global.deadline = 0;
			publish_terms();
		}
	}
	dlist_foreach(iter, &global.branches)
	{
		Branch	   *branch = dlist_container(Branch, node, iter.cur);

		if (branch->subid != id)
			continue;
		if (commit || branch->state == BRANCH_OPEN)
			branch->subid = parent;
		else if (branch->state == BRANCH_SENT || branch->state == BRANCH_PHASE_ONE ||
				 (branch->state == BRANCH_FAILED && branch->failed_inside))
		{
			global_branch_advance(branch, BRANCH_DOOMED);
			/* what it did in this database is undone already */
			if (!OidIsValid(branch->server))
				global_branch_advance(branch, BRANCH_SETTLED);
			else
				global.doomed++;
		}
	}
}

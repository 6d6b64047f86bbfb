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

typedef struct Branch
{
	dlist_node	node;
	uint32		b;
	Oid			server;
	Oid			role;
	SubTransactionId subid;
	BranchState state;
} Branch;

typedef struct GlobalTransaction
{
	bool		active;
	GlobalXid	xid;
	const BranchMode *mode;
	TimestampTz deadline;		/* 0: none */
	uint32		last_b;			/* numbers are never used twice */
	dlist_head	branches;		/* in TopTransactionContext */
} GlobalTransaction;

static GlobalTransaction global;

/* The one table of legal moves. */
static bool
move_is_legal(BranchState from, BranchState to)
{
	switch (from)
	{
		case BRANCH_SENT:
			return to == BRANCH_FAILED || to == BRANCH_PHASE_ONE || to == BRANCH_DOOMED;
		case BRANCH_PHASE_ONE:
			return to == BRANCH_DOOMED;
		case BRANCH_DOOMED:
			return to == BRANCH_SETTLED;
		default:
			return false;
	}
}

static void
branch_advance(Branch *branch, BranchState to)
{
	Assert(move_is_legal(branch->state, to));
	if (move_is_legal(branch->state, to))
		branch->state = to;
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
	slot->n = global.active ? global.xid.n : 0;
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
static uint64
draw_r(void)
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

void
global_begin(const BranchMode *mode, int64 timeout)
{
	const char *self;

	shmem_require();
	if (current_branch.active)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("a branch cannot begin or extend a global transaction"),
				 errdetail("This transaction is branch \"%s\".", current_branch.gid_text),
				 errhint("Call the other server from the coordinator.")));
	if (global.active)
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("there is already a global transaction in progress"),
				 errdetail("The session's transaction can begin only one.")));
	PreventCommandDuringRecovery("a global transaction");
	PreventCommandIfReadOnly("a global transaction");
	self = node_self();

	memset(&global, 0, sizeof(global));
	dlist_init(&global.branches);
	strlcpy(global.xid.node, self, sizeof(global.xid.node));
	global.xid.r = draw_r();
	global.xid.n = U64FromFullTransactionId(GetTopFullTransactionId());
	global.mode = mode;
	if (timeout > 0)
		global.deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), timeout);
	global.active = true;
	publish_global();
	stat_add(STAT_BEGUN, 1);
}

void
global_ensure(void)
{
	if (!global.active)
		global_begin(mode_by_name("at"), 0);
}

void
global_use_mode(const BranchMode *mode)
{
	if (!global.active)
		global_begin(mode, 0);
	else if (global.mode != mode)
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("the global transaction in progress has mode \"%s\", not \"%s\"",
						global.mode->name, mode->name)));
}

static void
check_deadline(void)
{
	char		xid[DTX_GID_SIZE];

	if (!global.active || global.deadline == 0 || GetCurrentTimestamp() < global.deadline)
		return;
	xid_format(&global.xid, xid);
	ereport(ERROR,
			(errcode(ERRCODE_DTX_TIMEOUT),
			 errmsg("global transaction \"%s\" timed out", xid),
			 errhint("It is rolled back. dtx_begin sets the timeout.")));
}

static void
branch_gid(const Branch *branch, Gid *gid, char *text)
{
	gid->xid = global.xid;
	gid->b = branch->b;
	gid_format(gid, text);
}

/*
 * Have the peers roll back the branches that a savepoint's rollback doomed,
 * before anything more of this global transaction runs there: what comes next
 * may touch the same rows. All of them, since two servers may name one node.
 */
static void
settle_doomed(void)
{
	dlist_iter	iter;

	dlist_foreach(iter, &global.branches)
	{
		Branch	   *branch = dlist_container(Branch, node, iter.cur);
		Gid			gid;
		char		text[DTX_GID_SIZE];

		if (branch->state != BRANCH_DOOMED)
			continue;
		branch_gid(branch, &gid, text);
		settle_rollback_now(connection_get(branch->server, branch->role, global.deadline), text,
							global.deadline);
		branch_advance(branch, BRANCH_SETTLED);
	}
}

static Branch *
branch_new(Oid server, Oid role)
{
	Branch	   *branch = MemoryContextAllocZero(TopTransactionContext, sizeof(Branch));
	ProcessSlot *slot = my_process_slot();

	branch->b = ++global.last_b;
	branch->server = server;
	branch->role = role;
	branch->subid = GetCurrentSubTransactionId();
	branch->state = BRANCH_SENT;
	/* last first: the order in which rollbacks are to be carried out */
	dlist_push_head(&global.branches, &branch->node);
	slot->branches++;
	return branch;
}

static void
insert_branch_row(const Branch *branch, const char *gid_text, const char *participant)
{
	Datum		values[Natts_branch] = {0};
	bool		nulls[Natts_branch] = {0};

	values[Anum_branch_n - 1] = Int64GetDatum((int64) global.xid.n);
	values[Anum_branch_b - 1] = Int32GetDatum((int32) branch->b);
	values[Anum_branch_server - 1] = ObjectIdGetDatum(branch->server);
	values[Anum_branch_role - 1] = ObjectIdGetDatum(branch->role);
	values[Anum_branch_created_at - 1] = TimestampTzGetDatum(GetCurrentTimestamp());
	nulls[Anum_branch_next_attempt - 1] = true;
	values[Anum_branch_attempts - 1] = Int32GetDatum(0);
	values[Anum_branch_mode - 1] = CharGetDatum(global.mode->letter);
	values[Anum_branch_gid - 1] = CStringGetTextDatum(gid_text);
	values[Anum_branch_participant - 1] = CStringGetTextDatum(participant);
	nulls[Anum_branch_last_error - 1] = true;
	own_insert(OWN_BRANCH, values, nulls);
}

/*
 * One attempt at phase 1. Returns the statement's result, or NULL when a
 * prepared statement was not there and the same may be tried again.
 */
static PGresult *
try_branch(PeerConnection *pc, const RemoteStatement *statement, int join_flags)
{
	Branch	   *branch;
	Gid			gid;
	char		text[DTX_GID_SIZE];
	char		flags[16],
				lock_timeout[16];
	const char *join_values[4] = {text, global.mode->name, flags, lock_timeout};
	RemoteCall	call = {.pc = pc, .nstatements = 2};
	PGresult   *volatile result = NULL;

	DTX_FAULT_POINT("coordinator-before-send");
	branch = branch_new(pc->server, pc->role);
	branch_gid(branch, &gid, text);
	snprintf(flags, sizeof(flags), "%d", join_flags);
	snprintf(lock_timeout, sizeof(lock_timeout), "%d", guc_lock_timeout);
	call.statements[0].sql = "SELECT dtx.branch_join($1::pg_catalog.text, $2::pg_catalog.text, $3::pg_catalog.int4, $4::pg_catalog.int4)";
	call.statements[0].nparams = 4;
	call.statements[0].values = join_values;
	call.statements[1] = *statement;

	PG_TRY();
	{
		remote_run(&call, global.deadline);
		DTX_FAULT_POINT("coordinator-after-send");
		if (call.broken)
			remote_throw(&call);
		if (call.error != NULL)
		{
			bool		again = remote_failed_on_statement(&call);

			branch_advance(branch, BRANCH_FAILED);
			if (!again)
				remote_throw(&call);
		}
		else if (!remote_has_rows(&call, 0, 1, 1))
			ereport(ERROR,
					(errcode(ERRCODE_FDW_REPLY_HANDLE),
					 errmsg("server \"%s\" gave an unexpected answer", pc->server_name)));
		else if (PQresultStatus(call.results[1]) == PGRES_EMPTY_QUERY)
			ereport(ERROR,
					(errcode(ERRCODE_SYNTAX_ERROR),
					 errmsg("the statement for server \"%s\" is empty", pc->server_name)));
		else
		{
			DTX_FAULT_POINT("coordinator-before-branch-row");
			insert_branch_row(branch, text, PQgetvalue(call.results[0], 0, 0));
			branch_advance(branch, BRANCH_PHASE_ONE);
			DTX_FAULT_POINT("coordinator-after-branch-row");
			result = call.results[1];
			call.results[1] = NULL;
		}
	}
	PG_FINALLY();
	{
		remote_free(&call);
	}
	PG_END_TRY();
	return result;
}

PGresult *
global_run_branch(const char *server_name, const RemoteStatement *statement, int join_flags)
{
	Oid			role = GetUserId();
	Oid			server = peer_server_by_name(server_name, role);
	PGresult   *result = NULL;

	PreventCommandIfReadOnly("a branch of a global transaction");
	global_ensure();
	check_deadline();
	for (int attempt = 0; attempt < 3 && result == NULL; attempt++)
	{
		PeerConnection *pc;

		settle_doomed();
		peer_use(server, role);
		pc = connection_get(server, role, global.deadline);
		if (node_is_self(pc->peer_node))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("server \"%s\" is this very database", server_name),
					 errhint("Run the statement without dtx: the local transaction is part of the global one.")));
		contact_ensure(server, role, global.deadline);
		result = try_branch(pc, statement, join_flags | JOIN_ONE_STATEMENT);
	}
	if (result == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("prepared statements keep getting lost at server \"%s\"", server_name),
				 errhint("A pooler in between must keep a transaction's statements on one session.")));
	stat_add(STAT_BRANCHES_STARTED, 1);
	return result;
}

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
	/* after all user code: whatever it set, the decision is durable when it is told */
	if (synchronous_commit < SYNCHRONOUS_COMMIT_REMOTE_FLUSH)
		setting_local("synchronous_commit", "on");
	DTX_FAULT_POINT("coordinator-before-commit");
}

void
global_pre_prepare(void)
{
	if (global.active)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot PREPARE a transaction that has begun a global transaction")));
}

/* Hand every branch that the peer may have to the worker. Never throws. */
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
		Outcome		outcome = {0};

		if (branch->state == BRANCH_FAILED || branch->state == BRANCH_SETTLED)
			continue;
		outcome.n = global.xid.n;
		outcome.r = global.xid.r;
		outcome.b = branch->b;
		outcome.server = branch->server;
		outcome.role = branch->role;
		outcome.mode = global.mode->letter;
		outcome.commit = commit && branch->state == BRANCH_PHASE_ONE;
		outcome.by_savepoint = commit && !outcome.commit;
		outcome.decided_at = commit ? XactLastCommitEnd : InvalidXLogRecPtr;
		wake |= outcome_push(&outcome);
	}
	if (wake)
		worker_wake(my_database_slot());
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
	dlist_foreach(iter, &global.branches)
	{
		Branch	   *branch = dlist_container(Branch, node, iter.cur);

		if (branch->subid != id)
			continue;
		if (commit)
			branch->subid = parent;
		else if (branch->state == BRANCH_SENT || branch->state == BRANCH_PHASE_ONE)
			branch_advance(branch, BRANCH_DOOMED);
	}
}

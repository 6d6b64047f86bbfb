/*
 * session.c
 *		The coordinator's side of XA: branches that stay open at their peers.
 *
 * One branch a (server, role), on a connection of its own while it is open. A
 * savepoint here becomes one there when the first statement inside it is sent;
 * ROLLBACK TO and RELEASE are sent with the next statement, since the callbacks
 * at the end of a subtransaction must not wait. One savepoint there may stand
 * for several nested ones here, as long as nothing ran between them.
 *
 * Before the local commit all are prepared at once; after it COMMIT PREPARED is
 * sent to all, without waiting. What fails there the worker finishes.
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "core/compat.h"
#include "core/errors.h"
#include "core/fault.h"
#include "core/participant.h"
#include "core/settle.h"
#include "guc.h"
#include "port.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "xa/xa.h"

/* A savepoint at the peer, for the local nesting levels from low to top. */
typedef struct RemoteSavepoint
{
	int			number;
	int			low;
	int			top;
} RemoteSavepoint;

typedef struct XaBranch
{
	dlist_node	node;
	Branch	   *branch;
	PeerConnection *pc;			/* NULL: the connection is lost, and the branch with it */
	int64		token;
	char		participant[DTX_NODE_SIZE];
	RemoteSavepoint *stack;		/* outermost first */
	int			depth;
	int			room;
	int			last_number;
	int			rollback_to;	/* to be sent before anything else; 0: nothing */
	int			release;		/* then this; 0: nothing */
} XaBranch;

static dlist_head open_branches = DLIST_STATIC_INIT(open_branches);	/* in TopTransactionContext */

static void
add_statement(RemoteCall *call, const char *sql, bool once)
{
	call->statements[call->nstatements].sql = sql;
	call->statements[call->nstatements++].once = once;
}

/* "SELECT dtx.branch_control(token)" */
static char *
control_sql(const XaBranch *xb, char *buffer, size_t size)
{
	snprintf(buffer, size, "SELECT dtx.branch_control(" INT64_FORMAT ")", xb->token);
	return buffer;
}

/* --- savepoints --- */

/* The savepoint for the levels that have none yet. */
static void
push_savepoint(XaBranch *xb, int level)
{
	int			covered = xb->depth > 0 ? xb->stack[xb->depth - 1].top : 1;

	if (xb->depth == xb->room)
	{
		xb->room = Max(8, xb->room * 2);
		xb->stack = xb->stack == NULL ?
			MemoryContextAlloc(TopTransactionContext, xb->room * sizeof(RemoteSavepoint)) :
			repalloc(xb->stack, xb->room * sizeof(RemoteSavepoint));
	}
	xb->stack[xb->depth].number = ++xb->last_number;
	xb->stack[xb->depth].low = covered + 1;
	xb->stack[xb->depth++].top = level;
}

static bool
wants_savepoint(const XaBranch *xb, int level)
{
	return level > (xb->depth > 0 ? xb->stack[xb->depth - 1].top : 1);
}

/* Queue what brings the peer's savepoints in line with the local ones. */
static void
add_savepoints(XaBranch *xb, RemoteCall *call, int flags)
{
	int			level = GetCurrentTransactionNestLevel();
	char		control[64];

	if (xb->rollback_to == 0 && xb->release == 0 && !wants_savepoint(xb, level))
		return;
	/* a transaction that failed takes nothing but the rollback first, and lets it through */
	if (xb->rollback_to != 0)
	{
		if (PQtransactionStatus(xb->pc->conn) != PQTRANS_INERROR)
			add_statement(call, pstrdup(control_sql(xb, control, sizeof(control))), true);
		add_statement(call, psprintf("ROLLBACK TO SAVEPOINT dtx_%d", xb->rollback_to), true);
	}
	add_statement(call, pstrdup(control_sql(xb, control, sizeof(control))), true);
	if (xb->release != 0)
		add_statement(call, psprintf("RELEASE SAVEPOINT dtx_%d", xb->release), true);
	xb->rollback_to = xb->release = 0;
	if (wants_savepoint(xb, level))
	{
		push_savepoint(xb, level);
		add_statement(call, psprintf("SAVEPOINT dtx_%d", xb->last_number), true);
	}
	add_statement(call, flags & JOIN_NO_ROWS ? "SELECT dtx.branch_enter(2)" : "SELECT dtx.branch_enter(0)", false);
}

void
xa_subxact_end(bool commit, SubTransactionId id, SubTransactionId parent)
{
	int			level = GetCurrentTransactionNestLevel();
	dlist_iter	iter;

	dlist_foreach(iter, &open_branches)
	{
		XaBranch   *xb = dlist_container(XaBranch, node, iter.cur);

		while (xb->depth > 0 && xb->stack[xb->depth - 1].top >= level)
		{
			RemoteSavepoint *savepoint = &xb->stack[xb->depth - 1];
			bool		ended = savepoint->low >= level;

			if (!commit)
				xb->rollback_to = savepoint->number;
			if (!commit || ended)
				xb->release = ended ? savepoint->number : 0;
			if (ended)
				xb->depth--;
			else
				savepoint->top = level - 1;
		}
	}
}

/* --- statements --- */

static XaBranch *
find_branch(Oid server, Oid role)
{
	dlist_iter	iter;

	dlist_foreach(iter, &open_branches)
	{
		XaBranch   *xb = dlist_container(XaBranch, node, iter.cur);

		if (xb->branch->server == server && xb->branch->role == role)
			return xb;
	}
	return NULL;
}

static XaBranch *
new_branch(Oid server, Oid role)
{
	PeerConnection *pc = global_connection(server, role);
	XaBranch   *xb = MemoryContextAllocZero(TopTransactionContext, sizeof(XaBranch));

	if (!pg_strong_random(&xb->token, sizeof(xb->token)) || xb->token == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not generate random values")));
	xb->branch = global_branch_new(mode_by_name("xa"), server, role);
	/* it outlives the subtransaction that opened it: that is undone by a savepoint */
	xb->branch->subid = TopSubTransactionId;
	xb->pc = pc;
	pc->holder = &xb->pc;
	dlist_push_tail(&open_branches, &xb->node);
	return xb;
}

/*
 * The transaction at the peer is gone, or goes with its connection. One that was
 * only about to be opened is forgotten; with any other the whole transaction
 * cannot commit any more, since statements before this one are lost too.
 */
static void
lose(XaBranch *xb, bool first)
{
	PeerConnection *pc = xb->pc;

	if (first)
	{
		global_branch_advance(xb->branch, BRANCH_FAILED);
		xb->branch->failed_inside = true;
		dlist_delete(&xb->node);
	}
	xb->pc = NULL;
	if (pc != NULL)
	{
		pc->holder = NULL;
		/* closed at the end of this transaction or subtransaction, or when it is
		 * to be used again */
		pc->in_flight = true;
	}
}

static void
throw_lost(const XaBranch *xb)
{
	char		gid[DTX_GID_SIZE];

	global_branch_gid(xb->branch, gid);
	ereport(ERROR,
			(errcode(ERRCODE_DTX_PEER_UNAVAILABLE),
			 errmsg("branch \"%s\" was lost with its connection", gid),
			 errhint("Roll the whole transaction back, and try again.")));
}

/* One attempt. NULL: nothing was done there; try again with a new branch. */
static PGresult *
try_statement(XaBranch *xb, bool first, const RemoteStatement *statement, int flags, Repeat *repeat)
{
	RemoteCall	call = {.pc = xb->pc, .stays_open = true};
	PGresult   *volatile result = NULL;
	char	   *volatile gave_way = NULL;
	int			user;

	if (first)
	{
		/* where dtx.branch_enter follows, that says what the statement may return */
		bool		enters = GetCurrentTransactionNestLevel() > 1;

		add_statement(&call, BEGIN_SQL, false);
		global_join_statement(xb->branch, enters ? 0 : flags, xb->token, guc_lock_timeout,
							  &call.statements[call.nstatements++]);
	}
	add_savepoints(xb, &call, flags);
	if (!first && call.nstatements == 0)
		add_statement(&call, flags & JOIN_NO_ROWS ? "SELECT dtx.branch_enter(2)" : "SELECT dtx.branch_enter(0)", false);
	user = call.nstatements;
	call.statements[call.nstatements++] = *statement;
	DTX_FAULT_POINT("xa-before-send");
	PG_TRY();
	{
		remote_run(&call, global_deadline());
		DTX_FAULT_POINT("xa-after-send");
		if (call.error != NULL && !call.broken)
		{
			bool		again = first && remote_failed_on_statement(&call);

			/* with others before it, it is the transaction that has to be repeated */
			if (first && call.failed_statement >= user)
				gave_way = repeat_reason(repeat, &call);
			/* in the user's own statement: a savepoint may mend that */
			if (call.failed_statement < user || again || gave_way != NULL)
				lose(xb, first);
			if (!again && gave_way == NULL)
				remote_throw(&call);
		}
		else if (call.broken)
			remote_throw(&call);
		else if (first && !remote_has_rows(&call, 1, 1, 1))
			ereport(ERROR,
					(errcode(ERRCODE_FDW_REPLY_HANDLE),
					 errmsg("server \"%s\" gave an unexpected answer", xb->pc->server_name)));
		else if (PQtransactionStatus(xb->pc->conn) != PQTRANS_INTRANS)
		{
			lose(xb, false);
			ereport(ERROR,
					(errcode(ERRCODE_DTX_BRANCH_STATE),
					 errmsg("the branch at server \"%s\" is not open any more", call.pc->server_name)));
		}
		else if (PQresultStatus(call.results[user]) == PGRES_EMPTY_QUERY)
			ereport(ERROR,
					(errcode(ERRCODE_SYNTAX_ERROR),
					 errmsg("the statement for server \"%s\" is empty", xb->pc->server_name)));
		else
		{
			if (first)
				strlcpy(xb->participant, remote_id(PQgetvalue(call.results[1], 0, 0), sizeof(xb->participant) - 1), sizeof(xb->participant));
			result = call.results[user];
			call.results[user] = NULL;
		}
	}
	PG_FINALLY();
	{
		/* whatever the reason, what was sent may still be running */
		if (first && xb->pc != NULL && xb->pc->in_flight)
			lose(xb, true);
		remote_free(&call);
	}
	PG_END_TRY();
	if (gave_way != NULL)
		repeat_wait(repeat, xb->branch, gave_way);
	return result;
}

PGresult *
xa_run(Oid server, Oid role, const RemoteStatement *statement, int flags)
{
	PGresult   *result = NULL;
	Repeat		repeat;

	repeat_begin(&repeat);
	for (int attempt = 0; attempt < 3 + repeat.times && result == NULL; attempt++)
	{
		XaBranch   *xb = find_branch(server, role);
		bool		first = xb == NULL;

		if (first)
			xb = new_branch(server, role);
		else if (xb->pc == NULL)
			throw_lost(xb);
		result = try_statement(xb, first, statement, flags, &repeat);
	}
	if (result == NULL)
		remote_throw_swapped();
	return result;
}

/* --- the end --- */

static void
start_prepare(XaBranch *xb, RemoteCall *call)
{
	char		gid[DTX_GID_SIZE];
	char		control[64];

	if (xb->pc == NULL || xb->pc->in_flight)
		throw_lost(xb);
	memset(call, 0, sizeof(*call));
	call->pc = xb->pc;
	global_branch_gid(xb->branch, gid);
	if (xb->rollback_to != 0)
	{
		if (PQtransactionStatus(xb->pc->conn) != PQTRANS_INERROR)
			add_statement(call, pstrdup(control_sql(xb, control, sizeof(control))), true);
		add_statement(call, psprintf("ROLLBACK TO SAVEPOINT dtx_%d", xb->rollback_to), true);
	}
	add_statement(call, psprintf("PREPARE TRANSACTION %s", quote_literal_cstr(gid)), true);
	global_branch_advance(xb->branch, BRANCH_SENT);
	remote_start(call);
}

/* The peer has answered: the branch is prepared, or nothing is there, or who knows. */
static bool
prepare_ended(XaBranch *xb, RemoteCall *call)
{
	if (call->broken)
		return false;
	/* in a transaction that is not there PREPARE succeeds too, and says ROLLBACK */
	if (call->error != NULL ||
		strcmp(PQcmdStatus(call->results[call->nstatements - 1]), "PREPARE TRANSACTION") != 0)
	{
		global_branch_advance(xb->branch, BRANCH_FAILED);
		return false;
	}
	return true;
}

void
xa_prepare_all(void)
{
	RemoteCall *calls;
	dlist_iter	iter;
	volatile int total = 0;
	int			n = 0,
				failed = -1;

	if (dlist_is_empty(&open_branches))
		return;
	dlist_foreach(iter, &open_branches)
		total++;
	calls = palloc0(total * sizeof(RemoteCall));
	DTX_FAULT_POINT("xa-before-prepare");
	PG_TRY();
	{
		/* all at once, then wait for each: it takes as long as the slowest */
		dlist_foreach(iter, &open_branches)
			start_prepare(dlist_container(XaBranch, node, iter.cur), &calls[n++]);
		n = 0;
		dlist_foreach(iter, &open_branches)
		{
			XaBranch   *xb = dlist_container(XaBranch, node, iter.cur);

			remote_wait(&calls[n], global_deadline());
			if (!prepare_ended(xb, &calls[n]) && failed < 0)
				failed = n;
			n++;
		}
		if (failed >= 0 && calls[failed].error == NULL && !calls[failed].broken)
			ereport(ERROR,
					(errcode(ERRCODE_DTX_BRANCH_STATE),
					 errmsg("the branch at server \"%s\" is not open any more", calls[failed].pc->server_name)));
		if (failed >= 0)
			remote_throw(&calls[failed]);
		DTX_FAULT_POINT("xa-after-prepare");
		dlist_foreach(iter, &open_branches)
		{
			XaBranch   *xb = dlist_container(XaBranch, node, iter.cur);

			global_branch_record(xb->branch, xb->participant);
		}
	}
	PG_FINALLY();
	{
		for (int i = 0; i < total; i++)
			remote_free(&calls[i]);
	}
	PG_END_TRY();
}

/* Tell the peer to commit its prepared transaction. */
static void
send_commit(XaBranch *xb)
{
	char		gid[DTX_GID_SIZE];
	char		sql[2 * DTX_GID_SIZE + 32];
	char	   *p = sql;

	/* not before the standbys have it; the worker waits for that */
	if (dtx_waits_for_standbys() && durable_position() < XactLastCommitEnd)
		return;
	global_branch_gid(xb->branch, gid);
	p += sprintf(p, "COMMIT PREPARED '");
	for (const char *c = gid; *c; c++)
	{
		if (*c == '\'' || *c == '\\')
			*p++ = *c;
		*p++ = *c;
	}
	strcpy(p, "'");
	/* a backslash would need standard_conforming_strings; leave it to the worker */
	if (strchr(gid, '\\') == NULL)
		(void) remote_send_and_forget(xb->pc, NULL, sql);
}

/* Never throws. */
void
xa_xact_end(bool commit)
{
	dlist_mutable_iter iter;

	/* decided, and nobody told: the worker finds the rows */
	if (commit && !dlist_is_empty(&open_branches))
		DTX_FAULT_POINT_NOTHROW("xa-after-commit");
	dlist_foreach_modify(iter, &open_branches)
	{
		XaBranch   *xb = dlist_container(XaBranch, node, iter.cur);
		PeerConnection *pc = xb->pc;
		char		control[64];

		dlist_delete(&xb->node);
		if (pc == NULL)
			continue;
		pc->holder = NULL;
		if (pc->in_flight)
			continue;
		if (xb->branch->state == BRANCH_PHASE_ONE)
		{
			/* A branch of a branch waits for what its superior is told. A rollback
			 * is settled, lest the branches of the branch be overlooked. */
			if (commit && !current_branch.active)
				send_commit(xb);
		}
		else if (PQtransactionStatus(pc->conn) == PQTRANS_INTRANS)
			(void) remote_send_and_forget(pc, control_sql(xb, control, sizeof(control)), "ROLLBACK");
		else if (PQtransactionStatus(pc->conn) == PQTRANS_INERROR)
			(void) remote_send_and_forget(pc, NULL, "ROLLBACK");
	}
	dlist_init(&open_branches);
}

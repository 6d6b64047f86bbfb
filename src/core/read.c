/*
 * read.c
 *		A read at a peer that writes nothing there and leaves no branch.
 *
 * That is what dtx_query does in a read-only transaction, where there can be no
 * branch: a branch needs a transaction id here, and rows on both sides. The call is a
 * transaction of its own at the peer, read-only and as isolated as the local one,
 * which ends with the call. What it reads is what is committed there by then; two calls may
 * read two states, and neither is that of the local snapshot.
 *
 * One pipeline, as for a branch: the isolation, dtx.read_begin, the statement, and the Sync
 * that ends it. There is no BEGIN and no COMMIT: should the statement fail, the connection is as
 * good as before. A crash anywhere leaves nothing.
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "core/compat.h"
#include "core/errors.h"
#include "core/global.h"
#include "core/leftover.h"
#include "core/node.h"
#include "core/override.h"
#include "core/participant.h"
#include "core/read.h"
#include "core/shmem.h"
#include "fmgr.h"
#include "guc.h"
#include "miscadmin.h"
#include "net/peer.h"
#include "tcop/cmdtag.h"
#include "utils/guc.h"

PG_FUNCTION_INFO_V1(dtx_read_begin);

/* --- here --- */

bool
read_is_due(void)
{
	return XactReadOnly && global_current() == NULL && !current_branch.active;
}

/* One attempt. NULL: a prepared statement was not there; the same may be tried again. */
static PGresult *
try_read(PeerConnection *pc, const RemoteStatement *statement)
{
	RemoteCall	call = {.pc = pc};
	const char *values[1] = {psprintf("%d", guc_lock_timeout)};
	PGresult   *volatile result = NULL;
	int			user;

	/* not SET TRANSACTION: it warns that there is no BEGIN */
	call.statements[call.nstatements].once = true;
	call.statements[call.nstatements++].sql =
		XactIsoLevel == XACT_SERIALIZABLE ? "SET transaction_isolation = 'serializable'" :
		XactIsoLevel == XACT_REPEATABLE_READ ? "SET transaction_isolation = 'repeatable read'" :
		"SET transaction_isolation = 'read committed'";
	if (XactIsoLevel == XACT_SERIALIZABLE)
	{
		call.statements[call.nstatements].once = true;
		call.statements[call.nstatements++].sql = XactDeferrable ?
			"SET transaction_deferrable = on" : "SET transaction_deferrable = off";
		/* a deferrable one waits for its snapshot only if it is known not to write by then */
		call.statements[call.nstatements].once = true;
		call.statements[call.nstatements++].sql = "SET transaction_read_only = on";
	}
	call.statements[call.nstatements].sql = "SELECT dtx.read_begin($1::pg_catalog.int4)";
	call.statements[call.nstatements].nparams = 1;
	call.statements[call.nstatements++].values = values;
	user = call.nstatements;
	call.statements[call.nstatements++] = *statement;

	PG_TRY();
	{
		remote_run(&call, 0);
		if (call.broken || (call.error != NULL && !remote_failed_on_statement(&call)))
			remote_throw(&call);
		if (call.error == NULL)
		{
			if (PQresultStatus(call.results[user]) == PGRES_EMPTY_QUERY)
				ereport(ERROR,
						(errcode(ERRCODE_SYNTAX_ERROR),
						 errmsg("the statement for server \"%s\" is empty", pc->server_name)));
			result = call.results[user];
			call.results[user] = NULL;
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
read_run(const char *server_name, const RemoteStatement *statement)
{
	Oid			role = GetUserId();
	Oid			server;
	PGresult   *result = NULL;

	shmem_require();
	server = peer_server_by_name(server_name, role);
	for (int attempt = 0; attempt < 3 && result == NULL; attempt++)
	{
		PeerConnection *pc = connection_get_to_read(server, role);

		/* a standby may ask its primary, which is the same node */
		if (node_is_self(pc->peer_node) && !RecoveryInProgress())
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("server \"%s\" is this very database", pc->server_name),
					 errhint("Run the statement without dtx.")));
		result = try_read(pc, statement);
	}
	if (result == NULL)
		remote_throw_swapped();
	return result;
}

/* --- at the peer --- */

static bool serving = false;
static int	guc_nest;			/* settings changed above it end with the read */

/* dtx.read_begin(lock_timeout int4): what follows in this transaction only reads */
Datum
dtx_read_begin(PG_FUNCTION_ARGS)
{
	shmem_require();
	if (current_branch.active || serving || GetCurrentTransactionNestLevel() > 1 ||
		FullTransactionIdIsValid(GetTopFullTransactionIdIfAny()))
		ereport(ERROR,
				(errcode(ERRCODE_DTX_BRANCH_STATE),
				 errmsg("cannot begin a read in this transaction"),
				 errdetail("It does something else already.")));
	/* there is a snapshot: nothing turns that off again */
	if (!XactReadOnly)
		setting_local("transaction_read_only", "on");
	participant_settings(PG_GETARG_INT32(0));
	/* the session serves others */
	session_lend();
	guc_nest = NewGUCNestLevel();
	serving = true;
	PG_RETURN_VOID();
}

bool
read_serves(void)
{
	return serving;
}

static void
refuse(Node *node)
{
	ereport(ERROR,
			(errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
			 errmsg("cannot execute %s for a read-only transaction of another node",
					GetCommandTagName(CreateCommandTag(node))),
			 errhint("A transaction that may write runs it as a branch.")));
}

void
read_utility(PlannedStmt *statement, ProcessUtilityContext *context)
{
	Node	   *node = statement->utilityStmt;

	/* the caller's own statement */
	if (*context == PROCESS_UTILITY_TOPLEVEL && !IsA(node, ExplainStmt) && !IsA(node, VariableShowStmt) &&
		!IsA(node, TransactionStmt))
		refuse(node);
	switch (nodeTag(node))
	{
		case T_NotifyStmt:
			refuse(node);
			break;
		case T_TransactionStmt:
			/* nothing else is possible in a transaction that has failed */
			if (!IsAbortedTransactionBlockState())
				refuse(node);
			break;
		case T_DoStmt:
		case T_CallStmt:
			*context = PROCESS_UTILITY_QUERY;
			break;
		default:
			break;
	}
}

void
read_pre_commit(void)
{
	if (!serving)
		return;
	/* PostgreSQL lets a read-only transaction do one thing or another: large objects, for example */
	if (FullTransactionIdIsValid(GetTopFullTransactionIdIfAny()))
		ereport(ERROR,
				(errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
				 errmsg("a statement for a read-only transaction of another node has written"),
				 errhint("A transaction that may write runs it as a branch.")));
	AtEOXact_GUC(false, guc_nest);
}

void
read_pre_prepare(void)
{
	if (serving)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot PREPARE a transaction that reads for another node")));
}

void
read_xact_end(void)
{
	serving = false;
}

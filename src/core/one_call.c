/*
 * one_call.c
 *		A branch that is one call: join, statement and the commit of phase 1 in
 *		one round trip. So AT and TCC make branches.
 */
#include "postgres.h"

#include "core/compat.h"
#include "core/errors.h"
#include "core/fault.h"
#include "core/global.h"
#include "core/node.h"
#include "core/participant.h"
#include "core/shmem.h"
#include "guc.h"
#include "utils/builtins.h"

void
global_join_statement(const Branch *branch, int flags, int64 token, int lock_timeout,
					  RemoteStatement *statement)
{
	const char **values = palloc(8 * sizeof(char *));
	char	   *gid = palloc(DTX_GID_SIZE);

	global_branch_gid(branch, gid);
	values[0] = gid;
	values[1] = branch->mode->name;
	values[2] = psprintf("%d", flags);
	values[3] = psprintf("%d", lock_timeout);
	values[4] = psprintf("%u", node_timeline());
	values[5] = psprintf(INT64_FORMAT, token);
	memset(statement, 0, sizeof(*statement));
	statement->nparams = 6;
	statement->sql = "SELECT dtx.branch_join($1::pg_catalog.text, $2::pg_catalog.text, $3::pg_catalog.int4, $4::pg_catalog.int4, $5::pg_catalog.int4, $6::pg_catalog.int8)";
	if (current_branch.active)
	{
		uint64		local_n = U64FromFullTransactionId(GetTopFullTransactionId());

		values[6] = participant_superiors();
		values[7] = psprintf(UINT64_FORMAT, local_n);
		statement->nparams = 8;
		statement->sql = "SELECT dtx.branch_join($1::pg_catalog.text, $2::pg_catalog.text, $3::pg_catalog.int4, $4::pg_catalog.int4, $5::pg_catalog.int4, $6::pg_catalog.int8, $7::pg_catalog.text[], $8::pg_catalog.int8)";
	}
	statement->values = values;
}

/*
 * One attempt at phase 1. Returns the statement's result, or NULL when a
 * prepared statement was not there, or it gave way to another branch, and the
 * same may be tried again.
 */
static PGresult *
try_call(const BranchMode *mode, PeerConnection *pc, const RemoteStatement *statement, int flags, Repeat *repeat)
{
	Branch	   *branch;
	RemoteCall	call = {.pc = pc, .nstatements = 2};
	PGresult   *volatile result = NULL;
	char	   *volatile gave_way = NULL;

	DTX_FAULT_POINT("coordinator-before-send");
	branch = global_branch_new(mode, pc->server, pc->role);
	global_join_statement(branch, flags, 0, repeat_lock_timeout(repeat), &call.statements[0]);
	call.statements[1] = *statement;
	global_branch_advance(branch, BRANCH_SENT);

	PG_TRY();
	{
		remote_run(&call, global_deadline());
		DTX_FAULT_POINT("coordinator-after-send");
		if (call.broken)
			remote_throw(&call);
		if (call.error != NULL)
		{
			bool		again = remote_failed_on_statement(&call);

			global_branch_advance(branch, BRANCH_FAILED);
			branch->failed_inside = !again && call.failed_statement > 0;
			if (branch->failed_inside)
				gave_way = repeat_reason(repeat, &call);
			if (!again && gave_way == NULL)
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
			global_branch_record(branch, remote_id(PQgetvalue(call.results[0], 0, 0), DTX_NODE_SIZE - 1));
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
	if (gave_way != NULL)
		repeat_wait(repeat, branch, gave_way);
	return result;
}

PGresult *
global_one_call(const BranchMode *mode, Oid server, Oid role, const RemoteStatement *statement,
				int flags)
{
	PGresult   *result = NULL;
	Repeat		repeat;

	repeat_begin(&repeat);
	for (int attempt = 0; attempt < 3 + repeat.times && result == NULL; attempt++)
		result = try_call(mode, global_connection(server, role), statement,
						  flags | JOIN_ONE_STATEMENT, &repeat);
	if (result == NULL)
		remote_throw_swapped();
	return result;
}

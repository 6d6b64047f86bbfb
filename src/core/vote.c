/*
 * vote.c
 *		The vote on a shared transaction: has every branch committed phase 1?
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "core/errors.h"
#include "core/fault.h"
#include "core/participant.h"
#include "core/settle.h"
#include "core/shmem.h"
#include "core/vote.h"
#include "fmgr.h"
#include "net/connection.h"
#include "net/remote.h"
#include "nodes/pg_list.h"
#include "utils/array.h"
#include "utils/builtins.h"

PG_FUNCTION_INFO_V1(dtx_branch_vote);

/* dtx.branch_vote(gids text[]): of each, whether its phase 1 is committed here:
 * yes, running or unknown; denied when it is another role's */
Datum
dtx_branch_vote(PG_FUNCTION_ARGS)
{
	Datum	   *gids;
	bool	   *nulls;
	int			n;

	shmem_require();
	participant_serve();
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(0), TEXTOID, -1, false, TYPALIGN_INT, &gids, &nulls, &n);
	for (int i = 0; i < n; i++)
	{
		char	   *gid_text = nulls[i] ? "" : TextDatumGetCString(gids[i]);
		Gid			gid;

		gid_parse_or_error(gid_text, &gid);
		/* who votes holds nothing up: neither before it is known whose the branch is, nor after */
		gids[i] = CStringGetTextDatum(!joined_allowed(gid_text) ? "denied" :
									  !gid_is_free(gid_branch_key(&gid, gid_text)) ? "running" :
									  joined_in_doubt(gid_text) ? "yes" : "unknown");
	}
	PG_RETURN_ARRAYTYPE_P(construct_array(gids, n, TEXTOID, -1, false, TYPALIGN_INT));
}

/* One call a (server, role), all of them under way at once. */
typedef struct VoteCall
{
	RemoteCall	call;
	const char *values[1];
	List	   *gids;			/* char * */
} VoteCall;

static int
start_vote(SharedBranch *branches, int count, VoteCall *calls)
{
	bool	   *asked = palloc0(count * sizeof(bool));
	int			ncalls = 0;

	for (int i = 0; i < count; i++)
	{
		VoteCall   *vote = &calls[ncalls];
		const char **items = palloc(count * sizeof(char *));
		int			n = 0;

		if (asked[i] || !OidIsValid(branches[i].server))
			continue;
		for (int j = i; j < count; j++)
			if (branches[j].server == branches[i].server && branches[j].role == branches[i].role)
			{
				asked[j] = true;
				items[n++] = branches[j].gid_text;
				vote->gids = lappend(vote->gids, branches[j].gid_text);
			}
		vote->values[0] = text_array_literal(items, n);
		vote->call.pc = connection_get(branches[i].server, branches[i].role, 0);
		vote->call.nstatements = 1;
		vote->call.statements[0].sql = "SELECT pg_catalog.unnest(dtx.branch_vote($1::pg_catalog.text[]))";
		vote->call.statements[0].once = true;
		vote->call.statements[0].nparams = 1;
		vote->call.statements[0].values = vote->values;
		ncalls++;
		remote_start(&vote->call);
	}
	return ncalls;
}

static void
report_absent(const char *gid_text)
{
	ereport(WARNING,
			(errmsg("branch \"%s\" has not committed its part", gid_text),
			 errdetail("The global transaction can only be rolled back.")));
}

/* True: all branches have committed phase 1. False: one never will. ERROR DX003
 * when one is still running. */
static bool
count_votes(VoteCall *calls, int ncalls)
{
	bool		all = true;

	for (int i = 0; i < ncalls; i++)
	{
		RemoteCall *call = &calls[i].call;

		remote_wait(call, 0);
		if (call->error != NULL || call->broken)
			remote_throw(call);
		if (!remote_has_rows(call, 0, list_length(calls[i].gids), 1))
			ereport(ERROR,
					(errcode(ERRCODE_FDW_REPLY_HANDLE),
					 errmsg("server \"%s\" gave an unexpected answer", call->pc->server_name)));
		for (int j = 0; j < list_length(calls[i].gids); j++)
		{
			const char *vote = PQgetvalue(call->results[0], j, 0);

			if (strcmp(vote, "running") == 0)
				ereport(ERROR,
						(errcode(ERRCODE_DTX_BRANCH_STATE),
						 errmsg("branch \"%s\" is still running", (char *) list_nth(calls[i].gids, j)),
						 errhint("The global transaction stays open; call dtx_commit when the branch has committed.")));
			if (strcmp(vote, "denied") == 0)
				ereport(ERROR,
						(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
						 errmsg("branch \"%s\" is another role's at server \"%s\"",
								(char *) list_nth(calls[i].gids, j), call->pc->server_name),
						 errhint("The global transaction stays open. Who joins there needs a role that the user mapping of the opener has the rights of.")));
			if (strcmp(vote, "yes") == 0)
				continue;
			all = false;
			report_absent(list_nth(calls[i].gids, j));
		}
	}
	return all;
}

bool
vote_take(SharedBranch *branches, int count)
{
	VoteCall   *calls = palloc0(Max(count, 1) * sizeof(VoteCall));
	volatile bool all = true;
	bool		here = true;

	DTX_FAULT_POINT("shared-before-vote");
	PG_TRY();
	{
		int			ncalls = start_vote(branches, count, calls);

		all = count_votes(calls, ncalls);
		/* none that runs here: it would hold the lock */
		for (int i = 0; i < count; i++)
		{
			if (OidIsValid(branches[i].server) || joined_in_doubt(branches[i].gid_text))
				continue;
			here = false;
			report_absent(branches[i].gid_text);
		}
	}
	PG_FINALLY();
	{
		for (int i = 0; i < count; i++)
			remote_free(&calls[i].call);
	}
	PG_END_TRY();
	DTX_FAULT_POINT("shared-after-vote");
	return all && here;
}

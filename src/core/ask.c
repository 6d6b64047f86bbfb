/*
 * ask.c
 *		Asking a participant to settle: the parameters of the call, and the call
 *		of a session that has to have a branch rolled back before it goes on.
 */
#include "postgres.h"

#include "core/clock.h"
#include "core/compat.h"
#include "core/errors.h"
#include "core/node.h"
#include "core/settle.h"
#include "guc.h"
#include "miscadmin.h"
#include "storage/proc.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

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

static char *
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

const char **
settle_parameters(List *nodes, uint64 horizon, const SettleRequest *requests, int count)
{
	const char **values = palloc(SETTLE_PARAMS * sizeof(char *));
	const char **items = palloc(Max(count, list_length(nodes)) * sizeof(char *));
	bool	   *commits = palloc(count * sizeof(bool));
	char	   *modes = palloc0(count + 1);
	bool		all_own = true;
	int			n = 0;
	ListCell   *cell;
	StringInfoData ns;

	foreach(cell, nodes)
		items[n++] = lfirst(cell);
	values[0] = text_array_literal(items, n);
	values[1] = psprintf("%u", node_timeline());
	values[2] = psprintf(UINT64_FORMAT, horizon);
	for (int i = 0; i < count; i++)
	{
		items[i] = requests[i].gid;
		commits[i] = requests[i].commit;
		modes[i] = requests[i].mode;
		all_own &= requests[i].n == 0;
	}
	values[3] = text_array_literal(items, count);
	values[4] = bool_array_literal(commits, count);
	values[5] = modes;
	initStringInfo(&ns);
	appendStringInfoChar(&ns, '{');
	for (int i = 0; i < count && !all_own; i++)
		appendStringInfo(&ns, "%s" UINT64_FORMAT, i > 0 ? "," : "", requests[i].n);
	appendStringInfoChar(&ns, '}');
	values[6] = ns.data;
	return values;
}

/* One call; returns the outcome's word and sets *detail. */
static char *
ask_for_rollback(PeerConnection *pc, const SettleRequest *request, TimestampTz deadline, char **detail)
{
	const char **values = settle_parameters(node_all_ids(), 0, request, 1);
	RemoteCall	call = {.pc = pc, .nstatements = 3};
	char	   *volatile outcome = NULL;

	call.statements[0].sql = BEGIN_SQL;
	call.statements[1].sql = SETTLE_SQL;
	call.statements[1].nparams = SETTLE_PARAMS;
	call.statements[1].values = values;
	call.statements[2].sql = "COMMIT";
	/* behind a pooler there is no second try for it */
	for (int i = 0; i < call.nstatements; i++)
		call.statements[i].once = true;
	PG_TRY();
	{
		remote_run(&call, deadline);
		if (call.error != NULL || call.broken)
			remote_throw(&call);
		if (!remote_has_rows(&call, 1, 1, 2))
			ereport(ERROR,
					(errcode(ERRCODE_FDW_REPLY_HANDLE),
					 errmsg("server \"%s\" gave an unexpected answer", pc->server_name)));
		outcome = remote_text(PQgetvalue(call.results[1], 0, 0), 40);
		*detail = remote_text(PQgetvalue(call.results[1], 0, 1), 900);
	}
	PG_FINALLY();
	{
		remote_free(&call);
	}
	PG_END_TRY();
	return outcome;
}

void
settle_rollback_now(PeerConnection *pc, const char *gid, char mode, uint64 n, TimestampTz deadline)
{
	SettleRequest request = {.gid = gid, .mode = mode, .n = n};
	long		delay = 1;
	TimestampTz until = deadline;

	if (until == 0 && guc_lock_timeout > 0)
		until = TimestampTzPlusMilliseconds(clock_now(), guc_lock_timeout);
	for (;;)
	{
		char	   *detail = NULL;
		char	   *outcome = ask_for_rollback(pc, &request, deadline, &detail);
		long		remaining = deadline_remaining(until);

		if (strcmp(outcome, SETTLE_SETTLED) == 0)
		{
			if (strcmp(detail, SETTLE_CHILDREN) != 0)
				return;
			outcome = SETTLE_BUSY;	/* what comes next may touch their rows */
		}
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

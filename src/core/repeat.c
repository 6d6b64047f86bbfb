/*
 * repeat.c
 *		Calls that gave way to another branch are made again.
 *
 * Who waits for a row in doubt holds its heap lock, and gives up where the
 * holder needs that: it is being rolled back, or waits for the same row itself.
 * A retry loop that begins anew at once would run into the same again and
 * again, until the holder is settled. But the call has left nothing at the peer,
 * if it was to make a branch: so it is made again here, as another branch, in a
 * transaction of its own there, with a snapshot of its own whatever the isolation
 * level. Before that the end of the holder is waited for: at the peer, by a call
 * that is no branch and holds no lock, so that it stands in nobody's way.
 *
 * What the failed attempt had called in its turn is rolled back first. A crash
 * on the way leaves what the failure of any call leaves.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "core/clock.h"
#include "core/compat.h"
#include "core/errors.h"
#include "core/global.h"
#include "core/override.h"
#include "core/settle.h"
#include "core/shmem.h"
#include "fmgr.h"
#include "guc.h"
#include "miscadmin.h"
#include "net/remote.h"
#include "storage/condition_variable.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/timeout.h"

#define MAX_REPEATS		1000	/* of one call; a peer may say anything */
#define LOOK_INTERVAL	1000	/* ms; settling tells at once, but a hand may have removed the row */
#define CHECK_INTERVAL	200		/* ms between looks whether the coordinator is still connected */

PG_FUNCTION_INFO_V1(dtx_branch_await);

/* --- the coordinator --- */

void
repeat_begin(Repeat *repeat)
{
	repeat->deadline = guc_lock_timeout > 0 ? TimestampTzPlusMilliseconds(clock_now(), guc_lock_timeout) : 0;
	repeat->times = 0;
	repeat->last[0] = '\0';
}

int
repeat_lock_timeout(const Repeat *repeat)
{
	/* 0 would be no timeout at all */
	return repeat->times == 0 ? guc_lock_timeout : repeat->deadline == 0 ? 0 : (int) Max(deadline_remaining(repeat->deadline), 1);
}

char *
repeat_reason(const Repeat *repeat, RemoteCall *call)
{
	char	   *text = repeat->times < MAX_REPEATS ? remote_gave_way(call) : NULL;
	Gid			gid;

	/* somebody's function may raise the like; and who is settled cannot be in the way again */
	return text != NULL && gid_parse(text, &gid) && strcmp(text, repeat->last) != 0 ? text : NULL;
}

/* One call: is that branch not in doubt there any more? */
static bool
await(PeerConnection *pc, const char *gid, int timeout)
{
	static const Oid types[2] = {TEXTOID, INT4OID};
	const char *values[2] = {gid, psprintf("%d", timeout)};
	RemoteCall	call = {.pc = pc, .nstatements = 1};
	volatile bool over = false;

	call.statements[0].sql = "SELECT dtx.branch_await($1, $2)";
	call.statements[0].nparams = 2;
	call.statements[0].types = types;
	call.statements[0].values = values;
	/* behind a pooler there is no second try for it */
	call.statements[0].once = true;
	PG_TRY();
	{
		remote_run(&call, global_deadline());
		if (call.error != NULL || call.broken)
			remote_throw(&call);
		if (!remote_has_rows(&call, 0, 1, 1))
			ereport(ERROR,
					(errcode(ERRCODE_FDW_REPLY_HANDLE),
					 errmsg("server \"%s\" gave an unexpected answer", pc->server_name)));
		over = PQgetvalue(call.results[0], 0, 0)[0] == 't';
	}
	PG_FINALLY();
	{
		remote_free(&call);
	}
	PG_END_TRY();
	return over;
}

void
repeat_wait(Repeat *repeat, Branch *branch, const char *gid)
{
	PeerConnection *pc;
	bool		over = false;

	repeat->times++;
	strlcpy(repeat->last, gid, sizeof(repeat->last));
	stat_add(STAT_CALLS_REPEATED, 1);
	global_branch_doom(branch);
	pc = global_connection(branch->server, branch->role);
	if (repeat->deadline == 0 || deadline_remaining(repeat->deadline) > 0)
		over = await(pc, gid, repeat_lock_timeout(repeat));
	if (!over)
		ereport(ERROR,
				(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
				 errmsg("could not change a row at server \"%s\": it is held by global transaction \"%s\"",
						pc->server_name, gid),
				 errdetail("The call has given way to it, and it was not settled in time."),
				 errhint("Retry, or see the view dtx_locks there.")));
}

/* --- the participant --- */

/* dtx.branch_await(gid text, timeout int4): true as soon as the branch is not in doubt here; false
 * when it still is after so many ms (0: never) */
Datum
dtx_branch_await(PG_FUNCTION_ARGS)
{
	char	   *gid = text_to_cstring(PG_GETARG_TEXT_PP(0));
	int			timeout = PG_GETARG_INT32(1);
	TimestampTz deadline = timeout > 0 ? TimestampTzPlusMilliseconds(clock_now(), timeout) : 0;
	DatabaseSlot *slot;
	bool		over;

	shmem_require();
	slot = my_database_slot();
	if (slot == NULL)
		PG_RETURN_BOOL(!joined_in_doubt(gid));
	/* the coordinator cancels by closing the connection */
	if (client_connection_check_interval == 0 && MyProcPort != NULL)
	{
		setting_local("client_connection_check_interval", CppAsString2(CHECK_INTERVAL));
		if (!get_timeout_active(CLIENT_CONNECTION_CHECK_TIMEOUT))
			enable_timeout_after(CLIENT_CONNECTION_CHECK_TIMEOUT, CHECK_INTERVAL);
	}
	ConditionVariablePrepareToSleep(&slot->changed);
	while (!(over = !joined_in_doubt(gid)))
	{
		long		remaining = deadline_remaining(deadline);

		if (remaining == 0)
			break;
		(void) ConditionVariableTimedSleep(&slot->changed, remaining < 0 ? LOOK_INTERVAL : Min(remaining, LOOK_INTERVAL),
										   PG_WAIT_EXTENSION);
	}
	ConditionVariableCancelSleep();
	PG_RETURN_BOOL(over);
}

/*
 * places.c
 *		Places in shared memory for the processes that run roles' functions: who has
 *		one, and when such a process is to be started, or ended.
 *
 * In the worker, which finds out that there is something to do, and in the launcher,
 * which starts processes.
 */
#include "postgres.h"

#include <signal.h>

#include "core/shmem.h"
#include "guc.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "utils/timestamp.h"
#include "worker/dispatch.h"
#include "worker/worker.h"

#define START_TIMEOUT	10000	/* ms until one that has not come up is started anew */
#define RESTART_DELAY	500		/* ms until one that has failed is */

BackgroundWorkerHandle *
runner_start(Oid database, Oid role)
{
	BackgroundWorker bgw = {0};
	BackgroundWorkerHandle *handle = NULL;
	RunnerArgs	args = {database, role};

	bgw.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	bgw.bgw_start_time = BgWorkerStart_RecoveryFinished;
	bgw.bgw_restart_time = BGW_NEVER_RESTART;
	strlcpy(bgw.bgw_library_name, "dtx", sizeof(bgw.bgw_library_name));
	strlcpy(bgw.bgw_function_name, "dtx_runner_main", sizeof(bgw.bgw_function_name));
	snprintf(bgw.bgw_name, sizeof(bgw.bgw_name), "dtx runner for role %u in database %u", role, database);
	strlcpy(bgw.bgw_type, "dtx runner", sizeof(bgw.bgw_type));
	memcpy(bgw.bgw_extra, &args, sizeof(args));
	bgw.bgw_notify_pid = MyProcPid;
	return RegisterDynamicBackgroundWorker(&bgw, &handle) ? handle : NULL;
}

bool
runner_wake(Oid role)
{
	DatabaseSlot *slot = worker.slot;
	Runner	   *runner = NULL;
	bool		start = false;

	SpinLockAcquire(&slot->mutex);
	for (int i = 0; i < DTX_RUNNERS && runner == NULL; i++)
		if (slot->runners[i].role == role)
			runner = &slot->runners[i];
	for (int i = 0; i < DTX_RUNNERS && runner == NULL; i++)
		if (!OidIsValid(slot->runners[i].role) ||
			(slot->runners[i].pid == 0 && !slot->runners[i].wanted && slot->runners[i].due_at == 0))
			runner = &slot->runners[i];
	if (runner != NULL)
	{
		if (runner->role != role)
			runner->failures = 0;
		runner->role = role;
		runner->wanted = true;
		if (runner->latch != NULL)
			SetLatch(runner->latch);
		else
			start = runner->pid == 0;
	}
	SpinLockRelease(&slot->mutex);
	/* it starts processes: some may have to make room first */
	if (start)
		launcher_wake();
	return runner != NULL;
}

void
runners_end_overdue(void)
{
	DatabaseSlot *slot = worker.slot;
	TimestampTz now = GetCurrentTimestamp();

	SpinLockAcquire(&slot->mutex);
	for (int i = 0; i < DTX_RUNNERS; i++)
	{
		Runner	   *runner = &slot->runners[i];

		if (runner->pid > 0 && runner->end_at != 0 && now >= runner->end_at)
			(void) kill(runner->pid, SIGTERM);
	}
	SpinLockRelease(&slot->mutex);
}

int64
runner_restart_delay(int failures)
{
	return Min(RESTART_DELAY << Min(failures, 16), Max(guc_retry_max, RESTART_DELAY));
}

Oid
runner_waiting(DatabaseSlot *slot, TimestampTz now, TimestampTz *since)
{
	Oid			role = InvalidOid;

	SpinLockAcquire(&slot->mutex);
	for (int i = 0; i < DTX_RUNNERS && slot->holds == 0; i++)
	{
		Runner	   *runner = &slot->runners[i];

		if (!OidIsValid(runner->role) || runner->latch != NULL ||
			!(runner->wanted || (runner->due_at != 0 && now >= runner->due_at)) ||
			now < runner->not_before ||
			(runner->pid != 0 && now < TimestampTzPlusMilliseconds(runner->started_at, START_TIMEOUT)))
		{
			runner->waiting_since = 0;
			continue;
		}
		if (runner->waiting_since == 0)
			runner->waiting_since = now;
		if (!OidIsValid(role) || runner->waiting_since < *since)
		{
			role = runner->role;
			*since = runner->waiting_since;
		}
	}
	SpinLockRelease(&slot->mutex);
	return role;
}

void
runner_mark(DatabaseSlot *slot, Oid role, TimestampTz now)
{
	SpinLockAcquire(&slot->mutex);
	for (int i = 0; i < DTX_RUNNERS; i++)
	{
		Runner	   *runner = &slot->runners[i];

		if (runner->role != role || runner->latch != NULL)
			continue;
		runner->pid = -1;
		runner->started_at = now;
		/* until it has done something, it has failed: it may not even come so far as to say so */
		runner->not_before = TimestampTzPlusMilliseconds(now, runner_restart_delay(runner->failures));
		runner->failures = Min(runner->failures + 1, 1000);
	}
	SpinLockRelease(&slot->mutex);
}

void
runner_not_started(DatabaseSlot *slot, Oid role)
{
	SpinLockAcquire(&slot->mutex);
	for (int i = 0; i < DTX_RUNNERS; i++)
		if (slot->runners[i].role == role && slot->runners[i].pid == -1)
		{
			slot->runners[i].pid = 0;
			slot->runners[i].wanted = true;
			slot->runners[i].not_before = 0;
			slot->runners[i].failures = Max(slot->runners[i].failures - 1, 0);
		}
	SpinLockRelease(&slot->mutex);
}

/* What it left in its place says so, if it had come as far as to take it. */
void
runner_ended(DatabaseSlot *slot, Oid role)
{
	SpinLockAcquire(&slot->mutex);
	for (int i = 0; i < DTX_RUNNERS; i++)
		if (slot->runners[i].role == role && slot->runners[i].pid == -1)
		{
			slot->runners[i].pid = 0;
			slot->runners[i].wanted = true;
		}
	SpinLockRelease(&slot->mutex);
	ConditionVariableBroadcast(&slot->changed);
}

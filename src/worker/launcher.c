/*
 * launcher.c
 *		One process a cluster that starts a worker in each database with dtx.
 *
 * At its start, and when a database appears, it sends a worker to look whether
 * the extension is there. Later it starts workers where one is wanted: where a
 * session has work, or contacts are due to be asked. When all process slots
 * are taken the database that has waited longest comes first.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "core/clock.h"
#include "core/compat.h"
#include "core/shmem.h"
#include "guc.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/procarray.h"
#include "storage/proc.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "worker/dispatch.h"
#include "worker/worker.h"

#define LIST_INTERVAL	60000	/* ms between looks at pg_database */
#define WORKED_FOR_LONG	10000	/* ms that a worker lived whose failure is one of its own */

typedef struct Database
{
	dlist_node	link;
	Oid			oid;
	bool		seen;			/* in pg_database, at the last look */
	bool		probed;			/* a worker has looked for the extension */
	BackgroundWorkerHandle *handle; /* NULL: no worker */
	int			failures;		/* of the last workers, in a row */
	TimestampTz started_at;		/* the last of them */
	TimestampTz not_before;
	TimestampTz waiting_since;	/* 0: it has no work */
} Database;

static dlist_head databases = DLIST_STATIC_INIT(databases);
static bool starved = false;	/* no process slot was free */

void
launcher_register(void)
{
	BackgroundWorker bgw = {0};

	bgw.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	bgw.bgw_start_time = BgWorkerStart_RecoveryFinished;
	bgw.bgw_restart_time = 1;
	strlcpy(bgw.bgw_library_name, "dtx", sizeof(bgw.bgw_library_name));
	strlcpy(bgw.bgw_function_name, "dtx_launcher_main", sizeof(bgw.bgw_function_name));
	strlcpy(bgw.bgw_name, "dtx launcher", sizeof(bgw.bgw_name));
	strlcpy(bgw.bgw_type, "dtx launcher", sizeof(bgw.bgw_type));
	RegisterBackgroundWorker(&bgw);
}

static void
launcher_exit(int code, Datum arg)
{
	shared->launcher_latch = NULL;
	shared->launcher_pid = 0;
}

static Database *
database_entry(Oid oid)
{
	Database   *db;
	dlist_iter	iter;

	dlist_foreach(iter, &databases)
	{
		db = dlist_container(Database, link, iter.cur);
		if (db->oid == oid)
			return db;
	}
	db = MemoryContextAllocZero(TopMemoryContext, sizeof(Database));
	db->oid = oid;
	dlist_push_tail(&databases, &db->link);
	return db;
}

/* Compare the list with pg_database. */
static void
list_databases(void)
{
	dlist_mutable_iter iter;
	Relation	rel;
	TableScanDesc scan;
	HeapTuple	tuple;

	StartTransactionCommand();
	(void) GetTransactionSnapshot();
	dlist_foreach_modify(iter, &databases)
		dlist_container(Database, link, iter.cur)->seen = false;
	rel = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(rel, 0, NULL);
	while (HeapTupleIsValid(tuple = heap_getnext(scan, ForwardScanDirection)))
	{
		Form_pg_database form = (Form_pg_database) GETSTRUCT(tuple);

		if (form->datallowconn && !form->datistemplate)
			database_entry(form->oid)->seen = true;
	}
	table_endscan(scan);
	table_close(rel, AccessShareLock);
	CommitTransactionCommand();

	dlist_foreach_modify(iter, &databases)
	{
		Database   *db = dlist_container(Database, link, iter.cur);

		if (db->seen || db->handle != NULL)
			continue;
		database_slot_free(db->oid);
		dlist_delete(&db->link);
		pfree(db);
	}
}

/* ms until another one is started after so many have failed */
static int
restart_delay(const Database *db)
{
	return Min(db->failures, 30) * 1000;
}

/* The worker of a database has ended, or never came up. */
static void
worker_ended(Database *db)
{
	DatabaseSlot *slot = database_slot_find(db->oid, false);
	pid_t		pid;

	pfree(db->handle);
	db->handle = NULL;
	if (slot == NULL)
	{
		/* it found no extension */
		db->failures = 0;
		return;
	}
	/* another one may be at work, that an earlier launcher has started */
	pid = slot->worker_pid;
	if (pid > 0 && slot->worker_latch != NULL && BackendPidGetProc(pid) != NULL)
	{
		db->failures = 0;
		return;
	}
	SpinLockAcquire(&slot->mutex);
	if (slot->worker_pid != 0)
	{
		/* it ended without saying so: an error; do not start one in a hurry */
		slot->worker_pid = 0;
		slot->worker_latch = NULL;
		slot->wanted = true;
		pg_atomic_write_u32(&slot->listening, 1);
		/* one that has worked for a while does not go on with what was before it */
		if (GetCurrentTimestamp() >= TimestampTzPlusMilliseconds(db->started_at, WORKED_FOR_LONG))
			db->failures = 0;
		db->failures++;
	}
	else
		db->failures = 0;
	slot->last_run = GetCurrentTimestamp();
	SpinLockRelease(&slot->mutex);
	ConditionVariableBroadcast(&slot->changed);
	db->not_before = db->failures == 0 ? 0 :
		TimestampTzPlusMilliseconds(GetCurrentTimestamp(), restart_delay(db));
	if (db->failures > 0)
		ereport(LOG,
				(errmsg("the dtx worker for database %u has failed, %d in a row", db->oid, db->failures),
				 errdetail("The next one is started in %d s.", restart_delay(db) / 1000)));
}

/* Does the database need a worker now? */
static bool
needs_worker(Database *db, TimestampTz now)
{
	DatabaseSlot *slot = database_slot_find(db->oid, false);

	if (db->handle != NULL || !db->seen || now < db->not_before)
		return false;
	/* one that an earlier launcher has started lives; or somebody needs the database for
	 * himself, and others must not wait behind it */
	if (slot != NULL && (slot->worker_latch != NULL || slot->holds > 0))
		return false;
	if (!db->probed)
		return true;
	return slot != NULL &&
		(slot->wanted || slot->rescan || slot->ask_peers || slot->tail < slot->head ||
		 pg_atomic_read_u64(&slot->garbage) >= GARBAGE_ROWS ||
		 (slot->due_at != 0 && now >= slot->due_at) ||
		 (slot->has_contacts &&
		  now >= TimestampTzPlusMilliseconds(slot->last_run, guc_recovery_interval)));
}

static void
start_worker(Database *db)
{
	BackgroundWorker bgw = {0};
	DatabaseSlot *slot = database_slot_find(db->oid, true);
	bool		held;

	if (slot == NULL)
	{
		if (!db->probed)
			ereport(LOG,
					(errmsg("no slot is free for another database"),
					 errhint("Raise dtx.max_databases and restart the server.")));
		db->probed = true;
		return;
	}
	SpinLockAcquire(&slot->mutex);
	held = slot->holds > 0;
	if (!held)
	{
		slot->worker_pid = -1;
		slot->wanted = false;
		slot->due_at = 0;
	}
	SpinLockRelease(&slot->mutex);
	if (held)
		return;

	bgw.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	bgw.bgw_start_time = BgWorkerStart_RecoveryFinished;
	bgw.bgw_restart_time = BGW_NEVER_RESTART;
	strlcpy(bgw.bgw_library_name, "dtx", sizeof(bgw.bgw_library_name));
	strlcpy(bgw.bgw_function_name, "dtx_worker_main", sizeof(bgw.bgw_function_name));
	snprintf(bgw.bgw_name, sizeof(bgw.bgw_name), "dtx worker for database %u", db->oid);
	strlcpy(bgw.bgw_type, "dtx worker", sizeof(bgw.bgw_type));
	bgw.bgw_main_arg = ObjectIdGetDatum(db->oid);
	bgw.bgw_notify_pid = MyProcPid;
	if (RegisterDynamicBackgroundWorker(&bgw, &db->handle))
	{
		db->probed = true;
		db->waiting_since = 0;
		db->started_at = GetCurrentTimestamp();
		return;
	}
	db->handle = NULL;
	starved = true;
	SpinLockAcquire(&slot->mutex);
	slot->worker_pid = 0;
	slot->wanted = true;
	SpinLockRelease(&slot->mutex);
	ConditionVariableBroadcast(&slot->changed);
}

/* A runner that was started. */
typedef struct StartedRunner
{
	DatabaseSlot *slot;
	Oid			database;
	Oid			role;
	BackgroundWorkerHandle *handle;
} StartedRunner;

static List *started_runners = NIL;

static void
note_started(DatabaseSlot *slot, Oid role, BackgroundWorkerHandle *handle)
{
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);
	StartedRunner *started = palloc(sizeof(StartedRunner));

	*started = (StartedRunner) {slot, slot->database, role, handle};
	started_runners = lappend(started_runners, started);
	MemoryContextSwitchTo(old);
}

/* Those that have ended: their places are free. */
static void
look_at_runners(void)
{
	ListCell   *cell;

	foreach(cell, started_runners)
	{
		StartedRunner *started = lfirst(cell);
		pid_t		pid;

		if (GetBackgroundWorkerPid(started->handle, &pid) != BGWH_STOPPED)
			continue;
		if (started->slot->database == started->database)
			runner_ended(started->slot, started->role);
		started_runners = foreach_delete_current(started_runners, cell);
		pfree(started->handle);
		pfree(started);
	}
}

/* Start a process that runs a role's functions. */
static void
start_runner(DatabaseSlot *slot, Oid role, TimestampTz now)
{
	BackgroundWorkerHandle *handle;

	runner_mark(slot, role, now);
	handle = runner_start(slot->database, role);
	if (handle != NULL)
	{
		note_started(slot, role, handle);
		return;
	}
	runner_not_started(slot, role);
	starved = true;
}

/* The database that has waited longest for a worker, or NULL. */
static Database *
first_database(TimestampTz now)
{
	Database   *first = NULL;
	dlist_iter	iter;

	dlist_foreach(iter, &databases)
	{
		Database   *db = dlist_container(Database, link, iter.cur);

		if (!needs_worker(db, now))
		{
			db->waiting_since = 0;
			continue;
		}
		if (db->waiting_since == 0)
			db->waiting_since = now;
		if (first == NULL || db->waiting_since < first->waiting_since)
			first = db;
	}
	return first;
}

/* And the role whose process has. */
static DatabaseSlot *
first_runner(TimestampTz now, Oid *role, TimestampTz *since)
{
	DatabaseSlot *first = NULL;

	for (int i = 0; i < shared->ndatabases; i++)
	{
		DatabaseSlot *slot = database_slot_number(i);
		TimestampTz waiting = 0;
		Oid			other = OidIsValid(slot->database) ? runner_waiting(slot, now, &waiting) : InvalidOid;

		if (!OidIsValid(other) || (first != NULL && waiting >= *since))
			continue;
		first = slot;
		*role = other;
		*since = waiting;
	}
	return first;
}

#define TURN	5000			/* ms that a process may have a slot, idle or not, when others wait for as long */

/* Others have waited for long: who has had its process slot longest gives it back, with
 * work left or not, and waits in line. */
static void
end_a_turn(TimestampTz now)
{
	bool	   *turn_over = NULL;
	Latch	   *latch = NULL;
	TimestampTz least = TimestampTzPlusMilliseconds(now, -TURN);

	for (int i = 0; i < shared->ndatabases; i++)
	{
		DatabaseSlot *slot = database_slot_number(i);

		if (!OidIsValid(slot->database))
			continue;
		SpinLockAcquire(&slot->mutex);
		if (slot->worker_latch != NULL && slot->worker_since <= least)
		{
			least = slot->worker_since;
			turn_over = &slot->turn_over;
			latch = slot->worker_latch;
		}
		for (int j = 0; j < DTX_RUNNERS; j++)
		{
			Runner	   *runner = &slot->runners[j];

			if (runner->latch == NULL || runner->started_at > least)
				continue;
			least = runner->started_at;
			turn_over = &runner->turn_over;
			latch = runner->latch;
		}
		SpinLockRelease(&slot->mutex);
	}
	if (turn_over == NULL)
		return;
	/* should it have left just now: the next one there clears it */
	*turn_over = true;
	SetLatch(latch);
}

/* Start workers and runners, in the order in which they have come to be needed. */
static void
start_workers(void)
{
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz waiting = 0;

	starved = false;
	while (!starved)
	{
		Oid			role = InvalidOid;
		TimestampTz since = 0;
		Database   *db = first_database(now);
		DatabaseSlot *slot = first_runner(now, &role, &since);

		if (db == NULL && slot == NULL)
			break;
		if (db == NULL || (slot != NULL && since < db->waiting_since))
		{
			waiting = since;
			start_runner(slot, role, now);
			continue;
		}
		waiting = db->waiting_since;
		start_worker(db);
		/* it is held, or there is no room for its database */
		if (db->handle == NULL && !starved)
			break;
	}
	for (int i = 0; i < shared->ndatabases; i++)
		database_slot_number(i)->runners_yield = starved;
	if (!starved)
		return;

	/* ask those who are idle to give their process slots back */
	for (int i = 0; i < shared->ndatabases; i++)
	{
		DatabaseSlot *slot = database_slot_number(i);

		SpinLockAcquire(&slot->mutex);
		slot->yield = slot->worker_pid > 0;
		if (slot->worker_latch != NULL)
			SetLatch(slot->worker_latch);
		for (int j = 0; j < DTX_RUNNERS; j++)
			if (slot->runners[j].latch != NULL)
				SetLatch(slot->runners[j].latch);
		SpinLockRelease(&slot->mutex);
	}
	if (now >= TimestampTzPlusMilliseconds(waiting, TURN))
		end_a_turn(now);
}

/* The clock was set back: what was to be started at some time is started now, and finds
 * out when it is due. */
static void
forget_times(void)
{
	TimestampTz now = GetCurrentTimestamp();
	dlist_iter	iter;

	dlist_foreach(iter, &databases)
	{
		Database   *db = dlist_container(Database, link, iter.cur);

		db->not_before = 0;
		db->waiting_since = 0;
	}
	for (int i = 0; i < shared->ndatabases; i++)
	{
		DatabaseSlot *slot = database_slot_number(i);

		if (!OidIsValid(slot->database))
			continue;
		SpinLockAcquire(&slot->mutex);
		slot->last_run = Min(slot->last_run, now);
		slot->wanted |= slot->due_at != 0;
		slot->due_at = 0;
		for (int j = 0; j < DTX_RUNNERS; j++)
		{
			Runner	   *runner = &slot->runners[j];

			runner->not_before = 0;
			runner->started_at = Min(runner->started_at, now);
			runner->wanted |= runner->due_at != 0;
			runner->due_at = 0;
		}
		SpinLockRelease(&slot->mutex);
	}
}

void
dtx_launcher_main(Datum arg)
{
	TimestampTz next_list = 0;

	pqsignal(SIGTERM, die);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	before_shmem_exit(launcher_exit, 0);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);
	shared->launcher_pid = MyProcPid;
	shared->launcher_latch = &MyProc->procLatch;
	pgstat_report_activity(STATE_IDLE, NULL);

	for (;;)
	{
		TimestampTz now = GetCurrentTimestamp();
		bool		stranger = false;
		dlist_iter	iter;

		if (clock_was_set_back())
		{
			forget_times();
			next_list = 0;
		}
		for (int i = 0; i < shared->ndatabases && !stranger; i++)
		{
			DatabaseSlot *slot = database_slot_number(i);

			if (OidIsValid(slot->database) && slot->wanted)
			{
				bool		known = false;

				dlist_foreach(iter, &databases)
					known |= dlist_container(Database, link, iter.cur)->oid == slot->database;
				stranger = !known;
			}
		}
		if (now >= next_list || stranger)
		{
			list_databases();
			next_list = TimestampTzPlusMilliseconds(now, LIST_INTERVAL);
		}
		dlist_foreach(iter, &databases)
		{
			Database   *db = dlist_container(Database, link, iter.cur);
			pid_t		pid;

			if (db->handle != NULL &&
				GetBackgroundWorkerPid(db->handle, &pid) == BGWH_STOPPED)
				worker_ended(db);
		}
		look_at_runners();
		start_workers();

		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 1000, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
	}
}

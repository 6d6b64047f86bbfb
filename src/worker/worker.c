/*
 * worker.c
 *		The worker of a database: it carries decisions out.
 *
 * One process, single-threaded: it waits on its latch, on the sockets of all
 * its peers, and for the next due time, all at once. Every step does what can
 * be done without waiting. A peer that does not answer costs nothing but its
 * own channel's progress.
 */
#include "postgres.h"

#include "access/xact.h"
#include "commands/extension.h"
#include "common/pg_prng.h"
#include "core/clock.h"
#include "core/compat.h"
#include "core/mode.h"
#include "core/locks.h"
#include "core/node.h"
#include "core/override.h"
#include "core/relations.h"
#include "guc.h"
#include "net/http.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/proc.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "worker/dispatch.h"
#include "worker/notifier.h"
#include "worker/worker.h"

#define HOUSEKEEPING_INTERVAL	1000	/* ms */

Worker		worker;

long
backoff_delay(int failures)
{
	int64		delay = guc_retry_base;

	for (int i = 1; i < failures && delay < guc_retry_max; i++)
		delay *= 2;
	delay = Min(delay, guc_retry_max);
	/* between a half and the whole, so that many do not come at once */
	return Max(1, delay / 2 + (int64) (pg_prng_double(&pg_global_prng_state) * delay / 2));
}

void
worker_begin(void)
{
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	/* before any table: DROP EXTENSION locks them in an order of its own */
	(void) own_lock(LOCK_EXTENSION, 0, ShareLock, true);
	PushActiveSnapshot(GetTransactionSnapshot());
}

void
worker_commit(bool durable)
{
	PopActiveSnapshot();
	if (!durable)
		setting_override(&synchronous_commit, SYNCHRONOUS_COMMIT_OFF);
	else if (synchronous_commit < SYNCHRONOUS_COMMIT_REMOTE_FLUSH)
		setting_override(&synchronous_commit, SYNCHRONOUS_COMMIT_ON);
	CommitTransactionCommand();
	MemoryContextSwitchTo(worker.turn);
	pgstat_report_stat(false);
}

void
worker_commit_flushed(void)
{
	PopActiveSnapshot();
	setting_override(&synchronous_commit, SYNCHRONOUS_COMMIT_LOCAL_FLUSH);
	CommitTransactionCommand();
	MemoryContextSwitchTo(worker.turn);
	pgstat_report_stat(false);
}

static TimestampTz leaves_until = 0;	/* when there will be something to do; 0: not known of */

static void
worker_exit(int code, Datum arg)
{
	DatabaseSlot *slot = worker.slot;

	if (slot == NULL)
		return;
	SpinLockAcquire(&slot->mutex);
	slot->worker_latch = NULL;
	/* after an error the launcher finds the pid still there, and waits a while */
	if (code == 0)
		slot->worker_pid = 0;
	else
		slot->wanted = true;
	pg_atomic_write_u32(&slot->listening, 1);
	slot->last_run = GetCurrentTimestamp();
	slot->due_at = code == 0 ? leaves_until : 0;
	if (!slot->recovered || hash_get_num_entries(worker.items) > 0 || worker.nshared > 0)
		slot->rescan = slot->ask_peers = true;
	SpinLockRelease(&slot->mutex);
	ConditionVariableBroadcast(&slot->changed);
	launcher_wake();
}

/* Leave, freeing the slot: there is no extension in this database. */
static void
leave_for_good(void)
{
	DatabaseSlot *slot = worker.slot;

	worker.slot = NULL;
	SpinLockAcquire(&slot->mutex);
	slot->worker_latch = NULL;
	slot->worker_pid = 0;
	SpinLockRelease(&slot->mutex);
	ConditionVariableBroadcast(&slot->changed);
	database_slot_free(MyDatabaseId);
	launcher_wake();
	proc_exit(0);
}

static bool
extension_is_here(void)
{
	bool		here;

	worker_begin();
	here = own_extension_exists() && OidIsValid(own_relid_if_any(OWN_BRANCH));
	worker_commit(false);
	return here;
}

static void
initialize(Oid database)
{
	HASHCTL		ctl = {.keysize = sizeof(ItemKey), .entrysize = sizeof(SettleItem)};
	DatabaseSlot *slot;
	pid_t		other;

	dlist_init(&worker.channels);
	dlist_init(&worker.confirmed);
	worker.context = AllocSetContextCreate(TopMemoryContext, "dtx worker", ALLOCSET_DEFAULT_SIZES);
	worker.turn = AllocSetContextCreate(worker.context, "dtx worker's turn", ALLOCSET_DEFAULT_SIZES);
	worker.items = hash_create("dtx items", 256, &ctl, HASH_ELEM | HASH_BLOBS);

	pqsignal(SIGTERM, die);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnectionByOid(database, InvalidOid, 0);
	settings_of_process(false);

	slot = database_slot_find(database, true);
	if (slot == NULL)
		proc_exit(0);
	/* a launcher that was restarted may have started a second one */
	SpinLockAcquire(&slot->mutex);
	other = slot->worker_latch != NULL ? slot->worker_pid : 0;
	if (other <= 0 || other == MyProcPid)
	{
		other = 0;
		slot->worker_pid = MyProcPid;
		slot->worker_latch = &MyProc->procLatch;
		slot->yield = slot->turn_over = false;
		slot->worker_since = GetCurrentTimestamp();
	}
	SpinLockRelease(&slot->mutex);
	if (other != 0)
		proc_exit(0);
	worker.slot = slot;
	before_shmem_exit(worker_exit, 0);

	if (!extension_is_here())
		leave_for_good();
	worker.last_work = GetCurrentTimestamp();
}

#define BUSY_TIME	50			/* ms: outcomes keep coming when the last is younger */

/*
 * While outcomes keep coming they are settled in batches, dtx.settle_delay
 * apart: then sessions need not wake the worker for each.
 */
static bool
may_doze(TimestampTz now)
{
	dlist_iter	iter;

	if (guc_settle_delay == 0 ||
		now >= TimestampTzPlusMilliseconds(worker.last_outcome, BUSY_TIME))
		return false;
	dlist_foreach(iter, &worker.channels)
		if (dlist_container(Channel, link, iter.cur)->hurry)
			return false;
	return true;
}

/* A socket that is waited at. */
typedef struct Waited
{
	uint64		connection;		/* its serial number; 0: its socket may change any time */
	pgsocket	socket;
	uint32		events;
	int			position;		/* in the wait event set */
} Waited;

static Waited *waited = NULL;	/* what the wait event set has */
static int	nwaited = 0;
static Waited *wanted = NULL;	/* what it should have */
static int	nwanted = 0;
static int	room = 0;			/* of both */

static void
want_socket(pgsocket socket, uint32 events, uint64 serial)
{
	/* several may wait for the same name to be looked up */
	for (int i = 0; i < nwanted && serial == 0; i++)
		if (wanted[i].socket == socket)
			return;
	if (nwanted == room)
	{
		room = Max(16, room * 2);
		waited = waited == NULL ? MemoryContextAllocZero(worker.context, room * sizeof(Waited)) :
			repalloc(waited, room * sizeof(Waited));
		wanted = wanted == NULL ? MemoryContextAllocZero(worker.context, room * sizeof(Waited)) :
			repalloc(wanted, room * sizeof(Waited));
	}
	wanted[nwanted].connection = serial;
	wanted[nwanted].socket = socket;
	wanted[nwanted++].events = events;
}

static void
want(Link *link)
{
	uint32		events = link_events(link);

	if (events != 0)
		want_socket(connection_socket(link->pc), events, link->state == LINK_CONNECTING ? 0 : link->pc->serial);
}

/* Have the wait event set wait for what is wanted: mostly it does already. */
static void
adapt_waits(void)
{
	bool		same = worker.waits != NULL && nwanted == nwaited;

	for (int i = 0; i < nwanted && same; i++)
		same = wanted[i].connection != 0 && wanted[i].connection == waited[i].connection &&
			wanted[i].socket == waited[i].socket;
	if (same)
	{
		for (int i = 0; i < nwanted; i++)
			if (wanted[i].events != waited[i].events)
			{
				ModifyWaitEvent(worker.waits, waited[i].position, wanted[i].events, NULL);
				waited[i].events = wanted[i].events;
			}
		return;
	}
	if (worker.waits != NULL)
		FreeWaitEventSet(worker.waits);
	worker.waits = dtx_create_wait_event_set(nwanted + 2);
	AddWaitEventToSet(worker.waits, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
	AddWaitEventToSet(worker.waits, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
	for (int i = 0; i < nwanted; i++)
	{
		waited[i] = wanted[i];
		waited[i].position = AddWaitEventToSet(worker.waits, wanted[i].events, wanted[i].socket, NULL, NULL);
	}
	nwaited = nwanted;
}

/* Wait for the latch, any socket, or the next due time. */
static void
wait_for_work(TimestampTz due)
{
	WaitEvent	events[16];
	dlist_iter	iter;
	long		timeout = deadline_remaining(due);
	bool		doze = may_doze(GetCurrentTimestamp());
	void	   *iterator = NULL;
	Link	   *link;

	if (doze)
		timeout = Min(timeout, guc_settle_delay);
	worker.slot->dozing = doze;
	nwanted = 0;
	dlist_foreach(iter, &worker.channels)
		want(&dlist_container(Channel, link, iter.cur)->connection);
	while ((link = dispatch_next_link(&iterator)) != NULL)
		want(link);
	iterator = NULL;
	while ((link = notifier_next_link(&iterator)) != NULL)
		want(link);
	/* it is one and the same for the life of the process */
	if (http_socket() != PGINVALID_SOCKET)
		want_socket(http_socket(), WL_SOCKET_READABLE, PG_UINT64_MAX);
	adapt_waits();
	if (dispatch_listen())
		timeout = 0;
	(void) WaitEventSetWait(worker.waits, timeout, events, lengthof(events), PG_WAIT_EXTENSION);
	worker.slot->dozing = false;
	ResetLatch(MyLatch);
}

TimestampTz
earlier(TimestampTz a, TimestampTz b)
{
	return a == 0 ? b : b == 0 ? a : Min(a, b);
}

#define WORTH_LEAVING	5000	/* ms without work until a slot that others need is given back */

/* Is there nothing to do but to wait for more? What is due only later than the worker
 * would wait for work is no reason to stay: the launcher starts one then. */
static bool
is_idle(TimestampTz now)
{
	TimestampTz until = TimestampTzPlusMilliseconds(now, worker.slot->yield ? WORTH_LEAVING : guc_worker_idle_timeout);

	return hash_get_num_entries(worker.items) == 0 && worker.nshared == 0 && dispatch_is_idle(until) && worker.slot->recovered &&
		worker.slot->nrequests == 0 && worker.slot->nregisters == 0 && worker.slot->tail == worker.slot->head &&
		guc_worker_idle_timeout > 0 &&
		(worker.slot->yield ||
		 now >= TimestampTzPlusMilliseconds(worker.last_work, guc_worker_idle_timeout));
}

#define LEAVE_POLL	50			/* ms */
#define LEAVE_TIME	40000		/* ms that calls get which are under way when its turn is over */

/* Its turn is over, with work left: nothing new is begun, and what is under way ends
 * first. True: it can go. */
static bool
may_leave(TimestampTz now)
{
	dlist_iter	iter;

	if (worker.leave_by == 0)
		worker.leave_by = TimestampTzPlusMilliseconds(now, LEAVE_TIME);
	if (now >= worker.leave_by)
		return true;
	dlist_foreach(iter, &worker.channels)
	{
		LinkState	state = dlist_container(Channel, link, iter.cur)->connection.state;

		if (state != LINK_CLOSED && state != LINK_IDLE)
			return false;
	}
	return !dispatch_is_calling();
}

static void
note_recovered(void)
{
	dlist_iter	iter;

	if (worker.slot->recovered)
		return;
	dlist_foreach(iter, &worker.channels)
		if (!dlist_container(Channel, link, iter.cur)->recovered)
			return;
	worker.slot->recovered = true;
	ConditionVariableBroadcast(&worker.slot->changed);
}

/* One turn through everything. Returns when to take the next one at the latest. */
static TimestampTz
work(TimestampTz *next_housekeeping)
{
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz due;
	dlist_iter	iter;

	recovery_serve_requests();
	outcomes_drain();
	dlist_foreach(iter, &worker.channels)
		channel_step(dlist_container(Channel, link, iter.cur));
	outcomes_finish();
	dispatch_step();
	if (worker.shared_due)
		outcomes_end_shared();
	note_recovered();
	if (now >= *next_housekeeping)
	{
		*next_housekeeping = TimestampTzPlusMilliseconds(now, HOUSEKEEPING_INTERVAL);
		if (!extension_is_here())
			leave_for_good();
		outcomes_end_shared();
		outcomes_advance_horizon();
		outcomes_prune();
		worker_vacuum();
		runners_end_overdue();
		dispatch_housekeeping();
		dispatch_step();
	}
	due = earlier(*next_housekeeping, dispatch_due());
	dlist_foreach(iter, &worker.channels)
		due = earlier(due, channel_due(dlist_container(Channel, link, iter.cur)));
	return due;
}

void
dtx_worker_main(Datum arg)
{
	TimestampTz next_housekeeping = 0;
	const char *distrust;
	bool		trusted;

	initialize(DatumGetObjectId(arg));

	/* a copy of another node must not act for it */
	worker_begin();
	trusted = node_self_if_trusted(&distrust) != NULL;
	worker_commit(false);
	if (!trusted)
	{
		ereport(LOG,
				(errmsg("dtx does nothing in this database, whose identity as a node is in doubt"),
				 errdetail("%s", distrust),
				 errhint("Run SELECT dtx_node_adopt() or SELECT dtx_node_reset() there.")));
		worker.slot->recovered = true;
		proc_exit(0);
	}

	worker_begin();
	node_settle_in();
	worker_commit(true);
	worker_begin();
	modes_worker_start();
	worker_commit(false);
	recovery_load_contacts();
	/* what the worker before this one had taken, and what found no place in the ring */
	nested_rollbacks_untake(worker.slot);
	worker.slot->ask_peers = true;
	outcomes_rescan();
	for (;;)
	{
		TimestampTz due;

		/* what is in memory counts by that clock: begin anew, with what is in tables */
		if (clock_was_set_back())
		{
			ereport(LOG,
					(errmsg("dtx begins anew in this database: the clock was set back")));
			SpinLockAcquire(&worker.slot->mutex);
			worker.slot->wanted = true;
			SpinLockRelease(&worker.slot->mutex);
			proc_exit(0);
		}
		MemoryContextSwitchTo(worker.turn);
		due = work(&next_housekeeping);
		MemoryContextReset(worker.turn);

		if (worker.slot->holds > 0 || is_idle(GetCurrentTimestamp()))
		{
			leaves_until = dispatch_later();
			proc_exit(0);
		}
		if (worker.slot->turn_over)
		{
			TimestampTz now = GetCurrentTimestamp();

			if (may_leave(now))
			{
				SpinLockAcquire(&worker.slot->mutex);
				worker.slot->wanted = true;
				SpinLockRelease(&worker.slot->mutex);
				proc_exit(0);
			}
			/* what is due is not begun */
			due = Max(due, TimestampTzPlusMilliseconds(now, LEAVE_POLL));
		}
		pgstat_report_activity(STATE_IDLE, NULL);
		wait_for_work(due);
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
	}
}

/*
 * shmem.c
 *		Shared memory: layout, slots, the ring of outcomes, counters.
 */
#include "postgres.h"

#include "catalog/pg_control.h"
#include "common/controldata_utils.h"
#include "core/clock.h"
#include "core/compat.h"
#include "core/shmem.h"
#include "guc.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/proc.h"
#include "storage/shmem.h"

SharedState *shared = NULL;

static LWLock *slots_lock;
static DatabaseSlot *my_slot = NULL;

static Size
shared_size(void)
{
	Size		size = MAXALIGN(sizeof(SharedState));

	size = add_size(size, mul_size(dtx_process_slots(), MAXALIGN(sizeof(ProcessSlot))));
	return add_size(size, mul_size(guc_max_databases, MAXALIGN(sizeof(DatabaseSlot))));
}

void
shmem_request(void)
{
	RequestAddinShmemSpace(shared_size());
	RequestNamedLWLockTranche("dtx", 1);
}

static void
init_database_slot(DatabaseSlot *slot, Oid database)
{
	memset(slot, 0, sizeof(*slot));
	SpinLockInit(&slot->mutex);
	pg_atomic_init_u64(&slot->garbage, 0);
	pg_atomic_init_u64(&slot->published, 0);
	pg_atomic_init_u64(&slot->timed, 0);
	pg_atomic_init_u32(&slot->listening, 1);
	pg_atomic_init_u32(&slot->prepared, 1);
	pg_atomic_init_u32(&slot->segment, 0);
	for (int i = 0; i < DTX_TARGET_BUCKETS; i++)
		pg_atomic_init_u32(&slot->notified[i], 0);
	for (int i = 0; i < STAT_COUNT; i++)
		pg_atomic_init_u64(&slot->stats[i], 0);
	pg_atomic_init_u32(&slot->receiving, 0);
	for (int i = 0; i <= DTX_RECEIVERS; i++)
		ConditionVariableInit(&slot->receivers[i].arrived);
	ConditionVariableInit(&slot->changed);
	slot->database = database;
}

/* Was the last server on this data shut down? Where a process ended by a signal has the
 * postmaster begin anew, it was not. */
static bool
was_shut_down(void)
{
	bool		sane;
	ControlFileData *control = get_controlfile(DataDir, &sane);
	bool		shut_down = sane && control->state == DB_SHUTDOWNED;

	pfree(control);
	return shut_down;
}

void
shmem_startup(void)
{
	bool		found;

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	shared = ShmemInitStruct("dtx", shared_size(), &found);
	slots_lock = &GetNamedLWLockTranche("dtx")->lock;
	if (!found)
	{
		memset(shared, 0, shared_size());
		if (!pg_strong_random(&shared->boot, sizeof(shared->boot)))
			ereport(FATAL,
					(errcode(ERRCODE_INTERNAL_ERROR),
					 errmsg("could not draw a random number")));
		shared->started = clock_monotonic();
		shared->unclean = !was_shut_down();
		shared->nprocesses = dtx_process_slots();
		shared->ndatabases = guc_max_databases;
		SpinLockInit(&shared->horizons_mutex);
		pg_atomic_init_u32(&shared->waiters, 0);
		pg_atomic_init_u32(&shared->droppers, 0);
		for (int i = 0; i < DTX_FILTER_CELLS; i++)
			pg_atomic_init_u32(&shared->filter[i], 0);
		for (int i = 0; i < shared->nprocesses; i++)
		{
			ProcessSlot *slot = process_slot(i);

			SpinLockInit(&slot->mutex);
			pg_atomic_init_u64(&slot->waits_for, 0);
			pg_atomic_init_u64(&slot->give_up_for, 0);
			pg_atomic_init_u64(&slot->in_branch_of, 0);
		}
		for (int i = 0; i < shared->ndatabases; i++)
			init_database_slot(database_slot_number(i), InvalidOid);
	}
	LWLockRelease(AddinShmemInitLock);
}

void
shmem_require(void)
{
	if (shared == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("dtx must be loaded when the server starts"),
				 errhint("Add dtx to shared_preload_libraries and restart the server.")));
}

ProcessSlot *
process_slot(int number)
{
	char	   *base = (char *) shared + MAXALIGN(sizeof(SharedState));

	return (ProcessSlot *) (base + number * MAXALIGN(sizeof(ProcessSlot)));
}

/*
 * This process's slot. It is claimed anew when another process had it before:
 * whatever that one left in it went with it.
 */
ProcessSlot *
my_process_slot(void)
{
	ProcessSlot *slot;

	shmem_require();
	slot = process_slot(dtx_process_number());
	if (slot->pid != MyProcPid)
	{
		SpinLockAcquire(&slot->mutex);
		slot->pid = MyProcPid;
		slot->database = MyDatabaseId;
		slot->latch = &MyProc->procLatch;
		slot->nrolling = 0;
		slot->nused = 0;
		slot->n = 0;
		SpinLockRelease(&slot->mutex);
		pg_atomic_write_u64(&slot->waits_for, 0);
		pg_atomic_write_u64(&slot->in_branch_of, 0);
	}
	return slot;
}

DatabaseSlot *
database_slot_number(int number)
{
	char	   *base = (char *) shared + MAXALIGN(sizeof(SharedState)) +
		(Size) shared->nprocesses * MAXALIGN(sizeof(ProcessSlot));

	return (DatabaseSlot *) (base + number * MAXALIGN(sizeof(DatabaseSlot)));
}

DatabaseSlot *
database_slot_find(Oid database, bool create)
{
	DatabaseSlot *found = NULL;

	for (int pass = 0; pass < (create ? 2 : 1) && found == NULL; pass++)
	{
		DatabaseSlot *vacant = NULL;

		LWLockAcquire(slots_lock, pass == 0 ? LW_SHARED : LW_EXCLUSIVE);
		for (int i = 0; i < shared->ndatabases && found == NULL; i++)
		{
			DatabaseSlot *slot = database_slot_number(i);

			if (slot->database == database)
				found = slot;
			else if (slot->database == InvalidOid && vacant == NULL)
				vacant = slot;
		}
		if (found == NULL && pass == 1 && vacant != NULL)
		{
			init_database_slot(vacant, database);
			found = vacant;
		}
		LWLockRelease(slots_lock);
	}
	return found;
}

void
database_slot_free(Oid database)
{
	DatabaseSlot *slot;

	LWLockAcquire(slots_lock, LW_EXCLUSIVE);
	for (int i = 0; i < shared->ndatabases; i++)
	{
		slot = database_slot_number(i);
		if (slot->database == database)
			slot->database = InvalidOid;
	}
	LWLockRelease(slots_lock);
}

DatabaseSlot *
my_database_slot(void)
{
	if (shared == NULL)
		return NULL;
	if (my_slot == NULL || my_slot->database != MyDatabaseId)
		my_slot = database_slot_find(MyDatabaseId, true);
	return my_slot;
}

void
launcher_wake(void)
{
	Latch	   *latch = shared->launcher_latch;

	if (latch != NULL)
		SetLatch(latch);
}

void
worker_wake(DatabaseSlot *slot)
{
	Latch	   *latch;

	SpinLockAcquire(&slot->mutex);
	latch = slot->worker_latch;
	slot->wanted = true;
	if (latch != NULL)
		SetLatch(latch);
	SpinLockRelease(&slot->mutex);
	if (latch == NULL)
		launcher_wake();
}

bool
outcome_push(const Outcome *outcome)
{
	DatabaseSlot *slot = my_database_slot();
	bool		first;

	if (slot == NULL)
		return false;
	SpinLockAcquire(&slot->mutex);
	/* the worker empties the ring whenever it is awake */
	first = slot->head == slot->tail && !slot->dozing;
	if (slot->head - slot->tail < DTX_OUTCOME_RING)
		slot->ring[slot->head++ % DTX_OUTCOME_RING] = *outcome;
	else if (outcome->commit)
		slot->rescan = true;
	else
		slot->ask_peers = true;
	SpinLockRelease(&slot->mutex);
	if (outcome->kind == OUTCOME_BRANCH && !outcome->commit)
		open_rollback_add(slot, outcome);
	return first;
}

int
outcome_pop(DatabaseSlot *slot, Outcome *outcomes, int most)
{
	int			count = 0;

	SpinLockAcquire(&slot->mutex);
	while (count < most && slot->tail < slot->head)
		outcomes[count++] = slot->ring[slot->tail++ % DTX_OUTCOME_RING];
	SpinLockRelease(&slot->mutex);
	return count;
}

void
open_rollback_add(DatabaseSlot *slot, const Outcome *outcome)
{
	bool		known = false;

	SpinLockAcquire(&slot->mutex);
	for (int i = 0; i < slot->nopen; i++)
		known |= slot->open[i].n == outcome->n && slot->open[i].r == outcome->r &&
			slot->open[i].b == outcome->b;
	if (!known && slot->nopen < DTX_OPEN_ROLLBACKS)
		slot->open[slot->nopen++] = *outcome;
	else if (!known)
		slot->open_overflow = true;
	SpinLockRelease(&slot->mutex);
}

bool
nested_rollback_push(const Outcome *outcome, const char *parent)
{
	DatabaseSlot *slot = my_database_slot();
	Outcome		told = *outcome;
	bool		listed;

	if (slot == NULL)
		return false;
	SpinLockAcquire(&slot->mutex);
	listed = slot->nnested < DTX_NESTED_ROLLBACKS;
	if (listed)
	{
		NestedRollback *rollback = &slot->nested[slot->nnested++];

		rollback->outcome = *outcome;
		strlcpy(rollback->parent, parent, sizeof(rollback->parent));
		rollback->taken = false;
	}
	SpinLockRelease(&slot->mutex);
	/* what finds no place is found by asking */
	told.kind = listed ? OUTCOME_NESTED : OUTCOME_ASK;
	return outcome_push(&told);
}

bool
nested_rollback_take(DatabaseSlot *slot, NestedRollback *rollback)
{
	bool		found = false;

	SpinLockAcquire(&slot->mutex);
	for (int i = 0; i < slot->nnested && !found; i++)
	{
		if (slot->nested[i].taken)
			continue;
		slot->nested[i].taken = found = true;
		*rollback = slot->nested[i];
	}
	SpinLockRelease(&slot->mutex);
	return found;
}

void
nested_rollbacks_untake(DatabaseSlot *slot)
{
	SpinLockAcquire(&slot->mutex);
	for (int i = 0; i < slot->nnested; i++)
		slot->nested[i].taken = false;
	SpinLockRelease(&slot->mutex);
}

void
nested_rollback_remove(DatabaseSlot *slot, uint64 n, uint64 r, uint32 b)
{
	SpinLockAcquire(&slot->mutex);
	for (int i = 0; i < slot->nnested; i++)
	{
		const Outcome *outcome = &slot->nested[i].outcome;

		if (outcome->n == n && outcome->r == r && outcome->b == b)
		{
			slot->nested[i] = slot->nested[--slot->nnested];
			break;
		}
	}
	SpinLockRelease(&slot->mutex);
}

bool
nested_rollback_exists(DatabaseSlot *slot, const char *parent)
{
	bool		found = false;

	SpinLockAcquire(&slot->mutex);
	for (int i = 0; i < slot->nnested && !found; i++)
		found = strcmp(slot->nested[i].parent, parent) == 0;
	SpinLockRelease(&slot->mutex);
	return found;
}

int
open_rollbacks_copy(DatabaseSlot *slot, Outcome *outcomes)
{
	int			n;

	SpinLockAcquire(&slot->mutex);
	n = slot->nopen;
	memcpy(outcomes, slot->open, n * sizeof(Outcome));
	SpinLockRelease(&slot->mutex);
	return n;
}

void
open_rollback_remove(DatabaseSlot *slot, uint64 n, uint64 r, uint32 b)
{
	SpinLockAcquire(&slot->mutex);
	for (int i = 0; i < slot->nopen; i++)
	{
		if (slot->open[i].n == n && slot->open[i].r == r && slot->open[i].b == b)
		{
			slot->open[i] = slot->open[--slot->nopen];
			break;
		}
	}
	SpinLockRelease(&slot->mutex);
}

bool
open_rollback_exists(DatabaseSlot *slot, uint64 n, uint64 r, bool by_savepoint)
{
	bool		found = false;

	SpinLockAcquire(&slot->mutex);
	for (int i = 0; i < slot->nopen; i++)
		found |= slot->open[i].n == n && slot->open[i].r == r &&
			slot->open[i].by_savepoint == by_savepoint;
	SpinLockRelease(&slot->mutex);
	return found;
}

bool
open_rollback_possible(DatabaseSlot *slot, uint64 n, uint64 r)
{
	return slot->open_overflow || !slot->recovered || open_rollback_exists(slot, n, r, false);
}

static KnownHorizon *
find_horizon(const char *node, Oid role)
{
	for (int i = 0; i < DTX_HORIZONS; i++)
		if (shared->horizons[i].database == MyDatabaseId &&
			shared->horizons[i].role == role &&
			strcmp(shared->horizons[i].node, node) == 0)
			return &shared->horizons[i];
	return NULL;
}

bool
horizon_recall(const char *node, Oid role, uint64 *horizon, uint32 *timeline)
{
	KnownHorizon *known;

	SpinLockAcquire(&shared->horizons_mutex);
	known = find_horizon(node, role);
	if (known != NULL)
	{
		*horizon = known->horizon;
		*timeline = known->timeline;
	}
	SpinLockRelease(&shared->horizons_mutex);
	return known != NULL;
}

void
horizon_remember(const char *node, Oid role, uint64 horizon, uint32 timeline)
{
	KnownHorizon *known;

	SpinLockAcquire(&shared->horizons_mutex);
	known = find_horizon(node, role);
	if (known == NULL)
	{
		known = &shared->horizons[shared->next_horizon];
		shared->next_horizon = (shared->next_horizon + 1) % DTX_HORIZONS;
		known->database = MyDatabaseId;
		known->role = role;
		strlcpy(known->node, node, sizeof(known->node));
		known->horizon = horizon;
		known->timeline = timeline;
	}
	known->horizon = Max(known->horizon, horizon);
	known->timeline = Max(known->timeline, timeline);
	SpinLockRelease(&shared->horizons_mutex);
}

void
note_garbage(uint64 rows)
{
	DatabaseSlot *slot = my_database_slot();

	if (slot != NULL)
		pg_atomic_fetch_add_u64(&slot->garbage, rows);
}

void
stat_add(StatCounter counter, uint64 amount)
{
	DatabaseSlot *slot = my_database_slot();

	if (slot != NULL)
		pg_atomic_fetch_add_u64(&slot->stats[counter], amount);
}

/*
 * vacuum.c
 *		Keeping dtx's own tables small.
 *
 * Rows of dtx's tables live for milliseconds, and thousands come and go in a
 * second: autovacuum, which looks once a minute, would let the tables grow to
 * a hundred times their size. The worker vacuums them by the number of rows
 * deleted, unless an old snapshot would make that useless.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "core/compat.h"
#include "core/relations.h"
#include "nodes/makefuncs.h"
#include "pgstat.h"
#include "storage/bufmgr.h"
#include "storage/procarray.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "worker/worker.h"

static TransactionId last_horizon = InvalidTransactionId;

static void
vacuum_table(OwnRelation which, MemoryContext context)
{
	DtxVacuumParams room = {0};
	VacuumParams *params = &room.params;
	List	   *targets;
	BufferAccessStrategy strategy;
	MemoryContext old;
	Oid			relid;

	StartTransactionCommand();
	relid = own_relid_if_any(which);
	if (!OidIsValid(relid))
	{
		CommitTransactionCommand();
		return;
	}
	params->options = VACOPT_VACUUM | VACOPT_SKIP_LOCKED | DTX_VACUUM_ALL;
	params->freeze_min_age = params->freeze_table_age = -1;
	params->multixact_freeze_min_age = params->multixact_freeze_table_age = -1;
	dtx_vacuum_is_not_logged(params);
	params->index_cleanup = VACOPTVALUE_ENABLED;
	params->truncate = VACOPTVALUE_DISABLED;
	params->nworkers = -1;
	/* vacuum ends this transaction and begins others: what it is given must
	 * not live in it */
	old = MemoryContextSwitchTo(context);
	targets = list_make1(makeVacuumRelation(NULL, relid, NIL));
	strategy = GetAccessStrategy(BAS_VACUUM);
	MemoryContextSwitchTo(old);
	dtx_vacuum(targets, params, strategy, context);
	CommitTransactionCommand();
}

/* Has the oldest snapshot moved since the last vacuum? */
static bool
snapshots_have_moved(void)
{
	TransactionId horizon;
	Relation	rel;
	bool		moved;

	worker_begin();
	rel = own_open(OWN_BRANCH, AccessShareLock);
	horizon = GetOldestNonRemovableTransactionId(rel);
	table_close(rel, AccessShareLock);
	worker_commit(false);
	moved = horizon != last_horizon;
	last_horizon = horizon;
	return moved;
}

void
worker_vacuum(void)
{
	static const OwnRelation tables[] = {OWN_BRANCH, OWN_GLOBAL, OWN_JOINED_BRANCH, OWN_SETTLED,
		OWN_UNDO_LOG, OWN_TRY_LOG, OWN_CONFIRM_LOG, OWN_CANCEL_LOG, OWN_FROZEN,
	OWN_POSITION, OWN_DE_DUPLICATION, OWN_DELAYED_MESSAGE, OWN_HELD_MESSAGE, OWN_UNDELIVERED, OWN_HELD_NOTIFICATION};
	MemoryContext context;

	if (pg_atomic_read_u64(&worker.slot->garbage) < GARBAGE_ROWS || !snapshots_have_moved())
		return;
	pg_atomic_write_u64(&worker.slot->garbage, 0);
	context = AllocSetContextCreate(worker.context, "dtx vacuum", ALLOCSET_DEFAULT_SIZES);
	PortalContext = context;
	for (int i = 0; i < lengthof(tables); i++)
		vacuum_table(tables[i], context);
	PortalContext = NULL;
	MemoryContextSwitchTo(worker.turn);
	worker.last_work = GetCurrentTimestamp();
	MemoryContextDelete(context);
}

/*
 * alter.c
 *		ALTER TABLE of tables that have rows in doubt.
 *
 * A rewrite, and a change of the key, must not meet rows in doubt: the images in the undo
 * log would not fit any more. Whether a command rewrites a table, PostgreSQL finds out when
 * it has locked it, and tells an event trigger. On a busy table there is hardly ever a moment
 * without a row in doubt, so the command waits, in two ways:
 *
 *	with the lock		nobody can change another row. What is committed is settled without
 *						a look at the table, and is gone within milliseconds. Not longer than
 *						deadlock_timeout: everybody waits behind this one; and not when it is
 *						seen that settling needs the table, since a branch is rolled back, or
 *						that another branch of a holder runs into the lock
 *	without				the command is undone, with all that it locked, and begins anew when the
 *						branches that were in its way are settled
 *
 * Both together are limited by lock_timeout, as is the wait for the table's lock itself. A
 * crash leaves nothing: it is all in one transaction.
 */
#include "postgres.h"

#include "access/xact.h"
#include "at/alter.h"
#include "at/attach.h"
#include "at/guard.h"
#include "at/key.h"
#include "at/row_lock.h"
#include "at/undo_log.h"
#include "catalog/namespace.h"
#include "catalog/pg_inherits.h"
#include "commands/tablecmds.h"
#include "core/clock.h"
#include "core/compat.h"
#include "core/gid.h"
#include "core/participant.h"
#include "miscadmin.h"
#include "net/connection.h"
#include "nodes/parsenodes.h"
#include "storage/lmgr.h"
#include "storage/proc.h"
#include "utils/acl.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/resowner.h"
#include "utils/timestamp.h"

/* One run of the command. */
typedef struct AlterRun
{
	TimestampTz deadline;		/* 0: none */
	Oid			in_doubt;		/* the table that it met rows in doubt in, or InvalidOid */
	const char *what;
} AlterRun;

static AlterRun *running = NULL;

static TimestampTz
sooner(TimestampTz deadline, int ms)
{
	TimestampTz other = TimestampTzPlusMilliseconds(clock_now(), ms);

	return deadline == 0 || other < deadline ? other : deadline;
}

void
alter_require_settled(Oid relid, const char *what)
{
	char		gid[DTX_GID_SIZE];

	if (!undo_relation_in_doubt(relid))
		return;
	if (running != NULL)
	{
		if (row_lock_wait_relation(relid, true, sooner(running->deadline, DeadlockTimeout), gid) == RELATION_SETTLED)
			return;
		running->in_doubt = relid;
		running->what = what;
	}
	guard_report_in_doubt(relid, what, ERRCODE_OBJECT_IN_USE, NULL);
}

/* The table has no lock of this command any more: wait for what was in its way. */
static void
wait_without_lock(const AlterRun *run)
{
	char		gid[DTX_GID_SIZE];
	RelationWait result = row_lock_wait_relation(run->in_doubt, false, sooner(run->deadline, DeadlockTimeout), gid);

	if (get_rel_name(run->in_doubt) == NULL)
		return;					/* it was dropped: the command says so */
	if (result == RELATION_TIMEOUT && deadline_remaining(run->deadline) != 0)
	{
		ereport(NOTICE,
				(errmsg("waiting for rows in doubt of table \"%s\"", get_rel_name(run->in_doubt)),
				 errdetail("Branch \"%s\" has changed some.", gid)));
		result = row_lock_wait_relation(run->in_doubt, false, run->deadline, gid);
	}
	if (get_rel_name(run->in_doubt) == NULL)
		return;
	if (result == RELATION_TIMEOUT)
		guard_report_in_doubt(run->in_doubt, run->what, ERRCODE_LOCK_NOT_AVAILABLE,
						psprintf("Branch \"%s\" was not settled within lock_timeout.", gid));
	if (result == RELATION_NEEDED)
		guard_report_in_doubt(run->in_doubt, run->what, ERRCODE_OBJECT_IN_USE,
						psprintf("Settling branch \"%s\" waits for a lock that this transaction holds.", gid));
}

static bool
is_attached(Oid relid)
{
	Relation	rel = RelationIdGetRelation(relid);
	bool		attached;

	if (rel == NULL)
		return false;
	attached = has_capture_trigger(rel);
	RelationClose(rel);
	return attached;
}

bool
alter_is_of_attached(PlannedStmt *statement)
{
	AlterTableStmt *alter = (AlterTableStmt *) statement->utilityStmt;
	Oid			relid;
	bool		attached = false;
	ListCell   *cell;

	if (!IsA(alter, AlterTableStmt) || current_branch.active)
		return false;
	relid = RangeVarGetRelid(alter->relation, NoLock, true);
	/* PostgreSQL tells who does not own it that, and nothing else */
	if (!OidIsValid(relid) || !dtx_table_ownercheck(relid, GetUserId()))
		return false;
	foreach(cell, alter->cmds)
	{
		AlterTableCmd *command = lfirst_node(AlterTableCmd, cell);
		Oid			partition;
		ListCell   *child;

		if (command->subtype != AT_DetachPartition)
			continue;
		/*
		 * CONCURRENTLY commits before it drops the partition's trigger: what that refuses
		 * would leave the partition half detached, its rows out of sight. Nor can it be run in
		 * a subtransaction.
		 */
		partition = RangeVarGetRelid(((PartitionCmd *) command->def)->name, NoLock, true);
		if (OidIsValid(partition))
			foreach(child, find_all_inheritors(partition, NoLock, NULL))
				if (undo_relation_in_doubt(lfirst_oid(child)))
					guard_report_in_doubt(lfirst_oid(child), "detach", ERRCODE_OBJECT_IN_USE, NULL);
		return false;
	}
	foreach(cell, find_all_inheritors(relid, NoLock, NULL))
		attached |= is_attached(lfirst_oid(cell));
	return attached;
}

/*
 * What PostgreSQL has no event for. The locks are those that it takes itself a moment later,
 * in its order; as it does, nobody but the owner gets as far as to wait for one.
 */
static void
prepare(AlterTableStmt *alter)
{
	ListCell   *cell;

	foreach(cell, alter->cmds)
	{
		AlterTableCmd *command = lfirst_node(AlterTableCmd, cell);
		Oid			relid;

		if (command->subtype == AT_ReplicaIdentity)
		{
			relid = RangeVarGetRelidExtended(alter->relation, AccessExclusiveLock, RVR_MISSING_OK,
											 RangeVarCallbackOwnsRelation, NULL);
			if (OidIsValid(relid))
				alter_require_settled(relid, "change the key of");
		}
		else if (command->subtype == AT_AttachPartition)
		{
			relid = RangeVarGetRelidExtended(alter->relation, ShareUpdateExclusiveLock, RVR_MISSING_OK,
											 RangeVarCallbackOwnsRelation, NULL);
			if (!OidIsValid(relid) || !is_attached(relid))
				continue;
			relid = RangeVarGetRelidExtended(((PartitionCmd *) command->def)->name, AccessExclusiveLock,
											 RVR_MISSING_OK, RangeVarCallbackOwnsRelation, NULL);
			if (OidIsValid(relid))
				attach_merge(relid);
		}
	}
}

/* Run the command once. True: it is done; false: it is undone, and is to be run again. */
static bool
run_once(AlterRun *run, PlannedStmt *statement, void (*command) (void *arg), void *arg)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	AlterRun   *outer = running;
	ErrorData  *error;
	volatile bool done = false;

	run->in_doubt = InvalidOid;
	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		running = run;
		prepare((AlterTableStmt *) statement->utilityStmt);
		command(arg);
		running = outer;
		ReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(context);
		CurrentResourceOwner = owner;
		done = true;
	}
	PG_CATCH();
	{
		running = outer;
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(context);
		CurrentResourceOwner = owner;
		if (!OidIsValid(run->in_doubt))
			ReThrowError(error);
		FreeErrorData(error);
	}
	PG_END_TRY();
	return done;
}

void
alter_run(PlannedStmt *statement, void (*command) (void *arg), void *arg)
{
	AlterRun	run = {.deadline = LockTimeout > 0 ? TimestampTzPlusMilliseconds(clock_now(), LockTimeout) : 0};

	while (!run_once(&run, statement, command, arg))
		wait_without_lock(&run);
}

/*
 * control.c
 *		Starting and stopping workers from other processes.
 */
#include "postgres.h"

#include <signal.h>

#include "catalog/pg_authid.h"
#include "catalog/pg_class.h"
#include "catalog/pg_database.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_type.h"
#include "catalog/pg_user_mapping.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "commands/user.h"
#include "core/compat.h"
#include "core/locks.h"
#include "core/peer_use.h"
#include "core/relations.h"
#include "core/shmem.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "notify/notification.h"
#include "parser/parse_func.h"
#include "storage/ipc.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"
#include "worker/control.h"

PG_FUNCTION_INFO_V1(dtx_installed);

static bool wake_at_commit = false;

void
worker_wake_at_commit(void)
{
	wake_at_commit = true;
}

/* dtx.installed(): the end of CREATE EXTENSION; a worker is due when it commits */
Datum
dtx_installed(PG_FUNCTION_ARGS)
{
	shmem_require();
	wake_at_commit = true;
	PG_RETURN_VOID();
}

void
worker_control_xact_end(bool commit)
{
	DatabaseSlot *slot;

	if (!wake_at_commit)
		return;
	wake_at_commit = false;
	if (commit && (slot = my_database_slot()) != NULL)
		worker_wake(slot);
}

/* Are there processes that run functions? They are told to leave. */
static bool
runners_remain(DatabaseSlot *slot)
{
	bool		any = false;

	SpinLockAcquire(&slot->mutex);
	for (int i = 0; i < DTX_RUNNERS; i++)
	{
		any |= slot->runners[i].pid > 0;
		/* a function may run in it for long: what it does is rolled back, and done later */
		if (slot->runners[i].pid > 0)
			(void) kill(slot->runners[i].pid, SIGTERM);
	}
	SpinLockRelease(&slot->mutex);
	return any;
}

/* The database that a utility command needs for itself. */
static Oid
database_of(Node *node)
{
	switch (nodeTag(node))
	{
		case T_DropdbStmt:
			return get_database_oid(((DropdbStmt *) node)->dbname, true);
		case T_RenameStmt:
			if (((RenameStmt *) node)->renameType != OBJECT_DATABASE)
				return InvalidOid;
			return get_database_oid(((RenameStmt *) node)->subname, true);
		case T_AlterDatabaseStmt:
			return get_database_oid(((AlterDatabaseStmt *) node)->dbname, true);
		case T_CreatedbStmt:
			{
				const char *template = "template1";
				ListCell   *cell;

				foreach(cell, ((CreatedbStmt *) node)->options)
				{
					DefElem    *def = lfirst_node(DefElem, cell);

					if (strcmp(def->defname, "template") == 0 && def->arg != NULL)
						template = defGetString(def);
				}
				return get_database_oid(template, true);
			}
		default:
			return InvalidOid;
	}
}

static void
release_at_exit(int code, Datum database)
{
	worker_release(DatumGetObjectId(database));
}

/* Could the command succeed for this role? Nobody else sends a worker away: who may
 * create databases, but not copy this one, would keep it away by trying. */
static bool
may_ask_for(Oid database, Node *command)
{
	HeapTuple	tuple;
	bool		may = false;

	if (superuser() || dtx_database_ownercheck(database, GetUserId()))
		return true;
	if (!IsA(command, CreatedbStmt) || !dtx_may_create_databases(GetUserId()))
		return false;
	tuple = SearchSysCache1(DATABASEOID, ObjectIdGetDatum(database));
	if (HeapTupleIsValid(tuple))
	{
		may = ((Form_pg_database) GETSTRUCT(tuple))->datistemplate;
		ReleaseSysCache(tuple);
	}
	return may;
}

Oid
worker_hold_for(PlannedStmt *statement)
{
	Oid			database;
	DatabaseSlot *slot;

	if (shared == NULL)
		return InvalidOid;
	database = database_of(statement->utilityStmt);
	if (!OidIsValid(database) || !may_ask_for(database, statement->utilityStmt) || (slot = database_slot_find(database, true)) == NULL)
		return InvalidOid;

	SpinLockAcquire(&slot->mutex);
	slot->holds++;
	if (slot->worker_latch != NULL)
		SetLatch(slot->worker_latch);
	SpinLockRelease(&slot->mutex);

	PG_ENSURE_ERROR_CLEANUP(release_at_exit, ObjectIdGetDatum(database));
	{
		ConditionVariablePrepareToSleep(&slot->changed);
		while (slot->worker_pid != 0 || runners_remain(slot))
			(void) ConditionVariableTimedSleep(&slot->changed, 1000, PG_WAIT_EXTENSION);
		ConditionVariableCancelSleep();
	}
	PG_END_ENSURE_ERROR_CLEANUP(release_at_exit, ObjectIdGetDatum(database));
	return database;
}

void
worker_release(Oid database)
{
	DatabaseSlot *slot = database_slot_find(database, false);

	if (slot == NULL)
		return;
	SpinLockAcquire(&slot->mutex);
	slot->holds--;
	slot->wanted = true;
	SpinLockRelease(&slot->mutex);
	launcher_wake();
}

void
worker_make_way(PlannedStmt *statement)
{
	DropStmt   *drop = (DropStmt *) statement->utilityStmt;
	ListCell   *cell;

	if (!IsA(drop, DropStmt) || drop->removeType != OBJECT_EXTENSION || !superuser())
		return;
	foreach(cell, drop->objects)
		if (strcmp(strVal(lfirst(cell)), "dtx") == 0)
			(void) own_lock(LOCK_EXTENSION, 0, ExclusiveLock, true);
}

void
worker_forget(Oid database)
{
	database_slot_free(database);
}

/* Is there a row of dtx.branch that needs this object? */
static bool
branches_need(int column, Oid value)
{
	OwnScan		scan;
	HeapTuple	tuple;
	bool		found = false;

	/* those in prepared transactions too */
	own_scan_dirty(&scan, OWN_BRANCH, AccessShareLock);
	while (!found && HeapTupleIsValid(tuple = own_scan_next(&scan)))
		found = column == 0 || DatumGetObjectId(own_column(&scan, tuple, column, NULL)) == value;
	own_scan_end(&scan);
	return found;
}

/* role: InvalidOid: of any */
static bool
branches_in_doubt_here(Oid role)
{
	OwnScan		scan;
	HeapTuple	tuple;
	bool		found = false;

	own_scan_dirty(&scan, OWN_JOINED_BRANCH, AccessShareLock);
	while (!found && HeapTupleIsValid(tuple = own_scan_next(&scan)))
		found = DatumGetChar(own_column(&scan, tuple, Anum_joined_branch_state, NULL)) == 'd' &&
			(!OidIsValid(role) ||
			 DatumGetObjectId(own_column(&scan, tuple, Anum_joined_branch_role, NULL)) == role);
	own_scan_end(&scan);
	return found;
}

static bool
outcomes_under_way(Oid server)
{
	DatabaseSlot *slot = my_database_slot();
	bool		any = false;

	if (slot == NULL)
		return false;
	SpinLockAcquire(&slot->mutex);
	for (uint64 i = slot->tail; i < slot->head; i++)
		any |= !OidIsValid(server) || slot->ring[i % DTX_OUTCOME_RING].server == server;
	for (int i = 0; i < slot->nopen; i++)
		any |= !OidIsValid(server) || slot->open[i].server == server;
	for (int i = 0; i < slot->nnested; i++)
		any |= !OidIsValid(server) || slot->nested[i].outcome.server == server;
	any |= slot->open_overflow || slot->ask_peers || slot->rescan;
	SpinLockRelease(&slot->mutex);
	return any;
}

static void
refuse_drop(const char *what)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_IN_USE),
			 errmsg("cannot drop %s: branches of global transactions that need it are not settled", what),
			 errhint("Wait until they are; see the view dtx_branches.")));
}

static Oid
server_of_mapping(Oid mapping)
{
	HeapTuple	tuple = SearchSysCache1(USERMAPPINGOID, ObjectIdGetDatum(mapping));
	Oid			server = InvalidOid;

	if (HeapTupleIsValid(tuple))
	{
		server = ((Form_pg_user_mapping) GETSTRUCT(tuple))->umserver;
		ReleaseSysCache(tuple);
	}
	return server;
}

/* Refuse while there is a subscription of the server, or of the role; or, of neither,
 * any. */
static void
refuse_while_subscribed(const char *what, Oid server, Oid role)
{
	OwnScan		scan;
	HeapTuple	tuple;
	bool		found = false;

	/* DROP EXTENSION may have got to it already */
	if (!own_table_exists(OWN_SUBSCRIPTION))
		return;
	own_scan_dirty(&scan, OWN_SUBSCRIPTION, AccessShareLock);
	while (!found && HeapTupleIsValid(tuple = own_scan_next(&scan)))
		found = (!OidIsValid(server) ||
				 DatumGetObjectId(own_column(&scan, tuple, Anum_subscription_server, NULL)) == server) &&
			(!OidIsValid(role) ||
			 DatumGetObjectId(own_column(&scan, tuple, Anum_subscription_role, NULL)) == role);
	own_scan_end(&scan);
	if (found)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("cannot drop %s: there are subscriptions that need it", what),
				 errhint("End them with dtx_unsubscribe; see the view dtx_subscriptions.")));
}

/* Refuse to drop a role while it has half messages. */
static void
refuse_while_prepared(Oid role)
{
	OwnScan		scan;
	HeapTuple	tuple;
	bool		found = false;

	if (!own_table_exists(OWN_HALF_MESSAGE))
		return;
	own_scan_dirty(&scan, OWN_HALF_MESSAGE, AccessShareLock);
	while (!found && HeapTupleIsValid(tuple = own_scan_next(&scan)))
		found = DatumGetObjectId(own_column(&scan, tuple, Anum_half_message_role, NULL)) == role;
	own_scan_end(&scan);
	if (found)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("cannot drop the role: it has half messages"),
				 errhint("Commit or roll them back; see the view dtx_half_messages.")));
}

/* Refuse while something is pending that needs the server, or the role; or, of neither,
 * anything. */
static void
refuse_while_notified(const char *what, Oid server, Oid role)
{
	/* DROP EXTENSION may have got to them already */
	if (!own_table_exists(OWN_NOTIFICATION) || !own_table_exists(OWN_EXPECTATION))
		return;
	if (notifications_need(server, role))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("cannot drop %s: there are notifications, or expectations, that need it", what),
				 errhint("See the views dtx_notifications and dtx_expectations; dtx_discard and dtx_unexpect end them.")));
}

static bool
server_is_needed(Oid server)
{
	return peer_in_use(server, InvalidOid) || branches_need(Anum_branch_server, server) ||
		outcomes_under_way(server);
}

void
worker_guard_drop(Oid class_id, Oid object_id)
{
	if (shared == NULL)
		return;
	if (class_id == RelationRelationId)
	{
		/* the extension goes, by DROP EXTENSION or with its schema or owner: its
		 * tables first */
		if ((object_id == own_relid_if_any(OWN_BRANCH) && own_table_exists(OWN_BRANCH) &&
			 (branches_need(0, InvalidOid) || outcomes_under_way(InvalidOid))) ||
			(object_id == own_relid_if_any(OWN_JOINED_BRANCH) &&
			 own_table_exists(OWN_JOINED_BRANCH) && branches_in_doubt_here(InvalidOid)))
			refuse_drop("extension dtx");
		if (object_id == own_relid_if_any(OWN_SUBSCRIPTION))
			refuse_while_subscribed("extension dtx", InvalidOid, InvalidOid);
		if (object_id == own_relid_if_any(OWN_NOTIFICATION) || object_id == own_relid_if_any(OWN_EXPECTATION))
			refuse_while_notified("extension dtx", InvalidOid, InvalidOid);
		wake_at_commit |= object_id == own_relid_if_any(OWN_BRANCH);
		return;
	}
	if (class_id != ForeignServerRelationId && class_id != UserMappingRelationId &&
		class_id != AuthIdRelationId)
		return;
	/* who starts to use it from here on waits for this transaction's end; for
	 * that a role has to be locked before DROP ROLE gets to it */
	if (class_id == AuthIdRelationId)
		LockSharedObject(AuthIdRelationId, object_id, 0, AccessExclusiveLock);
	peer_drop_announce();
	/* users first: once they are done, their rows can be seen */
	if (class_id == AuthIdRelationId &&
		(peer_in_use(InvalidOid, object_id) ||
		 (own_table_exists(OWN_BRANCH) && branches_need(Anum_branch_role, object_id)) ||
		 (own_table_exists(OWN_JOINED_BRANCH) && branches_in_doubt_here(object_id))))
		refuse_drop("the role");
	if (class_id == AuthIdRelationId)
		refuse_while_subscribed("the role", InvalidOid, object_id);
	if (class_id == AuthIdRelationId)
		refuse_while_prepared(object_id);
	if (class_id == AuthIdRelationId)
		refuse_while_notified("the role", InvalidOid, object_id);
	if (!own_table_exists(OWN_BRANCH))
		return;
	if (class_id == ForeignServerRelationId && server_is_needed(object_id))
		refuse_drop("the server");
	if (class_id == ForeignServerRelationId)
		refuse_while_subscribed("the server", object_id, InvalidOid);
	if (class_id == ForeignServerRelationId)
		refuse_while_notified("the server", object_id, InvalidOid);
	if (class_id == UserMappingRelationId && server_is_needed(server_of_mapping(object_id)))
		refuse_drop("the user mapping");
	if (class_id == UserMappingRelationId)
		refuse_while_subscribed("the user mapping", server_of_mapping(object_id), InvalidOid);
	if (class_id == UserMappingRelationId)
		refuse_while_notified("the user mapping", server_of_mapping(object_id), InvalidOid);
}

/* May the role take part here? */
static bool
is_admitted(Oid role)
{
	static const Oid arguments[] = {TEXTOID, TEXTOID, INT4OID, INT4OID, INT4OID, INT8OID};
	Oid			function = LookupFuncName(list_make2(makeString("dtx"), makeString("branch_join")),
										  lengthof(arguments), arguments, true);

	return OidIsValid(function) && dtx_function_aclcheck(function, role) == ACLCHECK_OK;
}

List *
worker_before_drop_owned(PlannedStmt *statement)
{
	List	   *admitted = NIL;
	ListCell   *cell;

	if (!IsA(statement->utilityStmt, DropOwnedStmt) || shared == NULL)
		return NIL;
	foreach(cell, roleSpecsToIds(((DropOwnedStmt *) statement->utilityStmt)->roles))
		if (is_admitted(lfirst_oid(cell)))
			admitted = lappend_oid(admitted, lfirst_oid(cell));
	return admitted;
}

void
worker_after_drop_owned(List *admitted)
{
	ListCell   *cell;

	if (admitted == NIL)
		return;
	CommandCounterIncrement();
	foreach(cell, admitted)
	{
		Oid			role = lfirst_oid(cell);

		if (is_admitted(role))
			continue;
		/* the extension may have gone with it */
		if (own_table_exists(OWN_JOINED_BRANCH) && branches_in_doubt_here(role))
			refuse_drop("what the role owns");
		if (own_table_exists(OWN_JOINED_BRANCH))
			ereport(NOTICE,
					(errmsg("role \"%s\" is no longer admitted to take part in global transactions here",
							GetUserNameFromId(role, false)),
					 errhint("Use dtx_admit to admit it again.")));
	}
}

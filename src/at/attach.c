/*
 * attach.c
 *		dtx_attach and dtx_detach.
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/table.h"
#include "at/attach.h"
#include "at/fit.h"
#include "at/key.h"
#include "at/undo_log.h"
#include "catalog/dependency.h"
#include "catalog/objectaddress.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_trigger.h"
#include "commands/trigger.h"
#include "core/api.h"
#include "core/compat.h"
#include "core/participant.h"
#include "core/relations.h"
#include "core/shmem.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "parser/parse_func.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/reltrigger.h"

ENTRY_POINT(dtx_attach, 1);
ENTRY_POINT(dtx_detach, 1);
PG_FUNCTION_INFO_V1(dtx_is_attached);

static void
check_owner(Relation rel)
{
	if (!dtx_table_ownercheck(RelationGetRelid(rel), GetUserId()))
		aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_TABLE, RelationGetRelationName(rel));
}

/* A stranger must not even wait for a lock: others would wait behind him. */
static void
check_owner_before_lock(Oid relid)
{
	Relation	rel = open_named(relid, AccessShareLock);

	check_owner(rel);
	relation_close(rel, AccessShareLock);
}

/* A partitioned table is attached with all its partitions. */
static void
require_partitions(Oid relid)
{
	ListCell   *cell;

	if (get_rel_relkind(relid) != RELKIND_PARTITIONED_TABLE)
		return;
	foreach(cell, find_all_inheritors(relid, ShareRowExclusiveLock, NULL))
	{
		Relation	part = table_open(lfirst_oid(cell), NoLock);

		fit_require(part, false);
		table_close(part, NoLock);
	}
}

/*
 * Who owns the table may not call dtx.capture, so its trigger is created as somebody
 * who may. Not by a command: that would call event triggers as that role, with
 * whatever search path and temporary tables the caller has made for them.
 */
static void
create_capture_trigger(Relation rel)
{
	static Oid	no_arguments[1] = {InvalidOid};
	CreateTrigStmt *statement = makeNode(CreateTrigStmt);
	Oid			function;
	Oid			user;
	int			security;

	GetUserIdAndSecContext(&user, &security);
	SetUserIdAndSecContext(BOOTSTRAP_SUPERUSERID, security | SECURITY_LOCAL_USERID_CHANGE);
	statement->funcname = list_make2(makeString("dtx"), makeString("capture"));
	function = LookupFuncName(statement->funcname, 0, no_arguments, false);
	statement->trigname = "dtx_capture";
	statement->row = true;
	statement->timing = TRIGGER_TYPE_AFTER;
	statement->events = TRIGGER_TYPE_INSERT | TRIGGER_TYPE_UPDATE | TRIGGER_TYPE_DELETE;
	(void) CreateTriggerFiringOn(statement, NULL, RelationGetRelid(rel), InvalidOid, InvalidOid, InvalidOid, function,
								 InvalidOid, NULL, false, false, TRIGGER_FIRES_ALWAYS);
	SetUserIdAndSecContext(user, security);
	CommandCounterIncrement();
}

static void
drop_capture_trigger(Relation rel)
{
	ObjectAddress object;

	ObjectAddressSet(object, TriggerRelationId, capture_trigger(rel)->tgoid);
	performDeletion(&object, DROP_RESTRICT, 0);
}

static bool merging = false;

bool
attach_is_merging(void)
{
	return merging;
}

/* A partitioned table comes before its partitions, and takes their triggers along. */
static void
drop_own_triggers(List *relids)
{
	ListCell   *cell;

	foreach(cell, relids)
	{
		Relation	part = table_open(lfirst_oid(cell), NoLock);

		if (has_capture_trigger(part) && !capture_trigger(part)->tgisclone)
		{
			drop_capture_trigger(part);
			CommandCounterIncrement();
		}
		table_close(part, NoLock);
	}
}

void
attach_merge(Oid relid)
{
	List	   *relids = find_all_inheritors(relid, ShareRowExclusiveLock, NULL);

	merging = true;
	PG_TRY();
	{
		drop_own_triggers(relids);
	}
	PG_FINALLY();
	{
		merging = false;
	}
	PG_END_TRY();
}

/* A cascading foreign key changes rows of the referencing table too. */
static void
warn_of_cascades(Oid relid)
{
	Oid			types[1] = {OIDOID};
	Datum		values[1] = {ObjectIdGetDatum(relid)};
	Oid			user;
	int			security;
	int			result;

	GetUserIdAndSecContext(&user, &security);
	SetUserIdAndSecContext(BOOTSTRAP_SUPERUSERID, security | SECURITY_LOCAL_USERID_CHANGE);
	result = SPI_execute_with_args("SELECT r.relname::pg_catalog.text, c.conname::pg_catalog.text"
							  " FROM pg_catalog.pg_constraint c JOIN pg_catalog.pg_class r ON r.oid OPERATOR(pg_catalog.=) c.conrelid"
							  " WHERE c.confrelid OPERATOR(pg_catalog.=) $1 AND c.contype OPERATOR(pg_catalog.=) 'f'"
							  " AND c.conparentid OPERATOR(pg_catalog.=) 0" DTX_CONSTRAINT_ENFORCED
							  " AND (c.confdeltype OPERATOR(pg_catalog.=) ANY ('{c,n,d}') OR c.confupdtype OPERATOR(pg_catalog.=) ANY ('{c,n,d}'))"
							  " AND NOT dtx.is_attached(c.conrelid) AND c.conrelid OPERATOR(pg_catalog.<>) $1",
							  1, types, values, NULL, true, 0);
	SetUserIdAndSecContext(user, security);
	if (result != SPI_OK_SELECT)
		return;
	for (uint64 i = 0; i < SPI_processed; i++)
		ereport(WARNING,
				(errmsg("foreign key \"%s\" cascades to table \"%s\", which is not attached",
						SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 2),
						SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1)),
				 errhint("Attach it too, or branches that cascade will fail.")));
}

/* dtx_attach(regclass) */
static Datum
dtx_attach_given(PG_FUNCTION_ARGS)
{
	Oid			relid = PG_GETARG_OID(0);
	Relation	rel;

	shmem_require();
	if (current_branch.active)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot attach a table inside a branch")));
	check_owner_before_lock(relid);
	rel = open_named(relid, ShareRowExclusiveLock);
	check_owner(rel);
	fit_require(rel, false);
	require_partitions(relid);
	if (has_capture_trigger(rel))
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("table \"%s\" is already attached", RelationGetRelationName(rel))));
	if (rel->rd_rel->relkind == RELKIND_PARTITIONED_TABLE)
		attach_merge(relid);
	create_capture_trigger(rel);
	table_close(rel, NoLock);
	SPI_connect();
	warn_of_cascades(relid);
	SPI_finish();
	PG_RETURN_VOID();
}

/* dtx_detach(regclass) */
static Datum
dtx_detach_given(PG_FUNCTION_ARGS)
{
	Oid			relid = PG_GETARG_OID(0);
	Relation	rel;
	List	   *parts;
	ListCell   *cell;

	if (current_branch.active)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot detach a table inside a branch")));
	check_owner_before_lock(relid);
	rel = open_named(relid, AccessExclusiveLock);
	parts = find_all_inheritors(relid, AccessExclusiveLock, NULL);
	check_owner(rel);
	if (!has_capture_trigger(rel))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table \"%s\" is not attached", RelationGetRelationName(rel))));
	if (rel->rd_rel->relispartition && capture_trigger(rel)->tgisclone)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("partition \"%s\" is attached with its parent", RelationGetRelationName(rel)),
				 errhint("Detach the partitioned table.")));
	foreach(cell, parts)
		if (undo_relation_in_doubt(lfirst_oid(cell)))
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_IN_USE),
					 errmsg("cannot detach table \"%s\": it has rows in doubt",
							get_rel_name(lfirst_oid(cell))),
					 errhint("Wait until the branches that hold them are settled; see the view dtx_locks.")));
	drop_capture_trigger(rel);
	table_close(rel, NoLock);
	PG_RETURN_VOID();
}

/* dtx.is_attached(regclass) */
Datum
dtx_is_attached(PG_FUNCTION_ARGS)
{
	Relation	rel = try_relation_open(PG_GETARG_OID(0), AccessShareLock);
	bool		attached;

	if (rel == NULL)
		PG_RETURN_NULL();
	attached = has_capture_trigger(rel);
	relation_close(rel, AccessShareLock);
	PG_RETURN_BOOL(attached);
}

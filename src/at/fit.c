/*
 * fit.c
 *		What a table must be to be under dtx, and must stay.
 *
 * The conditions are in one place, fit_require. dtx_attach asks it; and so
 * does each command of DDL when it is over, of the tables that it has changed.
 * Which those are no list of commands tells reliably: a key goes with a column, a
 * type, an operator class. The relation cache does: whatever changes what the server
 * knows of a table invalidates its entry there, in this session before the command is
 * over.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "at/fit.h"
#include "at/key.h"
#include "catalog/catalog.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "catalog/pg_am.h"
#include "catalog/pg_class.h"
#include "catalog/pg_trigger.h"
#include "commands/trigger.h"
#include "core/compat.h"
#include "core/relations.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "storage/lock.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/reltrigger.h"

/* So many changed tables are remembered; of more, all that are attached are looked at. */
#define MAX_CHANGED		256

static int	depth = 0;			/* of commands of DDL that run */
static Oid	changed[MAX_CHANGED];
static int	nchanged = 0;
static bool dropping = false;	/* the command that is over drops things */

void
fit_require(Relation rel, bool altered)
{
	const char *name = RelationGetRelationName(rel);
	char		relkind = rel->rd_rel->relkind;
	char		persistence = rel->rd_rel->relpersistence;
	int			code;
	char	   *refusal;		/* to attach it */
	char	   *detail;
	char	   *hint = NULL;

	if (relkind != RELKIND_RELATION && relkind != RELKIND_PARTITIONED_TABLE)
	{
		code = ERRCODE_WRONG_OBJECT_TYPE;
		refusal = psprintf("\"%s\" is not a table", name);
		detail = altered ? "It would not be a table of this database." : NULL;
	}
	else if (IsCatalogRelation(rel) || RelationGetNamespace(rel) == own_schema())
	{
		code = ERRCODE_WRONG_OBJECT_TYPE;
		refusal = psprintf("cannot attach system table \"%s\"", name);
		detail = altered ? "It would be a system table." : NULL;
	}
	else if (persistence != RELPERSISTENCE_PERMANENT)
	{
		code = ERRCODE_WRONG_OBJECT_TYPE;
		refusal = psprintf("cannot attach %s table \"%s\"",
						   persistence == RELPERSISTENCE_TEMP ? "temporary" : "unlogged", name);
		detail = altered ? "Its rows would not survive a crash, and a branch in doubt must." :
			"Its rows do not survive a crash, and a branch in doubt must.";
		if (persistence != RELPERSISTENCE_TEMP)
			hint = psprintf("Use ALTER TABLE %s SET LOGGED first.", quote_identifier(name));
	}
	else if (relkind == RELKIND_RELATION && rel->rd_rel->relam != HEAP_TABLE_AM_OID)
	{
		code = ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE;
		refusal = psprintf("cannot attach table \"%s\"", name);
		detail = "Its access method is not heap.";
	}
	else if (!OidIsValid(key_index_of(rel)))
	{
		code = ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE;
		refusal = psprintf("cannot attach table \"%s\": it has no primary key and no replica identity index", name);
		detail = altered ? "It would have no primary key and no replica identity index, by which rows are locked and restored." :
			"Rows are locked and restored by their key, which must be immediate and not null.";
		/* WITHOUT OVERLAPS */
		if (OidIsValid(dtx_primary_key_index(rel)))
			detail = "Its primary key is none of single values: rows are locked and restored by a B-tree's key.";
		hint = psprintf("Use ALTER TABLE %s ADD PRIMARY KEY, or ALTER TABLE %s REPLICA IDENTITY USING INDEX.",
						quote_identifier(name), quote_identifier(name));
	}
	else
		return;
	if (altered)
		ereport(ERROR,
				(errcode(code),
				 errmsg("table \"%s\" is attached to dtx, and cannot be altered so",
						RelationIsVisible(RelationGetRelid(rel)) ? name :
						psprintf("%s.%s", get_namespace_name(RelationGetNamespace(rel)), name)),
				 errdetail("%s", detail),
				 rel->rd_rel->relispartition ?
				 errhint("A partition must have what it needs before it becomes one, or its table be taken out of dtx first, with dtx_detach.") :
				 dropping ?
				 errhint("Drop the table in the same command, or take it out of dtx first, with dtx_detach.") :
				 errhint("Give it what it needs in the same command, or take it out of dtx first, with dtx_detach.")));
	ereport(ERROR,
			(errcode(code),
			 errmsg("%s", refusal),
			 detail != NULL ? errdetail("%s", detail) : 0,
			 hint != NULL ? errhint("%s", hint) : 0));
}

void
fit_note_change(Oid relid)
{
	if (depth == 0 || nchanged > MAX_CHANGED)
		return;
	if (!OidIsValid(relid))
		nchanged = MAX_CHANGED + 1;
	for (int i = 0; i < nchanged && nchanged <= MAX_CHANGED; i++)
		if (changed[i] == relid)
			return;
	if (nchanged < MAX_CHANGED)
		changed[nchanged] = relid;
	nchanged = Min(nchanged + 1, MAX_CHANGED + 1);
}

bool
fit_watch(PlannedStmt *statement)
{
	/* pg_upgrade makes tables and their triggers as they were, in steps */
	if (IsBinaryUpgrade || GetCommandLogLevel(statement->utilityStmt) != LOGSTMT_DDL)
		return false;
	key_watch_relations();
	if (depth++ == 0)
		nchanged = 0;
	return true;
}

void
fit_watch_end(void)
{
	depth--;
}

/* Has this transaction a lock on a table with which one alters it? */
static bool
is_altered_here(Oid relid)
{
	LOCKTAG		tag;
	bool		held = false;

	SET_LOCKTAG_RELATION(tag, MyDatabaseId, relid);
	for (LOCKMODE mode = ShareUpdateExclusiveLock; mode <= AccessExclusiveLock; mode++)
		held |= dtx_lock_held(&tag, mode);
	return held;
}

/* Does a trigger call dtx.capture? */
static bool
calls_capture(const Trigger *trigger)
{
	char	   *name;

	if (!OidIsValid(own_schema()) || get_func_namespace(trigger->tgfoid) != own_schema())
		return false;
	name = get_func_name(trigger->tgfoid);
	return name != NULL && strcmp(name, "capture") == 0;
}

/* Does it as dtx_attach has it: of each row, after each kind of change? */
static bool
captures_all(const Trigger *trigger)
{
	return TRIGGER_FOR_ROW(trigger->tgtype) && TRIGGER_FOR_AFTER(trigger->tgtype) &&
		TRIGGER_FOR_INSERT(trigger->tgtype) && TRIGGER_FOR_UPDATE(trigger->tgtype) &&
		TRIGGER_FOR_DELETE(trigger->tgtype) && trigger->tgnattr == 0 && trigger->tgqual == NULL;
}

/*
 * The trigger of capturing, whatever has become of it; of several that call dtx.capture
 * one that dtx_attach has not made. A copy, see capture_trigger().
 */
static Trigger *
find_capture(Relation rel)
{
	TriggerDesc *triggers = CopyTriggerDesc(rel->trigdesc);
	Trigger    *found = NULL;

	for (int i = 0; triggers != NULL && i < triggers->numtriggers; i++)
	{
		Trigger    *trigger = &triggers->triggers[i];

		if (!calls_capture(trigger))
			continue;
		found = trigger;
		if (strcmp(trigger->tgname, "dtx_capture") != 0)
			break;
	}
	return found;
}

/* Does ALTER TABLE name this trigger, and not all of the table's? */
static bool
names_trigger(Node *statement, const char *trigger)
{
	ListCell   *cell;

	if (!IsA(statement, AlterTableStmt))
		return false;
	foreach(cell, ((AlterTableStmt *) statement)->cmds)
	{
		AlterTableCmd *command = lfirst_node(AlterTableCmd, cell);

		if ((command->subtype == AT_EnableTrig || command->subtype == AT_EnableReplicaTrig ||
			 command->subtype == AT_DisableTrig) && strcmp(command->name, trigger) == 0)
			return true;
	}
	return false;
}

static void
enable_always(Relation rel, Oid trigger)
{
	Relation	triggers = table_open(TriggerRelationId, RowExclusiveLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, Anum_pg_trigger_oid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(trigger));
	scan = systable_beginscan(triggers, TriggerOidIndexId, true, NULL, 1, &key);
	if (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		tuple = heap_copytuple(tuple);
		((Form_pg_trigger) GETSTRUCT(tuple))->tgenabled = TRIGGER_FIRES_ALWAYS;
		CatalogTupleUpdate(triggers, &tuple->t_self, tuple);
		CacheInvalidateRelcache(rel);
	}
	systable_endscan(scan);
	table_close(triggers, RowExclusiveLock);
}

static void
check_altered(Oid relid, Node *statement)
{
	Relation	rel;
	Trigger    *trigger;

	if (!is_altered_here(relid))
		return;
	rel = RelationIdGetRelation(relid);
	if (rel == NULL)
		return;
	trigger = find_capture(rel);
	if (trigger != NULL)
	{
		bool		named = strcmp(trigger->tgname, "dtx_capture") == 0;
		bool		enabled = trigger->tgenabled == TRIGGER_FIRES_ALWAYS;

		/* made by hand: it would capture twice, or not all that is to be undone */
		if (!captures_all(trigger) || (!named && !IsA(statement, RenameStmt)))
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("trigger \"%s\" of table \"%s\" cannot call function \"dtx.capture\"",
							trigger->tgname, RelationGetRelationName(rel)),
					 errhint("dtx_attach creates the trigger that does.")));
		fit_require(rel, true);
		if (!named || (!enabled && names_trigger(statement, "dtx_capture")))
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("table \"%s\" is attached to dtx, and its trigger \"dtx_capture\" %s",
							RelationGetRelationName(rel),
							named ? "stays enabled always" : "keeps its name"),
					 errhint("Use dtx_detach to take the table out of dtx.")));
		/* DISABLE TRIGGER ALL and ENABLE TRIGGER ALL around a restore mean the others */
		if (!enabled)
			enable_always(rel, trigger->tgoid);
	}
	RelationClose(rel);
}

static void
check_all_attached(Node *statement)
{
	Relation	triggers = table_open(TriggerRelationId, AccessShareLock);
	SysScanDesc scan = systable_beginscan(triggers, InvalidOid, false, NULL, 0, NULL);
	List	   *relids = NIL;
	HeapTuple	tuple;
	ListCell   *cell;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
		if (!((Form_pg_trigger) GETSTRUCT(tuple))->tgisinternal ||
			OidIsValid(((Form_pg_trigger) GETSTRUCT(tuple))->tgparentid))
			relids = list_append_unique_oid(relids, ((Form_pg_trigger) GETSTRUCT(tuple))->tgrelid);
	systable_endscan(scan);
	table_close(triggers, AccessShareLock);
	foreach(cell, relids)
		check_altered(lfirst_oid(cell), statement);
}

void
fit_check_altered(PlannedStmt *statement)
{
	/* what a command is made of may pass through states that are not fit */
	if (depth > 1 || !IsTransactionState())
		return;
	CommandCounterIncrement();
	dropping = IsA(statement->utilityStmt, DropStmt) || IsA(statement->utilityStmt, DropOwnedStmt);
	if (nchanged > MAX_CHANGED)
		check_all_attached(statement->utilityStmt);
	else
		for (int i = 0; i < nchanged && i < MAX_CHANGED; i++)
			check_altered(changed[i], statement->utilityStmt);
	CommandCounterIncrement();
}

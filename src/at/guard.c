/*
 * guard.c
 *		What a branch may not do, since its undo log could not undo it.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "at/alter.h"
#include "at/attach.h"
#include "at/guard.h"
#include "at/key.h"
#include "at/undo_log.h"
#include "catalog/dependency.h"
#include "catalog/index.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_largeobject.h"
#include "catalog/pg_trigger.h"
#include "commands/event_trigger.h"
#include "core/compat.h"
#include "core/participant.h"
#include "core/relations.h"
#include "fmgr.h"
#include "guc.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "parser/parsetree.h"
#include "storage/lock.h"
#include "tcop/pquery.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/portal.h"
#include "utils/rel.h"
#include "utils/reltrigger.h"

PG_FUNCTION_INFO_V1(dtx_guard_rewrite);

/* Report, by dtx.unattached, what dtx could not undo. */
static void
report_unattached(const char *what, const char *hint)
{
	int			level = guc_unattached == UNATTACHED_ERROR ? ERROR : WARNING;

	if (guc_unattached == UNATTACHED_ALLOW)
		return;
	ereport(level,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("%s inside a branch could not be undone", what),
			 errdetail("This transaction is branch \"%s\".", current_branch.gid_text),
			 errhint("%s", hint)));
}

static void
check_result_relation(Oid relid)
{
	Relation	rel = RelationIdGetRelation(relid);
	bool		fits;

	if (rel == NULL)
		return;
	/* a view's rows are those of the tables below it; temporary ones are nobody's */
	fits = rel->rd_rel->relkind == RELKIND_VIEW ||
		rel->rd_rel->relpersistence == RELPERSISTENCE_TEMP ||
		has_capture_trigger(rel);
	if (!fits)
	{
		char	   *what = psprintf("a write to table \"%s\", which is not attached,",
									RelationGetRelationName(rel));
		char	   *hint = psprintf("Run SELECT dtx_attach(%s) in that database, or see dtx.unattached.",
									quote_literal_cstr(quote_identifier(RelationGetRelationName(rel))));

		RelationClose(rel);
		report_unattached(what, hint);
		return;
	}
	RelationClose(rel);
}

void
guard_executor_start(QueryDesc *query)
{
	ListCell   *cell;

	if (!participant_captures())
		return;
	foreach(cell, dtx_result_relations(query->plannedstmt))
		check_result_relation(lfirst_oid(cell));
}

void
guard_utility(PlannedStmt *statement)
{
	Node	   *node = statement->utilityStmt;

	if (!participant_captures())
		return;
	switch (nodeTag(node))
	{
		case T_CopyStmt:
			{
				CopyStmt   *copy = (CopyStmt *) node;

				if (copy->is_from && copy->relation != NULL)
					check_result_relation(RangeVarGetRelid(copy->relation, RowExclusiveLock, false));
			}
			break;
		case T_ExplainStmt:
			/* EXPLAIN ANALYZE CREATE TABLE AS creates the table */
			if (castNode(Query, ((ExplainStmt *) node)->query)->commandType == CMD_UTILITY)
				report_unattached("EXPLAIN of a utility command", "Explain a query.");
			break;
		case T_TransactionStmt:
		case T_DoStmt:
		case T_CallStmt:
		case T_VariableSetStmt:
		case T_ExecuteStmt:
		case T_VariableShowStmt:
		case T_DeclareCursorStmt:
		case T_FetchStmt:
		case T_ClosePortalStmt:
		case T_LockStmt:
		case T_ConstraintsSetStmt:
		case T_NotifyStmt:
		case T_PrepareStmt:
		case T_DeallocateStmt:
		case T_ListenStmt:
		case T_UnlistenStmt:
		case T_DiscardStmt:
		case T_LoadStmt:
			break;
		default:
			report_unattached(GetCommandTagName(CreateCommandTag(node)),
							  "A branch may change rows of attached tables only; see dtx.unattached.");
			break;
	}
}

void
guard_large_object(void)
{
	report_unattached("access to large objects",
					  "Keep such data in columns of type bytea, in attached tables.");
}

/*
 * Large objects are written past the executor. The first access in a
 * transaction takes this lock on pg_largeobject, to its end.
 */
void
guard_before_phase_one(void)
{
	LOCKTAG		tag;

	SET_LOCKTAG_RELATION(tag, MyDatabaseId, LargeObjectRelationId);
	if (dtx_lock_held(&tag, RowExclusiveLock))
		guard_large_object();
}

void
guard_report_in_doubt(Oid relid, const char *what, int code, const char *detail)
{
	char	   *name = get_rel_name(relid);

	/* a command that drops others' tables too does not name them */
	if (!RelationIsVisible(relid))
		name = psprintf("%s.%s", get_namespace_name(get_rel_namespace(relid)), name);
	ereport(ERROR,
			(errcode(code),
			 errmsg("cannot %s table \"%s\": it has rows in doubt", what, name),
			 detail == NULL ? 0 : errdetail_internal("%s", detail),
			 errhint("Wait until the branches that hold them are settled; see the view dtx_locks.")));
}

static void
refuse_in_doubt(Oid relid, const char *what)
{
	if (undo_relation_in_doubt(relid))
		guard_report_in_doubt(relid, what, ERRCODE_OBJECT_IN_USE, NULL);
}

/* The key goes with its index. */
static void
guard_index_drop(Oid index, int flags)
{
	Oid			relid = IndexGetRelation(index, true);
	Relation	rel = OidIsValid(relid) ? RelationIdGetRelation(relid) : NULL;
	bool		is_key = rel != NULL && key_index_of(rel) == index;
	bool		attached = is_key && has_capture_trigger(rel);

	if (rel != NULL)
		RelationClose(rel);
	if (is_key)
		refuse_in_doubt(relid, "drop the key of");
	/* it commits on its way: too late for what looks at tables when commands are over */
	if (attached && (flags & PERFORM_DELETION_CONCURRENTLY))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot drop the key of table \"%s\" concurrently: it is attached to dtx",
						get_rel_name(relid)),
				 errhint("Use dtx_detach to take the table out of dtx.")));
}

void
guard_relation_drop(Oid relid, int flags)
{
	char		relkind = get_rel_relkind(relid);

	if (relkind == RELKIND_INDEX)
		guard_index_drop(relid, flags);
	else
		refuse_in_doubt(relid, "drop");
}

void
guard_relation_truncate(Oid relid)
{
	refuse_in_doubt(relid, "truncate");
	if (participant_captures())
		report_unattached("TRUNCATE", "Use DELETE.");
}

void
guard_trigger_drop(Oid trigger, const char *what)
{
	Relation	rel = table_open(TriggerRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	Oid			relid = InvalidOid;

	ScanKeyInit(&key, Anum_pg_trigger_oid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(trigger));
	scan = systable_beginscan(rel, TriggerOidIndexId, true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple) &&
		strcmp(NameStr(((Form_pg_trigger) GETSTRUCT(tuple))->tgname), "dtx_capture") == 0)
		relid = ((Form_pg_trigger) GETSTRUCT(tuple))->tgrelid;
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	if (OidIsValid(relid) && !attach_is_merging())
		refuse_in_doubt(relid, what);
}

/* dtx.guard_rewrite(), an event trigger on table_rewrite. */
Datum
dtx_guard_rewrite(PG_FUNCTION_ARGS)
{
	EventTriggerData *data = (EventTriggerData *) fcinfo->context;

	if (!CALLED_AS_EVENT_TRIGGER(fcinfo) || strcmp(data->event, "table_rewrite") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_EVENT_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"dtx.guard_rewrite\" must be called as a trigger of event table_rewrite")));
	alter_require_settled(DatumGetObjectId(DirectFunctionCall1(pg_event_trigger_table_rewrite_oid, (Datum) 0)),
						  "rewrite");
	PG_RETURN_NULL();
}

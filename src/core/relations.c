/*
 * relations.c
 *		dtx's own tables: their OIDs, scans, and writing a row.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/dependency.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_type_d.h"
#include "commands/extension.h"
#include "core/relations.h"
#include "core/shape.h"
#include "executor/tuptable.h"
#include "nodes/execnodes.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

static Oid	extension_oid = InvalidOid;
static Oid	schema_oid = InvalidOid;
static Oid	oids[OWN_COUNT];
static bool fits[OWN_COUNT];	/* looked at since it was changed last */
static bool more_indexes[OWN_COUNT];	/* than own_shapes has */
static uint64 forgotten = 0;	/* counts what forgets any of these */
static bool callbacks_registered = false;

/* DROP EXTENSION drops the schema: forget every OID. */
static void
forget_oids(Datum arg, int cacheid, uint32 hashvalue)
{
	extension_oid = schema_oid = InvalidOid;
	memset(oids, 0, sizeof(oids));
	memset(fits, 0, sizeof(fits));
	forgotten++;
}

/* One was altered, or an index built anew, under another OID. */
static void
forget_relation(Datum arg, Oid relid)
{
	for (int i = 0; i < OWN_COUNT; i++)
		if (!OidIsValid(relid) || oids[i] == relid)
		{
			oids[i] = InvalidOid;
			fits[i] = false;
			forgotten++;
		}
}

/* What is looked up while one of the caches is told of a change is not kept. */
Oid
own_schema(void)
{
	Oid			schema,
				extension;
	uint64		before = forgotten;

	if (!callbacks_registered)
	{
		CacheRegisterSyscacheCallback(NAMESPACEOID, forget_oids, (Datum) 0);
		CacheRegisterRelcacheCallback(forget_relation, (Datum) 0);
		callbacks_registered = true;
	}
	if (OidIsValid(schema_oid))
		return schema_oid;
	/* the name first, which is in a cache even where there is none */
	schema = get_namespace_oid("dtx", true);
	if (!OidIsValid(schema))
		return InvalidOid;
	extension = get_extension_oid("dtx", true);
	if (!OidIsValid(extension) || getExtensionOfObject(NamespaceRelationId, schema) != extension)
		return InvalidOid;
	if (forgotten == before)
	{
		schema_oid = schema;
		extension_oid = extension;
	}
	return schema;
}

bool
own_extension_exists(void)
{
	return OidIsValid(get_extension_oid("dtx", true));
}

bool
own_is_member(Oid class_id, Oid object_id)
{
	Oid			extension = OidIsValid(extension_oid) ? extension_oid : get_extension_oid("dtx", true);

	return OidIsValid(extension) && getExtensionOfObject(class_id, object_id) == extension;
}

Oid
own_relid_if_any(OwnRelation which)
{
	const OwnShape *shape = &own_shapes[which];
	Oid			schema = own_schema();
	uint64		before = forgotten;
	Oid			oid;

	if (!OidIsValid(schema))
		return InvalidOid;
	if (OidIsValid(oids[which]))
		return oids[which];
	oid = get_relname_relid(shape->name, schema);
	if (!OidIsValid(oid) ||
		(shape->kind == RELKIND_INDEX ? !shape_fits_index(which, oid, own_relid_if_any(shape->table)) :
		 get_rel_relkind(oid) != shape->kind || !own_is_member(RelationRelationId, oid)))
		return InvalidOid;
	if (forgotten == before)
		oids[which] = oid;
	return oid;
}

static void
report_altered(int level, const char *name, char *detail)
{
	ereport(level,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("table \"dtx.%s\" is not as the extension has made it", name),
			 errdetail("%s", detail),
			 errhint("Undo what was altered, or drop the extension and create it again.")));
}

/* NULL, or what is wrong with the table. */
static char *
look_at(OwnRelation which, Relation rel)
{
	ListCell   *cell;
	char	   *mismatch;
	uint64		before = forgotten;

	if (fits[which])
		return NULL;
	mismatch = shape_mismatch(which, rel);
	more_indexes[which] = false;
	if (mismatch == NULL && own_shapes[which].closed)
		foreach(cell, RelationGetIndexList(rel))
			more_indexes[which] |= !shape_is_known_index(which, lfirst_oid(cell));
	fits[which] = mismatch == NULL && forgotten == before;
	return mismatch;
}

Relation
own_open(OwnRelation which, LOCKMODE lockmode)
{
	Relation	rel = table_open(own_relid(which), lockmode);
	char	   *mismatch = look_at(which, rel);

	if (mismatch != NULL)
		report_altered(ERROR, own_shapes[which].name, mismatch);
	return rel;
}

void
own_check_segment(Relation rel)
{
	char	   *mismatch = shape_mismatch(OWN_MESSAGE, rel);

	if (mismatch != NULL)
		report_altered(ERROR, RelationGetRelationName(rel), mismatch);
}

bool
own_table_exists(OwnRelation which)
{
	Oid			oid = own_relid_if_any(which);
	Relation	rel;
	char	   *mismatch;

	if (!OidIsValid(oid) || !SearchSysCacheExists1(RELOID, ObjectIdGetDatum(oid)))
		return false;
	if (fits[which])
		return true;
	rel = try_relation_open(oid, AccessShareLock);
	if (rel == NULL)
		return false;
	mismatch = look_at(which, rel);
	relation_close(rel, AccessShareLock);
	/* not an error: hooks ask, and somebody must be able to drop the extension */
	if (mismatch != NULL)
		report_altered(WARNING, own_shapes[which].name, mismatch);
	return mismatch == NULL;
}

Relation
open_named(Oid relid, LOCKMODE lockmode)
{
	Relation	rel = OidIsValid(relid) ? try_relation_open(relid, lockmode) : NULL;

	if (rel == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("there is no table with OID %u", relid)));
	return rel;
}

static void
report_absent(OwnRelation which)
{
	const OwnShape *shape = &own_shapes[which];

	if (!OidIsValid(own_schema()))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("extension \"dtx\" is not installed in this database"),
				 errhint("Run CREATE EXTENSION dtx.")));
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("%s \"dtx.%s\" is not there, or not as the extension has made it",
					shape->kind == RELKIND_INDEX ? "index" : shape->kind == RELKIND_SEQUENCE ? "sequence" : "table",
					shape->name),
			 errhint("Undo what was altered, or drop the extension and create it again.")));
}

Oid
own_relid(OwnRelation which)
{
	Oid			oid = own_relid_if_any(which);

	if (!OidIsValid(oid))
		report_absent(which);
	return oid;
}

static Snapshot given = NULL;

void
own_use_snapshot(Snapshot snapshot)
{
	given = snapshot;
}

Snapshot
own_snapshot(void)
{
	return given != NULL ? given : GetLatestSnapshot();
}

void
own_scan_begin(OwnScan *scan, OwnRelation table, OwnRelation index, LOCKMODE lockmode,
			   int nkeys, ScanKeyData *keys)
{
	scan->rel = own_open(table, lockmode);
	scan->lockmode = lockmode;
	scan->dirty_first = false;
	scan->snapshot = RegisterSnapshot(own_snapshot());
	scan->scan = systable_beginscan(scan->rel,
									nkeys > 0 ? own_relid(index) : InvalidOid,
									nkeys > 0, scan->snapshot, nkeys, keys);
}

void
own_scan_dirty(OwnScan *scan, OwnRelation table, LOCKMODE lockmode)
{
	scan->rel = own_open(table, lockmode);
	scan->lockmode = lockmode;
	scan->snapshot = NULL;
	scan->dirty_first = true;
	InitDirtySnapshot(scan->dirty);
	scan->scan = systable_beginscan(scan->rel, InvalidOid, false, &scan->dirty, 0, NULL);
}

void
own_scan_int8(OwnScan *scan, OwnRelation table, OwnRelation index, LOCKMODE lockmode,
			  int64 key)
{
	ScanKeyData scankey;
	int			column;

	switch (index)
	{
		case OWN_BRANCH_N_IDX:
			column = Anum_branch_n;
			break;
		case OWN_UNDO_LOG_KEY_IDX:
			column = Anum_undo_log_key_hash;
			break;
		default:
			/* a key that is the first column */
			column = 1;
			break;
	}
	ScanKeyInit(&scankey, column, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(key));
	own_scan_begin(scan, table, index, lockmode, 1, &scankey);
}

void
own_scan_all(OwnScan *scan, OwnRelation table, LOCKMODE lockmode)
{
	own_scan_begin(scan, table, table, lockmode, 0, NULL);
}

HeapTuple
own_scan_next(OwnScan *scan)
{
	HeapTuple	tuple = systable_getnext(scan->scan);

	if (HeapTupleIsValid(tuple) || !scan->dirty_first)
		return tuple;
	/*
	 * A row that was updated during the scan, and moved to a page that was read
	 * already, was not met: the old version was gone when the scan came to it. It has
	 * committed, so a snapshot of now sees it.
	 */
	systable_endscan(scan->scan);
	scan->dirty_first = false;
	scan->snapshot = RegisterSnapshot(GetLatestSnapshot());
	scan->scan = systable_beginscan(scan->rel, InvalidOid, false, scan->snapshot, 0, NULL);
	return systable_getnext(scan->scan);
}

void
own_scan_end(OwnScan *scan)
{
	systable_endscan(scan->scan);
	if (scan->snapshot != NULL)
		UnregisterSnapshot(scan->snapshot);
	/* a writer's lock stays to the end of the transaction */
	table_close(scan->rel, scan->lockmode == AccessShareLock ? AccessShareLock : NoLock);
}

Datum
own_column(OwnScan *scan, HeapTuple tuple, int column, bool *isnull)
{
	bool		null;
	Datum		value = heap_getattr(tuple, column, RelationGetDescr(scan->rel), &null);

	if (isnull != NULL)
		*isnull = null;
	else if (null)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("column %d of table \"%s\" is null", column,
						RelationGetRelationName(scan->rel))));
	return value;
}

/* The indexes of a table. Their keys are plain columns, none is partial. */
static const OwnRelation *
indexes_of(OwnRelation table)
{
	static const OwnRelation none[] = {OWN_COUNT};
	static const OwnRelation contact[] = {OWN_CONTACT_PKEY, OWN_COUNT};
	static const OwnRelation branch[] = {OWN_BRANCH_N_IDX, OWN_COUNT};
	static const OwnRelation global[] = {OWN_GLOBAL_PKEY, OWN_COUNT};
	static const OwnRelation try_log[] = {OWN_TRY_LOG_PKEY, OWN_COUNT};
	static const OwnRelation confirm_log[] = {OWN_CONFIRM_LOG_PKEY, OWN_COUNT};
	static const OwnRelation cancel_log[] = {OWN_CANCEL_LOG_PKEY, OWN_COUNT};
	static const OwnRelation resolution[] = {OWN_RESOLUTION_PKEY, OWN_COUNT};
	static const OwnRelation tcc_action[] = {OWN_TCC_ACTION_PKEY, OWN_COUNT};
	static const OwnRelation frozen[] = {OWN_FROZEN_PKEY, OWN_COUNT};
	static const OwnRelation delayed_message[] = {OWN_DELAYED_MESSAGE_DELIVER_AT_IDX, OWN_COUNT};
	static const OwnRelation held_message[] = {OWN_HELD_MESSAGE_BRANCH_IDX, OWN_COUNT};
	static const OwnRelation held_notification[] = {OWN_HELD_NOTIFICATION_BRANCH_IDX, OWN_COUNT};
	static const OwnRelation half_message[] = {OWN_HALF_MESSAGE_PKEY, OWN_HALF_MESSAGE_NEXT_CHECK_IDX, OWN_COUNT};
	static const OwnRelation de_duplication[] = {OWN_DE_DUPLICATION_PKEY, OWN_COUNT};
	static const OwnRelation joined_branch[] = {OWN_JOINED_BRANCH_PKEY, OWN_COUNT};
	static const OwnRelation coordinator[] = {OWN_COORDINATOR_PKEY, OWN_COUNT};
	static const OwnRelation undo_log[] = {OWN_UNDO_LOG_KEY_IDX, OWN_COUNT};
	static const OwnRelation relation_shape[] = {OWN_RELATION_SHAPE_IDX, OWN_COUNT};

	switch (table)
	{
		case OWN_CONTACT:
			return contact;
		case OWN_BRANCH:
			return branch;
		case OWN_GLOBAL:
			return global;
		case OWN_TRY_LOG:
			return try_log;
		case OWN_CONFIRM_LOG:
			return confirm_log;
		case OWN_CANCEL_LOG:
			return cancel_log;
		case OWN_RESOLUTION:
			return resolution;
		case OWN_TCC_ACTION:
			return tcc_action;
		case OWN_FROZEN:
			return frozen;
		case OWN_DELAYED_MESSAGE:
			return delayed_message;
		case OWN_HELD_MESSAGE:
			return held_message;
		case OWN_HELD_NOTIFICATION:
			return held_notification;
		case OWN_HALF_MESSAGE:
			return half_message;
		case OWN_DE_DUPLICATION:
			return de_duplication;
		case OWN_JOINED_BRANCH:
			return joined_branch;
		case OWN_COORDINATOR:
			return coordinator;
		case OWN_UNDO_LOG:
			return undo_log;
		case OWN_RELATION_SHAPE:
			return relation_shape;
		default:
			return none;
	}
}

/* A row's entry in an index, without the executor's state for indexes. */
static bool
insert_index_entry(Relation rel, Relation index, ItemPointer tid, Datum *values, bool *nulls,
				   IndexUniqueCheck check)
{
	static IndexInfo info = {.type = T_IndexInfo};	/* B-trees do not look at it */
	Datum		keys[INDEX_MAX_KEYS];
	bool		key_nulls[INDEX_MAX_KEYS];
	bool		unique = index->rd_index->indisunique;

	for (int i = 0; i < index->rd_index->indnatts; i++)
	{
		int			column = index->rd_index->indkey.values[i] - 1;

		keys[i] = values[column];
		key_nulls[i] = nulls[column];
	}
	return index_insert(index, keys, key_nulls, tid, rel, unique ? check : UNIQUE_CHECK_NO,
						false, &info) || !unique;
}

/* Entries in indexes that are none of the script's: one that REINDEX CONCURRENTLY
 * builds will take the place of its. */
static void
insert_more_entries(OwnRelation table, Relation rel, HeapTuple *tuples, int count)
{
	TupleDesc	desc = RelationGetDescr(rel);
	Datum	   *values;
	bool	   *nulls;
	ListCell   *cell;

	if (!more_indexes[table])
		return;
	values = palloc(desc->natts * sizeof(Datum));
	nulls = palloc(desc->natts * sizeof(bool));
	foreach(cell, RelationGetIndexList(rel))
	{
		Relation	index;

		if (shape_is_known_index(table, lfirst_oid(cell)))
			continue;
		index = index_open(lfirst_oid(cell), RowExclusiveLock);
		for (int i = 0; i < count && index->rd_index->indisready; i++)
		{
			heap_deform_tuple(tuples[i], desc, values, nulls);
			(void) insert_index_entry(rel, index, &tuples[i]->t_self, values, nulls, UNIQUE_CHECK_YES);
		}
		index_close(index, NoLock);
	}
	pfree(values);
	pfree(nulls);
}

/*
 * A value that goes to TOAST, or comes from it, needs a snapshot, and a callback at the end of a
 * transaction has none. Returns whether one was pushed.
 */
static bool
push_snapshot(void)
{
	if (ActiveSnapshotSet())
		return false;
	PushActiveSnapshot(GetTransactionSnapshot());
	return true;
}

static void
pop_snapshot(bool pushed)
{
	if (pushed)
		PopActiveSnapshot();
}

static bool
insert_row(OwnRelation table, Datum *values, bool *nulls, IndexUniqueCheck check)
{
	Relation	rel = own_open(table, RowExclusiveLock);
	HeapTuple	tuple = heap_form_tuple(RelationGetDescr(rel), values, nulls);
	bool		unique = true;
	bool		pushed = push_snapshot();

	simple_heap_insert(rel, tuple);
	for (const OwnRelation *which = indexes_of(table); *which != OWN_COUNT; which++)
	{
		Relation	index = index_open(own_relid(*which), RowExclusiveLock);

		unique &= insert_index_entry(rel, index, &tuple->t_self, values, nulls, check);
		index_close(index, NoLock);
	}
	insert_more_entries(table, rel, &tuple, 1);
	pop_snapshot(pushed);
	heap_freetuple(tuple);
	table_close(rel, NoLock);
	return unique;
}

void
own_insert(OwnRelation table, Datum *values, bool *nulls)
{
	(void) insert_row(table, values, nulls, UNIQUE_CHECK_YES);
}

bool
own_insert_unique(OwnRelation table, Datum *values, bool *nulls)
{
	return insert_row(table, values, nulls, UNIQUE_CHECK_PARTIAL);
}

static void
insert_heap_tuples(Relation rel, HeapTuple *tuples, int count)
{
	TupleTableSlot **slots;
	TupleDesc	desc;

	if (count == 1)
	{
		simple_heap_insert(rel, tuples[0]);
		return;
	}
	/* a copy, which is not counted: each slot would count the relation's own */
	desc = CreateTupleDescCopy(RelationGetDescr(rel));
	slots = palloc(count * sizeof(TupleTableSlot *));
	for (int i = 0; i < count; i++)
	{
		slots[i] = MakeSingleTupleTableSlot(desc, &TTSOpsHeapTuple);
		ExecStoreHeapTuple(tuples[i], slots[i], false);
	}
	heap_multi_insert(rel, slots, count, GetCurrentCommandId(true), 0, NULL);
	for (int i = 0; i < count; i++)
	{
		/* where a value was toasted, the tuple on the page is a copy of this one */
		tuples[i]->t_self = slots[i]->tts_tid;
		ExecDropSingleTupleTableSlot(slots[i]);
	}
	pfree(slots);
	FreeTupleDesc(desc);
}

typedef struct IndexEntry
{
	int64		key;
	ItemPointerData tid;
} IndexEntry;

static int
compare_entries(const void *a, const void *b)
{
	int64		ka = ((const IndexEntry *) a)->key;
	int64		kb = ((const IndexEntry *) b)->key;

	return ka < kb ? -1 : ka > kb ? 1 : 0;
}

void
own_insert_many(OwnRelation table, HeapTuple *tuples, int count)
{
	Relation	rel = own_open(table, RowExclusiveLock);
	TupleDesc	desc = RelationGetDescr(rel);
	Datum	   *values = palloc(desc->natts * sizeof(Datum));
	bool	   *nulls = palloc0(desc->natts * sizeof(bool));
	IndexEntry *entries = palloc(count * sizeof(IndexEntry));
	bool		pushed = push_snapshot();

	insert_heap_tuples(rel, tuples, count);
	for (const OwnRelation *which = indexes_of(table); *which != OWN_COUNT; which++)
	{
		Relation	index = index_open(own_relid(*which), RowExclusiveLock);
		int			column = index->rd_index->indkey.values[0];

		Assert(index->rd_index->indnatts == 1 &&
			   TupleDescAttr(desc, column - 1)->atttypid == INT8OID);
		for (int i = 0; i < count; i++)
		{
			bool		isnull;

			entries[i].key = DatumGetInt64(heap_getattr(tuples[i], column, desc, &isnull));
			entries[i].tid = tuples[i]->t_self;
		}
		/* in the index's order: neighbours go to pages that are at hand */
		if (count > 1)
			qsort(entries, count, sizeof(IndexEntry), compare_entries);
		for (int i = 0; i < count; i++)
		{
			values[column - 1] = Int64GetDatum(entries[i].key);
			(void) insert_index_entry(rel, index, &entries[i].tid, values, nulls, UNIQUE_CHECK_YES);
		}
		index_close(index, NoLock);
	}
	insert_more_entries(table, rel, tuples, count);
	pop_snapshot(pushed);
	pfree(entries);
	pfree(values);
	pfree(nulls);
	table_close(rel, NoLock);
}

void
own_update(OwnScan *scan, HeapTuple tuple, Datum *values, bool *nulls, bool *replace)
{
	HeapTuple	fresh = heap_modify_tuple(tuple, RelationGetDescr(scan->rel), values,
										  nulls, replace);
	bool		pushed = push_snapshot();

	CatalogTupleUpdate(scan->rel, &tuple->t_self, fresh);
	pop_snapshot(pushed);
	heap_freetuple(fresh);
}

void
own_delete(OwnScan *scan, HeapTuple tuple)
{
	bool		pushed = push_snapshot();

	simple_heap_delete(scan->rel, &tuple->t_self);
	pop_snapshot(pushed);
}

void
own_delete_tid(OwnRelation table, ItemPointer tid)
{
	Relation	rel = own_open(table, RowExclusiveLock);
	bool		pushed = push_snapshot();

	simple_heap_delete(rel, tid);
	pop_snapshot(pushed);
	table_close(rel, NoLock);
}
